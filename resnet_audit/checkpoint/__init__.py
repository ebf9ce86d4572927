"""From a file to its tensors: recognise the format, read it without running anything, unwrap it, clean its names.

`expand` turns the MODEL arguments into paths and needs no torch; `load` turns one path into a `Checkpoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_audit.checkpoint.expand import expand

if TYPE_CHECKING:
    from resnet_audit.checkpoint.checkpoint import Checkpoint, load

__all__ = ["Checkpoint", "expand", "load"]


def __getattr__(name: str) -> object:
    """`Checkpoint` and `load` on first use, so that `--help` and `expand` do not wait for torch."""
    if name in {"Checkpoint", "load"}:
        from resnet_audit.checkpoint import checkpoint  # noqa: PLC0415 (the import is what must wait)

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
