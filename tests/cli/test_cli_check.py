"""`check` on a real training run: a baseline taken at one epoch, a worse epoch, a better one, in every format."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from cli_runner import SAMPLES, SMALL, TRAINED, Ran, invoke, python, sample

from resnet_audit.report import registry

SERIES = SAMPLES / "digits_resnet"
LAYERS = "spectrum.layers.sigma_max"
TOP = 3.0
LIMIT = ("--max", f"{LAYERS}={TOP}")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished reports of some epochs, as `report -f json` writes them."""
    folder = tmp_path_factory.mktemp("reports")
    for epoch in ("00", "08", "16", "24"):
        ran = sample("report", str(SERIES / f"epoch{epoch}.pt"), *SMALL, "-f", "json")
        assert ran.code == 0, ran.err
        (folder / f"epoch{epoch}.json").write_text(ran.out)
    return {path.stem: path for path in folder.glob("*.json")}


def sigma(report: Path) -> dict[str, float]:
    """The largest singular value of every layer, straight from the JSON."""
    (entry,) = json.loads(report.read_text())["checkpoints"]
    return {layer["name"]: layer["sigma_max"] for layer in entry["spectrum"]["layers"]}


def recorded(baseline: Path, name: str = "best") -> dict[str, float]:
    return json.loads(baseline.read_text())["checkpoints"][name][LAYERS]["le"]


def by_status(ran: Ran) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"fail": set(), "held": set(), "pass": set()}
    for finding in ran.json["findings"]:
        found[finding["status"]].add(finding["where"])
    return found


# the demonstration: the baseline is taken at epoch 16, epoch 8 is worse, epoch 24 is better -------------------------


def test_a_baseline_holds_what_was_there_fails_what_is_worse_and_tightens_to_what_is_better(reports, tmp_path) -> None:
    base, bad, good = (sigma(reports[f"epoch{epoch}"]) for epoch in ("16", "08", "24"))
    ledger = tmp_path / "baseline.json"
    given = (*LIMIT, "--baseline", str(ledger), "--name", "best", "-f", "json")

    first = invoke("check", str(reports["epoch16"]), *given, "--update-baseline")
    assert first.code == 0, first.err
    assert by_status(first)["held"] == {name for name in base if base[name] > TOP}
    assert by_status(first)["held"]
    assert recorded(ledger) == base

    worse = {name for name in bad if bad[name] > TOP and bad[name] > base[name] * (1 + 1e-5)}
    second = invoke("check", str(reports["epoch08"]), *given)
    assert second.code == 1
    assert by_status(second)["fail"] == worse
    assert by_status(second)["held"] == {name for name in bad if bad[name] > TOP} - worse
    assert worse
    assert recorded(ledger) == base

    third = invoke("check", str(reports["epoch24"]), *given, "--update-baseline")
    assert third.code == 0
    assert by_status(third)["held"] == {name for name in good if good[name] > TOP}
    assert recorded(ledger) == {name: min(base[name], good[name]) for name in base} != base

    fourth = invoke("check", str(reports["epoch08"]), *given, "--update-baseline")
    tight = {name: min(base[name], good[name], bad[name]) for name in base}
    assert (fourth.code, recorded(ledger)) == (1, tight)

    forced = invoke("check", str(reports["epoch08"]), *given, "--update-baseline", "--force")
    assert (forced.code, recorded(ledger)) == (0, bad)
    assert invoke("check", str(reports["epoch08"]), *given).code == 0


def test_the_baseline_alone_judges_and_increases_have_room(reports, tmp_path) -> None:
    base, bad = sigma(reports["epoch16"]), sigma(reports["epoch08"])
    ledger = str(tmp_path / "baseline.json")
    room = ("--max-increase", f"{LAYERS}=5%", "--baseline", ledger, "--name", "best", "-f", "json")
    assert invoke("check", str(reports["epoch16"]), *room, "--update-baseline").code == 0
    some = invoke("check", str(reports["epoch08"]), *room)
    assert by_status(some)["fail"] == {name for name in bad if bad[name] > base[name] + 0.05 * base[name]}
    alone = invoke("check", str(reports["epoch08"]), "--baseline", ledger, "--name", "best", "-f", "json")
    assert by_status(alone)["fail"] == {name for name in bad if bad[name] > base[name] * (1 + 1e-5)}
    assert 0 < len(by_status(some)["fail"]) < len(by_status(alone)["fail"])
    assert {finding["rule"] for finding in alone.json["findings"]} == {"baseline"}
    assert (some.code, alone.code) == (1, 1)


