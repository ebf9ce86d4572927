"""What the commands that measure say of their inputs: fresh networks, new batch statistics, matched inputs, images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from cli_runner import SAMPLES, SMALL, TRAINED, invoke
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint before its first step in training mode."""
    state = torch.load(SAMPLES / "digits_resnet" / "epoch00.pt")
    for name, tensor in state.items():
        if name.endswith(("running_mean", "num_batches_tracked")):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.fill_(1.0)
    path = tmp_path_factory.mktemp("fresh") / "fresh.pt"
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("command", ["gradient", "ensemble"])
def test_the_command_refuses_a_fresh_network_in_one_line_and_takes_it_recalibrated(
    command: str, untouched: str
) -> None:
    ran = invoke(command, untouched, "--input-size", "1x8x8", "-q")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert ran.lines[0].startswith(f"{untouched}: every batch normalisation holds mean 0 and variance 1")
    data = str(SAMPLES / "digits.npz")
    ran = invoke(command, untouched, "--data", data, "--recalibrate", "-q", "-f", "json")
    (entry,) = ran.json["checkpoints"]
    assert ran.code == 0
    assert entry[command] is not None
    assert [note["code"] for note in entry["notes"]].count("recalibrated") == 1


def test_a_report_on_a_fresh_network_lacks_what_is_measured_and_says_why(untouched: str) -> None:
    ran = invoke("report", untouched, "--input-size", "1x8x8", "-q", "-f", "json")
    assert ran.code == 0
    (entry,) = ran.json["checkpoints"]
    assert entry["gradient"] is entry["ensemble"] is None
    assert entry["bound"] is not None
    where = [note["where"] for note in entry["notes"] if note["code"] == "not_calibrated"]
    assert where == ["gradient", "ensemble"]


def test_recalibrate_without_data_is_one_line(untouched: str) -> None:
    ran = invoke("gradient", untouched, "--recalibrate")
    assert (ran.code, ran.out) == (2, "")
    assert ran.lines == ["--recalibrate measures batch statistics on data; give it --data"]


def test_matched_inputs_are_named_reported_and_fit() -> None:
    ran = invoke("gradient", TRAINED, *SMALL, "--inputs", "matched", "-f", "json", "--verbose")
    assert ran.code == 0
    inputs = ran.json["checkpoints"][0]["gradient"]["inputs"]
    assert (inputs["kind"], inputs["n"]) == ("matched", 4)
    assert inputs["bn_mismatch_mean"] < 0.1
    assert "matched inputs" in ran.err


def test_matched_inputs_and_data_contradict_each_other() -> None:
    ran = invoke("gradient", TRAINED, "--inputs", "matched", "--data", "x.npz")
    assert ran.code == 2
    assert ran.lines == ["--data and --inputs matched contradict each other; give one of them"]


def test_a_folder_of_images_is_measured_on_and_its_normalisation_is_said(tmp_path: Path) -> None:
    for index in range(6):
        Image.effect_noise((20, 12), 60 + index).save(tmp_path / f"{index}.png")
    for command in ("gradient", "ensemble", "bound"):
        ran = invoke(command, TRAINED, *SMALL, "--data", str(tmp_path), "-f", "json", "-q")
        assert ran.code == 0, ran.err
        (entry,) = ran.json["checkpoints"]
        if command != "bound":
            assert (entry[command]["inputs"]["kind"], entry[command]["inputs"]["n"]) == ("data", 4)
        (note,) = [note for note in entry["notes"] if note["code"] == "image_normalisation"]
        assert "mean 0.449, sd 0.226" in note["message"]


def test_a_folder_of_images_says_nothing_of_the_size_of_an_input(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "one.png")
    ran = invoke("gradient", TRAINED, "--data", str(tmp_path), "-f", "json", "-q")
    shape = ran.json["checkpoints"][0]["graph"]["blocks"][0]["input_shape"]
    assert shape == [8, 32, 32], "the family's size, as without data"
