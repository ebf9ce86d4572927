"""Programs are opened in one place; what cannot be opened is refused in one line."""

from __future__ import annotations

import importlib.util
import sys
import warnings

import pytest
import torch
from torch import nn

from resnet_audit.checkpoint.programs import open_program
from resnet_audit.checkpoint.sniff import Format, sniff
from resnet_audit.errors import UnreadableCheckpoint

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="the onnx package is not installed")


def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()


def script(path, *, frozen=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(net(), torch.zeros(1, 3, 5, 5))
        torch.jit.save(torch.jit.freeze(module) if frozen else module, path)
    return str(path)


def exported(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net(), (torch.zeros(2, 3, 5, 5),)), path)
    return str(path)


def onnx_model(path, location=None, *, length=None):
    import onnx  # noqa: PLC0415 (an optional extra)

    weight = onnx.numpy_helper.from_array(torch.ones(2, 3, 3, 3).numpy(), "w")
    if location is not None:
        (path.parent / "w.bin").write_bytes(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "length": length or "216"}.items():
            weight.external_data.add(key=key, value=value)
    x = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 5, 5])
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return str(path)


def refusal(path, kind) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_program(path, kind)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_torchscript_and_exported_programs_open_with_their_weights(tmp_path) -> None:
    path = script(tmp_path / "a.bin")
    assert [name for name, _ in open_program(path, sniff(path)).named_parameters()] == ["0.weight", "0.bias"]
    path = exported(tmp_path / "b.bin")
    assert list(open_program(path, sniff(path)).state_dict) == ["0.weight", "0.bias"]


@needs_onnx
def test_onnx_opens_with_its_weights_inside_or_beside(tmp_path) -> None:
    for location in (None, "w.bin"):
        path = onnx_model(tmp_path / "m.onnx", location)
        assert sniff(path) is Format.ONNX
        assert len(open_program(path, "onnx").graph.initializer[0].raw_data) == 216


@needs_onnx
@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "..", "a/w.bin", "", "..\\w.bin", "C:w.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path, location) -> None:
    assert "plain names" in refusal(onnx_model(tmp_path / "m.onnx", location), "onnx")


@needs_onnx
@pytest.mark.parametrize("length", ["999999999999", "-5", "many"])
def test_weights_that_claim_more_than_their_file_holds_are_refused(tmp_path, length) -> None:
    assert "claims more" in refusal(onnx_model(tmp_path / "m.onnx", "w.bin", length=length), "onnx")


@needs_onnx
def test_weights_that_are_not_there_are_named(tmp_path) -> None:
    assert "gone.bin is not beside it" in refusal(onnx_model(tmp_path / "m.onnx", "gone.bin"), "onnx")


@needs_onnx
def test_flipped_bytes_of_an_onnx_model_open_or_are_refused(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    onnx_model(path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xC1]) + data[place + 1 :])
        try:
            open_program(str(path), "onnx")
        except UnreadableCheckpoint as error:
            assert "\n" not in str(error)  # noqa: PT017 (it may open as well)


def test_frozen_torchscript_has_a_sentence_of_its_own(tmp_path) -> None:
    assert "a frozen TorchScript program" in refusal(script(tmp_path / "f.pt", frozen=True), "torchscript")


def test_without_the_onnx_package_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "resnet-audit[onnx]" in refusal(str(tmp_path / "m.onnx"), "onnx")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["torchscript", "pt2", pytest.param("onnx", marks=needs_onnx)])
def test_truncated_files_are_refused_in_one_line(tmp_path, kind, share) -> None:
    path = tmp_path / "cut"
    {"torchscript": script, "pt2": exported, "onnx": onnx_model}[kind](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "damaged or cut short" in refusal(str(path), kind)


def test_a_format_that_is_no_program_is_refused_in_its_own_words(tmp_path) -> None:
    assert "gzip" in refusal(str(tmp_path / "a.gz"), "gzip")


def test_the_real_programs_open(checkpoints) -> None:
    for name in ("silero_vad.jit", *(["silero_vad.onnx"] if importlib.util.find_spec("onnx") else [])):
        path = str(checkpoints / name)
        assert open_program(path, sniff(path)) is not None
