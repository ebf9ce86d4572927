"""Checkpoints that are folders: shards with an index, a model folder with config.json, a distributed checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from resnet_audit.checkpoint.content import Content, dangerous_note
from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.sniff import Format, sniff
from resnet_audit.errors import UnreadableCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resnet_audit.results import Note

    Reader = Callable[[str, Format], Content]

CONFIG = "config.json"
_JSON_MAX = 100_000_000
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SINGLE = frozenset({Format.SAFETENSORS, Format.TORCH_ZIP, Format.TORCH_LEGACY})


def sharded(path: str, read: Reader) -> Content:
    """The tensors that the index of a folder lists, each from the file that it names, read one after the other."""
    names = sorted(entry.name for entry in Path(path).iterdir() if entry.name.endswith(".index.json"))
    index = next(name for name in (*_INDICES, *names) if name in names)
    places = _json(path, index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        _broken(path, f"{quoted(index)} has no weight_map from names to files")
    for shard in dict.fromkeys(places.values()):
        if not is_bare(shard):
            _broken(path, f"{quoted(index)} names {quoted(shard)}, which is no plain name of a file in this folder")
    found: dict[str, object] = {}
    notes: dict[Note, None] = {}
    dangerous: dict[str, None] = {}
    for shard in dict.fromkeys(places.values()):
        content = _part(path, shard, read)
        value = content.value if isinstance(content.value, dict) else {}
        wanted = [name for name, place in places.items() if place == shard]
        missing = [name for name in wanted if name not in value]
        if missing:
            _broken(path, f"{quoted(shard)} lacks {listed(missing)}")
        found |= {name: value[name] for name in wanted}
        dangerous |= dict.fromkeys(content.dangerous)
        notes |= dict.fromkeys(note for note in content.notes if note.code != "dangerous_globals")
    names_of_calls = tuple(dangerous)
    return Content(
        value={name: found[name] for name in places},
        dangerous=names_of_calls,
        notes=(*notes, *dangerous_note(names_of_calls)),
        config=config_of(path),
    )


def model_folder(path: str, read: Reader) -> Content:
    """The one weight file of a folder with config.json. Raises UnreadableCheckpoint where there are several."""
    names = sorted(entry.name for entry in Path(path).iterdir() if not entry.is_dir())
    weights = [name for name in names if _kind(path, name) in _SINGLE]
    chosen = next((name for name in _WEIGHTS if name in weights), weights[0] if len(weights) == 1 else None)
    if chosen is None:
        why = f"it holds several weight files ({listed(weights)})" if weights else "it holds no weight file"
        raise UnreadableCheckpoint(path, "a model folder (with config.json)", why, "name the weight file itself")
    content = _part(path, chosen, read)
    return Content(value=content.value, dangerous=content.dangerous, notes=content.notes, config=config_of(path))


def config_of(path: str) -> Mapping[str, object] | None:
    """The config.json of a folder; None without one."""
    return _json(path, CONFIG) if (Path(path) / CONFIG).is_file() else None


def is_bare(name: str) -> bool:
    """Whether a file name from inside a checkpoint is a name and no path. Links are fine: download caches use them."""
    return name not in {"", ".", ".."} and not any(mark in name for mark in "/\\:\0")


def _part(path: str, name: str, read: Reader) -> Content:
    file = os.path.join(path, name)  # noqa: PTH118 (a path stays as given)
    if not Path(file).is_file():
        _broken(path, f"its file {quoted(name)} is missing")
    kind = sniff(file)
    if kind not in _SINGLE:
        _broken(path, f"its file {quoted(name)} holds no weights that can be read ({kind})")
    return read(file, kind)


def _kind(path: str, name: str) -> Format | None:
    try:
        return sniff(os.path.join(path, name))  # noqa: PTH118 (a path stays as given)
    except UnreadableCheckpoint:
        return None


def _json(path: str, name: str) -> dict[str, object]:
    file = Path(path) / name
    try:
        if file.stat().st_size > _JSON_MAX:
            _broken(path, f"its {quoted(name)} is larger than any real one")
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        _broken(path, f"its {quoted(name)} is no JSON")
    if not isinstance(value, dict):
        _broken(path, f"its {quoted(name)} is no JSON object")
    return value


def _broken(path: str, why: str) -> NoReturn:
    raise UnreadableCheckpoint(
        path, "a checkpoint folder that is damaged or incomplete", why, "fetch or save the whole folder again"
    ) from None
