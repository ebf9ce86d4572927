"""One voice detector published in three formats holds the same numbers, whichever of them is read."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from resnet_audit import load

NAMED = "silero_vad_16k.safetensors"
"""The file with plain names: the network for 16 kHz alone. The programs hold that for 8 kHz as well."""


def within(tensor: torch.Tensor, others: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that equal `tensor`, with its axes in any one of the orders that exchange two."""
    turned = [tensor, *(tensor.transpose(i, j) for i in range(tensor.ndim) for j in range(i))]
    return [
        name
        for name, other in others.items()
        if any(view.shape == other.shape and torch.equal(view, other) for view in turned)
    ]


def nearest(tensor: torch.Tensor, others: dict[str, torch.Tensor]) -> tuple[str, float]:
    """The name of the closest tensor of that shape, and its relative distance in the Frobenius norm."""
    distances = {
        name: float((tensor - other).norm() / tensor.norm())
        for name, other in others.items()
        if other.shape == tensor.shape and other.is_floating_point()
    }
    return min(distances.items(), key=lambda item: item[1])


needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="ONNX files are read with onnx")


@needs_onnx
def test_every_weight_of_the_torchscript_file_is_in_the_onnx_file_bit_by_bit(checkpoints):
    script = load(str(checkpoints / "silero_vad.jit")).tensors
    onnx = load(str(checkpoints / "silero_vad.onnx")).tensors
    held = {name: tensor for name, tensor in script.items() if tensor.numel()}
    assert len(held) == 30
    assert sum(tensor.numel() for tensor in held.values()) > 500_000
    for name, tensor in held.items():
        assert len(within(tensor, onnx)) == 1, name


@needs_onnx
@pytest.mark.parametrize(
    ("program", "part"),
    [("silero_vad.jit", "_model."), ("silero_vad.onnx", "If_0_then_branch__Inline_0__")],
)
def test_the_safetensors_file_shares_only_the_fourier_basis_and_is_another_training_of_the_same_network(
    checkpoints, program, part
):
    """The files are not one set of numbers: of 15 tensors only the fixed basis of the Fourier transform is equal.

    The other 14 have the same shapes and are close (9 to 44 % away in norm, where unrelated weights are 140 % away),
    as after further training; each reader gives the numbers that its library's own reader gives.
    """
    named = load(str(checkpoints / NAMED)).tensors
    others = load(str(checkpoints / program)).tensors
    assert len(named) == 15
    assert {name for name, tensor in named.items() if within(tensor, others)} == {"stft_conv.weight"}
    assert within(named["stft_conv.weight"], others) == [f"{part}stft.forward_basis_buffer"]
    for name in named.keys() - {"stft_conv.weight", "final_conv.bias"}:  # one number is close to any other
        found, distance = nearest(named[name], others)
        assert found.startswith(part), name
        assert 0.05 < distance < 0.5, name


@needs_onnx
@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_each_file_gives_the_numbers_that_the_reader_of_its_own_library_gives(checkpoints):
    named = importlib.import_module("safetensors.torch").load_file(checkpoints / NAMED)
    script = torch.jit.load(checkpoints / "silero_vad.jit", map_location="cpu").state_dict()
    onnx = importlib.import_module("onnx")
    program = onnx.load(checkpoints / "silero_vad.onnx")
    constants = {
        node.output[0]: torch.from_numpy(onnx.numpy_helper.to_array(attribute.t).copy())
        for branch in program.graph.node
        for part in branch.attribute
        if part.type == onnx.AttributeProto.GRAPH
        for node in part.g.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    }
    for file, expected in ((NAMED, named), ("silero_vad.jit", script), ("silero_vad.onnx", constants)):
        got = load(str(checkpoints / file)).tensors
        shared = expected.keys() & got.keys()
        assert len(shared) >= 15
        assert all(torch.equal(got[name], expected[name]) for name in shared), file
