"""The families beyond the ResNet that weights complete to a runnable network, each with the keys that call for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_audit.graph.families_dense import densenet, mobilenet_v2
from resnet_audit.graph.families_plan import NotThisFamily
from resnet_audit.graph.families_text import bert, gpt2
from resnet_audit.graph.families_vision import convnext, vit

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnet_audit.graph.families_nodes import Given, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family: a key that its files have, and how its network is written."""

    sign: re.Pattern[str]
    write: Callable[[Given], Recipe]


FAMILIES = (
    Family(sign=re.compile(r"features\.denseblock1\.denselayer1\.conv1\.weight"), write=densenet),
    Family(sign=re.compile(r"features\.1\.conv\.0\.0\.weight"), write=mobilenet_v2),
    Family(
        sign=re.compile(r"(features\.1\.0\.block\.0|stages\.0(\.blocks)?\.0\.(conv_dw|dwconv))\.weight"), write=convnext
    ),
    Family(sign=re.compile(r"class_token|cls_token"), write=vit),
    Family(sign=re.compile(r"(.*\.)?h\.0\.attn\.c_attn\.weight"), write=gpt2),
    Family(sign=re.compile(r"(.*\.)?encoder\.layer\.0\.attention\.self\.query\.weight"), write=bert),
)


def complete(given: Given) -> Recipe | None:
    """The network of the first family whose sign the file has; None without one. Raises NotThisFamily with a reason."""
    reasons = []
    for family in FAMILIES:
        if any(family.sign.fullmatch(key) for key in given.tensors):
            try:
                return family.write(given)
            except NotThisFamily as reason:
                reasons.append(str(reason))
    if reasons:
        raise NotThisFamily("; ".join(reasons))
    return None
