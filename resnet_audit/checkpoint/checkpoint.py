"""One checkpoint as the rest of the program sees it: tensors by clean names, and how they were found."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.digest import sha256_of
from resnet_audit.checkpoint.readers import read
from resnet_audit.checkpoint.remote import is_spooled, spooled
from resnet_audit.checkpoint.sniff import sniff
from resnet_audit.checkpoint.unwrap import unwrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from resnet_audit.checkpoint.modules import Module
    from resnet_audit.results import Note

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


def load(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """The checkpoint at `path`: a file, a folder, `-` (standard input) or an address such as `s3://bucket/net.pt`.

    key: which of rival state dicts, as a dotted path of keys.

    Nothing in the file is run or imported. Raises UnreadableCheckpoint, whose text says what the file is, why it cannot
    be used and what to do.

    >>> from resnet_audit import load
    >>> checkpoint = load("sample_checkpoints/digits_bottleneck_training.pth")
    >>> checkpoint.format, checkpoint.wrapper, checkpoint.prefix, checkpoint.parameters
    ('torch-legacy', 'state_dict', 'module.', 56610)
    """
    path = os.fspath(path)
    if is_spooled(path):
        with spooled(path) as file:
            # Tensors that are mapped keep their bytes after the file is gone.
            return replace(load(file, key), path=path)
    kind = sniff(path)
    content = read(path, kind)
    found = unwrap(path, content.value, key)
    return Checkpoint(
        path=path,
        sha256=sha256_of(path),
        format=str(kind),
        wrapper=found.wrapper,
        prefix=found.prefix,
        tensors=MappingProxyType(found.tensors),
        modules=MappingProxyType(found.modules),
        config=content.config,
        dangerous_globals=content.dangerous,
        notes=(*content.notes, *found.notes),
    )
