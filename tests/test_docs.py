"""What README and ARCHITECTURE promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

import resnet_audit
from resnet_audit.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # an application with commands is a group


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_row_in_the_readme(name: str) -> None:
    assert f"| `resnet-audit {name}" in README


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_stands_in_the_readme(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts if flag.startswith("-")}
    assert flags <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", README))


def test_every_flag_of_the_readme_is_one_of_ours_or_of_a_tool_it_shows() -> None:
    ours = {
        f for command in COMMANDS.values() for parameter in command.params for f in (*parameter.opts, "--help", "-h")
    }
    ours |= {flag for parameter in typer.main.get_command(app).params for flag in parameter.opts}
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    promised = set(re.findall(r"`(--[a-z-]+)", prose))
    assert promised <= ours


def test_the_readme_marks_exactly_the_two_commands_that_ci_runs() -> None:
    blocks = re.findall(r"<!-- ci: (\w+) -->\n```sh\n(.*?)\n```", README, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["main", "tests"]
    assert all(len(command.split("\n")) == 1 and "-c constraints.txt" in command for _, command in blocks)


def test_the_python_example_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - our own text
    first, second = capsys.readouterr().out.splitlines()
    blocks, complexity = first.split()
    assert blocks == "9"
    assert 5 < float(complexity) < 20
    assert 2 < float(second) < 5


@pytest.mark.parametrize("text", [README, (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")])
def test_every_file_that_the_documents_name_exists(text: str) -> None:
    named = {name for name in re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|md|npz))`", text) if name != "digits.npz"}
    named |= {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")}
    missing = {n for n in named if not (ROOT / n).exists() and not (ROOT / "resnet_audit" / n).exists()}
    theory = {n for n in missing if (ROOT / "resnet_audit" / "theory" / n).exists()}
    elsewhere = {n for n in missing if list((ROOT / "resnet_audit").glob(f"*/{n}"))}
    assert missing - theory - elsewhere == set()


def test_the_public_names_are_these_and_all_import() -> None:
    expected = {
        "AuditError",
        "Checkpoint",
        "ResidualGraph",
        "Settings",
        "bound",
        "conv_norm_upper",
        "conv_singular_values",
        "discover",
        "ensemble",
        "gradient",
        "load",
        "procrustes",
        "rntk",
        "scaling",
        "shortcut",
        "spectrum",
    }
    assert set(resnet_audit.__all__) == expected
    assert all(callable(getattr(resnet_audit, name)) for name in expected)


def test_the_typed_marker_is_shipped() -> None:
    assert (ROOT / "resnet_audit" / "py.typed").exists()
