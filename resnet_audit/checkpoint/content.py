"""What a reader hands on: nested objects with tensors in them, and what a person should know of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

if TYPE_CHECKING:
    from collections.abc import Mapping

_AGAIN = "fetch it or save it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """value: what the file holds; dangerous: names that would have run code; config: of a model folder."""

    value: object
    dangerous: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    config: Mapping[str, object] | None = None


def damaged(path: str, kind: str, why: str) -> NoReturn:
    """Raises the refusal of a file whose bytes are not what its format promises."""
    raise UnreadableCheckpoint(path, f"a {kind} file that is damaged or cut short", why, _AGAIN) from None


def first_line(error: BaseException) -> str:
    """The first sentence of a foreign error, made fit to stand inside one of ours."""
    lines = str(error).strip().splitlines()
    return quoted(lines[0].replace(";", ","), 120) if lines else type(error).__name__


def dangerous_note(names: tuple[str, ...]) -> tuple[Note, ...]:
    """The notice for names that would have run code; none without such names."""
    if not names:
        return ()
    return (
        Note(
            code="dangerous_globals",
            message=f"its pickle asks to run {listed(names)}: nothing was run, but do not load it with anything else",
        ),
    )
