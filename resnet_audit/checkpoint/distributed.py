"""A folder of torch.distributed.checkpoint: `.metadata` read as an inert pickle, tensors put together from chunks."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from resnet_audit.checkpoint.content import Content, dangerous_note
from resnet_audit.checkpoint.folders import config_of, is_bare
from resnet_audit.checkpoint.inert import Stub
from resnet_audit.checkpoint.names import quoted
from resnet_audit.checkpoint.sniff import Format
from resnet_audit.checkpoint.torchfiles import inert_pickle, torch_zip
from resnet_audit.errors import UnreadableCheckpoint

_KIND = Format.FOLDER_DCP
_METADATA_MAX = 2**30
_DEPTH_MAX = 16


@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    offset: int
    length: int


def distributed(path: str) -> Content:
    """The tensors of a distributed checkpoint, nested as they were saved."""
    file = Path(path) / ".metadata"
    if file.stat().st_size > _METADATA_MAX:
        _broken(path, "its .metadata is larger than any real one")
    value, dangerous = inert_pickle(path, _KIND, io.BytesIO(file.read_bytes()))
    metadata = value.attributes if isinstance(value, Stub) else {}
    listed, stored = metadata.get("state_dict_metadata"), metadata.get("storage_data")
    if not isinstance(listed, dict) or not isinstance(stored, dict):
        _broken(path, "its .metadata describes no tensors")
    paths = metadata.get("planner_data")
    places = _places(path, stored)
    found: dict[object, object] = {}
    for name, entry in listed.items():
        if isinstance(name, str) and isinstance(entry, Stub) and _is(entry, "TensorStorageMetadata"):
            tensor = _tensor(path, name, entry, places)
            _put(found, _keys(paths.get(name) if isinstance(paths, dict) else None, name), tensor)
    return Content(value=found, dangerous=dangerous, notes=dangerous_note(dangerous), config=config_of(path))


def _is(stub: Stub, name: str) -> bool:
    return stub.name == f"torch.distributed.checkpoint.metadata.{name}"


def _places(path: str, stored: dict[object, object]) -> dict[tuple[str, tuple[int, ...]], _Place]:
    """Where each chunk lies, by the name of its tensor and its offsets. Together no more bytes than the folder has."""
    folder = {entry.name: entry.stat().st_size for entry in Path(path).iterdir() if entry.is_file()}
    places: dict[tuple[str, tuple[int, ...]], _Place] = {}
    for index, info in stored.items():
        if not isinstance(index, Stub) or not isinstance(info, Stub):
            _broken(path, "its .metadata places no chunks")
        key, value = index.attributes, info.attributes
        match (key.get("fqn"), value.get("relative_path"), value.get("offset"), value.get("length")):
            case (str(name), str(file), int(offset), int(length)):
                pass
            case _:
                _broken(path, "its .metadata places no chunks")
        if value.get("transform_descriptors"):
            raise UnreadableCheckpoint(
                path,
                "a distributed checkpoint with compressed or encrypted tensors",
                "this version reads them as they are only",
                "save it again without extensions",
            )
        if not is_bare(file):
            _broken(path, f"it names {quoted(file)}, which is no plain name of a file in this folder")
        if file not in folder:
            _broken(path, f"its file {quoted(file)} is missing")
        if offset < 0 or length < 0 or offset + length > folder[file]:
            _broken(path, f"{quoted(file)} holds {folder[file]:,} bytes and a chunk claims more")
        places[name, _whole(key.get("offset")) or ()] = _Place(file, offset, length)
    if sum(place.length for place in places.values()) > sum(folder.values()):
        _broken(path, "its chunks claim more bytes than the folder has")
    return places


def _tensor(path: str, name: str, entry: Stub, places: dict[tuple[str, tuple[int, ...]], _Place]) -> Tensor:
    size, chunks = _whole(entry.attributes.get("size")), entry.attributes.get("chunks")
    if size is None or not isinstance(chunks, list) or not chunks:
        _broken(path, f"the shape of {quoted(name)} makes no sense")
    spans = [_span(path, name, size, chunk) for chunk in chunks]
    if sum(math.prod(shape) for _, shape in spans) != math.prod(size) or _overlap(spans):
        _broken(path, f"the chunks of {quoted(name)} do not make it up")
    parts = [_chunk(path, name, places.get((name, at)), shape) for at, shape in spans]
    if len(parts) == 1:
        return parts[0]
    whole = torch.empty(size, dtype=parts[0].dtype)  # as large as the chunks that were read
    for (at, shape), part in zip(spans, parts, strict=True):
        whole[tuple(slice(start, start + n) for start, n in zip(at, shape, strict=True))] = part
    return whole


def _span(path: str, name: str, size: tuple[int, ...], chunk: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    attributes = chunk.attributes if isinstance(chunk, Stub) else {}
    at, shape = _whole(attributes.get("offsets")), _whole(attributes.get("sizes"))
    if at is None or shape is None or not len(at) == len(shape) == len(size):
        _broken(path, f"a chunk of {quoted(name)} makes no sense")
    if any(start + n > whole for start, n, whole in zip(at, shape, size, strict=True)):
        _broken(path, f"a chunk of {quoted(name)} lies outside of it")
    return at, shape


def _overlap(spans: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether two chunks share an entry; then others would be left without one."""
    full = [(at, shape) for at, shape in spans if math.prod(shape)]
    if len(full) > 4096:  # more than any real tensor has; comparing all pairs must stay cheap
        return True
    return any(
        all(a < b + n and b < a + m for a, m, b, n in zip(at, shape, at2, shape2, strict=True))
        for i, (at, shape) in enumerate(full)
        for at2, shape2 in full[:i]
    )


def _chunk(path: str, name: str, place: _Place | None, shape: tuple[int, ...]) -> Tensor:
    if place is None:
        _broken(path, f"a chunk of {quoted(name)} is not stored anywhere")
    with (Path(path) / place.file).open("rb") as file:
        file.seek(place.offset)
        data = file.read(place.length)
    tensor = torch_zip(path, _KIND, inside=data).value
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape or tensor.device.type != "cpu":
        _broken(path, f"a chunk of {quoted(name)} is not the tensor that it should be")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        _broken(path, f"a chunk of {quoted(name)} is larger than its storage")
    return tensor


def _keys(path: object, name: str) -> list[object]:
    """The keys that lead to a tensor in the nested dict that was saved; its flat name where they are not told."""
    if isinstance(path, tuple) and 0 < len(path) <= _DEPTH_MAX and all(isinstance(key, str | int) for key in path):
        return list(path)
    return [name]


def _put(found: dict[object, object], keys: list[object], tensor: Tensor) -> None:
    for key in keys[:-1]:
        below = found.setdefault(key, {})
        if not isinstance(below, dict):
            return
        found = below
    found[keys[-1]] = tensor


def _whole(value: object) -> tuple[int, ...] | None:
    if isinstance(value, tuple | list) and all(isinstance(n, int) and 0 <= n < 2**60 for n in value):
        return tuple(value)
    return None


def _broken(path: str, why: str) -> NoReturn:
    raise UnreadableCheckpoint(
        path, "a distributed checkpoint that is damaged or incomplete", why, "fetch or save the whole folder again"
    ) from None
