"""Builders of checkpoint files, good and foreign, for the tests of this folder."""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

TEN_LAYERS = 10


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{i}.weight": torch.randn(16, 16, generator=generator) for i in range(TEN_LAYERS)}


def save_zip(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def save_legacy(path: Path, content: object) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def save_safetensors(path: Path, content: dict[str, Tensor]) -> Path:
    save_file(content, path)
    return path


SAVERS = {"torch-zip": save_zip, "torch-legacy": save_legacy, "safetensors": save_safetensors}


def rewrite_zip(path: Path, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """The zip at `path` with the records that end in a key of `change` given those bytes; all others as they were."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            suffix = next((end for end in change if name.endswith(end)), None)
            archive.writestr(name, data if suffix is None else change[suffix])
    return path


def zip_of(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return path


def npz(path: Path) -> Path:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    return path


def npy(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    return path


def onnx(path: Path) -> Path:
    """A ModelProto written by hand: ir_version 8, producer "test", a graph of 4 bytes, one opset."""
    path.write_bytes(b"\x08\x08" + b"\x12\x04test" + b"\x3a\x04\x12\x02ab" + b"\x42\x02\x10\x0d")
    return path


def tar(path: Path) -> Path:
    path.write_bytes(b"weights".ljust(257, b"\0") + b"ustar\x0000" + bytes(248))
    return path


def written(data: bytes):
    def build(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return build


def folder_with(*names: str):
    def build(path: Path) -> Path:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(b"{}")
        return path

    return build


FOREIGN = {
    "npy": (npy, "numpy array"),
    "zip of checkpoints": (lambda p: zip_of(p, policy_dot_pth=b"", data=b"{}"), "policy.pth"),
    "zip": (lambda p: zip_of(p, notes_dot_txt=b"hello"), "zip archive"),
    "broken zip": (written(b"PK\3\4" + bytes(100)), "without its list of records"),
    "tar": (tar, "tar archive"),
    "gzip": (written(b"\x1f\x8b\x08" + bytes(30)), "gzip archive"),
    "pickle": (written(pickle.dumps({"a": 1}, protocol=2)), "bare pickle"),
    "gguf": (written(b"GGUF" + bytes(30)), "GGUF"),
    "hdf5": (written(b"\x89HDF\r\n\x1a\n" + bytes(30)), "HDF5"),
    "git-lfs pointer": (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "git lfs pull"),
    "html": (written(b"\xef\xbb\xbf\n<!DOCTYPE html><html></html>"), "web page"),
    "text": (written(b'{"error": "not found"}\n'), "text file"),
    "empty": (written(b""), "empty file"),
    "unknown": (written(bytes(range(128, 256))), "no known format"),
    "folder": (folder_with("a.txt"), "a folder"),
}


class Tiny(nn.Module):
    """A model of our own, whose pickle names a class that no other program can import."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
