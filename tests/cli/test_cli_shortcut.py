"""`shortcut`, and its measured Hessian, as they are printed."""

from __future__ import annotations

import pytest
from cli_runner import PLAIN, SMALL, TRAINED, invoke, sample

HESSIAN = ["lambda_max", "lambda_min", "top", "residuals", "trace", "trace_se", "matvecs", "density"]


def test_the_measured_hessian_has_the_promised_fields_and_no_condition_number() -> None:
    ran = sample("shortcut", TRAINED, *SMALL, "--hessian", "--threads", "1", "-f", "json")
    assert (ran.code, ran.err) == (0, "")
    (entry,) = ran.json["checkpoints"]
    found = entry["shortcut"]["hessian"]
    assert set(HESSIAN) <= found.keys()
    assert "condition" not in str(found)
    assert len(found["top"]) == len(found["residuals"]) == 3
    assert found["top"] == sorted(found["top"], reverse=True)
    assert found["lambda_max"] == found["top"][0] > 0 > found["lambda_min"]
    assert found["parameters"] == entry["parameters"]


def test_chosen_blocks_filter_the_rows_and_are_what_the_hessian_is_over() -> None:
    (entry,) = sample("shortcut", TRAINED, *SMALL, "--hessian", "--blocks", "layer1.*", "-f", "json").json[
        "checkpoints"
    ]
    names = [f"layer1.{index}" for index in range(3)]
    assert [row["name"] for row in entry["shortcut"]["blocks"]] == names
    assert entry["shortcut"]["hessian"]["blocks"] == names
    assert entry["shortcut"]["depths"] == {"2": 9}, "totals are of the whole network"
    assert [row["stage"] for row in entry["shortcut"]["zero_hessian"]] == [1, 2, 3]


def test_a_report_has_the_zero_point_and_never_the_measured_hessian() -> None:
    (entry,) = sample("report", TRAINED, *SMALL, "-f", "json").json["checkpoints"]
    assert entry["shortcut"]["hessian"] is None
    assert len(entry["shortcut"]["zero_hessian"]) == 3


def test_a_table_says_what_everything_is_and_that_there_is_no_condition_number() -> None:
    text = " ".join(invoke("shortcut", TRAINED, *SMALL, "--hessian").out.split())
    for words in (
        "shortcut depth: 2 in 9 of 9 blocks",
        "there is no condition number here",
        "cross-entropy to the prediction",
    ):
        assert words in text
    assert "the Hessian at the checkpoint" not in invoke("shortcut", TRAINED, *SMALL).out


@pytest.mark.parametrize("flags", [(), ("--hessian",)])
def test_without_blocks_the_answer_is_one_line_and_the_code_2(flags) -> None:
    ran = invoke("shortcut", PLAIN, *SMALL, "--assume", *flags)
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "no residual block was found" in ran.err


def test_the_same_seed_prints_the_same_bytes() -> None:
    first, second = (invoke("shortcut", TRAINED, *SMALL, "--hessian", "-f", "json").out for _ in range(2))
    assert first == second
