"""The verdict against an oracle that knows nothing of the code: thresholds, the baseline, and what cannot be judged."""

from __future__ import annotations

import math
from typing import Any

import pytest
from check_documents import block, document, entry, gradient, shortcut
from hypothesis import given
from hypothesis import strategies as st

from resnet_audit.check import Baseline, Rules, judge
from resnet_audit.check.baseline import TOLERANCE, Key, names_of, read_baseline
from resnet_audit.check.ignores import ignores
from resnet_audit.check.thresholds import Threshold, overridden, threshold, thresholds
from resnet_audit.errors import UnreadableCheckpoint, UsageError
from resnet_audit.results import Note

RATIO, WORST = "gradient.blocks.ratio", "gradient.ratio_worst"
RULES = st.sampled_from(["max", "min", "max-increase", "max-decrease"])
AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 10.0])
VALUES = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0])
NAMES = ("a", "b", "c")
MEASURED = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1)
THRESHOLDS = st.lists(
    st.builds(Threshold, rule=RULES, metric=st.sampled_from([RATIO, WORST]), amount=AMOUNTS),
    max_size=4,
    unique_by=lambda one: (one.rule, one.metric),
)
PLACES = st.tuples(st.sampled_from([RATIO, WORST]), st.sampled_from(["le", "ge"]), st.sampled_from(["", *NAMES]))
BASELINES = st.none() | st.dictionaries(PLACES, VALUES).map(
    lambda found: Baseline({Key("net", *place): value for place, value in found.items()})
)


def one_net(ratios: dict[str, float | None], worst: float | None = None, path: str = "net.pt") -> Any:
    return entry(path, gradient=gradient([block(name, value) for name, value in ratios.items()], worst=worst))


def oracle(ratios: dict[str, float], worst: float, limits: list[Threshold], base: Baseline | None) -> Any:
    """(status counts, whether all could be judged), one number at a time."""
    numbers = [(RATIO, name, value) for name, value in ratios.items()] + [(WORST, "", worst)]
    old = {} if base is None else {(key.metric, key.op, key.where): value for key, value in base.values.items()}
    counts = {"fail": 0, "held": 0, "pass": 0}
    complete = bool(limits) or bool(old)
    for metric, where, value in numbers:
        for rule, side in (("max", "le"), ("max-increase", "le"), ("min", "ge"), ("max-decrease", "ge")):
            sign = 1 if side == "le" else -1
            before = old.get((metric, side, where))
            slack = None if before is None else sign * before + TOLERANCE * abs(before)
            for limit in limits:
                if (limit.rule, limit.metric) != (rule, metric):
                    continue
                if rule in {"max", "min"}:
                    ok = sign * value <= sign * limit.amount
                    held = not ok and slack is not None and sign * value <= slack
                    counts["pass" if ok else "held" if held else "fail"] += 1
                elif before is None:
                    complete = False
                else:
                    counts["pass" if sign * value <= sign * before + limit.amount else "fail"] += 1
        for side in ("le", "ge"):
            sign = 1 if side == "le" else -1
            rules = {"max", "max-increase"} if side == "le" else {"min", "max-decrease"}
            if any(limit.metric == metric and limit.rule in rules for limit in limits):
                continue
            if not any((m, s) == (metric, side) for m, s, _ in old):
                continue
            before = old.get((metric, side, where))
            if before is None:
                complete = False
            else:
                counts["pass" if sign * value <= sign * before + TOLERANCE * abs(before) else "fail"] += 1
    return counts, complete


@given(MEASURED, VALUES, THRESHOLDS, BASELINES)
def test_the_verdict_is_that_of_one_number_at_a_time(ratios, worst, limits, base) -> None:
    verdict = judge(document(one_net(ratios, worst)), ["net"], Rules(thresholds=tuple(limits), baseline=base))
    counts, complete = oracle(ratios, worst, limits, base)
    summary = verdict.summary
    assert {"fail": summary.failed, "held": summary.held, "pass": summary.passed} == counts
    assert (verdict.problems == ()) == complete
    assert verdict.exit_code == (2 if not complete else int(counts["fail"] > 0))
    for finding in verdict.findings:
        holds = finding.value <= finding.limit if finding.op == "le" else finding.value >= finding.limit
        assert holds == (finding.status == "pass")


@given(MEASURED, VALUES, THRESHOLDS, BASELINES)
def test_a_number_that_is_recorded_first_can_be_judged_and_does_not_fail(ratios, worst, limits, base) -> None:
    rules = Rules(thresholds=tuple(limits), baseline=base or Baseline({}), recording="force")
    verdict = judge(document(one_net(ratios, worst)), ["net"], rules)
    if limits or (base and base.values):
        assert verdict.exit_code == 0
    again = judge(document(one_net(ratios, worst)), ["net"], Rules(thresholds=tuple(limits), baseline=verdict.baseline))
    assert again.findings == verdict.findings


