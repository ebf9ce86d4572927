from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_factory import (
    ANALYSES,
    CONVS,
    bound,
    document,
    ensemble,
    gradient,
    graph,
    hostile,
    matches_golden,
    printed,
    spectrum,
)
from rich.cells import cell_len

from resnet_audit.results import Note, PerCover

LONG = "model.language_model.layers.31.self_attention.rotary.query_key_value_projection.base_layer.lora_default"
HOSTILE = st.text(alphabet="ab[]/\\:\x1b\n\u202e層é\udc80 ", min_size=1, max_size=120)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", ANALYSES)
def test_a_table_looks_as_it_did(command, width) -> None:
    assert matches_golden(f"render_{command}_{width}.txt", printed(document(command), width=width))


@settings(max_examples=40, deadline=None)
@given(st.integers(60, 160), st.sampled_from(["utf-8", "ascii"]))
def test_nothing_ends_in_an_ellipsis(width, encoding) -> None:
    text = printed(document(), width=width, encoding=encoding)
    assert "…" not in text
    assert "..." not in text


@settings(max_examples=40, deadline=None)
@given(st.integers(76, 160))
def test_no_line_is_longer_than_the_terminal(width) -> None:
    assert all(cell_len(line) <= width for line in printed(document(), width=width).splitlines())


