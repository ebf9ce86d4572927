"""What is not judged: a metric, or `METRIC[GLOB]` for its locations that match."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from resnet_audit.check.paths import resolve
from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

WRITTEN = re.compile(r"((?:checkpoints\[\]\.)?[^\[\]]+)(?:\[(.+)\])?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """A metric that is not judged, at the locations that match `glob`, or anywhere if that is None."""

    metric: str
    glob: str | None

    def covers(self, metric: str, where: str | None) -> bool:
        """Whether a number is not judged."""
        return metric == self.metric and (self.glob is None or fnmatchcase(where or "", self.glob))


def ignores(texts: Iterable[str]) -> tuple[Ignore, ...]:
    """What is not judged, as written. Raises UsageError for a path that leads to no number."""
    found = []
    for text in texts:
        parts = WRITTEN.fullmatch(text)
        if parts is None:
            raise UsageError(f"--ignore {text}: no metric; write PATH or PATH[NAME], such as spectrum.layers.condition")
        try:
            found.append(Ignore(metric=resolve(parts[1]), glob=parts[2]))
        except UsageError as error:
            raise UsageError(f"--ignore {error}") from None
    return tuple(found)
