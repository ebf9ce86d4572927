"""Readers of the supported formats: bytes to nested Python objects with tensors in them.

The only file that loads pickles, and always with `weights_only=True`: torch builds tensors and plain containers, and
imports nothing that the file names. A file that torch refuses stays refused. What torch lets pass and should not is
checked before it is asked: how many bytes each storage claims, and how many there are.
"""

from __future__ import annotations

import mmap
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from safetensors import safe_open

from resnet_audit.checkpoint import pickles
from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.refusals import refusal
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

if TYPE_CHECKING:
    from typing import IO

_AGAIN = "fetch it or save it again"
_RESAVE = "save model.state_dict() alone, with torch.save or as safetensors, and name that file"

# Real weights deflate to no less than about a twentieth; past both limits a small file unpacks to fill the memory.
_UNPACKED_MAX = 256 * 2**20
_UNPACKED_RATIO = 20

_RUNS_CODE = frozenset(
    {
        "__builtin__",
        "builtins",
        "code",
        "commands",
        "ctypes",
        "importlib",
        "nt",
        "operator",
        "os",
        "platform",
        "posix",
        "pty",
        "runpy",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "webbrowser",
    }
)
_HARMLESS_BUILTINS = frozenset({"set", "frozenset", "complex", "bytearray", "list", "dict", "tuple", "int", "float"})
_PLAIN = frozenset({"collections.OrderedDict", "collections.Counter", "_codecs.encode"})
_PLAIN_MODULES = frozenset(
    {"torch", "torch.cuda", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter"}
)


def read(path: str, kind: Format) -> tuple[object, tuple[Note, ...]]:
    """(content, notes): whatever the file holds, its tensors on the CPU as stored, mapped lazily where possible.

    Raises UnreadableCheckpoint for the formats that are not read, and for files that are damaged, refused or bombs.
    """
    try:
        match kind:
            case Format.TORCH_ZIP:
                return _torch_zip(path)
            case Format.TORCH_LEGACY:
                return _torch_legacy(path), ()
            case Format.SAFETENSORS:
                return _safetensors(path), ()
    except OSError as error:
        reason = quoted(error.strerror or type(error).__name__).lower()
        raise UnreadableCheckpoint(path, f"a {kind} file", f"reading it failed: {reason}", "check the disk") from None
    raise refusal(path, kind)


def _torch_zip(path: str) -> tuple[object, tuple[Note, ...]]:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_unpacked_size(path, records)
            for record in records:
                if record.CRC == 0:  # torch writes none at all where checksums are switched off
                    record.CRC = None  # type: ignore[assignment]  # zipfile then leaves the record unchecked
            damaged = archive.testzip()
            root = records[0].filename.partition("/")[0]
            with archive.open(f"{root}/data.pkl") as stream:
                scan = pickles.scan(stream)
    except UnreadableCheckpoint:
        raise
    except Exception as error:  # noqa: BLE001 (zipfile raises nearly anything on hostile records)
        _damaged(path, Format.TORCH_ZIP, _first_line(error))
    _check_records(path, root, records, scan)
    notes = () if damaged is None else (_checksum_note(damaged),)
    stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    # torch takes any *path* that ends so for a safetensors file; an open file has no suffix, and no mapping either.
    if stored and not path.endswith(".safetensors") and _is_unicode(path):
        return _load(path, path, Format.TORCH_ZIP, scan), notes
    with Path(path).open("rb") as file:
        return _load(path, file, Format.TORCH_ZIP, scan), notes


def _check_unpacked_size(path: str, records: list[zipfile.ZipInfo]) -> None:
    packed = Path(path).stat().st_size
    unpacked = sum(record.file_size for record in records)
    if unpacked > max(_UNPACKED_MAX, _UNPACKED_RATIO * packed):
        raise UnreadableCheckpoint(
            path,
            "a compressed torch file",
            f"its {packed:,} bytes claim to unpack to {unpacked:,}",
            "distrust it; if it is yours, save it again with torch.save",
        )


def _check_records(path: str, root: str, records: list[zipfile.ZipInfo], scan: pickles.Scan) -> None:
    """Refuses storages that are longer or shorter than their record: mapped, they would run on into foreign bytes."""
    sizes = {record.filename: record.file_size for record in records}
    if len({name.lower() for name in sizes}) < len(records):  # torch finds records without regard to case
        _damaged(path, Format.TORCH_ZIP, "two of its records have the same name")
    for key, claimed in scan.storages.items():
        held = sizes.get(f"{root}/data/{key}", 0)
        if held != claimed:
            _damaged(path, Format.TORCH_ZIP, f"storage {quoted(key)} claims {claimed:,} bytes and has {held:,}")


def _checksum_note(record: str) -> Note:
    return Note(
        code="checksum",
        message="a record differs from its checksum: the file was damaged, and its numbers may be wrong",
        where=quoted(record),
    )


def _torch_legacy(path: str) -> object:
    kind = Format.TORCH_LEGACY
    with Path(path).open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            try:
                for _ in ("magic number", "protocol", "machine"):
                    pickles.scan(view)
                scan = pickles.scan(view)
                filled = pickles.strings(view)
            except pickles.BrokenPickle as error:
                at = f"its pickle breaks off or makes no sense before byte {view.tell():,} of {len(view):,}"
                _damaged(path, kind, at if not error.args else f"{at} ({_first_line(error)})")
            left = len(view) - view.tell()
        needed = sum(scan.storages.values())
        if needed > left:
            _damaged(path, kind, f"its weights claim {needed:,} bytes and {left:,} are there")
        if not filled.issuperset(scan.storages):
            _damaged(
                path, kind, "some of its weights have no bytes in the file"
            )  # torch would leave them uninitialised
        file.seek(0)
        return _load(path, file, kind, scan)


def _load(path: str, source: str | IO[bytes], kind: Format, scan: pickles.Scan) -> object:
    """What `torch.load` makes of `source`: a path to map, or an open file. Its errors become one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their text would carry names out of the file to the terminal
            return torch.load(source, map_location="cpu", weights_only=True, mmap=isinstance(source, str))
    except pickle.UnpicklingError:
        raise _refused_by_torch(path, kind, scan) from None
    except MemoryError:
        _damaged(path, kind, "it asks for more memory than there is")
    except Exception as error:  # noqa: BLE001 (hostile bytes make torch raise nearly anything)
        _damaged(path, kind, _first_line(error))


def _refused_by_torch(path: str, kind: Format, scan: pickles.Scan) -> UnreadableCheckpoint:
    """The sentence for a file that holds more than tensors, by what it holds."""
    foreign = [name for name in scan.globals if not _is_plain(name)]
    code = [name for name in foreign if name.partition(".")[0] in _RUNS_CODE]
    model = [name for name in foreign if name.startswith("torch.nn.")]
    if code:
        return UnreadableCheckpoint(
            path,
            f"a {kind} file that asks to run {listed(code)}",
            "nothing in a checkpoint is run",
            "distrust it and get the weights from its author as safetensors",
        )
    if model:
        own = [name for name in foreign if name not in model]
        return UnreadableCheckpoint(
            path,
            f"a pickled model ({listed(own + model)})",
            "reading it would import those classes, and only weights are read",
            "load it where its code is and save model.state_dict()",
        )
    if foreign:
        return UnreadableCheckpoint(
            path,
            f"a {kind} file with Python objects beside its weights ({listed(foreign)})",
            "reading it would import those classes, and only weights are read",
            _RESAVE,
        )
    return UnreadableCheckpoint(
        path, f"a {kind} file", "its pickle does more than build tensors, and only weights are read", _RESAVE
    )


def _is_plain(name: str) -> bool:
    """Whether torch accepts the global, as far as naming the others well needs."""
    module, _, member = name.rpartition(".")
    if module in {"builtins", "__builtin__"}:
        return member in _HARMLESS_BUILTINS
    return name in _PLAIN or module in _PLAIN_MODULES


def _safetensors(path: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (its own exception class, and torch's for dtypes it lacks)
        reason = _missing_safetensors_bytes(path) or _first_line(error)
        _damaged(path, Format.SAFETENSORS, reason)


def _missing_safetensors_bytes(path: str) -> str | None:
    size = os.stat(path).st_size  # noqa: PTH116 (a path stays as given)
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return None if size >= 8 + header else f"its header claims {header:,} bytes and {size - 8:,} are there"


def _damaged(path: str, kind: Format, why: str) -> NoReturn:
    raise UnreadableCheckpoint(path, f"a {kind} file that is damaged or cut short", why, _AGAIN) from None


def _first_line(error: BaseException) -> str:
    """The first sentence of a foreign error, made fit to stand inside one of ours."""
    lines = str(error).strip().splitlines()
    return quoted(lines[0].replace(";", ","), 120) if lines else type(error).__name__


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