@settings(max_examples=40, deadline=None)
@given(HOSTILE, st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_a_hostile_name_is_printed_whole_and_harmless(name, encoding) -> None:
    text = printed(hostile(name), encoding=encoding)
    text.encode(encoding)
    assert "…" not in text
    assert not set(text) & set("\x1b\u202e\udc80")


def test_a_name_wider_than_the_terminal_is_not_cut() -> None:
    text = printed(hostile(LONG), width=60)
    assert text.count(LONG) >= 5
    assert "…" not in text


def test_markup_in_a_name_is_text() -> None:
    assert "[red]x[/red]" in printed(hostile("[red]x[/red]"))
    assert ":smile:" in printed(hostile(":smile:"))


def test_no_line_ends_in_a_blank() -> None:
    assert all(line == line.rstrip() for line in printed(document()).splitlines())


def test_captions_name_the_hidden_columns_and_wide_hides_none() -> None:
    narrow = " ".join(printed(document("spectrum")).split())
    assert "hidden at 80 columns: at most, condition," in narrow
    assert "(use --wide or --format json)" in narrow
    wide = printed(document("spectrum"), wide=True, width=None)
    assert "hidden at" not in wide
    assert "condition" in wide


def test_captions_wrap_at_76_columns_on_a_wide_terminal() -> None:
    after_tables = [line for line in printed(document("bound"), width=300).splitlines() if line.startswith("  ")]
    assert after_tables
    assert max(map(len, after_tables)) <= 76


def test_the_filter_is_in_the_caption_of_every_table() -> None:
    for command in ANALYSES:
        text = printed(document(command, globs=("layer3.*",)), wide=True)
        assert "rows: --blocks layer3.*" in " ".join(text.split()), command


def test_a_missing_analysis_gives_its_reason_once() -> None:
    reason = Note(code="not_runnable", message="no input size is known; give --input-size")
    text = printed(document("gradient", gradient=None, notes=(reason,)))
    assert "gradient is not available: no input size is known; give --input-size" in text
    assert "note:" not in text


def test_a_reason_of_one_analysis_is_not_given_for_another() -> None:
    notes = (
        Note(code="no_rule", message="why bound", where="bound"),
        Note(code="not_runnable", message="why gradient", where="gradient"),
    )
    text = printed(document(bound=None, gradient=None, notes=notes))
    assert "bound is not available: why bound\n" in text
    assert "gradient is not available: why gradient\n" in text


def test_notes_stand_below_with_their_place() -> None:
    notes = (Note(code="x", message="weights are tied", where="fc"),)
    assert printed(document("graph", notes=notes)).endswith("\nnote: fc: weights are tied\n")


def test_a_broken_checkpoint_is_left_to_the_command_line() -> None:
    broken = document("graph", graph=None, error="x.pt: not a checkpoint")
    good = document("graph")
    assert printed(broken) == ""
    both = {**good, "checkpoints": [*broken["checkpoints"], *good["checkpoints"]]}
    assert printed(both) == printed(good)


def test_several_checkpoints_have_a_header_each() -> None:
    one = document("graph")
    two = {**one, "checkpoints": [*one["checkpoints"], *document("graph", path="resnet56.th")["checkpoints"]]}
    text = printed(two)
    assert text.startswith("resnet20.th  9 blocks, 20 weight layers, 269,722 parameters\n")
    assert "\n\nresnet56.th  9 blocks" in text


def test_a_vacuous_bound_is_said_in_words_and_never_in_percent() -> None:
    text = " ".join(printed(document("bound")).split())
    assert "VACUOUS: says nothing about the error of this model; use it to compare models of one shape" in text
    assert "Lipschitz constant, l2 10^10.39 certified, at most" in text
    assert "%" not in text[text.index("VACUOUS") :]
    held = replace(bound(), vacuous=False, bound=0.83, empirical_margin_risk=0.1)
    assert "error at most 0.830, certified" in printed(document("bound", bound=held))


def test_weight_decay_acts_on_the_layers_with_the_largest_gain_first() -> None:
    first, *others = bound().layers
    most = replace(others[-1], gain_per_square=PerCover(operator=0.0, patch=5.0), actionable=None)
    text = printed(document("bound", bound=replace(bound(), layers=(first, *others[:-1], most))))
    rows = text[text.index("weight decay acts on") :].splitlines()[2:]
    assert rows[0].startswith(f"{most.name} (no parameter)")
    assert rows[1].startswith("bn1.weight")
    assert rows[6].startswith("6 of 20 layers")


def test_data_is_told_as_measured_and_what_is_assumed_as_assumed() -> None:
    told = " ".join(printed(document("bound")).split())
    assert "data: 50,000 inputs, measured: rms 1.020" in told
    assert "empirical margin risk 0.310 at margin 1" in told
    assert "best of 5 margins: 16.0, with risk 0.300 and the whole bound 10^15.29" in told
    assert "x rms 1," in told
    measured = replace(bound(), x_rms=1.02)
    assert "x rms" not in " ".join(printed(document("bound", bound=measured)).split())
    paid = printed(document("bound", bound=replace(bound(), post_hoc_union=True)))
    assert "paid for as chosen after training" in " ".join(paid.split())


def test_a_bound_without_data_asks_for_nothing() -> None:
    text = printed(document("bound", bound=bound(data=False)))
    assert "VACUOUS" not in text
    assert "no value here: ln N, term, margin needed, vacuous" in text


def test_unlike_inputs_are_a_warning_and_the_mismatch_is_always_there() -> None:
    assert "warning: BN mismatch 0.360 is above 0.3" in printed(document("gradient"))
    close = printed(document("gradient", gradient=gradient(mismatch=0.14)))
    assert "BN mismatch mean 0.140" in close
    assert "warning" not in close
    assert "BN mismatch mean -" in printed(document("gradient", gradient=gradient(mismatch=None)))


def test_every_summary_says_what_a_number_is() -> None:
    assert "largest sigma max 8.43 in layer3.2.conv2; exact on the circular grid" in printed(document("spectrum"))
    assert "worst layer3.2: off 1 by a factor 5.395" in printed(document("gradient"))
    assert "effective depth 14.0 of 27 blocks (mean), mode 14, 5-95 % on depths 10-18" in printed(document("ensemble"))


def test_empty_results_are_a_sentence_and_not_an_empty_table() -> None:
    found = replace(graph(()), unplaced=("odd.weight",), unplaced_count=1)
    text = printed(document("graph", graph=found))
    assert "no residual block was found" in text
    assert "unplaced: odd.weight" in text
    none = replace(spectrum(), layers=(), blocks=(), sigma_max=None, sigma_max_where=None)
    assert "no weight layer to show" in printed(document("spectrum", spectrum=none))
    nothing = dict.fromkeys(("distribution", "depth_mean", "depth_mode", "depth_p05", "depth_p95", "projection_mean"))
    alone = replace(ensemble(), **nothing)
    assert "no distribution over depth" in printed(document("ensemble", ensemble=alone))
    fast = replace(alone, projection_mean=4.0)
    assert "no distribution over depth" not in printed(document("ensemble", ensemble=fast))


def test_undefined_statistics_are_a_dash() -> None:
    blank = replace(
        spectrum().layers[0], sigma_max=None, sigma_min=None, histogram=None, condition=None, folded=None, rank=None
    )
    text = printed(document("spectrum", spectrum=replace(spectrum(), layers=(blank, *spectrum().layers[1:]))))
    row = next(line for line in text.splitlines() if line.startswith(CONVS[0] + " "))
    assert row.split() == ["conv1", "16<-3", "3x3", "-", "-"]
