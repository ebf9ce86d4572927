"""`bound` on the command line: data, references and presets, in the document, on the terminal and when wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli_runner import SAMPLES, SMALL, TRAINED, invoke, sample

if TYPE_CHECKING:
    from pathlib import Path

DIGITS = str(SAMPLES / "digits.npz")
START = str(SAMPLES / "digits_resnet" / "epoch00.pt")


def bound(*flags: str) -> dict[str, object]:
    return sample("bound", TRAINED, *SMALL, "-f", "json", *flags).json["checkpoints"][0]["bound"]


def refused(*flags: str) -> str:
    ran = invoke("bound", TRAINED, *SMALL, *flags)
    assert ran.code == 2
    (line,) = ran.lines
    return line


def test_data_are_echoed_with_what_they_measure() -> None:
    found = bound("--n-train", "500", "--data", DIGITS)
    data = found["data"]
    assert data["count"] == 500
    assert data["x_rms"] == found["x_rms"]
    assert data["best_margin"] in [point["margin"] for point in data["margins"]]
    assert found["vacuous"] is True
    assert found["bound"] is None


def test_strict_pays_in_the_tail() -> None:
    paper, strict = bound("--n-train", "500"), bound("--n-train", "500", "--preset", "strict")
    assert strict["tail"] > paper["tail"]
    assert (paper["post_hoc_union"], strict["post_hoc_union"]) == (False, True)
    assert (paper["bound_cover"], strict["bound_cover"]) == ("patch", "patch_biases")


def test_a_reference_moves_what_is_covered_and_not_what_is_certified() -> None:
    far, near = bound(), bound("--reference", START)
    assert near["reference"] == START
    assert near["log10_lipschitz"] == far["log10_lipschitz"]
    one, other = (found["covers"]["patch"]["log10_spectral_complexity"] for found in (far, near))
    assert one != other


def test_a_reference_that_cannot_be_read_is_one_line_that_names_both_files(tmp_path: Path) -> None:
    broken = tmp_path / "init.pt"
    broken.write_bytes(b"\x80\x02cos\nsystem\n(S'touch stolen'\ntR.")
    line = refused("--reference", str(broken))
    assert line.startswith(f"{TRAINED}: {broken}: ")
    assert not (tmp_path / "stolen").exists()
    assert str(SAMPLES / "digits_plain.pt") in refused("--reference", str(SAMPLES / "digits_plain.pt"))
    assert "gone.pt" in refused("--reference", "gone.pt")


def test_data_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", inputs=np.zeros((4, 3, 8, 8), np.float32))
    assert "1x8x8" in refused("--data", str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", inputs=np.ones((4, 1, 8, 8), np.float32), labels=np.array([0, 1, 2, 99]))
    assert "label" in refused("--data", str(tmp_path / "y.npz"))


@pytest.mark.parametrize("columns", [80, 120])
def test_the_whole_answer_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = invoke("bound", TRAINED, *SMALL, "--n-train", "500", "--data", DIGITS, "--reference", START).out
    assert max(map(len, text.splitlines())) <= columns
    assert "\u2026" not in text
    assert "weight decay acts on" in text
    assert "VACUOUS: says nothing about the error of this model" in text
