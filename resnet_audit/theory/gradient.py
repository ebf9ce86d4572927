"""Gradient-norm ratios: what each residual block does to the norm of the gradient on its way back.

Source   Zaeemzadeh, Rahnavard, Shah 2020 (arXiv 1805.07477); the factors and the certified interval are derived.
Formula  ratio_l = ||g_l|| / ||g_{l+1}||,   g_l = (S_l + B_l) D_l g_{l+1}
Symbols  g_l  gradient of the objective at the input of block l, all samples together (norms pooled by sums of squares)
         S_l, B_l  adjoint of the shortcut and of the branch;  D_l  mask of the ReLU after the sum (1 without one)
         mask_factor ||D g|| / ||g||,  residual_factor ratio / mask_factor,  skip_gain, branch_gain relative to ||D g||
         c_hat  median |ratio - 1| * L / ln(2L) over blocks that keep their shape with an identity shortcut
Reads    1 is norm preservation. The ratios of all rows multiply to ||g_1|| / ||g_end||; telescoping_residual says how
         nearly, with ||g_1|| by torch's own autograd through the network as it stands.
Status   exact for these inputs and this objective; `upper` and `interval` are certified for all inputs, and loose.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from resnet_audit.errors import NoBlocks
from resnet_audit.graph.backward import propagate
from resnet_audit.results import GradientBlock, GradientResult, Note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject
    from resnet_audit.measure.passages import Passage


def analyse(subject: Subject) -> GradientResult:
    """The ratios of every block and of what lies between blocks. Raises NoBlocks, NotRunnable, NonFinite."""
    subject.graph.require_runnable()
    if not subject.blocks:
        raise NoBlocks("no residual block was found, so there is no gradient-norm ratio; spectrum and bound need none")
    blocks, passages = _in_a_row(subject)
    rows: list[GradientBlock] = []
    norms = [_norm(passages[0].fork)]
    notes = [*subject.notes, *_nested(len(subject.blocks) - len(blocks))]
    for index, (block, passage) in enumerate(zip(blocks, passages, strict=True)):
        rows.append(_row(subject, block, passage, notes))
        norms.append(_norm(passage.output))
        if index + 1 < len(passages) and blocks[index + 1].fork != block.output:
            after = passages[index + 1].fork
            rows.append(_between(f"{block.name}..{blocks[index + 1].name}", passage.output, after))
            norms.append(_norm(after))
    kept = [row.ratio for row in rows if row.kind == "block" and not row.transition and row.ratio is not None]
    ratios = [row.ratio for row in rows if row.kind == "block" and row.ratio is not None]
    notes += [_killed(row) for row in rows if row.ratio == 0.0]
    return GradientResult(
        objective=subject.settings.objective,
        inputs=subject.recording.inputs,
        norms=tuple(norms),
        ratio_median=_median(kept),
        c_hat=c_hat([abs(ratio - 1.0) for ratio in kept], len(blocks)),
        ratio_worst=max((max(ratio, 1.0 / ratio) for ratio in ratios), default=None) if all(ratios) else None,
        ratio_product=_quotient(norms[0], norms[-1]),
        telescoping_residual=_telescoping_residual(subject, blocks[0], rows, norms[-1]),
        blocks=tuple(rows),
        notes=tuple(notes),
    )


def _telescoping_residual(
    subject: Subject, first: Block, rows: Sequence[GradientBlock], norm_end: float
) -> float | None:
    """|prod ratio_l * ||g_end|| / ||g_1|| - 1|, where ||g_1|| owes nothing to the ratios: it is autograd's.

    None where a ratio is undefined, the gradient is 0, or the first row does not begin where the recording does.
    """
    ratios = [row.ratio for row in rows if row.ratio is not None]
    if len(ratios) < len(rows) or first.fork != subject.start:
        return None
    reference = _norm(subject.torch_gradient)
    return abs(math.prod(ratios) * norm_end / reference - 1.0) if reference > 0.0 else None


def _in_a_row(subject: Subject) -> tuple[list[Block], list[Passage]]:
    """Blocks that lie in no other block's branch or shortcut, with their passages: their ratios multiply."""
    inside = {name for block in subject.blocks for name in (*block.branch, *block.skip)}
    kept = [pair for pair in zip(subject.blocks, subject.passages, strict=True) if pair[0].join not in inside]
    return [block for block, _ in kept], [passage for _, passage in kept]