KEYS = st.builds(Key, st.just("n"), st.just("m"), st.sampled_from(["le", "ge"]), st.sampled_from(NAMES))
NUMBERS = st.dictionaries(KEYS, st.floats(-5, 5), max_size=6)


@given(NUMBERS, st.lists(NUMBERS, max_size=4))
def test_updating_only_tightens_and_a_second_time_changes_nothing(start, runs) -> None:
    baseline = Baseline(start)
    for run in runs:
        after = baseline.updated(run, force=False)
        for key, value in baseline.values.items():
            assert after.values[key] <= value if key.op == "le" else after.values[key] >= value
        assert set(after.values) == {*baseline.values, *run}
        assert after.updated(run, force=False) == after
        baseline = after


@given(st.lists(st.floats(-5, 5), min_size=1))
def test_one_sided_numbers_tighten_to_the_best_that_was_seen(values) -> None:
    low, high = Key("n", "m", "le", ""), Key("n", "other", "ge", "")
    baseline = Baseline({})
    for value in values:
        baseline = baseline.updated({low: value, high: value}, force=False)
    assert baseline.values == {low: min(values), high: max(values)}


def test_a_number_with_two_sides_stays_and_force_moves_it() -> None:
    low, high = Key("n", "m", "le", ""), Key("n", "m", "ge", "")
    baseline = Baseline({}).updated({low: 1.0, high: 1.0}, force=False)
    assert baseline.updated({low: 0.5, high: 0.5}, force=False) == baseline
    assert baseline.updated({low: 0.5, high: 0.5}, force=True).values == {low: 0.5, high: 0.5}


def test_force_drops_locations_that_are_gone_and_nothing_else() -> None:
    before = {Key("n", "m", "le", "a"): 1.0, Key("n", "m", "le", "b"): 1.0, Key("n", "k", "le", ""): 1.0}
    after = Baseline(before | {Key("o", "m", "le", "b"): 1.0}).updated({Key("n", "m", "le", "a"): 2.0}, force=True)
    assert after.values == {
        Key("n", "m", "le", "a"): 2.0,
        Key("n", "k", "le", ""): 1.0,
        Key("o", "m", "le", "b"): 1.0,
    }


@given(
    st.dictionaries(st.builds(Key, st.text(), st.text(), st.sampled_from(["le", "ge"]), st.text()), st.floats(-9, 9))
)
def test_a_baseline_comes_back_from_its_file(values) -> None:
    text = Baseline(values).to_text()
    assert read_baseline(text, "b.json").values == values
    assert read_baseline(text, "b.json").to_text() == text
    assert Baseline(dict(reversed(values.items()))).to_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"baseline_version": 1}',
        '{"baseline_version": 2, "tool": "resnet-audit", "checkpoints": {}}',
        '{"baseline_version": 1, "tool": "resnet-audit"}',
        '{"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"a": []}}',
        '{"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"a": {"m": {"lt": {}}}}}',
        '{"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"a": {"m": {"le": {"": null}}}}}',
        '{"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"a": {"m": {"le": {"": NaN}}}}}',
        '{"baseline_version": 1, "tool": "resnet-audit", "checkpoints": {"a": {"m": {"le": {"": true}}}}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[-30:],
)
def test_what_is_no_baseline_is_refused_with_its_path(text) -> None:
    with pytest.raises(UnreadableCheckpoint) as stopped:
        read_baseline(text, "b.json")
    assert str(stopped.value).startswith("b.json: ")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ["max", "min"])
def test_a_number_that_is_none_never_passes(value, rule) -> None:
    limit = thresholds({rule: [f"{RATIO}={'1e300' if rule == 'max' else '-1e300'}"]})
    verdict = judge(document(one_net({"a": 1.0, "b": value})), ["net"], Rules(thresholds=limit))
    assert verdict.exit_code == 2
    assert "null at b" in verdict.problems[0]
    assert [finding.where for finding in verdict.findings] == ["a"]
    left_out = Rules(thresholds=limit, ignored=ignores([f"{RATIO}[b]"]))
    assert judge(document(one_net({"a": 1.0, "b": value})), ["net"], left_out).exit_code == 0


