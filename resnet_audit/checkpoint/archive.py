"""A zip of torch: its records, what they claim, and their bytes as storages, mapped where the file allows it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO, Self, cast

import torch

from resnet_audit.checkpoint.content import damaged, first_line
from resnet_audit.checkpoint.inert import BrokenPickle, Global, Storage
from resnet_audit.checkpoint.names import quoted
from resnet_audit.checkpoint.rebuild import element_size
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

# Real weights deflate to no less than about a twentieth; past both limits a small file unpacks to fill the memory.
_UNPACKED_MAX = 256 * 2**20
_UNPACKED_RATIO = 20
_LOCAL_HEADER = 30  # bytes, before the name and the extra field of a record
_ALIGNED = 16  # bytes: enough for every dtype; torch itself aligns to 64


class Archive:
    """A zip file, or the bytes of one that lies inside a file, opened and checked.

    Raises UnreadableCheckpoint where its list of records cannot be true.
    """

    def __init__(self, path: str, kind: str, inside: bytes | None = None) -> None:
        self._path, self._kind = path, kind
        self._file: IO[bytes] = io.BytesIO(inside or b"")
        if inside is None:
            self._file = Path(path).open("rb")  # noqa: SIM115 (closed by __exit__)
        self._mapped: torch.UntypedStorage | None = None
        self._may_map = inside is None and _is_unicode(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self._file)
            records = self._zip.infolist()
        except Exception as error:  # noqa: BLE001 (zipfile raises nearly anything on hostile records)
            damaged(self._path, self._kind, first_line(error))
        self.records = {record.filename: record for record in records}
        self._check_unpacked_size()
        if len({name.lower() for name in self.records}) < len(records):  # torch finds records without regard to case
            damaged(self._path, self._kind, "two of its records have the same name")
        self.notes = self._check_sums()

    def __enter__(self) -> Self:
        """The archive itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file. Storages stay: they are copies or mappings of their own."""
        self._zip.close()
        self._file.close()

    @property
    def root(self) -> str:
        """The one folder that torch puts every record into, with its slash."""
        return next(iter(self.records), "").partition("/")[0] + "/"

    def read(self, name: str) -> bytes:
        """The bytes of a record. Raises UnreadableCheckpoint where it is missing or damaged."""
        try:
            return self._zip.read(name)
        except Exception as error:  # noqa: BLE001 (zipfile raises nearly anything on hostile records)
            damaged(self._path, self._kind, first_line(error))

    def stream(self, name: str) -> IO[bytes]:
        """A record to read from its start. Raises UnreadableCheckpoint where it cannot be opened."""
        try:
            return self._zip.open(name)
        except Exception as error:  # noqa: BLE001 (zipfile raises nearly anything on hostile records)
            damaged(self._path, self._kind, first_line(error))

    def size(self, name: str) -> int:
        """The bytes in a record; 0 without one."""
        return self.records[name].file_size if name in self.records else 0

    def storage(self, name: str) -> torch.UntypedStorage:
        """The bytes of a record as a storage: mapped if it is stored as it is, a copy otherwise."""
        record = self.records[name]
        if not record.file_size:
            return torch.empty(0, dtype=torch.uint8).untyped_storage()
        start = self._start(record)
        if self._may_map and record.compress_type == zipfile.ZIP_STORED and start % _ALIGNED == 0:
            mapped = self._whole_file()
            if start + record.file_size <= mapped.nbytes():
                part: torch.UntypedStorage = mapped[start : start + record.file_size]
                return part
        return torch.frombuffer(bytearray(self.read(name)), dtype=torch.uint8).untyped_storage()

    def _whole_file(self) -> torch.UntypedStorage:
        if self._mapped is None:
            # Not shared: a page that is written to becomes a copy, and the file stays as it is.
            size = Path(self._path).stat().st_size
            whole = torch.UntypedStorage.from_file(self._path, shared=False, nbytes=size)
            self._mapped = cast("torch.UntypedStorage", whole)
        return self._mapped

    def _start(self, record: zipfile.ZipInfo) -> int:
        self._file.seek(record.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        name, extra = header[26:28], header[28:30]
        sizes = int.from_bytes(name, "little") + int.from_bytes(extra, "little")
        return record.header_offset + _LOCAL_HEADER + sizes

    def _check_unpacked_size(self) -> None:
        packed = self._file.seek(0, io.SEEK_END)
        unpacked = sum(record.file_size for record in self.records.values())
        if unpacked > max(_UNPACKED_MAX, _UNPACKED_RATIO * packed):
            raise UnreadableCheckpoint(
                self._path,
                f"a compressed {self._kind} file",
                f"its {packed:,} bytes claim to unpack to {unpacked:,}",
                "distrust it; if it is yours, save it again with torch.save",
            )

    def _check_sums(self) -> tuple[Note, ...]:
        try:
            for record in self.records.values():
                if record.CRC == 0:  # torch writes none at all where checksums are switched off
                    record.CRC = None  # type: ignore[assignment]  # zipfile then leaves the record unchecked
            bad = self._zip.testzip()
        except Exception as error:  # noqa: BLE001 (zipfile raises nearly anything on hostile records)
            damaged(self._path, self._kind, first_line(error))
        if bad is None:
            return ()
        for record in self.records.values():
            record.CRC = None  # type: ignore[assignment]  # once noted, the damage is read as it is
        message = "a record differs from its checksum: the file was damaged, and its numbers may be wrong"
        return (Note(code="checksum", message=message, where=quoted(bad)),)


class RecordStorages:
    """The storages of a pickle in a zip: each is one record below `folder`, of exactly the bytes that are claimed."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._known: dict[str, torch.UntypedStorage] = {}

    def get(self, identifier: object) -> Storage | Global:
        """The storage of an identifier. Raises BrokenPickle for a claim that its record does not bear out."""
        kind, key, count = claim(identifier)
        name, claimed = f"{self._folder}{key}", count * element_size(kind)
        held = self._archive.size(name)
        if held != claimed or name not in self._archive.records:
            raise BrokenPickle(f"storage {quoted(key)} claims {claimed:,} bytes and has {held:,}")
        if key not in self._known:
            self._known[key] = self._archive.storage(name)
        return Storage(kind, self._known[key])


def claim(identifier: object) -> tuple[str, str, int]:
    """(kind, key, number of elements) that a persistent identifier claims. Raises BrokenPickle for any other form."""
    match identifier:
        case ("storage", Global(name), str() | int() as key, _, int(count), *_) if 0 <= count < 2**60:
            return name.rpartition(".")[2], str(key), count
        case str():
            raise BrokenPickle("a storage that is named by a line of text")
    raise BrokenPickle("a storage that is described in no way that torch writes")


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
