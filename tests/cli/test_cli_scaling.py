"""`scaling` as people call it."""

from __future__ import annotations

import pytest
from cli_runner import SAMPLES, SMALL, TRAINED, invoke

PLAIN = str(SAMPLES / "digits_plain.pt")


def test_scales_are_measured_by_default_and_the_method_can_be_chosen() -> None:
    for flags, method in (
        ((), "measured"),
        (("--method", "weights"), "weights"),
        (("--method", "measured"), "measured"),
    ):
        ran = invoke("scaling", TRAINED, *SMALL, *flags, "-f", "json")
        assert ran.code == 0
        found = ran.json["checkpoints"][0]["scaling"]
        assert found["method"] == method
        assert (found["inputs"] is None) == (method == "weights")
        assert all(row["alpha"] == row[f"alpha_{method}"] for row in found["blocks"])


def test_an_unknown_method_is_refused() -> None:
    ran = invoke("scaling", TRAINED, "--method", "guess")
    assert ran.code == 2
    assert "--method" in ran.err


def test_the_table_says_what_each_number_is_and_that_the_advice_is_for_a_new_run() -> None:
    measured = " ".join(invoke("scaling", TRAINED, *SMALL).out.split())
    assert "at the sum; exact on these inputs" in measured
    assert "predicted kernel at these alphas" in measured
    assert "for a NEW training run with S = 1: alpha" in measured
    assert "it repairs no trained network" in measured
    weights = " ".join(invoke("scaling", TRAINED, *SMALL, "--method", "weights").out.split())
    assert "prediction from the weights" in weights
    assert "inputs:" not in weights


def test_rows_can_be_chosen_and_totals_stay() -> None:
    whole = invoke("scaling", TRAINED, *SMALL, "-f", "json").json["checkpoints"][0]["scaling"]
    name = whole["blocks"][0]["name"]
    part = invoke("scaling", TRAINED, *SMALL, "--blocks", name, "-f", "json").json["checkpoints"][0]["scaling"]
    assert [row["name"] for row in part["blocks"]] == [name]
    assert part["residual_time"] == whole["residual_time"]


@pytest.mark.parametrize("flags", [(), ("--assume",)])
def test_without_blocks_it_is_exit_2_alone_and_null_with_a_note_in_a_report(flags) -> None:
    alone = invoke("scaling", PLAIN, *SMALL, *flags)
    assert alone.code == 2
    assert alone.err.count("\n") == 1
    assert alone.err.startswith(PLAIN)
    whole = invoke("report", PLAIN, *SMALL, *flags, "-f", "json")
    assert whole.code == 0
    (entry,) = whole.json["checkpoints"]
    assert entry["scaling"] is None
    assert [note["code"] for note in entry["notes"] if note["where"] == "scaling"] == ["no_blocks"]