def _nested(count: int) -> list[Note]:
    message = f"{count} blocks inside other blocks have no row: their ratios are part of those around them"
    return [Note(code="nested_blocks", message=message)] if count else []


def _killed(row: GradientBlock) -> Note:
    message = "no gradient passes, so ratio_worst is infinite and given as null"
    return Note(code="no_gradient", message=message, where=row.name)


def _row(subject: Subject, block: Block, passage: Passage, notes: list[Note]) -> GradientBlock:
    into, masked, out = _norm(passage.output), _norm(passage.join), _norm(passage.fork)
    p05, p50, p95 = _percentiles(passage.fork, passage.output, block.name, notes)
    mask, ratio = _quotient(masked, into), _quotient(out, into)
    branch, skip = _norm(passage.branch), _norm(passage.skip)
    upper, interval = _certified(subject, block)
    return GradientBlock(
        name=block.name,
        kind="block",
        transition=block.transition,
        ratio=ratio,
        ratio_rms=_ratio_rms(subject, block),
        p05=p05,
        p50=p50,
        p95=p95,
        mask_factor=mask,
        residual_factor=_quotient(out, masked),
        branch_gain=_quotient(branch, masked),
        skip_gain=_quotient(skip, masked),
        cosine=_quotient(_dot(passage.branch, passage.skip), branch * skip),
        upper=upper,
        interval=interval,
    )


def _between(name: str, output: Tensor, after: Tensor) -> GradientBlock:
    p05, p50, p95 = _percentiles(output, after, name, [])
    return GradientBlock(
        name=name,
        kind="between",
        transition=False,
        ratio=_quotient(_norm(output), _norm(after)),
        ratio_rms=None,
        p05=p05,
        p50=p50,
        p95=p95,
        mask_factor=None,
        residual_factor=None,
        branch_gain=None,
        skip_gain=None,
        cosine=None,
        upper=None,
        interval=None,
    )


def _ratio_rms(subject: Subject, block: Block) -> float:
    """RMS singular value of the block's Jacobian at these inputs, from one standard normal cotangent a sample."""
    shape = (subject.recording.inputs.n, *subject.shapes[block.output])
    generator = torch.Generator().manual_seed(subject.settings.seed + 2)
    probe = torch.randn(shape, generator=generator, dtype=torch.float64).to(subject.recording.value.dtype)
    back = propagate(subject.folded, subject.recording.saved, (block.output, probe), stop=block.fork)
    return _norm(back.at_one()) / math.sqrt(math.prod(shape))


def _certified(subject: Subject, block: Block) -> tuple[float | None, tuple[float, float] | None]:
    """An upper bound on the ratio for every input, and the interval it lies in.

    The mask of a ReLU behind the sum may remove everything, and a shortcut that is not the identity may annihilate a
    cotangent: only a bare identity sum has a lower end above 0, by Weyl's inequality.
    """
    found = subject.certificate(block)
    if found is None:
        return None, None
    bare = block.skip_kind == "identity" and block.output == block.join
    return found.block, (max(0.0, 1.0 - found.branch) if bare else 0.0, found.block)


def c_hat(deviations: Sequence[float], blocks: int) -> float | None:
    """median |ratio - 1| * L / ln(2L): descriptive, not a bound. None without non-transition blocks."""
    median = _median(deviations)
    return None if median is None else median * blocks / math.log(2.0 * blocks)


def _percentiles(upper: Tensor, lower: Tensor, name: str, notes: list[Note]) -> tuple[float | None, ...]:
    """5th, 50th and 95th percentile over samples of the ratio of norms; samples without a gradient are left out."""
    top, bottom = (tensor.double().flatten(1).norm(dim=1) for tensor in (upper, lower))
    alive = bottom > 0
    if not bool(alive.all()):
        count = int((~alive).sum())
        notes.append(
            Note(code="dead_samples", message=f"{count} samples have no gradient here and are left out", where=name)
        )
    if not bool(alive.any()):
        return None, None, None
    ratios = top[alive] / bottom[alive]
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    return tuple(torch.quantile(ratios, levels).tolist())


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def _quotient(a: float, b: float) -> float | None:
    return a / b if b > 0.0 else None


def _median(values: Sequence[float]) -> float | None:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5)) if values else None
