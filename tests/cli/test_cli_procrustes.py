"""`procrustes`: which layers, what is written, what is said, and that nothing is written when it fails."""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
import torch
from cli_runner import SAMPLES, TRAINED, Ran, invoke, sample
from torch import Tensor

from resnet_audit import Settings, discover, load, procrustes
from resnet_audit import gradient as gradient_of

if TYPE_CHECKING:
    from pathlib import Path

DIGITS = str(SAMPLES / "digits.npz")
PREACT = str(SAMPLES / "digits_preact.safetensors")
BOTTLENECK = str(SAMPLES / "digits_bottleneck_training.pth")
PLAIN = str(SAMPLES / "digits_plain.pt")
SIZE = ("--input-size", "1x8x8")
FAST = (*SIZE, "--samples", "4", "--iterations", "2")


def run(model: str, out: Path, *arguments: str) -> dict[str, Any]:
    """The document's entry of a run that succeeds."""
    ran = invoke("procrustes", model, "-o", str(out), "-f", "json", *arguments)
    assert ran.code == 0, ran.err
    jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)
    (entry,) = ran.json["checkpoints"]
    return entry


def refused(folder: Path, *arguments: str) -> Ran:
    """A run that fails with one line, and leaves the folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ran = invoke("procrustes", *arguments)
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert "internal error" not in ran.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return ran


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.pt"


# what it does ----------------------------------------------------------------------------------------------


def test_the_transition_kernels_are_projected_and_nothing_else_changes(out: Path, trained: dict[str, Tensor]) -> None:
    entry = run(TRAINED, out, *SIZE, "--iterations", "9")
    written = torch.load(out, weights_only=True)
    assert written.keys() == trained.keys()
    changed = {name for name in trained if not torch.equal(written[name], trained[name])}
    assert changed == {"layer2.0.conv1.weight", "layer3.0.conv1.weight"}
    for (name, size), row in zip({"layer2.0.conv1": 8, "layer3.0.conv1": 4}.items(), entry["procrustes"]["layers"]):  # noqa: B905 - the names are compared
        expected = procrustes(trained[f"{name}.weight"], (size, size), (2, 2), iterations=9)
        assert torch.equal(written[f"{name}.weight"], expected.weight)
        assert row["name"] == name
        assert row["grid"] == [size, size]
        assert (row["target"], row["iterations"], row["deficient"]) == (1.0, 9, 0)
        for side in ("before", "after"):
            numbers = getattr(expected, side)
            assert row[side] == {field: getattr(numbers, field) for field in row[side]}
        assert row["kernel_change"] == expected.kernel_change


def test_the_fields_of_the_contract_are_there(out: Path) -> None:
    entry = run(TRAINED, out, *FAST, "--target", "rms")
    found = entry["procrustes"]
    assert {"layers", "iterations", "target", "output"} <= found.keys()
    assert (found["iterations"], found["target"], found["output"]) == (2, "rms", str(out))
    for layer in found["layers"]:
        assert {"name", "before", "after", "kernel_change"} <= layer.keys()
        for side in ("before", "after"):
            assert {"sigma_max", "sigma_min", "mean_deviation"} <= layer[side].keys()
    assert "notes" not in found
    assert not {"bound", "spectrum", "gradient", "ensemble"} & entry.keys()
    assert run(TRAINED, out, *FAST, "--target", "0.5")["procrustes"]["target"] == 0.5


def test_in_bottlenecks_it_is_the_strided_or_widening_layer_and_the_projection(out: Path) -> None:
    entry = run(BOTTLENECK, out, *FAST)
    layers = {layer["name"]: layer for layer in entry["procrustes"]["layers"]}
    branches = ["layer1.0.conv3", "layer2.0.conv2", "layer3.0.conv2"]
    shortcuts = [f"layer{stage}.0.downsample.0" for stage in (1, 2, 3)]
    assert [name for name, layer in layers.items() if layer["placement"] == "branch"] == branches
    assert [name for name, layer in layers.items() if layer["placement"] == "shortcut"] == shortcuts
    assert layers["layer2.0.downsample.0"]["target"] == pytest.approx(math.sqrt(2))


def test_the_wrapper_and_the_optimizer_of_a_training_state_stay(out: Path) -> None:
    run(BOTTLENECK, out, *FAST)
    before, after = (torch.load(path, weights_only=True) for path in (BOTTLENECK, out))
    assert list(after) == list(before)
    assert (after["epoch"], after["best_acc"]) == (before["epoch"], before["best_acc"])
    assert list(after["state_dict"]) == list(before["state_dict"])
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    assert load(str(out)).wrapper == "state_dict"


def test_what_is_written_is_audited_as_the_report_said(out: Path) -> None:
    entry = run(TRAINED, out, *SIZE)
    spectrum = sample("spectrum", str(out), *SIZE, "-f", "json").json["checkpoints"][0]["spectrum"]
    audited = {layer["name"]: layer for layer in spectrum["layers"]}
    for layer in entry["procrustes"]["layers"]:
        assert audited[layer["name"]]["sigma_max"] == pytest.approx(layer["after"]["sigma_max"], rel=1e-12)
        assert audited[layer["name"]]["sigma_min"] == pytest.approx(layer["after"]["sigma_min"], rel=1e-12)
    again = invoke("procrustes", str(out), "-o", str(out.with_name("again.pt")), *FAST, "-f", "json")
    rows = again.json["checkpoints"][0]["procrustes"]["layers"]
    assert [row["before"] for row in rows] == [row["after"] for row in entry["procrustes"]["layers"]]


def test_the_gradient_ratios_are_those_of_both_files(out: Path) -> None:
    entry = run(TRAINED, out, *SIZE, "--samples", "8")
    settings = Settings(input_size=(1, 8, 8), samples=8)
    for side, path in (("before", TRAINED), ("after", str(out))):
        found = {block.name: block for block in gradient_of(discover(load(path), settings), settings).blocks}
        for block in entry["procrustes"]["blocks"]:
            expected = {"ratio": found[block["name"]].ratio, "ratio_rms": found[block["name"]].ratio_rms}
            assert block[side] == pytest.approx(expected, rel=1e-6)
    assert [block["name"] for block in entry["procrustes"]["blocks"]] == ["layer2.0", "layer3.0"]


def test_the_accuracy_is_that_of_plain_networks_on_all_the_data(out: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SAMPLES))
    from models import ResNet  # noqa: PLC0415 - found by the path above

    entry = run(TRAINED, out, "--data", DIGITS, "--iterations", "3")
    data = np.load(DIGITS)
    shares = []
    for path in (TRAINED, out):
        net = ResNet()
        net.load_state_dict(torch.load(path, weights_only=True))
        with torch.no_grad():
            logits = net.eval().double()(torch.from_numpy(data["inputs"]).double())
        shares.append(float((logits.argmax(1).numpy() == data["labels"]).mean()))
    assert entry["procrustes"]["accuracy"] == {"n": 500, "before": shares[0], "after": shares[1]}
    assert shares[0] > shares[1] > 0.5
    sys.modules.pop("models", None)


def test_without_labels_there_is_no_accuracy(out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", np.load(DIGITS)["inputs"])
    assert (
        run(TRAINED, out, "--data", str(tmp_path / "inputs.npy"), "--iterations", "1")["procrustes"]["accuracy"] is None
    )


# which layers ----------------------------------------------------------------------------------------------


def test_blocks_chooses_what_is_projected(out: Path, trained: dict[str, Tensor]) -> None:
    entry = run(TRAINED, out, *FAST, "--blocks", "layer3.0", "--blocks", "layer1.[12]")
    expected = ["layer1.1.conv1", "layer1.1.conv2", "layer1.2.conv1", "layer1.2.conv2", "layer3.0.conv1"]
    assert [layer["name"] for layer in entry["procrustes"]["layers"]] == expected
    written = torch.load(out, weights_only=True)
    changed = {name for name in trained if not torch.equal(written[name], trained[name])}
    assert changed == {f"{name}.weight" for name in expected}


def test_a_glob_that_matches_no_block_is_refused(out: Path) -> None:
    ran = refused(out.parent, TRAINED, "-o", str(out), *FAST, "--blocks", "block9.*")
    assert "matches no block" in ran.err


def test_tied_kernels_change_together_and_are_named(out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    state = {name: value.clone() for name, value in trained.items()}
    state["layer1.0.conv1.weight"] = state["layer1.0.conv2.weight"]
    torch.save(state, tmp_path / "tied.pt")
    entry = run(str(tmp_path / "tied.pt"), out, *FAST, "--blocks", "layer1.0")
    written = torch.load(out, weights_only=True)
    assert written["layer1.0.conv1.weight"].data_ptr() == written["layer1.0.conv2.weight"].data_ptr()
    assert not torch.equal(written["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    state["layer1.1.conv1.weight"] = state["layer1.0.conv2.weight"]
    torch.save(state, tmp_path / "tied.pt")
    entry = run(str(tmp_path / "tied.pt"), out, *FAST, "--blocks", "layer1.0")
    note = next(note for note in entry["notes"] if note["code"] == "tied")
    assert note["where"] == "layer1.1.conv1.weight"
    after = sample("gradient", str(out), *SIZE, "--samples", "4", "-f", "json").json["checkpoints"][0]["gradient"]
    ratio = next(block["ratio"] for block in after["blocks"] if block["name"] == "layer1.0")
    assert entry["procrustes"]["blocks"][0]["after"]["ratio"] == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file_stays(dtype: torch.dtype, out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in trained.items()}
    torch.save(state, tmp_path / "in.pt")
    entry = run(str(tmp_path / "in.pt"), out, *FAST)
    written = torch.load(out, weights_only=True)
    assert {name: value.dtype for name, value in written.items()} == {name: v.dtype for name, v in state.items()}
    row = entry["procrustes"]["layers"][0]
    expected = procrustes(state["layer2.0.conv1.weight"], (8, 8), (2, 2), iterations=2)
    assert torch.equal(written["layer2.0.conv1.weight"], expected.weight)
    assert row["after"]["sigma_max"] == expected.after.sigma_max


# what it says ----------------------------------------------------------------------------------------------


def test_the_table_fits_80_columns_and_names_the_file(out: Path) -> None:
    ran = invoke("procrustes", TRAINED, "-o", str(out), *FAST, "--data", DIGITS)
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "layer2.0.conv1" in ran.out
    assert f"written: {out}" in ran.out.replace("\n  ", " ")
    assert "accuracy 98.2 % before" in ran.out
    assert "…" not in ran.out
    assert "batch normalisation keeps the statistics of the old kernels" in ran.out.replace("\n      ", " ")


def test_the_same_input_gives_the_same_bytes(out: Path) -> None:
    first = invoke("procrustes", TRAINED, "-o", str(out), "-f", "json", *FAST, "--threads", "1")
    model = out.read_bytes()
    second = invoke("procrustes", TRAINED, "-o", str(out), "-f", "json", *FAST, "--threads", "1")
    assert (second.out, out.read_bytes()) == (first.out, model)


def test_objects_that_are_not_written_are_named(out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save({"model": trained, "best": np.float64(0.5)}, tmp_path / "in.pt")
    entry = run(str(tmp_path / "in.pt"), out, *FAST)
    assert [note["message"] for note in entry["notes"] if note["code"] == "not_written"] == [
        "objects that only running them would make; they were not written: best"
    ]


def test_a_nan_elsewhere_costs_the_ratios_and_not_the_file(out: Path, nan: str) -> None:
    entry = run(nan, out, *FAST, "--data", DIGITS)
    assert (entry["procrustes"]["blocks"], entry["procrustes"]["accuracy"]) == ([], None)
    assert {"nonfinite"} <= {note["code"] for note in entry["notes"]}
    assert out.exists()


# safetensors and back --------------------------------------------------------------------------------------


def test_safetensors_in_and_out(out: Path) -> None:
    target = out.with_suffix(".safetensors")
    entry = run(PREACT, target, *FAST)
    before, after = load(PREACT), load(str(target))
    names = [layer["name"] for layer in entry["procrustes"]["layers"]]
    assert names == [f"layer{stage}.0.{layer}" for stage in (2, 3) for layer in ("conv1", "downsample.0")]
    changed = {name for name in before.tensors if not torch.equal(before.tensors[name], after.tensors[name])}
    assert changed == {f"{name}.weight" for name in names}


@pytest.fixture
def program(tmp_path: Path, monkeypatch) -> str:
    """The trained sample as a TorchScript program."""
    monkeypatch.syspath_prepend(str(SAMPLES))
    from models import ResNet  # noqa: PLC0415 - found by the path above

    net = ResNet()
    net.load_state_dict(torch.load(TRAINED, weights_only=True))
    path = str(tmp_path / "program.pt")
    torch.jit.trace(net.eval(), torch.zeros(1, 1, 8, 8)).save(path)
    sys.modules.pop("models", None)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_a_program_the_weights_are_written_and_the_new_network_is_measured(program: str, out: Path) -> None:
    ran = refused(out.parent, program, "-o", str(out), *FAST)
    assert "give an output that ends in .safetensors" in ran.err
    target = out.with_suffix(".safetensors")
    entry = run(program, target, *FAST)
    expected = run(TRAINED, out, *FAST)
    assert entry["procrustes"]["layers"] == expected["procrustes"]["layers"]
    for mine, theirs in zip(entry["procrustes"]["blocks"], expected["procrustes"]["blocks"], strict=True):
        assert mine["before"] == pytest.approx(theirs["before"], rel=1e-4)
        assert mine["after"] == pytest.approx(theirs["after"], rel=1e-4)
        assert mine["before"] != pytest.approx(mine["after"], rel=1e-3)
    written, model = load(str(target)).tensors, load(str(out)).tensors
    assert all(torch.equal(written[name], model[name]) for name in written)


# refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "0"), "--target 0 is neither auto, rms nor a positive number"),
        (("--target", "nan"), "is neither"),
        (("--target", "inf"), "is neither"),
        (("--target", "-1"), "is neither"),
        (("--target", "big"), "is neither"),
        (("--iterations", "0"), "--iterations"),
        (("--iterations", "-3"), "--iterations"),
        (("--iterations", "few"), "--iterations"),
        (("--input-size", "3x8x8"), "3x8x8"),
        (("--data", "gone.npz"), "gone.npz"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_anything_is_written(arguments, message, out: Path) -> None:
    assert message in refused(out.parent, TRAINED, "-o", str(out), *SIZE, *arguments).err
    assert not out.exists()


def test_an_output_is_needed_and_its_suffix_says_the_format(out: Path) -> None:
    assert "-o" in refused(out.parent, TRAINED, *FAST).err
    for name in ("model", "model.json", "model.txt", "-"):
        assert "the suffix names the format" in refused(out.parent, TRAINED, "-o", str(out.with_name(name)), *FAST).err


def test_the_input_and_the_data_are_never_replaced(out: Path) -> None:
    shutil.copy(TRAINED, out)
    torch.save({"inputs": torch.randn(4, 1, 8, 8)}, out.with_name("data.pt"))
    assert "would replace" in refused(out.parent, str(out), "-o", str(out), *FAST).err
    data = ("--data", str(out.with_name("data.pt")))
    assert "would replace" in refused(out.parent, TRAINED, "-o", data[1], *data).err


def test_one_model_is_written_and_not_several(out: Path) -> None:
    assert "2 were given" in refused(out.parent, TRAINED, PREACT, "-o", str(out), *FAST).err
    assert "save standard input to a file" in refused(out.parent, "-", "-o", str(out), *FAST).err


def test_json_is_valid_when_it_fails(out: Path) -> None:
    for arguments in ((TRAINED, PREACT), ("gone.pt",), (PLAIN, "--assume")):
        ran = invoke("procrustes", *arguments, "-o", str(out), "-f", "json", *FAST)
        assert ran.code == 2
        jsonschema.validate(ran.json, sample("schema").json, cls=jsonschema.Draft202012Validator)
        assert ran.json["command"] == "procrustes"
        assert not out.exists()


def test_a_network_without_a_transition_has_nothing_to_project(out: Path, tmp_path: Path) -> None:
    assert "nothing to project" in refused(out.parent, PLAIN, "-o", str(out), *FAST, "--assume").err


def test_a_kernel_with_nan_is_refused(out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    broken = {name: value.clone() for name, value in trained.items()}
    broken["layer2.0.conv1.weight"][0, 0, 0, 0] = math.nan
    torch.save(broken, tmp_path / "nan.pt")
    ran = refused(tmp_path, str(tmp_path / "nan.pt"), "-o", str(out), *FAST)
    assert "layer2.0.conv1 has no projection: 1 of 1152 weights are NaN or infinite" in ran.err


def test_a_target_that_the_dtype_cannot_hold_is_refused(out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in trained.items()}, tmp_path / "half.pt")
    ran = refused(tmp_path, str(tmp_path / "half.pt"), "-o", str(out), *FAST, "--target", "1e9")
    assert "too large for a weight of torch.float16" in ran.err


def test_a_kernel_that_is_stored_in_parts_is_refused(out: Path, tmp_path: Path, trained: dict[str, Tensor]) -> None:
    state = dict(trained)
    weight = state.pop("layer2.0.conv1.weight")
    state["layer2.0.conv1.weight_v"] = weight
    state["layer2.0.conv1.weight_g"] = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    torch.save(state, tmp_path / "normed.pt")
    ran = refused(tmp_path, str(tmp_path / "normed.pt"), "-o", str(out), *FAST)
    assert "layer2.0.conv1.weight in parts or packed" in ran.err


def test_a_folder_where_nothing_can_be_written_is_one_line(out: Path) -> None:
    ran = refused(out.parent, TRAINED, "-o", str(out.parent / "gone" / "model.pt"), *FAST)
    assert "its folder is not there" in ran.err


def test_hostile_names_are_written_as_they_are_and_shown_harmless(out: Path, tmp_path: Path, trained) -> None:
    state = {f"module.{name}": value for name, value in trained.items()}
    torch.save({"\x1b[31mmodel": state, "other\u202e": json.loads("[1]")}, tmp_path / "in.pt")
    ran = invoke("procrustes", str(tmp_path / "in.pt"), "-o", str(out), *FAST)
    assert ran.code == 0
    assert "\x1b" not in ran.out + ran.err
    assert list(torch.load(out, weights_only=True)) == ["\x1b[31mmodel", "other\u202e"]
