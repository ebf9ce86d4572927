"""The result of `ensemble`."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_audit.results.common import InputsUsed, Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Shares by path depth (index = depth). Only `projection` is additive; it can be negative."""

    norm: tuple[float, ...]
    energy: tuple[float, ...]
    projection: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoherent:
    """Shares by path depth if paths did not interfere: an estimate from random signs.

    coherence: energy of each depth over that without interference; None where that is 0.
    """

    energy: tuple[float, ...]
    coherence: tuple[float | None, ...]
    mean: float
    standard_error: float | None
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Veit:
    """Shares by path depth, in blocks, as numbers of paths times mean norms of sampled ones: an estimate."""

    distribution: tuple[float, ...]
    mean: float
    standard_error: float
    p05: int
    p95: int
    paths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedShares:
    """Shares by path depth (index = depth), predicted."""

    energy: tuple[float, ...] | None = None
    amplitude: tuple[float, ...] | None = None
    binomial: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Mean depths predicted from weights alone (binomial: by counting paths), and their distributions."""

    energy: float | None = None
    amplitude: float | None = None
    binomial: float | None = None
    distribution: PredictedShares = PredictedShares()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpinGlass:
    """The spin-glass model with the gains of the blocks. beta: one for each block; mode and mean count the stem."""

    beta: tuple[float | None, ...] = ()
    mode: int | None = None
    mean: float | None = None
    theta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleBlock:
    """Gains of one block on the true gradient."""

    name: str
    branch_gain: float | None
    skip_gain: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleResult:
    """The exact distribution of the gradient over path depth, at the input of the first block.

    With `--fast` only what needs no distribution; `incoherent` and `veit` only if asked for, and `missing_mass` only
    of a distribution that was cut at some depth.
    """

    unit: str
    objective: str
    inputs: InputsUsed
    identity_residual: float
    distribution: Distribution | None
    depth_mean: float | None
    depth_mode: int | None
    depth_p05: int | None
    depth_p95: int | None
    projection_mean: float | None
    projection_sd: float | None = None
    cancellation: float | None
    incoherent: Incoherent | None = None
    veit: Veit | None = None
    missing_mass: float | None = None
    predicted: Predicted = Predicted()
    spin_glass: SpinGlass = SpinGlass()
    blocks: tuple[EnsembleBlock, ...]
    notes: tuple[Note, ...] = ()
