"""Reparametrised and quantised weights as the plain weights that they stand for.

Weight norm is g * v / ||v||, spectral norm W / (u' W v), a quantised weight scale * (values - zero). Each is
computed in double precision and kept as precise as it is stored. bfloat16, float16 and float8 stay as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from resnet_audit.checkpoint.names import listed, quoted
from resnet_audit.checkpoint.rebuild import Quantised
from resnet_audit.errors import UnreadableCheckpoint
from resnet_audit.results import Note

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKED = "_packed_params._packed_params"
"""Where torch's quantised linear layers keep the pair (weight, bias) in a state dict."""

_PARAMETRIZED = re.compile(r"(?P<owner>.*?)parametrizations\.(?P<name>\w+)\.(?P<part>original\d*|\d+\..+)")
_NEW_BYTES_MIN, _NEW_BYTES_RATIO = 2**28, 8


def is_weight(name: object, value: object) -> bool:
    """Whether an entry of a state dict is a tensor, or something that `dequantised` makes tensors of."""
    packed = isinstance(name, str) and name.endswith(PACKED) and isinstance(value, tuple) and len(value) == 2
    return isinstance(value, Tensor | Quantised) or (packed and isinstance(value[0], Tensor | Quantised))  # type: ignore[index]  # packed is a tuple


def dequantised(path: str, entries: Mapping[str, object]) -> tuple[dict[str, Tensor], tuple[Note, ...]]:
    """(tensors, notes): the weights among `entries`, the quantised ones multiplied out.

    Raises UnreadableCheckpoint for scales that fit no weight, and where many of them share the bytes of a few.
    """
    flat: dict[str, object] = {}
    for name, value in entries.items():
        if isinstance(value, tuple) and name.endswith(PACKED):
            owner = name.removesuffix(PACKED)
            flat |= {f"{owner}weight": value[0]} | ({} if value[1] is None else {f"{owner}bias": value[1]})
        else:
            flat[name] = value
    known: dict[int, Tensor] = {}  # tied weights stay tied
    quantised = {id(value): value for value in flat.values() if isinstance(value, Quantised)}
    storages = {q.values.untyped_storage().data_ptr(): q.values.untyped_storage().nbytes() for q in quantised.values()}
    if sum(q.values.numel() for q in quantised.values()) > sum(storages.values()):
        _refuse_growth(path)
    tensors: dict[str, Tensor] = {}
    for name, value in flat.items():
        if isinstance(value, Quantised):
            if id(value) not in known:
                known[id(value)] = _multiplied_out(path, name, value)
            tensors[name] = known[id(value)]
        elif isinstance(value, Tensor):
            tensors[name] = value
    message = f"quantised weights were multiplied out: {len(known)}"
    return tensors, ((Note(code="dequantised", message=message),) if known else ())


def folded(path: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Note, ...]]:
    """(tensors, notes): the same weights without weight norm, spectral norm and their helper tensors.

    Raises UnreadableCheckpoint for a parametrization that is neither of the two.
    """
    found = _weight_norms(tensors) | _spectral_norms(tensors) | _parametrizations(path, tensors)
    if not found:
        return dict(tensors), ()
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    made = sum(tensors[parts[-1]].numel() * 8 for parts in found.values())
    if made > max(_NEW_BYTES_MIN, _NEW_BYTES_RATIO * sum(held.values())):
        _refuse_growth(path)
    helpers = {part: name for name, parts in found.items() for part in parts}
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():  # the weight takes the place of the first of its parts
        weight = helpers.get(name)
        if weight is None:
            result[name] = tensor
        elif weight not in result:
            result[weight] = _folded(path, weight, [tensors[part] for part in found[weight]])
    kinds = {2: "weight norm", 3: "spectral norm"}
    counts = {kind: sum(len(parts) == length for parts in found.values()) for length, kind in kinds.items()}
    texts = [f"{kind} ({count})" for kind, count in counts.items() if count]
    return result, (Note(code="folded", message=f"{' and '.join(texts)} was folded into plain weights"),)


def _weight_norms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """weight: (g, v). An old spectral norm has a `_v` too, but of one dimension and without a `_g`."""
    found: dict[str, tuple[str, ...]] = {}
    for name, g in tensors.items():
        if name.endswith("_g") and (v := tensors.get(name[:-1] + "v")) is not None and _is_gain(g, v):
            found[name[:-2]] = (name, name[:-1] + "v")
    return found


