"""Small documents of real result types, and the slow and obvious way to read and to judge them."""

from __future__ import annotations

import json
from typing import Any

from resnet_audit.render.json import plain
from resnet_audit.results import (
    CheckpointEntry,
    Document,
    GradientBlock,
    GradientResult,
    InputsUsed,
    Note,
    SettingsUsed,
    ShortcutResult,
    Tool,
)

FACTORS = dict.fromkeys(
    ("ratio_rms", "p05", "p50", "p95", "mask_factor", "residual_factor", "branch_gain", "skip_gain", "cosine", "upper")
)


def block(name: str, ratio: float | None, interval: tuple[float, float] | None = None) -> GradientBlock:
    """A block of which only a ratio and an interval are known."""
    return GradientBlock(name=name, kind="block", transition=False, ratio=ratio, interval=interval, **FACTORS)


def gradient(blocks: list[GradientBlock], norms: tuple[float, ...] = (), worst: float | None = None) -> GradientResult:
    """A result with these blocks."""
    return GradientResult(
        objective="logit",
        inputs=InputsUsed(kind="pink", n=4, bn_mismatch_mean=None, bn_mismatch_logsd=None),
        norms=norms,
        ratio_median=None,
        c_hat=None,
        ratio_worst=worst,
        ratio_product=None,
        telescoping_residual=None,
        blocks=tuple(blocks),
    )


def shortcut(depths: dict[str, int]) -> ShortcutResult:
    """A result with these counts."""
    return ShortcutResult(depths=depths, inputs=None, target=None, blocks=(), zero_hessian=())


def entry(path: str = "net.pt", *, error: str | None = None, notes: tuple[Note, ...] = (), **results: Any) -> Any:
    """A checkpoint with these results."""
    return CheckpointEntry(
        path=path, sha256="0", format="torch-zip", parameters=100, error=error, notes=notes, **results
    )


def document(*entries: Any) -> Document:
    """The document of these checkpoints."""
    return Document(
        schema_version="1.0",
        tool=Tool(name="resnet-audit", version="1", torch="2", threads=1),
        command="report",
        settings=SettingsUsed(
            seed=0, samples=4, input_size=None, inputs="auto", dtype="float32", device="cpu", blocks=()
        ),
        checkpoints=list(entries),
    )


def brute_force(one: Any, path: str) -> list[tuple[str | None, float | None]]:
    """(location, number) for all that `path` leads to, by walking the JSON of an entry from the root to its leaves."""
    (value,) = json.loads(json.dumps(plain(document(one))[0]))["checkpoints"]
    found: list[tuple[str | None, float | None]] = []

    def walk(here: Any, trail: list[str], where: str | None) -> None:
        if isinstance(here, list):
            names = [
                item["name"] if isinstance(item, dict) and "name" in item else str(i) for i, item in enumerate(here)
            ]
            for i, item in enumerate(here):
                same = names[: i + 1].count(names[i])
                name = names[i] + (f"#{same}" if same > 1 else "")
                walk(item, trail, name if where is None else f"{where}[{name}]")
        elif isinstance(here, dict):
            for key, item in here.items():
                walk(item, [*trail, key], where)
        elif ".".join(trail) == path and not isinstance(here, str):
            found.append((where, None if here is None else float(here)))
        elif here is None and path.startswith(".".join(trail) + "."):
            found.append((where, None))

    walk(value, [], None)
    return found
