"""The exact distribution of the gradient over path depth.

Source   derived; the question is that of Veit et al. 2016 (arXiv 1605.06431) and Littwin, Wolf 2016 (arXiv 1611.02525).
Formula  g = sum_k c_k,   c_k = [z^k] (S_1 + z B_1) D_1 ... (S_L + z B_L) D_L g_out
Symbols  c_k  the part of the gradient at the first block's input that passed exactly k branches (unit `blocks`) or k
              weight layers (unit `layers`)
Shares   norm ||c_k|| / sum ||c_j||,  energy ||c_k||^2 / sum ||c_j||^2,  projection <c_k, g> / ||g||^2 (additive,
         signed); all pooled over samples by sums of squares
Reads    depth_mean is the effective depth; cancellation ||g|| / sum ||c_k|| is 1 where paths do not interfere.
Status   exact; identity_residual ||sum c_k - g|| / ||g|| compares with the gradient of torch's autograd. `incoherent`
         and `veit` are estimates from random draws, `predicted` and `spin_glass` come from the weights alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.measure.decomposition import decompose
from resnet_audit.measure.dual import dual_moments
from resnet_audit.measure.shares import mean, quantile
from resnet_audit.results import Distribution, EnsembleBlock, EnsembleResult, Note
from resnet_audit.theory import spin_glass
from resnet_audit.theory.path_prediction import gains_of, predict
from resnet_audit.theory.path_statistics import incoherent, veit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resnet_audit.graph.blocks import Block
    from resnet_audit.measure import Subject
    from resnet_audit.measure.decomposition import Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the backward pass gives: with the parts of every depth, or (fast) with the projections' moments alone."""

    identity_residual: float = 0.0
    distribution: Distribution | None = None
    projection_mean: float | None = None
    projection_sd: float | None = None
    cancellation: float | None = None
    missing_mass: float | None = None
    blocks: tuple[EnsembleBlock, ...] = ()


def analyse(subject: Subject) -> EnsembleResult:
    """The depth distribution in the subject's unit. Raises UsageError, NotRunnable, NonFinite, NoRule."""
    settings, notes = subject.settings, list(subject.notes)
    subject.graph.require_runnable()
    energies: Sequence[float] = ()
    if settings.fast:
        measured = _fast(subject, notes)
    else:
        moments = decompose(subject, settings.max_depth)
        measured = _by_depth(moments, settings.max_depth, notes)
        energies = moments.squares.tolist()
    gains = gains_of(subject, notes)
    norm = measured.distribution.norm if measured.distribution else None
    return EnsembleResult(
        unit=settings.unit,
        objective=settings.objective,
        inputs=subject.recording.inputs,
        identity_residual=measured.identity_residual,
        distribution=measured.distribution,
        depth_mean=mean(norm) if norm else None,
        depth_mode=int(np.argmax(norm)) if norm else None,
        depth_p05=quantile(norm, 0.05) if norm else None,
        depth_p95=quantile(norm, 0.95) if norm else None,
        projection_mean=measured.projection_mean,
        projection_sd=measured.projection_sd,
        cancellation=measured.cancellation,
        incoherent=incoherent(subject, energies, notes) if settings.veit else None,
        veit=veit(subject, notes) if settings.veit else None,
        missing_mass=measured.missing_mass,
        predicted=predict(subject, gains, notes),
        spin_glass=spin_glass.of_gains(gains),
        blocks=tuple(measured.blocks or _of_passages(subject)),
        notes=tuple(notes),
    )


def _by_depth(moments: Moments, limit: int | None, notes: list[Note]) -> Measured:
    norms = np.sqrt(moments.squares)
    if not norms.sum() > 0.0 or not moments.total_square > 0.0:
        notes.append(_no_gradient())
        return Measured()
    kept = slice(0, None if limit is None else limit + 1)
    missing = None if limit is None else float(norms[limit + 1 :].sum() / np.sqrt(moments.total_square))
    projection = (moments.products / moments.total_square)[kept]
    whole = len(projection) == len(norms)
    residual = float(np.sqrt(moments.residual_square / moments.reference_square))
    if not whole:
        message = f"only depths up to {limit}: shares, means and quantiles leave out what missing_mass says"
        notes.append(Note(code="truncated", message=message))
    if not norms[kept].sum() > 0.0:
        notes.append(Note(code="no_gradient", message=f"no gradient passes paths of depth up to {limit}"))
        return Measured(identity_residual=residual, missing_mass=missing)
    depths = np.arange(len(projection))
    first, second = float(depths @ projection), float(depths**2 @ projection)
    return Measured(
        identity_residual=residual,
        distribution=Distribution(
            norm=tuple((norms[kept] / norms[kept].sum()).tolist()),
            energy=tuple((moments.squares[kept] / moments.squares[kept].sum()).tolist()),
            projection=tuple(projection.tolist()),
        ),
        # Truncated projections do not add to 1: their moments would be those of nothing.
        projection_mean=first if whole else None,
        projection_sd=_deviation(first, second) if whole else None,
        cancellation=float(np.sqrt(moments.total_square) / norms.sum()) if whole else None,
        missing_mass=missing,
    )


def _fast(subject: Subject, notes: list[Note]) -> Measured:
    moments = dual_moments(subject)
    norms = np.sqrt(moments.blocks).tolist()
    blocks = tuple(_gains(block, *seen) for block, seen in zip(subject.blocks, norms, strict=True))
    if not moments.total_square > 0.0:
        notes.append(_no_gradient())
        return Measured(blocks=blocks)
    message = "--fast: mean and spread of the projections alone; shares by depth need the run without it"
    notes.append(Note(code="fast", message=message))
    first, second = moments.first / moments.total_square, moments.second / moments.total_square
    return Measured(
        identity_residual=math.sqrt(moments.residual_square / moments.reference_square),
        projection_mean=first,
        projection_sd=_deviation(first, second + first),
        blocks=blocks,
    )


def _no_gradient() -> Note:
    return Note(code="no_gradient", message="the gradient is zero, so it has no distribution")


def _deviation(first: float, second: float) -> float | None:
    """The standard deviation by the first two moments; None where negative shares leave none."""
    variance = second - first**2
    return math.sqrt(variance) if variance >= 0.0 else None


def _of_passages(subject: Subject) -> Iterator[EnsembleBlock]:
    for block, passage in zip(subject.blocks, subject.passages, strict=True):
        yield _gains(block, *(float(part.double().norm()) for part in (passage.join, passage.branch, passage.skip)))


def _gains(block: Block, at_join: float, branch: float, skip: float) -> EnsembleBlock:
    """Norm of the branch's and the shortcut's share over that of the cotangent at the sum, on the true gradient."""
    return EnsembleBlock(
        name=block.name,
        branch_gain=branch / at_join if at_join > 0.0 else None,
        skip_gain=skip / at_join if at_join > 0.0 else None,
    )
