"""The examples below --help: each is printed whole, is parsed, and does what it says on the samples."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from cli_runner import SAMPLES, TRAINED, invoke, python, script

from resnet_audit.cli import app
from resnet_audit.examples import EXAMPLES, WIDTH, Example, epilog, flowing

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
ALL = [(command, one) for command, those in EXAMPLES.items() for one in those]
GREY = {"3x64x64": "1x16x16"}
"""The samples are grey: what an example says of three channels is run with one."""


def words_of(one: Example) -> list[str]:
    """The words of an example as a shell takes them."""
    return shlex.split(one.line.replace("\\\n", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name."""
    made = tmp_path_factory.mktemp("examples")
    shutil.copy(TRAINED, made / "net.pt")
    shutil.copy(SAMPLES / "digits.npz", made / "data.npz")
    shutil.copy(SAMPLES / "digits_resnet" / "epoch00.pt", made / "init.pt")
    (made / "epochs").mkdir()
    for epoch in ("00", "16"):
        shutil.copy(SAMPLES / "digits_resnet" / f"epoch{epoch}.pt", made / "epochs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert invoke("graph", "net.pt", "-q", "-o", "audit.json").code == 0
    return made


def test_every_command_has_examples_and_no_other() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert {name for name, those in EXAMPLES.items() if not 2 <= len(those) <= 3} <= {"schema"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_prints_every_example_whole_within_80_columns(name) -> None:
    ran = invoke(name, "--help")
    lines = [line.strip() for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "…" not in ran.out
    for one in EXAMPLES[name]:
        first, *rest = f"resnet-audit {one.line}".splitlines()
        place = lines.index(first.strip())
        assert lines[place : place + 1 + len(rest) + 1] == [first, *(line.strip() for line in rest), one.does]
    assert any(line.startswith("Exit codes: 0 ") for line in lines)


@pytest.mark.parametrize(("command", "one"), ALL, ids=[one.line for _, one in ALL])
def test_an_example_is_of_its_command_fits_and_is_parsed(command, one) -> None:
    words = words_of(one)
    assert words[0] == command
    assert max(len(f"  resnet-audit {line}") for line in one.line.splitlines()) <= WIDTH + 2
    COMMANDS[command].make_context(command, words[1:]).close()


@pytest.mark.parametrize("one", [one for _, one in ALL if not one.foreign], ids=lambda one: one.line)
def test_an_example_runs_on_the_samples(one, folder, monkeypatch) -> None:
    if "--figure" in one.line:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(folder)
    ran = invoke(*(GREY.get(word, word) for word in words_of(one)))
    assert ran.code == 0, ran.err
    assert "internal error" not in ran.err


def test_a_docstring_flows_and_keeps_its_paragraphs() -> None:
    assert flowing("One\n    line.\n\n    Another\n    one.\n    ") == "One line.\n\nAnother one."


def test_only_check_speaks_of_exit_code_1() -> None:
    assert [name for name in COMMANDS if " 1 " in epilog(name).splitlines()[-1]] == ["check"]


def test_help_with_its_examples_imports_no_torch() -> None:
    code = "import sys; sys.argv = ['x', 'check', '--help']\nfrom resnet_audit.cli import main\n"
    ran = python(code + "try:\n    main()\nexcept SystemExit: print('torch' in sys.modules, file=sys.stderr)")
    assert "Examples:" in ran.out
    assert ran.err == "False\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_is_printed(shell) -> None:
    """Typer looks at its parent process for the shell; its own variable for tests lets the shell be named."""
    ran = script("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert ran.code == 0, ran.err
    assert "_RESNET_AUDIT_COMPLETE=complete_" + shell in ran.out


def test_the_shell_is_given_the_commands_and_the_flags() -> None:
    asked = {"_RESNET_AUDIT_COMPLETE": "complete_bash", "COMP_WORDS": "resnet-audit ", "COMP_CWORD": "1"}
    ran = script(**asked)
    assert set(ran.out.split()) == set(COMMANDS)
    asked |= {"COMP_WORDS": "resnet-audit spectrum --fa", "COMP_CWORD": "2"}
    assert script(**asked).out.split() == ["--fast"]