def _is_gain(g: Tensor, v: Tensor) -> bool:
    if g.numel() == 1 or not g.dim():
        return v.dim() >= 2
    return v.dim() >= 2 and g.dim() == v.dim() and all(m in (1, n) for m, n in zip(g.shape, v.shape, strict=True))


def _spectral_norms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """weight: (u, v, W)."""
    found: dict[str, tuple[str, ...]] = {}
    for name in tensors:
        if name.endswith("_orig"):
            base = name.removesuffix("_orig")
            if f"{base}_u" in tensors and f"{base}_v" in tensors:
                found[base] = (f"{base}_u", f"{base}_v", name)
    return found


def _parametrizations(path: str, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, dict[str, str]] = {}  # weight: part: name
    for name in tensors:
        if match := _PARAMETRIZED.fullmatch(name):
            groups.setdefault(match["owner"] + match["name"], {})[match["part"]] = name
    found: dict[str, tuple[str, ...]] = {}
    for weight, parts in groups.items():
        match sorted(parts):
            case ["original0", "original1"]:
                found[weight] = (parts["original0"], parts["original1"])
            case ["0._u", "0._v", "original"]:
                found[weight] = (parts["0._u"], parts["0._v"], parts["original"])
            case other:
                orthogonal = "0.base" in other
                what = "an orthogonal" if orthogonal else f"an unknown ({listed(other)})"
                raise UnreadableCheckpoint(
                    path,
                    f"a checkpoint with {what} parametrization of {quoted(weight)}",
                    "its weight is computed by code that is not in the file",
                    "call torch.nn.utils.parametrize.remove_parametrizations on the layer and save again",
                )
    return found


def _folded(path: str, name: str, parts: list[Tensor]) -> Tensor:
    stored = parts[-1].dtype
    exact = [part.to(torch.float64) for part in parts]
    try:
        weight = _with_gain(*exact) if len(exact) == 2 else _over_norm(*exact)
    except (RuntimeError, IndexError):
        _refuse_shapes(path, name)
    if weight.shape != parts[-1].shape:
        _refuse_shapes(path, name)
    return weight.to(stored)


def _with_gain(g: Tensor, v: Tensor) -> Tensor:
    if g.dim() != v.dim():
        g = g.reshape([1] * v.dim())
    over = tuple(d for d in range(v.dim()) if g.shape[d] == 1)
    norm: Tensor = torch.linalg.vector_norm(v, dim=over, keepdim=True)
    return g * v / norm


def _over_norm(u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    # u belongs to the outputs: the first dimension, the second of a transposed convolution.
    outputs = 0 if weight.shape[0] == u.numel() and weight[0].numel() == v.numel() else 1
    matrix = weight.movedim(outputs, 0).flatten(1)
    sigma: Tensor = u @ (matrix @ v)
    return weight / sigma


def _multiplied_out(path: str, name: str, weight: Quantised) -> Tensor:
    scale, zero = _numbers(weight.scale), _numbers(weight.zero)
    count = 1 if weight.axis is None else weight.values.shape[weight.axis]
    if scale is None or zero is None or scale.numel() != count or zero.numel() != count:
        _refuse_shapes(path, name)
    shape = [1] * weight.values.dim()
    if weight.axis is not None:
        shape[weight.axis] = count
    exact = weight.values.to(torch.float64) - zero.reshape(shape)
    return (exact * scale.reshape(shape)).to(torch.float32)


def _numbers(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    values = value if isinstance(value, list) else [value]
    plain = all(isinstance(item, float | int) for item in values)
    return torch.tensor(values, dtype=torch.float64) if plain else None


def _refuse_shapes(path: str, name: str) -> NoReturn:
    raise UnreadableCheckpoint(
        path,
        f"a checkpoint whose weight {quoted(name)} cannot be put together",
        "the shapes of its parts do not fit each other",
        "fetch it or save it again",
    )


def _refuse_growth(path: str) -> NoReturn:
    raise UnreadableCheckpoint(
        path,
        "a checkpoint with many weights made of the same few bytes",
        "they are no trained weights and could fill the memory",
        "distrust it; if it is yours, save the plain weights",
    )
