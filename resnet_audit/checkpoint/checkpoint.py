"""One checkpoint as the rest of the program sees it: tensors by clean names, and how they were found."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.readers import read
from resnet_audit.checkpoint.sniff import sniff
from resnet_audit.checkpoint.unwrap import unwrap
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.checkpoint.modules import Module
    from resnet_audit.results import Note

STANDARD_INPUT = "-"
_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A file of weights. tensors: on the CPU, in the dtype as stored, by safe and unique names, read-only by name.

    wrapper: dotted path of the keys around the state dict; prefix: what was removed from every name; sha256: of the
    bytes of the file; modules: class and hyper-parameters by dotted path (the root is ""), where the file holds a whole
    model; config: the config.json of a model folder; dangerous_globals: names in its pickle that would have run code.
    """

    path: str
    sha256: str
    format: str
    wrapper: str | None
    prefix: str
    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Module] = field(default_factory=lambda: MappingProxyType({}))
    config: Mapping[str, object] | None = None
    dangerous_globals: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of trainable numbers: floating or complex, no statistics of batch normalisation, ties once."""
        sizes = {
            (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()): tensor.numel()
            for name, tensor in self.tensors.items()
            if name.rpartition(".")[2] not in _BUFFERS and (tensor.is_floating_point() or tensor.is_complex())
        }
        return sum(sizes.values())


def load(path: str, key: str | None = None) -> Checkpoint:
    """The checkpoint in the file at `path`; `key` says which of rival state dicts, as a dotted path of keys.

    Nothing in the file is run or imported. Raises UnreadableCheckpoint, whose text says what the file is, why it cannot
    be used and what to do.
    """
    if path == STANDARD_INPUT:
        return _from_standard_input(key)
    kind = sniff(path)
    content = read(path, kind)
    found = unwrap(path, content.value, key)
    return Checkpoint(
        path=path,
        sha256=_digest(path),
        format=str(kind),
        wrapper=found.wrapper,
        prefix=found.prefix,
        tensors=MappingProxyType(found.tensors),
        modules=MappingProxyType(found.modules),
        config=content.config,
        dangerous_globals=content.dangerous,
        notes=(*content.notes, *found.notes),
    )


def _from_standard_input(key: str | None) -> Checkpoint:
    """The checkpoint on standard input, by way of a file that is gone when this returns."""
    with tempfile.TemporaryDirectory() as folder:
        spooled = Path(folder) / "stdin"
        try:
            with spooled.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except (OSError, AttributeError, ValueError):  # closed, or not made of bytes
            raise UnreadableCheckpoint(
                STANDARD_INPUT, "standard input", "it could not be read or spooled to disk", "save it to a file"
            ) from None
        try:
            found = load(str(spooled), key)
        except UnreadableCheckpoint as error:
            raise UnreadableCheckpoint(STANDARD_INPUT, error.what, error.why, error.todo) from None
        return replace(found, path=STANDARD_INPUT)  # tensors that are mapped keep their bytes after the file is gone


def _digest(path: str) -> str:
    """SHA-256 of the bytes of a file; of a folder, of the sorted lines `<sha256>  <name>` of all files in it."""
    if not Path(path).is_dir():
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = [entry for entry in Path(path).iterdir() if entry.is_file()]
    lines = sorted(f"{_digest(str(file))}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
