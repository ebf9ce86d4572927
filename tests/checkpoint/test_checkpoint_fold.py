"""Weight norm, spectral norm and quantisation are undone: the weight is that which the module itself uses."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import save_legacy, save_zip
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from resnet_audit.checkpoint import load
from resnet_audit.errors import UnreadableCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # the old functions and quantisation are deprecated, and still met

LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "linear": lambda: nn.Linear(5, 3),
    "one output": lambda: nn.Linear(5, 1),
}


def loaded(path, model):
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    return load(str(save_zip(path / "m.pt", {"net": model.state_dict()})))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_folded(layer, norm, dim, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(norm(LAYERS[layer](), dim=dim))
    checkpoint = loaded(tmp_path, model)
    model(torch.zeros(1, *([4, 5, 5] if layer in {"conv", "transposed"} else [5])))
    assert set(checkpoint.tensors) == {"0.weight", "0.bias"}
    assert torch.allclose(checkpoint.tensors["0.weight"], model[0].weight, rtol=1e-5, atol=1e-7)
    assert any(note.code == "folded" and "weight norm" in note.message for note in checkpoint.notes)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_spectral_norm_is_folded(layer, norm, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(norm(LAYERS[layer]()))
    checkpoint = loaded(tmp_path, model)
    model(torch.zeros(1, *([4, 5, 5] if layer in {"conv", "transposed"} else [5])))
    assert set(checkpoint.tensors) == {"0.weight", "0.bias"}
    assert torch.allclose(checkpoint.tensors["0.weight"], model[0].weight, rtol=1e-5, atol=1e-7)


def test_an_orthogonal_parametrization_is_refused(tmp_path):
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)))
    with pytest.raises(UnreadableCheckpoint, match=r"orthogonal parametrization of 0\.weight; .*remove_parametriz"):
        load(str(save_zip(tmp_path / "m.pt", model.state_dict())))


def test_an_unknown_parametrization_is_refused(tmp_path):
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    model = nn.Sequential(nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Double())
    with pytest.raises(UnreadableCheckpoint, match="unknown"):
        load(str(save_zip(tmp_path / "m.pt", model.state_dict())))


def test_parts_that_do_not_fit_are_refused(tmp_path):
    state = {"a.weight_orig": torch.zeros(3, 4), "a.weight_u": torch.zeros(7), "a.weight_v": torch.zeros(9)}
    with pytest.raises(UnreadableCheckpoint, match="do not fit"):
        load(str(save_zip(tmp_path / "m.pt", state)))


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("channels", [False, True])
def test_quantised_tensors_are_multiplied_out(save, channels, tmp_path):
    exact = torch.randn(4, 3, 3)
    if channels:
        scales, zeros = torch.rand(4).double() + 0.1, torch.tensor([0, 1, -2, 3])
        quantised = torch.quantize_per_channel(exact, scales, zeros, 0, torch.qint8)
    else:
        quantised = torch.quantize_per_tensor(exact, 0.05, 3, torch.quint8)
    checkpoint = load(str(save(tmp_path / "m.pt", {"a.weight": quantised, "b": torch.zeros(2), "tied": quantised})))
    assert torch.allclose(checkpoint.tensors["a.weight"], quantised.dequantize(), atol=1e-6)
    assert checkpoint.tensors["tied"] is checkpoint.tensors["a.weight"]
    assert any(note.code == "dequantised" for note in checkpoint.notes)


def test_the_packed_weights_of_dynamic_quantisation_are_weights(tmp_path):
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch was built without a quantised engine")
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear})
    checkpoint = load(str(save_zip(tmp_path / "m.pt", model.state_dict())))
    assert torch.allclose(checkpoint.tensors["0.weight"], model[0].weight().dequantize(), atol=1e-6)
    assert checkpoint.tensors["0.bias"].shape == (4,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_small_floats_stay_as_they_are_stored(dtype, save, tmp_path):
    saved = torch.randn(6, 5).to(dtype)
    found = load(str(save(tmp_path / "m.pt", {"a": saved}))).tensors["a"]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), saved.view(torch.uint8))


def test_many_weights_of_the_same_bytes_are_refused_before_they_are_multiplied_out(tmp_path):
    base = torch.zeros(2**20, dtype=torch.int8)
    parts = {f"w{i}": torch._make_per_tensor_quantized_tensor(base, 0.1, 0) for i in range(3)}
    storage = parts["w0"].untyped_storage()
    parts = {name: tensor.set_(storage, 0, (2**20,), (1,)) for name, tensor in parts.items()}
    with pytest.raises(UnreadableCheckpoint, match="same few bytes"):
        load(str(save_zip(tmp_path / "m.pt", parts)))
