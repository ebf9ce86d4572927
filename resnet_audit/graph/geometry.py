"""What a pickled module tree says about a layer, where the file has one: it beats every guess from names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_audit.graph.families_plan import NotThisFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resnet_audit.checkpoint.modules import Module

    Modules = Mapping[str, Module]


OTHER_ACTIVATIONS = frozenset(
    [
        "CELU",
        "ELU",
        "GELU",
        "Hardswish",
        "Hardtanh",
        "LeakyReLU",
        "Mish",
        "PReLU",
        "RReLU",
        "ReLU6",
        "SELU",
        "SiLU",
        "Softplus",
        "Tanh",
    ]
)
"""Classes of torch.nn that a network of ReLUs does not have; sigmoids stand in gates."""


def conv_geometry(modules: Modules, name: str) -> dict[str, Any]:
    """Stride, padding, dilation and groups of a convolution as the file states them; empty if it does not.

    Raises NotThisFamily for a padding that is not with zeros.
    """
    attributes = modules[name].attributes if name in modules else {}
    if attributes.get("padding_mode", "zeros") != "zeros":
        raise NotThisFamily(f"{name} pads with {attributes['padding_mode']}, not with zeros")
    pairs = {key: attributes.get(key) for key in ("stride", "padding", "dilation")}
    found: dict[str, Any] = {key: pair for key, pair in pairs.items() if isinstance(pair, tuple) and len(pair) == 2}
    groups = attributes.get("groups")
    return found | ({"groups": groups} if isinstance(groups, int) else {})


def norm_eps(modules: Modules, name: str, default: float) -> float:
    """The eps of a normalisation as the file states it, else the default."""
    eps = modules[name].attributes.get("eps") if name in modules else None
    return eps if isinstance(eps, float) else default


def check_modules(modules: Modules, *, pooled_stem: bool) -> None:
    """Raise NotThisFamily where the modules are not those of the family: other activations, pooling elsewhere."""
    classes = {module.class_name for module in modules.values()}
    others = sorted(classes & OTHER_ACTIVATIONS)
    if others:
        raise NotThisFamily(f"its modules hold the activation {others[0]}, and only ReLU is rebuilt")
    if classes and ("MaxPool2d" in classes) > pooled_stem:
        raise NotThisFamily("its modules hold max-pooling where the family has none")
