"""From what a user types to a text, or to what may have been meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.errors import UsageError
from resnet_audit.explain import find
from resnet_audit.explain.find import metrics, normalised

PATHS = sorted(metrics())


@given(st.sampled_from(PATHS))
def test_every_path_is_found_and_leads_to_itself(path) -> None:
    found = find(path)
    assert found.path == path
    assert found.entry is not None
    places = [found.entry.path, *found.entry.also]
    assert any(path in found.chapter.concrete(place) for place in places)


@given(st.sampled_from(PATHS), st.data())
def test_indices_names_in_brackets_and_the_checkpoint_in_front_change_nothing(path, data) -> None:
    index = st.sampled_from(["", "[0]", "[]", ".7", "[layer1.0.conv1]", ".*"])
    written = ".".join(part + data.draw(index) for part in path.split("."))
    front = data.draw(st.sampled_from(["", ".", "checkpoints.0.", ".checkpoints[].", "checkpoints[3]."]))
    assert find(front + written).path == path


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("bound.covers.log10_R", "bound.covers.COVER.log10_R"),
        ("bound.covers.COVER.log10_R", "bound.covers.COVER.log10_R"),
        ("spectrum.layers.folded.sigma_max", "spectrum.layers.sigma_max"),
        ("bound.layers.sensitivity.patch", "bound.layers.sensitivity"),
    ],
)
def test_one_text_serves_several_places(short, whole) -> None:
    entry = find(short).entry
    assert entry is not None
    assert entry.path == whole


def test_what_sets_a_place_apart_is_told_and_only_there() -> None:
    assert [path for path, _ in find("bound.covers.patch.log10_R").differs] == ["bound.covers.patch"]
    assert [path for path, _ in find("spectrum.layers.folded.rms").differs] == ["spectrum.layers.folded"]
    for path in ("bound.covers.log10_R", "spectrum.layers.rms", "bound.tail", "bound.layers.share.patch"):
        assert find(path).differs == ()


def test_a_place_leads_to_what_lies_directly_below_it() -> None:
    def below(path: str) -> list[str]:
        return [entry.path for entry in find(path).below]

    assert below("bound.occam") == ["bound.occam.fp32", "bound.occam.fp16", "bound.occam.zlib_fp16"]
    assert "bound.covers.patch" in below("bound.covers")
    assert "bound.covers.COVER.log10_R" in below("bound.covers")
    assert below("bound.covers.patch")[0] == "bound.covers.COVER.log10_spectral_complexity"
    assert "bound.layers.share" in below("bound.layers")
    assert "spectrum.layers.folded" not in below("spectrum.layers.folded")
    assert "spectrum.layers.rms" in below("spectrum.layers.folded")
    assert "bound.data.margins.risk" not in below("bound.data")
    assert below("bound.tail") == below("bound.layers.share") == []


def test_an_analysis_leads_to_all_of_it() -> None:
    found = find("ensemble")
    assert found.entry is None
    assert found.below == found.chapter.entries


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bound.tial", "bound.tail"),
        ("tail", "bound.tail"),
        ("bund", "bound"),
        ("bound.covers.pach.log10_R", "bound.covers.patch.log10_R"),
        ("bound.covers.patch.log10_r", "bound.covers.patch.log10_R"),
        ("ensemble.depthmean", "ensemble.depth_mean"),
        ("sigma_max", "spectrum.sigma_max"),
        ("bound.measures.log_prod_of_spec", "bound.measures.LOG_PROD_OF_SPEC"),
        ("spectrum.tail", "bound.tail"),
    ],
)
def test_a_typing_error_is_answered_with_what_was_meant(typed, meant) -> None:
    with pytest.raises(UsageError) as refused:
        find(typed)
    text = str(refused.value)
    assert text.startswith(f"{typed}: no metric has this name; did you mean ")
    assert meant in text.partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert text.endswith("`resnet-audit explain` lists all")
    assert "\n" not in text


@pytest.mark.parametrize("typed", ["", ".", "[]", "zzzzqqq", "\x1b[31m"])
def test_a_name_like_no_other_is_refused_without_a_guess(typed) -> None:
    with pytest.raises(UsageError, match="no metric has this name; `resnet-audit explain` lists all"):
        find(typed)


@given(st.text(max_size=40))
def test_any_text_is_found_or_refused(text) -> None:
    try:
        found = find(text)
    except UsageError as error:
        told = str(error)
    else:
        told = f"{text}: "
        assert found.path == normalised(text)
    assert told.startswith(f"{text}: ")
