"""One checkpoint as the rest of the program sees it: tensors by clean names, and how they were found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.readers import read
from resnet_audit.checkpoint.sniff import sniff
from resnet_audit.checkpoint.unwrap import unwrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.results import Note

_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A file of weights. tensors: on the CPU, in the dtype as stored, by safe and unique names, read-only by name.

    wrapper: dotted path of the keys around the state dict; prefix: what was removed from every name; sha256: of the
    bytes of the file; dangerous_globals: names in its pickle that would have run code.
    """

    path: str
    sha256: str
    format: str
    wrapper: str | None
    prefix: str
    tensors: Mapping[str, Tensor]
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
    kind = sniff(path)
    content, notes = read(path, kind)
    found = unwrap(path, content, key)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(
        path=path,
        sha256=digest,
        format=str(kind),
        wrapper=found.wrapper,
        prefix=found.prefix,
        tensors=MappingProxyType(found.tensors),
        notes=(*notes, *found.notes),
    )
