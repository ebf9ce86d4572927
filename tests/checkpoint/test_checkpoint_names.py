"""Names out of a file are safe, unique and stable; prefixes go only when every name has them."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.checkpoint.names import PREFIXES, common_prefix, listed, quoted, safe, safe_names

hostile = st.text(
    st.sampled_from("ab.\x00\x1b[31m\x7f\x85\x9b\u200e\u202e\u2066\u2028\ud800\ufeff~2\ufffdé"), max_size=6
)
plain = st.text(st.sampled_from("abmodule._"), min_size=1, max_size=12)


@given(st.sets(st.text() | hostile))
def test_safe_names_are_unique_idempotent_and_leave_safe_names_alone(names):
    first = safe_names(names)
    assert set(first) == names
    assert len(set(first.values())) == len(names)
    assert safe_names(first.values()) == {name: name for name in first.values()}
    assert all(first[name] == name for name in names if safe(name) == name)


@given(st.text() | hostile)
def test_a_safe_name_can_be_printed_and_steers_nothing(text):
    clean = safe(text)
    clean.encode("utf-8")
    assert len(clean) == len(text)
    assert not any(unicodedata.category(c)[0] == "C" and unicodedata.category(c) not in {"Cn", "Co"} for c in clean)
    assert not set(clean) & set("\x1b\x9b\r\n\u202e\u2028\u2029")


def test_many_names_that_collide_take_linear_time():
    names = [
        chr(1 + i % 8) + chr(1 + i // 8 % 8) + chr(14 + i // 64 % 16) + chr(0x202A + i // 1024) for i in range(4096)
    ]
    assert len(set(safe_names(names).values())) == len(set(names))


@given(st.lists(plain, min_size=1, unique=True), st.lists(st.sampled_from(PREFIXES), max_size=3))
def test_prefixes_come_off_all_names_or_none_and_nothing_is_left_to_come_off(names, wrapped):
    front = "".join(wrapped)
    prefix, extra = common_prefix([front + name for name in names])
    assert prefix.startswith(front)
    if extra is None:
        left = [(front + name).removeprefix(prefix) for name in names]
        assert all((front + name).startswith(prefix) for name in names)
        assert all(left)
        assert len(set(left)) == len(names)
        assert common_prefix(left)[0] == ""


def test_one_name_without_the_prefix_keeps_it_on_all():
    assert common_prefix(["module.a", "module.b", "c"]) == ("", None)


def test_backbone_stays():
    assert common_prefix(["model.backbone.a", "model.backbone.b"]) == ("model.", None)


def test_prefixes_come_off_in_any_order_and_the_counter_of_averaging_does_not_stand_in_the_way():
    assert common_prefix(["n_averaged", "module.a", "module.b"]) == ("module.", "n_averaged")
    assert common_prefix(["_orig_mod.n_averaged", "_orig_mod.module.a"]) == (
        "_orig_mod.module.",
        "_orig_mod.n_averaged",
    )
    assert common_prefix(["module._orig_mod.net.a"]) == ("module._orig_mod.net.", None)


def test_a_prefix_that_is_a_whole_name_stays():
    assert common_prefix(["module.", "module.a"]) == ("", None)


def test_sentences_cut_what_is_long_and_count_what_is_many():
    assert quoted("x" * 500) == "x" * 77 + "..."
    assert listed(["a", "b\x1b", "c", "d", "e"]) == "a, b\ufffd, c and 2 more"
