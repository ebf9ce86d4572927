"""Torch's own files: the zip of today, the legacy file, and TorchScript read as a zip of weights. No program is run."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from resnet_audit.checkpoint.archive import Archive, RecordStorages, claim
from resnet_audit.checkpoint.content import Content, damaged, dangerous_note, first_line
from resnet_audit.checkpoint.inert import BrokenPickle, Global, Machine, NoStorages, Storage
from resnet_audit.checkpoint.names import safe
from resnet_audit.checkpoint.rebuild import call, dangerous, element_size
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

_HEADER = ("magic number", "protocol", "machine")


def torch_zip(path: str, kind: str = Format.TORCH_ZIP, inside: bytes | None = None) -> Content:
    """What a torch zip holds; `inside` are the bytes of one that lies within the file at `path`."""
    with Archive(path, kind, inside) as archive:
        machine = Machine(RecordStorages(archive, f"{archive.root}data/"), call)
        value = _run(path, kind, machine, archive, f"{archive.root}data.pkl")
        order = f"{archive.root}byteorder"
        if order in archive.records and archive.size(order) < 16 and archive.read(order) == b"big":
            raise UnreadableCheckpoint(
                path, "a torch file of a big-endian machine", "its numbers are the wrong way round", "save it again"
            )
        return finished(value, machine.globals, archive)


def torchscript(path: str) -> Content:
    """The module tree of a TorchScript file: weights and attributes, not its code."""
    kind = Format.TORCHSCRIPT
    with Archive(path, kind) as archive:
        machine = Machine(RecordStorages(archive, f"{archive.root}data/"), call)
        value = _run(path, kind, machine, archive, f"{archive.root}data.pkl")
        content = finished(value, machine.globals, archive)
        if not any(name.startswith(f"{archive.root}data/") for name in archive.records):
            raise UnreadableCheckpoint(
                path,
                "a frozen TorchScript program",
                "its weights are constants without names in its code",
                "save the program again without torch.jit.freeze, or name the state_dict that it came from",
            )
        return content


def torch_legacy(path: str) -> Content:
    """What a legacy torch file holds: pickles one behind the other, then the bytes of each storage."""
    kind = Format.TORCH_LEGACY
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        storages = _LegacyStorages(len(view))
        machine = Machine(storages, call)
        try:
            for _ in _HEADER:
                machine.run(view)
            value = machine.run(view)
            keys = Machine(NoStorages(), call).run(view)
        except BrokenPickle as error:
            at = f"its pickle breaks off or makes no sense before byte {view.tell():,} of {len(view):,}"
            damaged(path, kind, at if not error.args else f"{at} ({first_line(error)})")
        left = len(view) - view.tell()
        if storages.claimed > left:
            damaged(path, kind, f"its weights claim {storages.claimed:,} bytes and {left:,} are there")
        file.seek(view.tell())
        try:
            storages.fill(keys, file)
        except BrokenPickle as error:
            damaged(path, kind, str(error))
    return finished(value, machine.globals)


def inert_pickle(path: str, kind: str, data: IO[bytes]) -> tuple[object, tuple[str, ...]]:
    """(value, dangerous names) of a pickle that refers to no storage."""
    machine = Machine(NoStorages(), call)
    try:
        value = machine.run(data)
    except BrokenPickle as error:
        damaged(path, kind, first_line(error))
    return value, tuple(safe(name) for name in dangerous(tuple(machine.globals)))


def finished(value: object, names: Iterable[str], archive: Archive | None = None) -> Content:
    """The content of a file whose pickles named `names`, with the notes that it deserves."""
    found = tuple(dict.fromkeys(safe(name) for name in dangerous(tuple(names))))
    notes = (*(archive.notes if archive else ()), *dangerous_note(found))
    return Content(value=value, dangerous=found, notes=notes)


def _run(path: str, kind: str, machine: Machine, archive: Archive, record: str) -> object:
    if record not in archive.records:
        damaged(path, kind, "it has no record data.pkl")
    with archive.stream(record) as stream:
        try:
            return machine.run(stream)
        except BrokenPickle as error:
            damaged(path, kind, first_line(error))


class _LegacyStorages:
    """Storages that are made when a pickle first claims them and filled from behind it."""

    def __init__(self, size: int) -> None:
        self.claimed = 0
        self._size = size
        self._known: dict[str, Storage] = {}

    def get(self, identifier: object) -> Storage | Global:
        """The storage of an identifier, or the class of a module that was saved with its source code."""
        match identifier:
            case ("module", Global() as cls, *_):
                return cls
        kind, key, count = claim(identifier)
        found = self._known.get(key)
        if found is None:
            size = count * element_size(kind)
            self.claimed += size
            # Past the size of the file nothing is allocated: the file is refused once all that it claims is known.
            device = "cpu" if self.claimed <= self._size else "meta"
            found = self._known[key] = Storage(
                kind, torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()
            )
        elif (found.kind, found.data.nbytes()) != (kind, count * element_size(kind)):
            raise BrokenPickle("two different claims about one storage")
        return self._viewed(found, identifier)

    def _viewed(self, storage: Storage, identifier: object) -> Storage:
        match identifier:
            case (_, _, _, _, _, (_, int(start), int(count)), *_) if start >= 0 and count >= 0:
                size = element_size(storage.kind)
                if (start + count) * size > storage.data.nbytes():
                    raise BrokenPickle("a view that is larger than its storage")
                return Storage(storage.kind, storage.data[start * size : (start + count) * size])
        return storage

    def fill(self, keys: object, file: IO[bytes]) -> None:
        """Reads the bytes of every storage, in the order of `keys`. Raises BrokenPickle unless each gets its own."""
        left = dict(self._known)
        for key in keys if isinstance(keys, list | tuple) else ():
            storage = left.pop(str(key) if isinstance(key, str | int) and not isinstance(key, bool) else "", None)
            if storage is None:
                raise BrokenPickle("the list of its storages names one that no tensor has, or one twice")
            count = int.from_bytes(file.read(8), "little")
            size = storage.data.nbytes()
            if count * element_size(storage.kind) != size:
                raise BrokenPickle(f"a storage of {size:,} bytes has another size where its numbers are")
            if size and file.readinto(_bytes_of(storage.data)) != size:  # type: ignore[attr-defined]  # a file has it
                raise BrokenPickle("its weights break off")
        if left:
            raise BrokenPickle("some of its weights have no bytes in the file")


def _bytes_of(data: torch.UntypedStorage) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return torch.empty(0, dtype=torch.uint8).set_(data).numpy()