@pytest.mark.parametrize(
    ("one", "path", "said"),
    [
        (entry(), RATIO, "the report holds no gradient"),
        (entry(gradient=None, notes=(Note(code="x", message="it does not run", where="gradient"),)), RATIO, "not run"),
        (entry(gradient=None), WORST, "gradient has no answer"),
        (one_net({}), RATIO, "its list is empty"),
        (entry(shortcut=shortcut({"2": 9})), "shortcut.depths.3", "the keys are: 2"),
        (entry(shortcut=shortcut({"2": 9})), "shortcut.hessian.trace", "is null"),
        (entry(error="net.pt: no such file; x; y"), RATIO, "no such file"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_one_line_that_starts_with_the_path(one, path, said) -> None:
    verdict = judge(document(one), ["net"], Rules(thresholds=thresholds({"max": [f"{path}=1"]})))
    (line,) = verdict.problems
    assert line.startswith("net.pt: ")
    assert said in line
    assert (verdict.findings, verdict.exit_code) == ((), 2)


def test_a_bad_checkpoint_does_not_keep_a_good_one_from_being_judged() -> None:
    both = document(entry("bad.pt", error="bad.pt: x; y; z"), one_net({"a": 3.0}))
    verdict = judge(both, ["bad", "net"], Rules(thresholds=thresholds({"max": [f"{RATIO}=1"]})))
    assert verdict.summary.failed == 1
    assert verdict.exit_code == 2


def test_what_is_ignored_everywhere_is_not_judged_and_nothing_left_is_no_verdict() -> None:
    rules = Rules(thresholds=thresholds({"max": [f"{RATIO}=1", f"{WORST}=1"]}), ignored=ignores([RATIO]))
    assert [finding.metric for finding in judge(document(one_net({"a": 9.0}, 0.5)), ["n"], rules).findings] == [WORST]
    nothing = Rules(thresholds=thresholds({"max": [f"{RATIO}=1"]}), ignored=ignores([RATIO]))
    assert judge(document(one_net({"a": 9.0})), ["n"], nothing).exit_code == 2


def test_rounding_of_another_machine_is_no_worse() -> None:
    base = Baseline({Key("net", WORST, "le", ""): 7.0})
    for value, code in ((7.0, 0), (7.0 * (1 + 5e-6), 0), (7.0 * (1 + 2e-5), 1)):
        assert judge(document(one_net({}, value)), ["net"], Rules(baseline=base)).exit_code == code


def test_an_increase_is_exact_and_never_held() -> None:
    base = Baseline({Key("net", WORST, "le", ""): 7.0})
    rules = Rules(thresholds=thresholds({"max-increase": [f"{WORST}=0"]}), baseline=base)
    (finding,) = judge(document(one_net({}, 7.0 * (1 + 5e-6))), ["net"], rules).findings
    assert (finding.status, finding.limit) == ("fail", 7.0)


def test_places_that_are_gone_are_told_and_do_not_fail() -> None:
    base = Baseline({Key("net", RATIO, "le", name): 2.0 for name in "ab"})
    verdict = judge(document(one_net({"a": 1.0})), ["net"], Rules(baseline=base))
    assert (verdict.exit_code, len(verdict.notices)) == (0, 1)
    assert "1 location of" in verdict.notices[0]


def test_percentages_are_of_the_size_of_the_baseline() -> None:
    (up,) = thresholds({"max-increase": [f"{WORST}=10%"]})
    (down,) = thresholds({"max-decrease": [f"{WORST}=10%"]})
    assert (up.limit(-2.0), down.limit(-2.0), up.limit(2.0), down.limit(2.0)) == (-1.8, -2.2, 2.2, 1.8)
    assert up.limit(None) is None


@pytest.mark.parametrize(
    "text",
    ["", "=", "=4", RATIO, f"{RATIO}=", f"{RATIO}=x", f"{RATIO}=nan", f"{RATIO}=inf", f"{RATIO}=1e999", f"{RATIO}=1_0",
     f"{RATIO}=٣", f"{RATIO}=4%", f"{RATIO} =4"],
)  # fmt: skip
def test_what_is_no_threshold_is_refused_with_the_flag(text) -> None:
    with pytest.raises(UsageError, match=r"^--max "):
        thresholds({"max": [text]})


@pytest.mark.parametrize(("rule", "amount"), [("max-increase", "-1"), ("max-decrease", "-1%"), ("max", True)])
def test_a_distance_is_not_negative_and_a_switch_is_no_number(rule, amount) -> None:
    with pytest.raises(UsageError):
        threshold(rule, RATIO, amount)


def test_two_limits_of_one_kind_contradict_and_the_same_twice_does_not() -> None:
    assert len(thresholds({"max": [f"{RATIO}=1", f"{RATIO}=1.0"]})) == 1
    with pytest.raises(UsageError, match="another limit"):
        thresholds({"max": [f"{RATIO}=1", f"checkpoints[].{RATIO}=2"]})


def test_the_command_line_replaces_limits_of_one_kind_and_metric_and_keeps_the_others() -> None:
    configured = thresholds({"max": [f"{RATIO}=1", f"{WORST}=1"], "min": [f"{RATIO}=0"]})
    found = overridden(thresholds({"max": [f"{RATIO}=9"]}), configured)
    assert {(one.rule, one.metric): one.amount for one in found} == {
        ("max", RATIO): 9,
        ("max", WORST): 1,
        ("min", RATIO): 0,
    }


def test_a_name_is_the_stem_and_is_never_shared() -> None:
    assert names_of(["runs/epoch24.pt", "-", "b.c.pt"], None) == ("epoch24", "-", "b.c")
    assert names_of(["runs/epoch24.pt"], "best") == ("best",)
    for paths, name in ((["a/x.pt", "b/x.pt"], None), (["a.pt", "b.pt"], "best")):
        with pytest.raises(UsageError):
            names_of(paths, name)
