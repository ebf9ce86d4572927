"""Auditing many files with many analyses: what is a failure, what is a note, and what is left standing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import resnet_audit.report.report as module
from resnet_audit.errors import NoBlocks, NonFinite, NoRule, NotRunnable, UnreadableCheckpoint, UsageError
from resnet_audit.report import Outcome, audit, empty
from resnet_audit.report.registry import ANALYSES, analysis
from resnet_audit.results import EnsembleBlock, EnsembleResult, InputsUsed, Note
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = InputsUsed(kind="pink", n=1, bn_mismatch_mean=None, bn_mismatch_logsd=None)
SMALL = Settings(input_size=(1, 8, 8), samples=2)
ALL = tuple(ANALYSES)


def result(*notes: Note) -> EnsembleResult:
    """A result that names the first block of the sample, with notes."""
    return EnsembleResult(
        unit="blocks",
        objective="logit",
        inputs=INPUTS,
        identity_residual=0.0,
        distribution=None,
        depth_mean=None,
        depth_mode=None,
        depth_p05=None,
        depth_p95=None,
        projection_mean=None,
        cancellation=None,
        blocks=(EnsembleBlock(name="layer1.0", branch_gain=None, skip_gain=None),),
        notes=notes,
    )


@pytest.fixture
def play(samples, monkeypatch) -> Callable[..., Outcome]:
    """Audit the trained sample with analyses that are played: each gives a result, or raises an exception."""

    def run(asked=ALL, *, paths=None, settings=SMALL, **parts: object) -> Outcome:
        def analyse(name: str):
            def act(_subject: object) -> object:
                part = parts.get(name, result())
                if isinstance(part, BaseException):
                    raise part
                return part

            return act

        monkeypatch.setattr(module, "analysis", analyse)
        here = [str(samples / "digits_resnet" / "epoch24.pt")]
        return audit(here if paths is None else paths, "report", asked, settings)

    return run


def entry_of(outcome: Outcome):
    (entry,) = outcome.document["checkpoints"]
    return entry


# one analysis, several analyses -----------------------------------------------------------------------------


def test_nothing_that_fails_means_no_failures(play) -> None:
    outcome = play()
    assert outcome.failures == ()
    assert entry_of(outcome)["error"] is None
    assert all(entry_of(outcome)[name] is not None for name in ("graph", *ALL))


def test_the_graph_alone_needs_no_analysis(play) -> None:
    outcome = play(())
    assert outcome.failures == ()
    assert not set(ALL) & entry_of(outcome).keys()


def test_one_analysis_without_an_answer_leaves_the_others(play) -> None:
    outcome = play(gradient=NoBlocks("there are none"))
    entry = entry_of(outcome)
    assert outcome.failures == ()
    assert entry["error"] is None
    assert [name for name in ALL if entry[name] is None] == ["gradient"]
    assert Note(code="no_blocks", message="there are none", where="gradient") in entry["notes"]


def test_the_only_analysis_without_an_answer_is_a_failure(play) -> None:
    outcome = play(("gradient",), gradient=NotRunnable("no size is known"))
    entry = entry_of(outcome)
    assert outcome.failures == (f"{entry['path']}: no size is known",)
    assert entry["gradient"] is None
    assert entry["graph"] is not None


def test_all_analyses_without_an_answer_are_one_failure(play) -> None:
    outcome = play(**{name: NotRunnable("why") for name in ALL})
    assert len(outcome.failures) == 1
    assert {note.where for note in entry_of(outcome)["notes"] if note.code == "not_runnable"} == set(ALL)


@pytest.mark.parametrize("last", ALL)
def test_any_one_answer_is_enough(play, last) -> None:
    assert play(**{name: NoBlocks("why") for name in ALL if name != last}).failures == ()


def test_nan_weights_are_a_null_and_never_a_failure(play) -> None:
    outcome = play(("bound",), bound=NonFinite("conv1 holds NaN"))
    assert outcome.failures == ()
    assert entry_of(outcome)["bound"] is None
    assert [note.code for note in entry_of(outcome)["notes"] if note.where == "bound"] == ["nonfinite"]


def test_a_missing_rule_is_a_note_with_its_code(play) -> None:
    entry = entry_of(play(bound=NoRule(object(), "a norm")))
    assert [note.code for note in entry["notes"] if note.where == "bound"] == ["no_rule"]


# errors -----------------------------------------------------------------------------------------------------


def test_a_usage_error_of_an_analysis_is_the_files_own_line(play) -> None:
    outcome = play(bound=UsageError("--preset is odd; leave it"))
    entry = entry_of(outcome)
    assert entry["error"] == f"{entry['path']}: --preset is odd; leave it"
    assert outcome.failures == (entry["error"],)


def test_a_defect_in_one_analysis_is_one_line_with_its_type(play) -> None:
    outcome = play(bound=ValueError("first\n  second\tthird"))
    entry = entry_of(outcome)
    assert outcome.failures == (entry["error"],)
    assert "internal error (ValueError: first second third)" in entry["error"]
    assert "--debug" in entry["error"]
    assert "\n" not in entry["error"]


def test_a_defect_without_a_text_and_one_with_a_long_text_are_readable_lines(play) -> None:
    assert "(AssertionError: no message)" in play(bound=AssertionError()).failures[0]
    assert len(play(bound=ValueError("x" * 5000)).failures[0]) < 500


def test_an_error_names_its_file_once(play, tmp_path) -> None:
    path = str(tmp_path / "gone.pt")
    outcome = play(paths=[path])
    assert outcome.failures[0].count(path) == 1
    twice = play(bound=UnreadableCheckpoint("data.npz", "a text file", "it holds no inputs", "name another"))
    assert twice.failures[0].endswith("epoch24.pt: data.npz: a text file; it holds no inputs; name another")


def test_an_interruption_is_not_a_failure_of_one_file(play) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(bound=KeyboardInterrupt())


def test_a_bad_file_between_good_ones_takes_nothing_from_them(play, samples, tmp_path) -> None:
    good, gone = str(samples / "digits_resnet" / "epoch24.pt"), str(tmp_path / "gone.pt")
    outcome = play(paths=[good, gone, good])
    first, bad, last = outcome.document["checkpoints"]
    assert first == last
    assert (first["error"], first["graph"].block_count) == (None, 9)
    assert outcome.failures == (bad["error"],)
    assert (bad["sha256"], bad["format"], bad["parameters"]) == (None, None, None)
    assert "graph" not in bad


def test_a_file_that_was_read_and_not_understood_keeps_what_is_known_of_it(play) -> None:
    outcome = play(settings=Settings(input_size=(5, 8, 8)))
    entry = entry_of(outcome)
    assert entry["parameters"] == 67_906
    assert entry["sha256"] is not None
    assert "--input-size" in entry["error"]


def test_the_threads_that_were_asked_for_are_those_of_torch_and_of_the_document(play) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            document = play((), settings=Settings(threads=threads)).document
            assert (torch.get_num_threads(), document["tool"]["threads"]) == (threads, threads)
    finally:
        torch.set_num_threads(before)


def test_no_files_are_a_document_without_checkpoints(play) -> None:
    outcome = play(paths=[])
    assert (outcome.document["checkpoints"], outcome.failures) == ([], ())


def test_the_document_of_an_audit_that_did_not_start_differs_in_its_checkpoints_only(play) -> None:
    settings = Settings(threads=torch.get_num_threads(), blocks=("layer1.*",), seed=7)
    document = play(settings=settings).document
    assert empty("report", settings) == {**document, "checkpoints": []}


# notes ------------------------------------------------------------------------------------------------------


def test_notes_of_results_move_to_the_checkpoint_once_and_in_order(play) -> None:
    shared, own = Note(code="shared", message="both say so"), Note(code="own", message="one says so", where="conv1")
    entry = entry_of(play(("spectrum", "ensemble"), spectrum=result(shared), ensemble=result(shared, own)))
    assert [note for note in entry["notes"] if note in (shared, own)] == [shared, own]
    assert entry["spectrum"].notes == ()
    assert entry["ensemble"].notes == ()
    assert entry["graph"].notes == ()


def test_notes_are_a_tuple_even_where_nothing_was_read(play, tmp_path) -> None:
    assert entry_of(play(paths=[str(tmp_path / "gone.pt")]))["notes"] == ()


# rows -------------------------------------------------------------------------------------------------------


def test_the_filter_reaches_every_analysis_and_the_graph(play) -> None:
    settings = Settings(blocks=("layer3.*",), input_size=(1, 8, 8))
    entry = entry_of(play(settings=settings))
    assert [block.name for block in entry["graph"].blocks] == ["layer3.0", "layer3.1", "layer3.2"]
    assert entry["graph"].block_count == 9
    assert all(entry[name].blocks == () for name in ALL)


def test_a_filter_without_a_match_is_a_failure_before_anything_is_computed(play) -> None:
    outcome = play(settings=Settings(blocks=("none",)), bound=AssertionError("computed"))
    assert "matches no block" in outcome.failures[0]
    assert not set(ALL) & entry_of(outcome).keys()


# the registry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_analysis_of_the_registry_can_be_called(name) -> None:
    assert callable(analysis(name))


def test_a_name_that_is_no_analysis_is_refused() -> None:
    with pytest.raises(KeyError):
        analysis("shortcuts")


def test_the_order_of_the_analyses_is_that_of_the_document() -> None:
    assert ALL == ("bound", "spectrum", "gradient", "ensemble", "shortcut", "scaling")
