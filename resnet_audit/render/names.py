"""Short names for paths that stand beside each other: what all of them share is said once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = re.compile(r"(?<=[^/])\.[A-Za-z_]+$")


def short_names(paths: Sequence[str]) -> tuple[str, list[str]]:
    """(folder, names): the folder that all `paths` share, and what tells them apart; distinct paths stay distinct.

    Left out are the folders at the front, those and the file name at the end if all share them, and one suffix.
    """
    parts = [path.split("/") for path in paths]
    front = _shared(parts, min(map(len, parts)) - 1)
    rests = [part[front:] for part in parts]
    back = _shared([rest[::-1] for rest in rests], min(map(len, rests)) - 1)
    names = ["/".join(rest[: len(rest) - back]) for rest in rests]
    suffixes = {found[0] if (found := SUFFIX.search(name)) else "" for name in names}
    if len(suffixes) == 1:
        names = [name.removesuffix(next(iter(suffixes))) for name in names]
    folder = "/".join(parts[0][:front])
    return folder or ("/" if front else ""), names


def _shared(lists: Sequence[Sequence[str]], most: int) -> int:
    """How many first elements all lists share, up to `most`."""
    count = 0
    while count < most and len({tuple(one[: count + 1]) for one in lists}) == 1:
        count += 1
    return count
