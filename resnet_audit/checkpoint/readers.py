"""One reader a format: bytes to nested Python objects with tensors in them. Nothing in a file is run or imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from resnet_audit.checkpoint.arrays import npz, onnx_weights, pt2
from resnet_audit.checkpoint.content import Content, damaged, first_line
from resnet_audit.checkpoint.distributed import distributed
from resnet_audit.checkpoint.folders import model_folder, sharded
from resnet_audit.checkpoint.names import quoted
from resnet_audit.checkpoint.refusals import refusal
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.checkpoint.torchfiles import torch_legacy, torch_zip, torchscript
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    import torch


def read(path: str, kind: Format) -> Content:
    """What the file or folder at `path` holds, its tensors on the CPU as stored, mapped lazily where possible.

    Raises UnreadableCheckpoint for the formats that are not read, and for files that are damaged, refused or bombs.
    """
    try:
        match kind:
            case Format.TORCH_ZIP:
                return torch_zip(path)
            case Format.TORCH_LEGACY:
                return torch_legacy(path)
            case Format.SAFETENSORS:
                return Content(value=safetensors(path))
            case Format.TORCHSCRIPT:
                return torchscript(path)
            case Format.PT2:
                return pt2(path)
            case Format.NPZ:
                return npz(path)
            case Format.ONNX:
                return onnx_weights(path)
            case Format.FOLDER_SHARDED:
                return sharded(path, read)
            case Format.FOLDER_MODEL:
                return model_folder(path, read)
            case Format.FOLDER_DCP:
                return distributed(path)
    except OSError as error:
        reason = quoted(error.strerror or type(error).__name__).lower()
        raise UnreadableCheckpoint(path, f"a {kind} file", f"reading it failed: {reason}", "check the disk") from None
    except MemoryError:
        damaged(path, kind, "it asks for more memory than there is")
    raise refusal(path, kind)


def safetensors(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, mapped."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (its own exception class, and torch's for dtypes it lacks)
        reason = _missing_safetensors_bytes(path) or first_line(error)
        damaged(path, Format.SAFETENSORS, reason)


def _missing_safetensors_bytes(path: str) -> str | None:
    size = os.stat(path).st_size  # noqa: PTH116 (a path stays as given)
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return None if size >= 8 + header else f"its header claims {header:,} bytes and {size - 8:,} are there"
