"""What README, ARCHITECTURE and docs/ promise is there, and what is there is documented."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main

import resnet_audit
from resnet_audit.check.paths import resolve
from resnet_audit.check.thresholds import thresholds
from resnet_audit.cli import app
from resnet_audit.explain import chapters
from resnet_audit.explain.find import metrics

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "commands").glob("*.md"))}
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


# docs/ --------------------------------------------------------------------------------------------------------------


WRITTEN = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))]


@cache
def pages_script() -> ModuleType:
    """docs/commands.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_commands", DOCS / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_commands"] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    assert PAGES.keys() == COMMANDS.keys() | {"shared"}
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert all(f"(commands/{name}.md)" in index for name in PAGES)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_page_says_what_it_answers_how_to_read_it_its_flags_and_its_sources(name: str) -> None:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL), flags=re.MULTILINE)
    assert headings[0] == f"`resnet-audit {name}`"
    assert [one for one in headings[1:] if one != "What the numbers are"] == [
        "Example",
        "How to read it",
        "Flags",
        "Sources",
    ]
    assert "explain" in PAGES[name]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_is_written_by_hand_fits_a_screen_and_a_half(name: str) -> None:
    by_hand = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", PAGES[name], flags=re.DOTALL)
    assert len(by_hand.splitlines()) <= 75


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_of_a_command_stands_on_its_page(name: str) -> None:
    flags = {flag for one in COMMANDS[name].params for flag in one.opts if flag.startswith("--")}
    assert flags - {"--help"} <= set(re.findall(r"`(--[a-z-]+)`", PAGES[name]))


def test_every_shared_flag_is_explained_once_for_all() -> None:
    shared = {flag for one in COMMANDS["graph"].params for flag in one.opts if flag.startswith("-")} - {"--help", "-h"}
    assert shared <= set(re.findall(r"`(--?[a-z-]+)`", PAGES["shared"]))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_metric_of_a_command_stands_on_its_page(name: str) -> None:
    listed = set(re.findall(r"`([A-Za-z0-9_.]+)`", PAGES[name]))
    for chapter in pages_script().chapters_of(name):
        paths = {path.removeprefix(f"{chapter.name}.") for one in chapter.entries for path in (one.path, *one.also)}
        assert paths <= listed


def test_every_chapter_of_explain_is_on_a_page() -> None:
    told = {chapter.name for name in COMMANDS for chapter in pages_script().chapters_of(name)}
    assert told == {chapter.name for chapter in chapters()}


def test_a_page_tells_what_happens() -> None:
    """The examples are run, the tables are made anew: `python docs/commands.py` writes what is stale."""
    assert list(pages_script().stale(write=False)) == []


def test_a_changed_number_is_stale_and_rounding_is_not() -> None:
    same = pages_script().same
    assert same("ratio 1.561 within 2.0e-08", "ratio 1.562 within 7.1e-08")
    assert not same("ratio 1.561", "ratio 1.563")
    assert not same("9 blocks", "10 blocks")
    assert not same("worst layer1.0", "worst layer3.2")
    assert not same("sigma 1.0e-03", "sigma 1.2e-03")


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_link_inside_the_documents_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if link.startswith("http"):
            continue
        place = path.parent / target if target else path
        assert place.exists(), link
        titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in titles}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_limit_in_the_documents_is_one_that_check_takes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for rule, value in re.findall(r"--(max|min|max-increase|max-decrease)[ ,]+([a-z][\w.]+=[-\d.e+]+%?)", text):
        (found,) = thresholds({rule: [shlex.split(value)[0]]})
        assert resolve(found.metric)


def test_the_metrics_of_the_page_on_gating_are_there_and_were_measured() -> None:
    text = (DOCS / "gating.md").read_text(encoding="utf-8")
    candidates = re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)
    assert len(candidates) > 20
    assert set(candidates) <= metrics()
    noise = text.partition("noise: begin")[2].partition("noise: end")[0]
    rows = [line.split(" | ") for line in noise.splitlines() if line.startswith("| `")]
    exact = {row[0].strip("| `") for row in rows if row[2:5] == ["0", "0", "0"]}
    assert exact == {
        "spectrum.sigma_max",
        "bound.covers.operator.log10_spectral_complexity",
        "bound.log10_lipschitz",
    }


def test_the_page_of_the_api_names_what_is_exported_and_its_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)", text))
    assert set(resnet_audit.__all__) <= named
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(example, "api.md", "exec"), {})  # noqa: S102 - our own text
    assert capsys.readouterr().out == "3.1 of 9 blocks\n"


def test_the_changelog_knows_the_version_and_every_command() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in COMMANDS)
    assert "0.1.0" in text