def test_every_format_tells_the_same_failures(reports, tmp_path) -> None:
    report, new = str(reports["epoch24"]), sigma(reports["epoch24"])
    failed = {name for name, value in new.items() if value > 3.0}
    given = ("check", report, "--max", f"{LAYERS}=3")
    assert {f["where"] for f in invoke(*given, "-f", "json").json["findings"] if f["status"] == "fail"} == failed
    last = json.loads(invoke(*given, "-f", "jsonl").out.splitlines()[-1])
    assert {f["where"] for f in last["findings"] if f["status"] == "fail"} == failed
    rows = [line.split() for line in invoke(*given).out.splitlines()]
    assert {row[2] for row in rows if row[:1] == ["FAIL"]} == failed
    (run,) = invoke(*given, "-f", "sarif").json["runs"]
    assert {r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for r in run["results"]} == failed
    suites = ET.fromstring(invoke(*given, "-f", "junit").out)  # noqa: S314 - our own text
    cases = suites.findall("./testsuite/testcase")
    assert {case.get("name") for case in cases if case.find("failure") is not None} == {f"{n} max" for n in failed}
    lines = invoke(*given, "-f", "github").out.splitlines()
    assert sum(line.startswith("::error ") for line in lines) == len(failed)
    for form in ("table", "json", "jsonl", "sarif", "junit", "github"):
        ran = invoke(*given, "-f", form)
        assert (ran.code, ran.err) == (1, "")
        out = tmp_path / f"{form}.out"
        assert invoke(*given, "-f", form, "-o", str(out)).code == 1
        assert out.read_text() == ran.out


def test_the_document_is_of_the_schema_and_comes_back(reports) -> None:
    ran = invoke("check", str(reports["epoch24"]), *LIMIT, "-f", "json")
    jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)
    assert ran.json["command"] == "check"
    counts = [finding["status"] for finding in ran.json["findings"]]
    summary = ran.json["summary"]
    assert summary == {
        "failed": counts.count("fail"),
        "held": counts.count("held"),
        "passed": counts.count("pass"),
        "problems": [],
    }


# reports and checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_and_its_report_have_the_same_findings(reports) -> None:
    limits = (*LIMIT, "--min", "ensemble.depth_mean=2", "--max", "gradient.blocks.ratio=1.3")
    fresh = invoke("check", str(SERIES / "epoch24.pt"), *SMALL, *limits, "-f", "json")
    read = invoke("check", str(reports["epoch24"]), *limits, "-f", "json")
    assert fresh.json["findings"] == read.json["findings"]
    assert (fresh.code, read.code) == (1, 1)


def test_only_the_analyses_that_are_named_are_run(monkeypatch) -> None:
    asked: list[str] = []
    original = registry.analysis

    def watched(name: str) -> Any:
        asked.append(name)
        return original(name)

    monkeypatch.setattr("resnet_audit.report.report.analysis", watched)
    ran = invoke(
        "check", TRAINED, *SMALL, "--max", "scaling.spread=9", "--max", "graph.nonfinite_count=0", "-f", "json"
    )
    assert (ran.code, asked) == (0, ["scaling"])
    assert {"graph", "scaling"} <= ran.json["checkpoints"][0].keys()
    assert "spectrum" not in ran.json["checkpoints"][0]


def test_a_measured_hessian_is_run_if_a_limit_names_it() -> None:
    ran = invoke("check", TRAINED, *SMALL, "--blocks", "layer3.2", "--max", "shortcut.hessian.lambda_max=1e9")
    assert (ran.code, ran.err) == (0, "")


def test_reports_and_checkpoints_and_lines_stand_beside_each_other(reports, tmp_path) -> None:
    lines = tmp_path / "two.jsonl"
    documents = [json.loads(reports[name].read_text()) for name in ("epoch00", "epoch08")]
    lines.write_text("".join(json.dumps(document) + "\n" for document in documents))
    ran = invoke("check", str(lines), TRAINED, *SMALL, "--min", "graph.block_count=9", "-f", "json")
    assert ran.code == 0, ran.err
    names = [Path(entry["path"]).name for entry in ran.json["checkpoints"]]
    assert names == ["epoch00.pt", "epoch08.pt", "epoch24.pt"]


