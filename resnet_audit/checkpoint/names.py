"""Names inside a checkpoint are hostile text: made safe once, here, before anything else sees them."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every name: DataParallel, torch.compile, Lightning and timm. Never `backbone.`."""

# Controls (C0, C1, DEL), formats (bidi, zero width), lone surrogates, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe(text: str) -> str:
    """`text` with every character that could steer a terminal or reorder a line replaced by U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(REPLACEMENT if unicodedata.category(c) in _UNSAFE else c for c in text)


def quoted(text: str, limit: int = 80) -> str:
    """`text` made safe and at most `limit` characters long, for use inside a sentence."""
    clean = safe(text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def listed(texts: Iterable[str], limit: int = 3) -> str:
    """The first `limit` of `texts`, safe and separated by commas, and how many more there are."""
    every = list(texts)
    shown = ", ".join(quoted(text) for text in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def safe_names(names: Iterable[str]) -> Mapping[str, str]:
    """A safe and unique name for each of the distinct `names`. Names that are safe already stay as they are."""
    every = list(names)
    renamed = {name: name for name in every if safe(name) == name}
    taken = set(renamed)
    used: dict[str, int] = {}  # counts on from the last suffix, else many colliding names take quadratic time
    for name in every:
        if name in renamed:
            continue
        base = safe(name)
        candidate = base
        while candidate in taken:
            used[base] = used.get(base, 1) + 1
            candidate = f"{base}~{used[base]}"
        taken.add(candidate)
        renamed[name] = candidate
    return {name: renamed[name] for name in every}


def common_prefix(names: Iterable[str]) -> tuple[str, str | None]:
    """(prefix, extra): the wrapper prefixes that all `names` share, and the one name that had to be left out for it.

    The extra name is the `n_averaged` that `AveragedModel` keeps beside its `module.`; None without one.
    """
    every = list(names)
    prefix, extra = "", None
    while every:
        averaged = prefix + "n_averaged"
        others = [name for name in every if name != averaged]
        if others and len(others) < len(every) and _all_start(others, prefix + "module."):
            every, extra = others, averaged
        found = next((p for p in PREFIXES if _all_start(every, prefix + p)), None)
        if found is None:
            break
        prefix += found
    return prefix, extra


def _all_start(names: list[str], prefix: str) -> bool:
    return all(name.startswith(prefix) and len(name) > len(prefix) for name in names)
