"""The rows that a filter keeps, and the totals that it must not touch."""

from __future__ import annotations

from dataclasses import fields

import pytest

from resnet_audit.errors import UsageError
from resnet_audit.report.rows import chosen_blocks, only
from resnet_audit.results import (
    BlockEntry,
    BoundLayer,
    BoundResult,
    EnsembleBlock,
    EnsembleResult,
    GradientBlock,
    GradientResult,
    GraphResult,
    InputsUsed,
    SpectrumBlock,
    SpectrumLayer,
    SpectrumResult,
)

NAMES = ("a.0", "a.1", "b.0")
INPUTS = InputsUsed(kind="pink", n=1, bn_mismatch_mean=None, bn_mismatch_logsd=None)


def filled(kind: type, **given: object):
    """A value of a frozen type with `given` and None for all else."""
    return kind(**{field.name: given.get(field.name) for field in fields(kind) if field.init})


def graph() -> GraphResult:
    """Three blocks of two layers; b.0 has a shortcut layer as well."""
    blocks = tuple(
        filled(
            BlockEntry,
            name=name,
            layers=(f"{name}.one", f"{name}.two"),
            skip_layers=(f"{name}.short",) if name == "b.0" else (),
        )
        for name in NAMES
    )
    return filled(GraphResult, blocks=blocks, block_count=3, stem=("stem",), head=("fc",), notes=())


LAYERS = ("stem", *(f"{name}.{part}" for name in NAMES for part in ("one", "two")), "b.0.short", "a.0.one.more", "fc")


def results():
    return {
        "graph": graph(),
        "bound": filled(BoundResult, layers=tuple(filled(BoundLayer, name=n) for n in LAYERS), log10_lipschitz=3.0),
        "spectrum": filled(
            SpectrumResult,
            sigma_max=9.0,
            sigma_max_where="fc",
            layers=tuple(filled(SpectrumLayer, name=n) for n in LAYERS),
            blocks=tuple(filled(SpectrumBlock, name=n) for n in NAMES),
        ),
        "gradient": filled(
            GradientResult,
            inputs=INPUTS,
            norms=(1.0, 2.0, 3.0, 4.0, 5.0),
            blocks=tuple(filled(GradientBlock, name=n) for n in ("a.0", "a.1", "a.1..b.0", "b.0")),
        ),
        "ensemble": filled(
            EnsembleResult, inputs=INPUTS, depth_mean=1.5, blocks=tuple(filled(EnsembleBlock, name=n) for n in NAMES)
        ),
    }


def names(rows) -> list[str]:
    return [row.name for row in rows]


def test_without_a_glob_nothing_is_chosen_and_nothing_changes() -> None:
    assert chosen_blocks(graph(), ()) is None
    for name, result in results().items():
        assert only(result, graph(), None) is result, name


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (("a.*",), {"a.0", "a.1"}),
        (("a.0", "b.?"), {"a.0", "b.0"}),
        (("[!a]*", "none"), {"b.0"}),
        (("*",), set(NAMES)),
    ],
)
def test_a_block_is_chosen_if_any_glob_matches_its_whole_name(globs, found) -> None:
    assert chosen_blocks(graph(), globs) == found


@pytest.mark.parametrize("glob", ["A.*", "a", ".0", ""])
def test_no_match_is_an_error_that_names_the_blocks(glob) -> None:
    with pytest.raises(UsageError, match=r"matches no block; the blocks are: a\.0, a\.1, b\.0$"):
        chosen_blocks(graph(), (glob,))


def test_a_graph_without_blocks_says_that_there_are_none() -> None:
    empty = filled(GraphResult, blocks=(), notes=())
    with pytest.raises(UsageError, match="the blocks are: none"):
        chosen_blocks(empty, ("*",))


def test_many_blocks_are_counted_and_not_listed() -> None:
    many = filled(GraphResult, blocks=tuple(filled(BlockEntry, name=f"b{n}") for n in range(40)), notes=())
    with pytest.raises(UsageError, match=r"b0, b1, b2, b3, b4, b5 and 34 more$"):
        chosen_blocks(many, ("x",))


@pytest.mark.parametrize("name", ["graph", "spectrum", "gradient", "ensemble"])
def test_the_rows_of_the_chosen_blocks_stay_in_their_order(name) -> None:
    assert names(only(results()[name], graph(), frozenset({"b.0", "a.0"})).blocks) == ["a.0", "b.0"]


@pytest.mark.parametrize("name", ["bound", "spectrum"])
def test_the_layers_of_a_block_are_those_of_its_branch_and_its_shortcut(name) -> None:
    kept = only(results()[name], graph(), frozenset({"b.0"}))
    assert names(kept.layers) == ["b.0.one", "b.0.two", "b.0.short"]


@pytest.mark.parametrize("name", ["graph", "bound", "spectrum", "gradient", "ensemble"])
def test_totals_are_those_of_the_whole_network(name) -> None:
    whole = results()[name]
    kept = only(whole, graph(), frozenset({"a.1"}))
    for field in fields(whole):
        if field.name not in {"blocks", "layers"}:
            assert getattr(kept, field.name) == getattr(whole, field.name), field.name
