"""Path depths predicted from weights alone, and by counting paths.

Source   derived (theory note `gradient-ensemble`, B1); the binomial is that of Veit et al. 2016 (arXiv 1605.06431), the
         amplitudes those of Littwin, Wolf 2016 (arXiv 1611.02525).
Formula  P(z) = prod_l (s_l z^m_l + w_l z^n_l),   share_k = [z^k] P(z) / P(1)
Symbols  energy w = b^2, s = s^2 (paths uncorrelated);  amplitude w = b, s = s (paths in phase);  binomial w = s = 1
         b, s  gains of branch and shortcut on a random cotangent, from the weights
         n, m  what a path gains in depth there: 1 and 0 in units of blocks, the weight layers passed in units of layers
Reads    In units of blocks a Poisson-binomial law: p_l = w_l / (s_l + w_l), mean sum p_l, variance sum p_l (1 - p_l).
Status   a prediction. At initialisation the energy law is right; trained gradients align with the branches and their
         paths interfere, so that it is too shallow there. No law here is a bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.errors import NoRule
from resnet_audit.measure.log_polynomial import log_product
from resnet_audit.measure.series import in_series, layers_outside
from resnet_audit.measure.shares import mean
from resnet_audit.measure.weight_gains import BlockGains, block_gains
from resnet_audit.results import Note, Predicted, PredictedShares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.measure import Subject

    Shares = tuple[float, ...]


def gains_of(subject: Subject, notes: list[Note]) -> tuple[BlockGains | None, ...]:
    """The gains of every block; None, with a note, where an operation has no rule or a path need not pass the block."""
    if not in_series(subject):
        message = "some paths pass by a block, so depths are no sum over blocks and are not predicted"
        notes.append(Note(code="no_rule", message=message))
        return (None,) * len(subject.blocks)
    found: list[BlockGains | None] = []
    refused: dict[str, list[str]] = {}
    for block in subject.blocks:
        try:
            found.append(block_gains(subject, block))
        except NoRule as error:
            found.append(None)
            refused.setdefault(str(error), []).append(block.name)
    for reason, names in refused.items():
        message = f"{reason} (in {len(names)} of {len(found)} blocks, so nothing is predicted from weights)"
        notes.append(Note(code="no_rule", message=message, where=names[0]))
    return tuple(found)


def predict(subject: Subject, gains: Sequence[BlockGains | None], notes: list[Note]) -> Predicted:
    """The three laws in the subject's unit; null, with a note, where they have no rule."""
    if not in_series(subject):
        return Predicted()
    by_layers = subject.settings.unit == "layers"
    outside = layers_outside(subject) if by_layers else 0
    if outside is None:
        message = "paths outside blocks differ in their weight layers, so no law of depths is predicted in layers"
        notes.append(Note(code="no_rule", message=message))
        return Predicted()
    known = [found for found in gains if found is not None]
    complete = len(known) == len(gains)
    if not by_layers:
        known = [_in_blocks(found) for found in known]
    energy = _law([factor(found, 1.0) for found in known], outside) if complete else None
    amplitude = _law([factor(found, 0.5) for found in known], outside) if complete else None
    steps = [_steps(subject, index) if by_layers else (1, 0) for index in range(len(subject.blocks))]
    binomial = _law([_coin(*depths) for depths in steps], outside)
    return Predicted(
        energy=None if energy is None else mean(energy),
        amplitude=None if amplitude is None else mean(amplitude),
        binomial=None if binomial is None else mean(binomial),
        distribution=PredictedShares(energy=energy, amplitude=amplitude, binomial=binomial),
    )


def factor(gains: BlockGains, power: float) -> dict[int, float]:
    """ln of the coefficients of one block's factor, the squared gains to a power: 1 of energies, 1/2 of amplitudes."""
    found = {depth: power * value for depth, value in gains.skip.items()}
    for depth, value in gains.branch.items():
        found[depth] = float(np.logaddexp(found.get(depth, -math.inf), power * value))
    return found


def _law(factors: Sequence[dict[int, float]], outside: int) -> Shares | None:
    """The normalised coefficients, `outside` degrees higher; None where nothing passes at all."""
    logs = log_product([{outside: 0.0}, *factors])
    total = np.logaddexp.reduce(logs)
    return tuple(np.exp(logs - total).tolist()) if total > -math.inf else None


def _in_blocks(gains: BlockGains) -> BlockGains:
    """The same gains with one step of depth for the branch, whatever its layers."""
    branch, skip = (float(np.logaddexp.reduce(list(side.values()))) for side in (gains.branch, gains.skip))
    return BlockGains(branch={1: branch}, skip={0: skip})


def _steps(subject: Subject, index: int) -> tuple[int, int]:
    """Weight layers on the longest path through a block's branch, and all of its shortcut."""
    block = subject.graph.blocks[index]
    return block.weight_layers, len(block.skip_layers)


def _coin(branch: int, skip: int) -> dict[int, float]:
    """Branch and shortcut with the same weight."""
    return {branch: 0.0, skip: 0.0} if branch != skip else {branch: math.log(2.0)}
