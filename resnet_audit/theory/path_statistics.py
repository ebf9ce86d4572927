"""The depth distributions that others publish, for comparison with the exact one.

Source   Veit et al. 2016 (arXiv 1605.06431), section 5; the incoherent energies are derived (theory note
         `gradient-ensemble`, B3).
Formula  veit: C(L, k) * mean_S ||g_S||;   incoherent: sum_{|S| = k} ||g_S||^2;   each divided by its sum over k
Symbols  g_S  the gradient that came back through the branches in S and the shortcuts of all other blocks
Reads    veit adds norms as if all paths of a depth were in phase; incoherent adds energies as if none were correlated.
         coherence  ||c_k||^2 over the incoherent energy: how far the paths of depth k truly add up
Status   estimates from random paths and random signs, with standard errors of their means.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.measure.path_sampling import sample_paths
from resnet_audit.measure.random_signs import incoherent_energies, mean_and_error
from resnet_audit.measure.series import in_series
from resnet_audit.measure.shares import mean, quantile
from resnet_audit.results import Incoherent, Note, Veit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resnet_audit.measure import Subject


def incoherent(subject: Subject, exact: Sequence[float], notes: list[Note]) -> Incoherent | None:
    """Energies by depth without interference. exact: the energies ||c_k||^2 that coherence compares, or none.

    None where no gradient comes back. Raises NotRunnable, NonFinite, NoRule.
    """
    draws = incoherent_energies(subject)
    energies = draws.mean(0)
    if not energies.sum() > 0.0:
        notes.append(Note(code="no_gradient", message="no energy comes back, so incoherent is null"))
        return None
    centre, error = mean_and_error(draws)
    # Beyond a limit of depth `exact` has one number for all deeper parts, which compares with none here.
    comparable = exact if len(exact) == len(energies) else ()
    return Incoherent(
        energy=tuple((energies / energies.sum()).tolist()),
        coherence=tuple(a / b if b > 0.0 else None for a, b in zip(comparable, energies.tolist(), strict=False)),
        mean=centre,
        standard_error=error,
        draws=len(draws),
    )


def veit(subject: Subject, notes: list[Note]) -> Veit | None:
    """Veit's statistic, in units of blocks whatever the subject's unit; None, with a note, where paths are not subsets.

    Raises NotRunnable, NonFinite, NoRule.
    """
    if not in_series(subject):
        message = "some paths pass by a block, so paths are no subsets of the blocks and veit is null"
        notes.append(Note(code="no_rule", message=message))
        return None
    sampled = sample_paths(subject)
    logs = sampled.log_weights
    total = np.logaddexp.reduce(logs)
    if total == -math.inf:
        notes.append(Note(code="no_gradient", message="no gradient comes back along the sampled paths: veit is null"))
        return None
    shares = np.exp(logs - total)
    centre = mean(shares)
    deviations = (np.arange(len(shares)) - centre) * shares * sampled.relative_errors
    return Veit(
        distribution=tuple(shares.tolist()),
        mean=centre,
        standard_error=float(np.linalg.norm(deviations)),
        p05=quantile(shares, 0.05),
        p95=quantile(shares, 0.95),
        paths=sampled.norms.shape[1],
    )
