"""What the command line refuses: one line, exit 2, nothing on stdout; and what it says of itself."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from cli_runner import COMMANDS, SMALL, TRAINED, invoke

EVERY_COMMAND = (*COMMANDS, "compare", "check", "procrustes", "schema", "explain")


def refused(*arguments: str) -> str:
    """The one line that a refused command line leaves."""
    ran = invoke(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.lines) == 1
    assert ran.err.endswith("\n")
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    return ran.lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("graph", "--bogus", TRAINED),
        ("graph", TRAINED, "--samples", "0"),
        ("graph", TRAINED, "--samples", "many"),
        ("graph", TRAINED, "--samples"),
        ("graph", TRAINED, "--seed", "-1"),
        ("graph", TRAINED, "--threads", "0"),
        ("graph", TRAINED, "--dtype", "float16"),
        ("graph", TRAINED, "--inputs", "white"),
        ("graph", TRAINED, "--recalibrate"),
        ("gradient", TRAINED, "--recalibrate"),
        ("graph", TRAINED, "--device", "cuda"),
        ("graph", TRAINED, "--n-train", "10"),
        ("graph", TRAINED, "--format", "yaml"),
        ("graph", TRAINED, "--data", "x.npz", "--inputs", "pink"),
        ("bound", TRAINED, "--n-train", "0"),
        ("bound", TRAINED, "--n-train", "1.5"),
        ("bound", TRAINED, "--preset", "loose"),
        ("gradient", TRAINED, "--objective", "loss"),
        ("gradient", TRAINED, "--unit", "blocks"),
        ("ensemble", TRAINED, "--unit", "stages"),
        ("schema", TRAINED),
        ("schema", "--format", "json"),
        ("bogus",),
        ("--bogus",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments) -> None:
    assert "no such file" not in refused(*(word.replace(TRAINED, "net.pt") for word in arguments))


@pytest.mark.parametrize(("there", "reason"), [(False, "torch sees no CUDA device"), (True, "on the CPU only")])
def test_a_device_is_refused_with_the_reason(there, reason, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    line = refused("spectrum", TRAINED, "--device", "cuda")
    assert reason in line
    assert "leave the flag out" in line


@pytest.mark.parametrize("flag", ["--x-rms", "--margin", "--epsilon", "--delta"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_number_that_a_bound_cannot_be_computed_with_is_refused_by_name(flag, value) -> None:
    assert flag in refused("bound", TRAINED, *SMALL, flag, value)


def test_a_probability_of_1_is_refused() -> None:
    assert "--delta" in refused("bound", TRAINED, *SMALL, "--delta", "1")


@pytest.mark.parametrize("size", ["32", "3x32", "3x32x32x32", "0x8x8", "1x-8x8", "1x8x8.0", "axbxc", "", "1x8x"])
def test_an_input_size_that_is_no_size_is_refused_by_name(size) -> None:
    assert "--input-size" in refused("graph", TRAINED, "--input-size", size)


def test_a_typing_error_is_answered_with_the_nearest_command() -> None:
    assert "'bound'" in refused("bond")


def test_the_version_is_printed() -> None:
    ran = invoke("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"resnet-audit {version('resnet-audit')}\n", "")


def test_without_a_command_the_help_is_shown() -> None:
    ran = invoke()
    assert ran.code in {0, 2}
    assert "Usage:" in ran.out
    assert ran.err == ""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_all_names_every_command(flag) -> None:
    ran = invoke(flag)
    assert (ran.code, ran.err) == (0, "")
    for command in EVERY_COMMAND:
        assert f" {command} " in ran.out, command


SHARED = [
    "--format",
    "--output",
    "--wide",
    "--blocks",
    "--input-size",
    "--key",
    "--assume",
    "--data",
    "--inputs",
    "--samples",
    "--seed",
    "--dtype",
    "--device",
    "--threads",
    "--quiet",
    "--verbose",
    "--debug",
    "--help",
    "-f",
    "-o",
    "-q",
    "-v",
    "-h",
]
OWN = {
    "bound": ["--n-train", "--x-rms", "--margin", "--epsilon", "--delta", "--preset"],
    "gradient": ["--objective", "--recalibrate"],
    "ensemble": ["--objective", "--recalibrate", "--unit", "--fast", "--veit", "--max-depth"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_names_every_flag_and_fits_80_columns(command) -> None:
    ran = invoke(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    words = ran.out.split()
    for flag in (*SHARED, *OWN.get(command, [])):
        assert flag in words, flag
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "…" not in ran.out


def test_the_help_writes_the_argument_once() -> None:
    usage = next(line for line in invoke("graph", "--help").out.splitlines() if "Usage" in line)
    assert usage.count("MODEL") == 1
    assert "]...]..." not in usage