@pytest.mark.parametrize("how", ["file", "-"])
def test_a_report_is_judged_without_torch(how, reports) -> None:
    ran = python(f"""
import sys
from resnet_audit.cli import main
path = {str(reports["epoch24"])!r}
if {how!r} == "-":
    sys.stdin = open(path)
given = "-" if {how!r} == "-" else path
sys.argv = ["resnet-audit", "check", given, "--max", "{LAYERS}=4", "--min", "ensemble.depth_mean=2"]
try:
    main()
except SystemExit as stop:
    print(stop.code, "torch" in sys.modules, file=sys.stderr)
""")
    assert ran.lines[-1] == "1 False"
    assert "FAIL" in ran.out


def test_a_checkpoint_on_standard_input_is_audited(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(Path(TRAINED).read_bytes()))))
    ran = invoke("check", "-", "--min", "graph.block_count=9", "-f", "json")
    assert ran.code == 0, ran.err
    assert ran.json["checkpoints"][0]["path"] == "-"


def test_blocks_filter_the_rows_of_a_report_too(reports) -> None:
    given = ("--blocks", "layer3.*", "--max", "gradient.blocks.ratio=9", "-f", "json")
    read = invoke("check", str(reports["epoch24"]), *given)
    assert {finding["where"] for finding in read.json["findings"]} == {"layer3.0", "layer3.1", "layer3.2"}
    assert invoke("check", str(reports["epoch24"]), "--blocks", "zzz", *given[2:]).code == 2


# the configuration ------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint and a configuration, and the current one below it."""
    shutil.copy(TRAINED, tmp_path / "net.pt")
    (tmp_path / "pyproject.toml").write_text("""
[tool.resnet-audit]
samples = 4
input-size = "1x8x8"
models = ["net.pt"]
[tool.resnet-audit.max]
"spectrum.sigma_max" = 4.5
[tool.resnet-audit.min]
"graph.block_count" = 9
""")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    return tmp_path


def test_the_configuration_holds_and_the_command_line_beats_it(project) -> None:
    ran = invoke("check", "-f", "json")
    assert ran.code == 1
    assert [(finding["metric"], finding["status"]) for finding in ran.json["findings"]] == [
        ("spectrum.sigma_max", "fail"),
        ("graph.block_count", "pass"),
    ]
    assert ran.json["checkpoints"][0]["path"] == "../net.pt"
    assert ran.json["settings"]["samples"] == 4
    assert invoke("check", "--max", "spectrum.sigma_max=5").code == 0
    assert invoke("check", "--samples", "2", "-f", "json").json["settings"]["samples"] == 2
    assert invoke("check", "../net.pt", "--max", "spectrum.sigma_max=5").code == 0


def test_shared_flags_and_models_of_the_configuration_are_of_every_command(project) -> None:
    ran = invoke("graph", "-f", "json")
    assert (ran.code, ran.json["settings"]["samples"]) == (0, 4)
    assert ran.json["checkpoints"][0]["path"] == "../net.pt"
    assert invoke("scaling", "-f", "json", "--samples", "3").json["settings"]["samples"] == 3


@pytest.mark.parametrize(
    "line",
    [
        "sample = 3",
        "samples = 1.5",
        "samples = true",
        "blocks = 'a'",
        "wide = 1",
        "arch = 'a:b'",
        "samples = 0",
        "inputs = 'sand'",
    ],
)
def test_a_wrong_configuration_stops_every_command_but_help(line, project) -> None:
    (project / "pyproject.toml").write_text(f"[tool.resnet-audit]\n{line}\n")
    for command in ("check", "graph"):
        ran = invoke(command, "../net.pt")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("../pyproject.toml, [tool.resnet-audit]: ")
        assert len(ran.lines) == 1
    for words in (("--help",), ("graph", "--help"), ("schema",), ("explain", "bound")):
        assert invoke(*words).code == 0


def test_a_baseline_of_the_configuration_lies_beside_it(project) -> None:
    with (project / "pyproject.toml").open("a") as file:
        file.write('[tool.resnet-audit.max-increase]\n"scaling.spread" = "1%"\n')
    text = (project / "pyproject.toml").read_text().replace("samples = 4", 'samples = 4\nbaseline = "audit.json"')
    (project / "pyproject.toml").write_text(text)
    assert invoke("check").code == 2
    assert invoke("check", "--max", "spectrum.sigma_max=5", "--update-baseline").code == 0
    assert "net" in json.loads((project / "audit.json").read_text())["checkpoints"]
    assert invoke("check").code == 0
