"""The sample networks as torch modules, and data files of every kind: what the tests of inputs and passes use."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from resnet_audit.checkpoint import load
from resnet_audit.graph import ResidualGraph, discover
from resnet_audit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

SIZE = (1, 8, 8)
NETS = {
    "digits_resnet/epoch24.pt": "ResNet",
    "digits_preact.safetensors": "PreactNet",
    "digits_bottleneck_training.pth": "BottleneckNet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample network twice: the graph that the package found, and the torch module in evaluation mode."""

    graph: ResidualGraph
    module: nn.Module


def sample(folder: Path, name: str, dtype: torch.dtype = torch.float64) -> Sample:
    spec = importlib.util.spec_from_file_location("sample_models_of_passes", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    path = folder / name
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    module = getattr(models, NETS[name])()
    module.load_state_dict(state)
    graph = discover(load(str(path)), Settings(input_size=SIZE))
    return Sample(graph=graph, module=module.eval().to(dtype))


def first_block(module: nn.Module) -> nn.Module:
    found = module.get_submodule("layer1")[0]
    assert isinstance(found, torch.nn.Module)
    return found


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SIZE)).astype(np.float32)


def write_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def npy_header(text: str, data: bytes = b"") -> bytes:
    """A .npy file of version 1 with any header."""
    header = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def npz_bytes(*, compressed: bool = False, **arrays: np.ndarray) -> bytearray:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return bytearray(file.getvalue())


def zip_bytes(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def centred_spectrum(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Frequency of every Fourier mode of (N, H, W) fields, and the RMS of its amplitude over them."""
    height, width = fields.shape[-2:]
    rows = torch.tensor([(i if i <= height // 2 else i - height) / height for i in range(height)]).double()
    columns = torch.tensor([(j if j <= width // 2 else j - width) / width for j in range(width)]).double()
    frequency = (rows[:, None].square() + columns[None, :].square()).sqrt()
    return frequency, torch.fft.fft2(fields.double()).abs().square().mean(0).sqrt()
