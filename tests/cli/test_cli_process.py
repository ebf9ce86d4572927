"""What only a whole process shows: imports, pipes, signals, encodings, and the exit code that a shell sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import COMMANDS, SCRIPT, SMALL, TRAINED, environment, invoke, python, sample, script

from resnet_audit.render import progress

FULL = Path("/dev/full")
HELPS = [["--help"], ["--version"], ["schema"], ["bogus"], ["graph", "--bogus"]]
HELPS += [[command, "--help"] for command in (*COMMANDS, "schema")]


def test_help_version_schema_and_usage_errors_do_not_import_torch() -> None:
    ran = python(f"""
import sys
from resnet_audit.cli import main
for words in {HELPS!r}:
    sys.argv = ["resnet-audit", *words]
    try:
        main()
    except SystemExit:
        pass
    print("after", *words, "torch" in sys.modules, file=sys.stderr)
""")
    said = [line for line in ran.lines if line.startswith("after")]
    assert len(said) == len(HELPS)
    assert [line for line in said if not line.endswith("False")] == []


def test_the_script_and_the_module_are_the_same_program() -> None:
    installed = script("graph", TRAINED)
    module = subprocess.run(
        [sys.executable, "-P", "-m", "resnet_audit", "graph", TRAINED],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert (installed.code, installed.err) == (0, "")
    assert (module.returncode, module.stderr, module.stdout.decode()) == (0, b"", installed.out)
    assert installed.out == sample("graph", TRAINED).out


def test_a_shell_sees_exit_2_for_what_could_not_be_done() -> None:
    assert script("graph", "gone.pt").code == 2
    assert script("graph", "--bogus").code == 2


def with_closed_stdout(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the script when the reader of its stdout has left."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([SCRIPT, *arguments], stdout=writer, stderr=subprocess.PIPE, env=environment(), check=False)
    os.close(writer)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("graph", TRAINED),
        ("graph", TRAINED, "-f", "json"),
        ("schema",),
        ("--help",),
        ("graph", "--help"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(TRAINED, "NET"),
)
def test_a_reader_that_leaves_is_no_error(arguments) -> None:
    assert with_closed_stdout(*arguments) == (0, "")


def test_a_reader_that_leaves_does_not_hide_a_failure() -> None:
    code, err = with_closed_stdout("graph", "gone.pt", "-f", "json")
    assert code == 2
    assert err.splitlines() == ["gone.pt: no such file; there is nothing to read; check the path"]


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_full_disk_is_exit_2_and_no_defect_of_ours(form) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [SCRIPT, "graph", TRAINED, "-f", form], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert b"internal error" not in done.stderr


def test_a_signal_from_the_keyboard_is_130_and_one_line() -> None:
    # A shell starts what runs behind `&` with interrupts ignored, and children inherit that.
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import resnet_audit.report
from resnet_audit.cli import main

def slow(*_, **__):
    print("ready", flush=True)
    time.sleep(60)

resnet_audit.report.audit_all = slow
sys.argv = ["resnet-audit", "graph", "net.pt"]
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


def test_no_color_and_a_dumb_terminal_have_no_escape_even_if_colour_is_forced() -> None:
    usual = sample("graph", TRAINED).out
    for variables in ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb", "FORCE_COLOR": "1"}):
        ran = script("graph", TRAINED, **variables)
        assert (ran.code, ran.out, ran.err) == (0, usual, "")
    assert "\x1b" not in usual
    assert "…" not in usual


def test_no_bar_is_drawn_off_a_terminal_even_if_colour_is_forced(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    ran = invoke("gradient", TRAINED, *SMALL, "-f", "json")
    assert (ran.code, ran.err) == (0, "")


def test_verbose_says_each_stage_on_stderr_in_plain_lines() -> None:
    ran = invoke("gradient", TRAINED, *SMALL, "-f", "json", "-v")
    assert ran.out == sample("gradient", TRAINED, *SMALL, "-f", "json").out
    assert "operator norms: 20 of 20" in ran.lines
    assert "" not in ran.lines


def test_colour_can_be_forced_off_a_terminal_and_never_into_json() -> None:
    assert "\x1b[" in script("graph", TRAINED, FORCE_COLOR="1").out
    coloured = script("graph", TRAINED, "-f", "json", FORCE_COLOR="1")
    assert (coloured.code, coloured.err) == (0, "")
    assert coloured.out == sample("graph", TRAINED, "-f", "json").out


def test_an_ascii_stream_gets_ascii_and_the_same_document(tmp_path) -> None:
    path = str(shutil.copy(TRAINED, tmp_path / "größe.pt"))
    table = script("graph", path, PYTHONIOENCODING="ascii")
    assert (table.code, table.err) == (0, "")
    assert table.out.isascii()
    document = script("graph", path, "-f", "json", PYTHONIOENCODING="ascii")
    assert (document.code, document.err) == (0, "")
    assert json.loads(document.out)["checkpoints"][0]["path"] == path


def test_the_width_of_the_terminal_decides_which_columns_are_shown() -> None:
    assert "hidden at 80 columns" in script("spectrum", TRAINED, *SMALL).out
    assert "hidden at" not in script("spectrum", TRAINED, *SMALL, COLUMNS="400").out
