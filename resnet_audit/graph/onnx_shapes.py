"""ONNX operators that move numbers without changing them: concatenations, shapes, orders, frames and slices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from resnet_audit.graph.ir import Concat, Flatten, Op, Opaque, Pad, Permute, Slice, View
from resnet_audit.graph.onnx_ops import Found, Step, opaque, plain
from resnet_audit.graph.onnx_values import BATCH

if TYPE_CHECKING:
    from torch import Tensor

_END = 2**31 - 1


def concat(step: Step) -> Found | None:
    """A concatenation, along the channels or another axis but the batch."""
    axis = step.attributes.get("axis", 1)
    rank = step.live[0].rank
    if axis < 0 and rank is not None:
        axis += rank
    if axis == 1 and len(step.live) == len(step.inputs):
        return Found((Concat(),), tuple(value.node for value in step.live))
    if axis == 0:
        return None

    def joined(*values: Tensor) -> Tensor:
        batch = max(value.shape[0] for value in values)
        return torch.cat([value.expand(batch, *value.shape[1:]) for value in values], dim=axis)

    return opaque(step, "cat", joined)


def reshape(step: Step) -> Found | None:
    """The same numbers in a constant shape that keeps the batch."""
    target = step.numbers("shape", 1)
    if step.kind == "Flatten":
        axis, rank = step.attributes.get("axis", 1), None if step.x is None else step.x.rank
        return plain(step, Flatten()) if axis == 1 or (rank is not None and axis == 1 - rank) else None
    if step.x is None or target is None or len(target) < 2:
        return None
    shape = step.x.shape
    rest = list(target[1:])
    if shape is None:
        return plain(step, Flatten()) if len(rest) == 1 and target[0] in {0, -1, BATCH} else None
    numbers = math.prod(shape)
    if not step.attributes.get("allowzero", 0):
        rest = [shape[axis] if size == 0 and axis < len(shape) else size for axis, size in enumerate(rest)]
    known = math.prod(size for size in rest if size != -1)
    if rest.count(-1) == 1 and known and numbers % known == 0:
        rest[rest.index(-1)] = numbers // known
    if min(rest, default=0) < 1 or math.prod(rest) != numbers or target[0] not in {0, -1, BATCH, step.batch}:
        return None
    note = None
    if target[0] == step.batch:
        note = f"the batch size {step.batch} is written into the file; other batches are taken to pass in the same way"
    op: Op = Flatten() if len(rest) == 1 else View(shape=tuple(rest))
    return Found((op,) if tuple(rest) != shape else (), (step.x.node,), note=note)


def squeeze(step: Step) -> Found | None:
    """Axes of one entry put in or left out."""
    axes = step.numbers("axes", 1)
    if step.x is None or step.x.shape is None:
        return None
    old = [BATCH, *step.x.shape]
    if step.kind == "Unsqueeze":
        if axes is None:
            return None
        new_rank = len(old) + len(axes)
        places = {axis % new_rank for axis in axes}
        sizes = iter(old)
        shape = [1 if axis in places else next(sizes, 1) for axis in range(new_rank)]
    else:
        places = {i for i, size in enumerate(old) if size == 1} if axes is None else {axis % len(old) for axis in axes}
        shape = [size for axis, size in enumerate(old) if axis not in places]
    if not shape or shape[0] != BATCH or math.prod(shape) != math.prod(old):
        return None
    return plain(step, Flatten() if len(shape) == 2 else View(shape=tuple(shape[1:])))


def transpose(step: Step) -> Found | None:
    """The axes in another order, the batch first."""
    order = step.attributes.get("perm")
    if step.x is None or order is None or order[0] != 0:
        return None
    return plain(step, *(() if list(order) == sorted(order) else (Permute(dims=tuple(order)),)))


def pad(step: Step) -> Found | None:
    """Zero channels, or a frame around the map."""
    pads = step.numbers("paddings" if "paddings" in step.attributes else "pads", 1)
    value = step.number("value", 2, 0.0)
    mode = step.attributes.get("mode", "constant")
    if step.x is None or pads is None or value is None:
        return None
    rank = len(pads) // 2
    axes = step.constant(3)
    if axes is not None:
        if step.x.rank is None:
            return None
        full = [0] * (2 * step.x.rank)
        for place, axis in enumerate(axes.ints):
            full[axis % step.x.rank] = pads[place]
            full[axis % step.x.rank + step.x.rank] = pads[place + rank]
        pads, rank = tuple(full), step.x.rank
    before, after = pads[:rank], pads[rank:]
    if not any(pads):
        return Found((), (step.x.node,))
    if rank < 2 or before[0] or after[0] or mode not in {"constant", "reflect", "edge"}:
        return None
    if rank == 4 and mode == "constant" and value == 0.0 and not any((*before[2:], *after[2:])) and min(pads) >= 0:
        return plain(step, Pad(before=before[1], after=after[1]))
    inner = 2 if mode != "constant" else 1
    if any((*before[1:inner], *after[1:inner])):
        return None
    frame = [size for axis in range(rank - 1, inner - 1, -1) for size in (before[axis], after[axis])]
    torch_mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[mode]
    function = (
        (lambda x: F.pad(x, frame, torch_mode, value))
        if mode == "constant"
        else (lambda x: F.pad(x, frame, torch_mode))
    )
    return Found((Opaque(name="pad", function=function),), (step.x.node,))


def cut(step: Step) -> Found | None:
    """A slice: every so-many-th row and column from the first, or a part along axes other than the batch."""
    starts, ends = step.numbers("starts", 1), step.numbers("ends", 2)
    if step.x is None or starts is None or ends is None:
        return None
    axes = step.numbers("axes", 3) or tuple(range(len(starts)))
    steps = step.numbers("steps", 4) or (1,) * len(starts)
    rank = step.x.rank
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1 or rank is None:
        return None
    sizes = (BATCH, *(step.x.shape or ()))
    parts = [slice(None)] * rank
    for axis, start, end, pace in zip((axis % rank for axis in axes), starts, ends, steps, strict=True):
        stop = None if end >= min(sizes[axis], _END) else end
        if axis == 0 and (start != 0 or stop is not None or pace != 1):
            return None
        parts[axis] = slice(start or None, stop, pace if pace > 1 else None)
    if all(part == slice(None) for part in parts):
        return Found((), (step.x.node,))
    paces = [part.step or 1 for part in parts]
    if rank == 4 and paces[1] == 1 and all(part.start is None and part.stop is None for part in parts):
        return plain(step, Slice(step=(paces[2], paces[3])))
    index = tuple(parts)
    return Found((Opaque(name="slice", function=lambda x: x[index]),), (step.x.node,))


def depth_to_space(step: Step) -> Found | None:
    """Channels made into rows and columns."""
    size, by_column = step.attributes.get("blocksize", 0), step.attributes.get("mode", "DCR") == "CRD"
    if step.x is None or size < 1:
        return None
    if by_column:
        return opaque(step, "pixel_shuffle", lambda x: F.pixel_shuffle(x, size))

    def shuffled(x: Tensor) -> Tensor:
        batch, channels, *map_size = x.shape
        parts = x.reshape(batch, size * size, channels // size**2, *map_size).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(parts, size)

    return opaque(step, "pixel_shuffle", shuffled)
