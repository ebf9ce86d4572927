"""Writing a checkpoint again with some kernels replaced: the same wrapper, the same names, whole or not at all.

The suffix of the output chooses the format. A torch file keeps everything around the state dict that can be written
(`savable.py`); safetensors holds tensors alone, by the names of the state dict, and the metadata of a safetensors
input. The file is read anew and the kernels are copied into that private memory, so whatever shares its memory with
them (tied weights) changes with them, as it would in training, and everything else keeps its bytes.
What is to be written is taken apart again as a reader would, before the first byte is written.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from resnet_audit.checkpoint.content import first_line
from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.readers import read
from resnet_audit.checkpoint.savable import savable
from resnet_audit.checkpoint.sniff import Format, sniff
from resnet_audit.checkpoint.unwrap import state_dict, unwrap
from resnet_audit.errors import AuditError, UnreadableCheckpoint, UsageError
from resnet_audit.results import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
PERMISSIONS = 0o666

_WHOLE = frozenset({Format.TORCH_ZIP, Format.TORCH_LEGACY, Format.SAFETENSORS, Format.NPZ})
"""Formats whose content a torch file can hold as it is; of the others only the weights can be written."""


def check_output(output: str, inputs: Sequence[str]) -> None:
    """Raises UsageError for an output that has no known suffix, cannot be a file there, or would replace an input."""
    suffix = Path(output).suffix
    if suffix not in {*TORCH_SUFFIXES, SAFETENSORS_SUFFIX}:
        known = ", ".join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))
        raise UsageError(f"--output {output}: the suffix names the format of the model; give one of {known}")
    target = Path(os.path.realpath(output))
    for path in inputs:
        source = Path(os.path.realpath(path))
        same = target.exists() and source.exists() and target.samefile(source)
        if same or target == source or (source.is_dir() and source in target.parents):
            raise UsageError(f"--output {output}: it would replace {path}, which is read; give another name")
    if target.exists() and not target.is_file():
        raise UsageError(f"--output {output}: this is no file; nothing is written there; give the name of a file")
    if not target.parent.is_dir():
        raise UsageError(f"--output {output}: its folder is not there; name a file in a folder that is there")


def rewrite(path: str, output: str, weights: Mapping[str, Tensor], key: str | None = None) -> tuple[Note, ...]:
    """Write the checkpoint at `path` to `output` with `weights`, by the names that `load` gives; notes of what is lost.

    Raises UsageError as `check_output`, UnreadableCheckpoint where the file cannot be written again or stores one of
    the weights in parts, AuditError where writing fails. Nothing is left behind then; a file that is there stays.
    """
    check_output(output, [path])
    kind = sniff(path)
    content = read(path, kind)
    found = unwrap(path, content.value, key)
    for name, weight in weights.items():
        tensor = found.tensors[name]
        if (tensor.shape, tensor.dtype) != (weight.shape, weight.dtype):
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {weight.dtype} {tuple(weight.shape)}"
            )
        tensor.copy_(weight)
    if Path(output).suffix == SAFETENSORS_SUFFIX:
        flat = {n: t for n, t in state_dict(path, content.value, key).items() if isinstance(t, Tensor)}
        _require_again(path, flat, None, found.tensors, weights)
        metadata = _metadata(path, kind)
        _save(output, lambda file: _save_safetensors(flat, file.name, metadata))
        return _left_out(content.value, found.wrapper)
    kept, lost = savable(content.value) if kind in _WHOLE else (None, ("",))
    if "" in lost:
        what = f"a checkpoint of the format {kind}" if kind not in _WHOLE else "a checkpoint that is one pickled object"
        raise _weights_only(path, what)
    _require_again(path, kept, key, found.tensors, weights)
    _save(output, lambda file: torch.save(kept, file))
    return (*_lost(lost), *_lost_metadata(path, kind))


def _require_again(
    path: str, value: object, key: str | None, before: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    """Raises UnreadableCheckpoint unless `value` holds all weights by their names, the new ones included."""
    try:
        again = unwrap(path, value, key).tensors
    except UnreadableCheckpoint:
        raise _weights_only(path, "a checkpoint whose weights lie inside a pickled object") from None
    missing = [name for name in before if name not in again]
    if missing:
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint with packed weights ({listed(missing)})",
            "they cannot be written as they were stored",
            "save it again with plain weights, by dequantize()",
        )
    stale = [name for name, weight in weights.items() if not torch.equal(again[name], weight)]
    if stale:
        raise UnreadableCheckpoint(
            path,
            f"a checkpoint that stores {listed(stale)} in parts or packed",
            "the new kernel cannot be put in their place",
            "merge the parts (remove_parametrizations, remove_weight_norm, dequantize) and save it again",
        )


def _weights_only(path: str, what: str) -> UnreadableCheckpoint:
    why = "it cannot be written again without running what it holds, only its weights can"
    return UnreadableCheckpoint(path, what, why, "give an output that ends in .safetensors")


def _save_safetensors(flat: Mapping[str, Tensor], name: str, metadata: dict[str, str] | None) -> None:
    # Two names may share memory in the input; safetensors stores each for itself.
    save_file(
        {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in flat.items()}, name, metadata
    )
    with Path(name).open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if "__metadata__" in header:
            # The library writes metadata in another order each time.
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(ordered) == size:
            file.seek(8)
            file.write(ordered)


def _metadata(path: str, kind: Format) -> dict[str, str] | None:
    """That of a safetensors file; for weights from elsewhere what readers expect."""
    if kind is not Format.SAFETENSORS:
        return {"format": "pt"}
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] | None = file.metadata()
        return found


def _lost_metadata(path: str, kind: Format) -> list[Note]:
    found = _metadata(path, kind) if kind is Format.SAFETENSORS else None
    message = f"a torch file holds no metadata: not written are {listed(sorted(found), 10)}" if found else ""
    return [Note(code="not_written", message=message)] if found else []


def _lost(places: Sequence[str]) -> list[Note]:
    """The note on what a torch file could not keep."""
    message = f"objects that only running them would make; they were not written: {listed(places, 10)}"
    return [Note(code="not_written", message=message)] if places else []


def _left_out(content: object, wrapper: str | None) -> tuple[Note, ...]:
    """The note on what lies beside the state dict, by the keys on the way to it."""
    beside: list[str] = []
    way = wrapper
    while isinstance(content, Mapping):
        onwards = None
        for name, value in content.items():
            label = quoted(name, 200) if isinstance(name, str) else str(name)[:20]
            if way is not None and (way == label or way.startswith(f"{label}.")):
                onwards, rest = value, way[len(label) + 1 :] or None
            elif way is not None or not isinstance(value, Tensor):
                beside.append(label)
        if onwards is None:
            break
        content, way = onwards, rest
    message = f"safetensors holds tensors alone: not written are {listed(beside, 10)}"
    return (Note(code="not_written", message=message),) if beside else ()


def _save(output: str, save: Callable[[IO[bytes]], None]) -> None:
    """Have `save` fill a file beside the output, then move it there. Raises AuditError."""
    target = Path(os.path.realpath(output))
    umask = os.umask(0)
    os.umask(umask)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            beside = Path(file.name)
            try:
                save(file)
                file.close()
                beside.chmod(target.stat().st_mode if target.exists() else PERMISSIONS & ~umask)
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or "unwritable").lower()
        raise AuditError(f"{output}: {reason}; nothing was written; name a file in a folder that is there") from None
    except Exception as error:
        # torch and safetensors wrap a full disk, and a dtype that they do not know, in errors of their own.
        raise AuditError(f"{output}: {first_line(error)}; nothing was written; try another format or folder") from error
