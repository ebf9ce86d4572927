"""Every field of every result has a text, and the texts hold what they promise."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, get_args, get_type_hints

import pytest
import typer.main

import resnet_audit
from resnet_audit.cli import app
from resnet_audit.explain import chapters, find
from resnet_audit.explain.find import metrics
from resnet_audit.explain.texts import ANALYSES, CHAPTERS, _explanation
from resnet_audit.results import CheckpointEntry, Comparison, Finding, Summary
from resnet_audit.theory.measures import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(resnet_audit.__file__).parent
ENTRIES = [entry for chapter in chapters() for entry in chapter.entries]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # an application with commands is a group
VACUOUS = "VACUOUS: says nothing about the error of this model; use it to compare models of one shape"
THEORY = sorted((PACKAGE / "theory").glob("*.py"))
READ_ELSEWHERE = {"1905.12430"}
"""Papers that a text may name though no file of ours rests on them: the idea of the patch cover was published there."""


def kinds(hint: object) -> Iterator[object]:
    """The types that an annotation is made of, unions and tuples taken apart."""
    inner = get_args(hint)
    if isinstance(hint, type) or not inner:
        yield hint
    for one in inner:
        yield from kinds(one)


def paths(kind: type, prefix: str) -> Iterator[tuple[str, bool]]:
    """Every JSON path below a result type, with whether it may be null; lists fanned out."""
    hints = get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]  # only called with dataclasses
        if field.name == "notes":
            continue
        found = list(kinds(hints[field.name]))
        path = f"{prefix}.{field.name}"
        yield path, NoneType in get_args(hints[field.name])
        for one in found:
            if isinstance(one, type) and is_dataclass(one):
                yield from paths(one, path)
    if prefix == "bound":
        yield from ((f"bound.measures.{name}", True) for name in NAMES)


def document() -> Iterator[tuple[str, bool]]:
    hints = get_type_hints(CheckpointEntry)
    for name in ANALYSES:
        (result,) = [kind for kind in kinds(hints[name]) if isinstance(kind, type) and is_dataclass(kind)]
        yield from paths(result, name)
    yield from paths(Comparison, "comparison")
    yield from paths(Finding, "findings")
    yield from paths(Summary, "summary")


def test_the_walk_sees_lists_optional_objects_and_mappings() -> None:
    walked = dict(document())
    assert len(walked) > 200
    assert walked["bound.covers.patch.log10_R"] is True
    assert walked["bound.data.margins.risk"] is False
    assert walked["spectrum.layers.folded.quantiles.p05"] is False
    assert walked["bound.measures.PARAMS"] is True


def test_every_field_has_a_text_and_every_text_a_field() -> None:
    walked = {path for path, _ in document()}
    assert walked - metrics() == set(), "no text"
    assert metrics() - walked == set(), "no field"


def test_no_field_has_two_texts() -> None:
    seen = [
        path
        for chapter in chapters()
        for entry in chapter.entries
        for written in (entry.path, *entry.also)
        for path in chapter.concrete(written)
    ]
    assert sorted(seen) == sorted(set(seen))


@pytest.mark.parametrize("path", sorted(path for path, optional in document() if optional))
def test_what_can_be_null_says_when(path) -> None:
    entry = find(path).entry
    assert entry is not None
    assert entry.null


def test_what_theory_calls_an_analysis_is_explained() -> None:
    assert set(ANALYSES) == {key for key in CheckpointEntry.__annotations__ if key in COMMANDS}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_a_text_is_complete_plain_and_short_where_it_must_be(entry) -> None:
    symbols = [part for pair in entry.symbols for part in pair]
    every = [entry.meaning, entry.formula, entry.unit, entry.source, entry.read, entry.null, entry.command, *symbols]
    assert all(text.isascii() for text in every)
    assert all((entry.meaning, entry.unit, entry.source, entry.read, entry.command))
    assert not any("..." in text or "  " in text for text in every if text != entry.formula)
    assert len(entry.meaning) <= 100
    assert not entry.meaning.endswith(".")
    assert entry.read.endswith(".")
    assert max(map(len, entry.formula.splitlines()), default=0) <= 70, "a line of a formula must fit 80 columns"


@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.path.startswith("bound.") and e.formula], ids=lambda e: e.path
)
def test_a_formula_of_the_bound_has_its_symbols(entry) -> None:
    assert entry.symbols
    for names, _ in entry.symbols:
        assert all(name in entry.formula for name in names.split(", ")), names


CAN_BE_VACUOUS = [
    "bound.bound",
    "bound.vacuous",
    "bound.covers.patch.log10_complexity_term",
    "bound.covers.operator.vacuous",
    "bound.data.margins.log10_bound",
    "bound.log10_path_norm_term",
    "bound.parameter_count_bound",
    "bound.occam",
    "bound.occam.fp32",
    "bound.occam.fp16",
    "bound.occam.zlib_fp16",
]


@pytest.mark.parametrize("path", CAN_BE_VACUOUS)
def test_what_can_be_vacuous_says_so_in_words_and_never_in_percent(path) -> None:
    entry = find(path).entry
    assert entry is not None
    assert VACUOUS in entry.read + entry.null
    assert "%" not in entry.meaning + entry.unit + entry.read + entry.null


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_a_command_that_a_text_gives_is_one_of_ours_with_its_flags(entry) -> None:
    for given in re.split(r", or ", entry.command):
        words = given.split()
        if words[0] == "resnet-audit":
            command = COMMANDS[words[1]]
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= flags


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_what_a_text_refers_to_is_there(entry) -> None:
    leaves = {path.rpartition(".")[2] for path in metrics()} | set(COMMANDS)
    leaves |= {"check", "gradient-ensemble", "shortcut-scaling", ".weight"}
    text = " ".join([entry.meaning, entry.source, entry.read, entry.null, *(what for _, what in entry.symbols)])
    for named in re.findall(r"`([^`]+)`", text):
        word = named.removeprefix("10^")
        if "." in word and not word.startswith("."):
            assert word in metrics() or find(
                entry.path.partition(".")[0] + "." + word if word.partition(".")[0] not in CHAPTERS else word
            )
        else:
            assert word in leaves, word


WRITTEN = {"meaning": "m", "unit": "u", "status": "exact", "source": "s", "read": "r.", "command": "c"}


def test_a_table_with_a_key_too_few_or_too_many_or_a_strange_status_is_no_text() -> None:
    assert _explanation("bound", "x", WRITTEN).path == "bound.x"
    with pytest.raises(ValueError, match=r"bound\.x: sure is no status"):
        _explanation("bound", "x", WRITTEN | {"status": "sure"})
    with pytest.raises(TypeError, match="unit"):
        _explanation("bound", "x", {key: text for key, text in WRITTEN.items() if key != "unit"})
    with pytest.raises(TypeError, match="units"):
        _explanation("bound", "x", WRITTEN | {"units": "u"})


# one text, two uses: the theory files name the same papers -----------------------------------------------------


def papers(text: str) -> set[str]:
    return set(re.findall(r"arXiv (\d{4}\.\d{5})", text))


def header(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def test_the_papers_of_the_texts_are_those_of_the_theory_files() -> None:
    told = papers(" ".join(entry.source for entry in ENTRIES))
    files = [*THEORY, *(PACKAGE / "measure").glob("*.py"), *(PACKAGE / "linear").glob("*.py")]
    used = papers(" ".join(header(file) for file in files))
    assert told - used == READ_ELSEWHERE
    assert papers(" ".join(header(file) for file in THEORY)) - told == set()


@pytest.mark.parametrize("name", [name for name in ANALYSES if name != "graph"])
def test_the_sources_of_an_analysis_are_in_its_own_chapter(name) -> None:
    (chapter,) = [chapter for chapter in chapters() if chapter.name == name]
    source = header(PACKAGE / "theory" / f"{name}.py")
    assert papers(source)
    assert papers(source) <= papers(" ".join(entry.source for entry in chapter.entries))
