r"""Names that say what a part of a network is, as data that a user's file can extend.

Each pattern is a regular expression that one whole component of a dotted name must match, in any case: `downsample` in
`stage.0.downsample.1`. A user's file is TOML with the same keys, each a list of further patterns:

    shortcut = ['bridge']
    attention = ['token_mix\w*']
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnet_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

Part = Literal[
    "shortcut",
    "norm_shortcut",
    "gate",
    "attention",
    "cross_attention",
    "mixer",
    "mlp",
    "scale",
    "parallel",
    "wrapper",
    "transparent",
]
"""The parts of a network that names can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """Patterns of the names of each part.

    shortcut, norm_shortcut: the shortcut of a block, with a layer or a norm alone. gate: squeeze-and-excitation and its
    like. mixer: stands alone as the branch of a block with one norm. scale: a learned factor on a branch. parallel: one
    of several branches that are concatenated. wrapper: what a module that adds its input calls the rest. transparent:
    a list between a block and its members.
    """

    shortcut: tuple[str, ...] = (
        r"down_?samples?(_?(conv|layer|block|0))?",
        r"(conv_?|res_?|residual_?)?short_?cut(_?conv)?",
        r"(conv_?)?skip(_?(conv|connection|proj|layer|op))?s?",
        r"proj|identity_conv|(res|residual)_?conv|conv_res|match(_?dimensions?)?|conv1x1",
    )
    norm_shortcut: tuple[str, ...] = (r"(rbr_)?identity",)
    gate: tuple[str, ...] = (r"se\d?|se_?(module|layer|block)|squeeze\w*|\w*excit\w*|gate|eca|ca|cbam|channel_?att\w*",)
    attention: tuple[str, ...] = (
        r"(self|grouped|window|grid|temporal|spatial|channel|global|local|layer)?_?(attn|attention)(_?(in|out|layer|1))?",
        r"mha|msa|xca|multi_?head_?attention|modulation|token_?mixer\w*|mlp_tokens|linear_tokens",
    )
    cross_attention: tuple[str, ...] = (r"(encoder|multihead|cross|enc_?dec)_?(attn|attention)|attn2",)
    mixer: tuple[str, ...] = (r"mixer|ssm|mamba",)
    mlp: tuple[str, ...] = (
        r"(channel_?|dense_?)?mlp(_?(in|out|layer|channels|block|head))?|ffn?\d?|feed_?forward(_?network)?",
        r"dense_?relu_?dense|intermediate|fc_?[12]|lin(ear)?_?[12]|\w*experts|\w*moe|channel_mixing",
    )
    scale: tuple[str, ...] = (r"layer_?scale\w*|gamma(_?\d)?|ls\d?|res_?scale\w*|skip_?gain|alpha_?res",)
    parallel: tuple[str, ...] = (r"branch(?!es)\w*|tower\w*|expand\dx\d|inception\w*|path\d",)
    wrapper: tuple[str, ...] = (r"fn|residual_fn",)
    transparent: tuple[str, ...] = (r"\d+|layers?",)

    def tells(self, part: Part, name: str) -> bool:
        """Whether a name (one component) is that of such a part."""
        return any(_compiled(pattern).fullmatch(name) for pattern in getattr(self, part))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A family that names give away but that weights alone do not complete; `arch` is what a user can name instead."""

    family: str
    keys: tuple[str, ...]
    arch: str


KNOWN = (
    Known(family="DenseNet", keys=(r"features\.denseblock\d",), arch="torchvision:densenet121"),
    Known(family="RegNet", keys=(r"trunk_output\.block\d",), arch="torchvision:regnet_y_400mf"),
    Known(family="Swin", keys=(r"features\.\d+\.\d+\.attn\.relative_position",), arch="torchvision:swin_t"),
    Known(family="MaxViT", keys=(r"grid_attention\.attn_layer",), arch="torchvision:maxvit_t"),
    Known(family="ConvNeXt", keys=(r"features\.\d\.\d\.layer_scale",), arch="torchvision:convnext_tiny"),
    Known(family="EfficientNet", keys=(r"features\.\d\.\d\.block\.\d\.fc1", r"\.stochastic"), arch="torchvision:NAME"),
    Known(family="EfficientNet or MobileNetV3", keys=(r"features\.\d+(\.\d)?\.block\.\d",), arch="torchvision:NAME"),
    Known(family="MNASNet", keys=(r"layers\.8\.0\.layers\.0",), arch="torchvision:mnasnet1_0"),
    Known(family="ViT", keys=(r"encoder\.layers\.encoder_layer_\d",), arch="torchvision:vit_b_16"),
    Known(family="EfficientNet", keys=(r"blocks\.\d\.\d\.conv_pwl",), arch="timm:NAME"),
    Known(family="ViT", keys=(r"patch_embed\.proj", r"blocks\.\d+\.attn\.qkv"), arch="timm:NAME"),
    Known(family="Swin", keys=(r"layers\.\d\.blocks\.\d\.attn\.relative_position",), arch="timm:NAME"),
    Known(family="BERT", keys=(r"encoder\.layer\.\d+\.attention\.self\.query",), arch="transformers:NAME"),
    Known(family="DistilBERT", keys=(r"layer\.\d+\.attention\.q_lin",), arch="transformers:NAME"),
    Known(family="GPT-2", keys=(r"h\.\d+\.attn\.c_attn",), arch="transformers:NAME"),
    Known(family="GPT-NeoX", keys=(r"layers\.\d+\.attention\.query_key_value",), arch="transformers:NAME"),
    Known(family="T5", keys=(r"block\.\d+\.layer\.0\.SelfAttention",), arch="transformers:NAME"),
    Known(family="Llama", keys=(r"layers\.\d+\.self_attn\.q_proj", r"mlp\.gate_proj"), arch="transformers:NAME"),
    Known(family="Mamba", keys=(r"layers\.\d+\.mixer\.x_proj",), arch="transformers:NAME"),
)
"""Families by keys that all must occur, the more special first."""


def known_family(keys: Iterable[str]) -> Known | None:
    """The first family all of whose key patterns occur among the keys of a state dict."""
    text = "\n".join(keys)
    return next((known for known in KNOWN if all(re.search(pattern, text) for pattern in known.keys)), None)


def load_patterns(path: str) -> Patterns:
    """The project's patterns with those of a TOML file added. Raises UsageError."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as reason:
        raise UsageError(f"{path}: it cannot be read as a file of patterns ({reason}); give a TOML file") from None
    base = Patterns()
    known = {field.name for field in fields(Patterns)}
    added: dict[str, tuple[str, ...]] = {}
    for name, values in content.items():
        if name not in known:
            raise UsageError(f"{path}: there are no patterns named {name}; the names are {', '.join(sorted(known))}")
        if not isinstance(values, list) or not all(isinstance(value, str) and _valid(value) for value in values):
            raise UsageError(f"{path}: {name} is not a list of regular expressions; write {name} = ['pattern']")
        added[name] = (*getattr(base, name), *values)
    return replace(base, **added)


def _valid(pattern: str) -> bool:
    try:
        _compiled(pattern)
    except re.error:
        return False
    return True


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
