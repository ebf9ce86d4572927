"""Teams trust the exit code of `check`: 0 all hold, 1 a limit is broken, 2 it could not be judged, and 2 beats 1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_runner import PLAIN, SCRIPT, SMALL, TRAINED, environment, invoke, sample

BLOCKS = ("--min", "graph.block_count=9")
RATIO = "gradient.blocks.ratio"


@dataclass(frozen=True)
class Case:
    """A command line, the code that it must end with, and a word of what it must say on stderr."""

    code: int
    arguments: tuple[str, ...]
    said: str = ""


def case(code: int, *arguments: str, said: str = "") -> Case:
    return Case(code, arguments, said)


CASES = {
    "holds": case(0, "NET", *BLOCKS),
    "holds in a report": case(0, "REPORT", *BLOCKS, "--max", f"{RATIO}=9"),
    "several hold": case(0, "NET", "OTHER", *BLOCKS),
    "exactly at the limit": case(0, "REPORT", "--max", "graph.block_count=9", *BLOCKS),
    "a null is ignored": case(0, "NULLS", "--max", f"{RATIO}=9", "--ignore", f"{RATIO}[layer1.0]"),
    "no worse than the baseline": case(0, "REPORT", "--baseline", "BASE", "--name", "net"),
    "held by the baseline": case(0, "REPORT", "--max", "graph.block_count=1", "--baseline", "BASE", "--name", "net"),
    "a new baseline": case(0, "REPORT", *BLOCKS, "--baseline", "NEW", "--update-baseline"),
    "broken": case(1, "NET", "--max", "graph.block_count=8"),
    "broken in a report": case(1, "REPORT", "--max", f"{RATIO}=0.5"),
    "one of two broken": case(1, "REPORT", *BLOCKS, "--max", f"{RATIO}=0.5"),
    "one checkpoint of two broken": case(1, "NET", "PLAIN", *BLOCKS),
    "worse than the baseline": case(1, "REPORT", "--baseline", "TIGHT", "--name", "net"),
    "worse, and not loosened": case(1, "REPORT", "--baseline", "TIGHT", "--name", "net", "--update-baseline"),
    "no limit": case(2, "NET", said="--max"),
    "no such flag": case(2, "NET", "--maximum", "x=1", said="--maximum"),
    "no such path": case(2, "NET", "--max", "graph.blok_count=1", said="did you mean graph.block_count"),
    "a path to text": case(2, "NET", "--max", "graph.family=1", said="text"),
    "no number": case(2, "NET", "--max", "graph.block_count=many", said="no finite number"),
    "not a number": case(2, "NET", "--max", "graph.block_count=nan", said="no finite number"),
    "contradiction": case(2, "NET", "--max", "parameters=1", "--max", "parameters=2", said="another limit"),
    "an increase over nothing": case(2, "NET", "--max-increase", "parameters=1", said="--baseline FILE"),
    "no baseline file": case(2, "NET", *BLOCKS, "--baseline", "NEW", said="--update-baseline"),
    "a baseline that is none": case(2, "NET", *BLOCKS, "--baseline", "REPORT", said="no baseline"),
    "a report that is a baseline": case(2, "BASE", *BLOCKS, said="no report"),
    "nothing in the baseline": case(2, "REPORT", "--baseline", "BASE", "--name", "other", said="nothing is in the bas"),
    "force alone": case(2, "NET", *BLOCKS, "--force", said="--update-baseline"),
    "a name for two": case(2, "NET", "OTHER", *BLOCKS, "--baseline", "BASE", "--name", "x", said="one name"),
    "one stem for two": case(2, "NET", "NET", *BLOCKS, "--baseline", "BASE", said="check each alone"),
    "a baseline that cannot be written": case(
        2, "REPORT", *BLOCKS, "--baseline", "NOWHERE", "--update-baseline", said="nothing was written"
    ),
    "no file": case(2, "gone.pt", *BLOCKS, said="no such file"),
    "no checkpoint": case(2, "TEXT", *BLOCKS, said="TEXT"),
    "no report": case(2, "CUT", *BLOCKS, said="no JSON"),
    "good and bad": case(2, "NET", "gone.pt", *BLOCKS, said="no such file"),
    "broken and bad": case(2, "NET", "gone.pt", "--max", "graph.block_count=8", said="no such file"),
    "an entry with an error": case(2, "FAILED", *BLOCKS, said="no such file"),
    "an analysis that the report has not": case(2, "GRAPH", "--max", f"{RATIO}=9", said="holds no gradient"),
    "a null": case(2, "NULLS", "--max", f"{RATIO}=9", said="null at layer1.0"),
    "a null and broken": case(2, "NULLS", "--max", f"{RATIO}=0.1", said="null at layer1.0"),
    "a network without blocks": case(2, "PLAIN", *SMALL, "--max", f"{RATIO}=9", said="null"),
    "a list without elements": case(2, "PLAIN", "--max", "graph.blocks.stage=9", said="its list is empty"),
    "all is ignored": case(2, "REPORT", "--max", f"{RATIO}=9", "--ignore", RATIO, said="ignored"),
    "no such block": case(2, "NET", *BLOCKS, "--blocks", "zzz", said="matches no block"),
    "a drawing": case(2, "NET", *BLOCKS, "--figure", "x.svg", said="no drawing"),
    "no such format": case(2, "NET", *BLOCKS, "-f", "xml", said="xml"),
    "a suffix that names no format": case(2, "NET", *BLOCKS, "-o", "x.sarif", said="suffix"),
    "an answer that cannot be written": case(2, "REPORT", *BLOCKS, "-o", "NOWHERE", said="nothing was written"),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What the words in capitals of a command line stand for."""
    report = sample("report", TRAINED, *SMALL, "-f", "json").out
    nulls = json.loads(report)
    nulls["checkpoints"][0]["gradient"]["blocks"][0]["ratio"] = None
    count = {"graph.block_count": {"le": {"": 9}}}
    texts = {
        "REPORT": report,
        "NULLS": json.dumps(nulls),
        "CUT": report[: len(report) // 2],
        "GRAPH": sample("graph", TRAINED, "-f", "json").out,
        "FAILED": sample("graph", TRAINED, "gone.pt", "-f", "json").out,
        "TEXT": "TEXT is no checkpoint\n",
        "BASE": baseline(count),
        "TIGHT": baseline({"graph.block_count": {"le": {"": 8}}}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    places = {name: str(tmp_path / name) for name in (*texts, "NEW")}
    other = str(Path(TRAINED).with_name("epoch16.pt"))
    return {**places, "NET": TRAINED, "OTHER": other, "PLAIN": PLAIN, "NOWHERE": str(tmp_path / "no" / "x.json")}


def baseline(metrics: Any) -> str:
    return json.dumps({"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"net": metrics}})


@pytest.mark.parametrize("name", CASES)
def test_the_exit_code_is(name, files) -> None:
    wanted = CASES[name]
    arguments = [files.get(word, word) for word in wanted.arguments]
    ran = invoke("check", *arguments)
    assert ran.code == wanted.code, ran.err
    assert wanted.said in ran.err
    assert (ran.err == "") == (wanted.code < 2)
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    if "-f" not in arguments and "-o" not in arguments and "NEW" not in wanted.arguments:
        other = invoke("check", *arguments, "-f", "json")
        assert other.code == wanted.code


def test_there_are_enough_situations() -> None:
    assert len(CASES) >= 30
    assert {one.code for one in CASES.values()} == {0, 1, 2}


def test_good_files_are_judged_beside_bad_ones(files) -> None:
    ran = invoke("check", "gone.pt", files["REPORT"], *SMALL, "--max", "graph.block_count=8", "-f", "json")
    assert ran.code == 2
    assert ran.json["summary"]["failed"] == 1
    assert ran.json["summary"]["problems"] == ran.lines
    assert len(ran.json["checkpoints"]) == 2


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_command_line_that_parses_gives_one_document(form, files) -> None:
    ran = invoke("check", files["NET"], "-f", form)
    assert ran.code == 2
    assert json.loads(ran.out)["checkpoints"] == []


def test_a_crash_of_an_analysis_is_2_and_never_1(monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("resnet_audit.report.report.analysis", lambda _: crash)
    ran = invoke("check", TRAINED, *SMALL, "--max", "spectrum.sigma_max=1")
    assert ran.code == 2
    assert "internal error (ZeroDivisionError: boom)" in ran.err


@pytest.mark.parametrize(
    "where", ["resnet_audit.judging.judge", "resnet_audit.judging.read_baseline", "resnet_audit.judging.write"]
)
def test_a_crash_of_the_judge_is_2_and_never_1(where, files, monkeypatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SystemExit(1) if "write" in where else MemoryError("no room")

    monkeypatch.setattr(where, crash)
    assert invoke("check", files["REPORT"], "--max", "graph.block_count=1", "--baseline", files["BASE"]).code == 2


@pytest.mark.parametrize(("limit", "code"), [("9", 0), ("8", 1)])
@pytest.mark.parametrize("form", ["table", "json", "github", "junit", "sarif"])
def test_a_reader_that_leaves_does_not_change_the_verdict(form, limit, code, files) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [SCRIPT, "check", files["REPORT"], "--max", f"graph.block_count={limit}", "-f", form]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment(), check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


def test_an_interrupt_is_130_and_no_verdict() -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import resnet_audit.judging
from resnet_audit.cli import main

def slow(*_, **__):
    print("ready", flush=True)
    time.sleep(60)

resnet_audit.judging.audited = slow
sys.argv = ["resnet-audit", "check", "net.pt", "--max", "graph.block_count=1"]
main()
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (out, err.splitlines()) == ("", ["interrupted"])


def test_nothing_but_check_knows_the_formats_of_a_verdict() -> None:
    for form in ("sarif", "junit", "github"):
        ran = invoke("graph", TRAINED, "-f", form)
        assert (ran.code, ran.out) == (2, "")
        assert "give it to `check`" in ran.err
