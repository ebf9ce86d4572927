"""The flags of `ensemble`: units, fast mode, the sampled statistics, and a limit of depth."""

from __future__ import annotations

import math
from typing import Any

import pytest
from cli_runner import SMALL, TRAINED, invoke


def ensemble(*flags: str) -> dict[str, Any]:
    ran = invoke("ensemble", TRAINED, *SMALL, "-f", "json", *flags)
    assert (ran.code, ran.err) == (0, "")
    (entry,) = ran.json["checkpoints"]
    return {**entry["ensemble"], "notes": [note["code"] for note in entry["notes"]]}


def test_without_flags_nothing_is_sampled_and_all_is_predicted() -> None:
    found = ensemble()
    assert found["incoherent"] is found["veit"] is found["missing_mass"] is None
    assert found["predicted"]["binomial"] == pytest.approx(4.5)
    assert 0.0 < found["predicted"]["energy"] < 9.0
    for law in ("energy", "amplitude", "binomial"):
        shares = found["predicted"]["distribution"][law]
        assert len(shares) == 10
        assert math.fsum(shares) == pytest.approx(1.0)
        assert math.fsum(k * share for k, share in enumerate(shares)) == pytest.approx(found["predicted"][law])
    assert len(found["spin_glass"]["beta"]) == 9
    assert found["spin_glass"]["mean"] == pytest.approx(1.0 + found["predicted"]["amplitude"])


def test_fast_gives_the_mean_of_the_projections_and_no_distribution() -> None:
    full, fast = ensemble(), ensemble("--fast")
    assert fast["distribution"] is fast["depth_mean"] is None
    assert fast["projection_mean"] == pytest.approx(full["projection_mean"], rel=1e-4)
    assert fast["projection_sd"] == pytest.approx(full["projection_sd"], rel=1e-3)
    assert fast["predicted"] == full["predicted"]
    assert fast["identity_residual"] < 1e-5
    assert "fast" in fast["notes"]


def test_veit_adds_the_sampled_statistics_and_changes_nothing_else() -> None:
    plain, sampled = ensemble(), ensemble("--veit")
    assert math.fsum(sampled["veit"]["distribution"]) == pytest.approx(1.0)
    assert math.fsum(sampled["incoherent"]["energy"]) == pytest.approx(1.0)
    assert sampled["veit"]["paths"] == 64
    assert {k: v for k, v in sampled.items() if k not in {"veit", "incoherent"}} == {
        k: v for k, v in plain.items() if k not in {"veit", "incoherent"}
    }


def test_veit_in_layers_stays_in_blocks() -> None:
    assert len(ensemble("--veit", "--unit", "layers")["veit"]["distribution"]) == 10


def test_a_limit_of_depth_keeps_the_first_parts_and_says_what_is_missing() -> None:
    full, cut = ensemble(), ensemble("--max-depth", "3")
    kept = full["distribution"]["norm"][:4]
    assert cut["distribution"]["norm"] == pytest.approx([share / math.fsum(kept) for share in kept], rel=1e-5)
    assert cut["missing_mass"] > 0.0
    assert cut["identity_residual"] < 1e-5
    assert "truncated" in cut["notes"]
    assert ensemble("--max-depth", "9")["missing_mass"] == 0.0


def test_fast_leaves_nothing_to_cut() -> None:
    ran = invoke("ensemble", TRAINED, *SMALL, "--fast", "--max-depth", "3")
    assert ran.code == 2
    (line,) = ran.lines
    assert "--max-depth" in line


@pytest.mark.parametrize(
    ("flags", "sentences"),
    [
        (("--fast",), ("projection mean",)),
        (("--veit",), ("paths x mean norm (Veit)", "without interference", "prediction from the weights")),
        (("--max-depth", "3"), ("missing mass", "mean of depths up to 3")),
        ((), ("energies of random cotangents", "spin glass with these gains (a model)", "complexity theta")),
    ],
)
def test_the_table_says_what_each_number_is(flags: tuple[str, ...], sentences: tuple[str, ...]) -> None:
    ran = invoke("ensemble", TRAINED, *SMALL, *flags)
    assert ran.code == 0
    text = " ".join(ran.out.split())
    for sentence in sentences:
        assert sentence in text
    assert "no distribution over depth" not in text
