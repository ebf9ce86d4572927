"""From a covering number to a probability: the margin bound, its tail, and the margin at which it is taken.

Source   after Bartlett, Foster, Telgarsky 2017 (arXiv 1706.08498, Lemma 3.1) and He, Liu, Tao 2019 (arXiv 1904.01367);
         the ramp's constant sqrt 2, the best resolution and the constants of Dudley's integral are derived (theory
         note `bound`, 1.6); ln(2 / delta) is the empirical Rademacher form, recalled, text not seen.
Formula  error <= risk(margin) + chaining + 3 sqrt((ln(sides / delta) + union) / (2N))
         chaining  8 / N^(3/2) + (36 / N) Q ln N              resolution 1/N
                   (24 Q / N) (1 + ln(N / (3 Q)))             best resolution, if 3 Q < N; `strict` takes the smaller
         Q         ceil * (lipschitz / margin) sqrt(R),   sqrt(R) = C x_rms sqrt(N d)
Symbols  C  spectral complexity;   N  training examples;   d  entries of an input;   x_rms  root mean square of an entry
         lipschitz  of the ramp as a function of the outputs, in l2, times the margin: 2 as published, sqrt 2 is sharp
         ceil       sqrt 2 pays for the ceilings of the cover's cardinality, which the published form leaves out
Status   certified under `strict` for norms, margin and N fixed in advance; `paper` is the published form.
Scale    all in natural logarithms: R itself overflows at depth 56.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnet_audit.measure.lipschitz import log
from resnet_audit.theory.norm_grid import Rounded, power, round_down

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from resnet_audit.settings import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The constants of a preset. sides: of delta in the tail; best_resolution: whether the better chaining is taken."""

    lipschitz: float
    ceil: float
    sides: float
    best_resolution: bool


FORMS: Mapping[Preset, Form] = {
    "paper": Form(lipschitz=2.0, ceil=1.0, sides=1.0, best_resolution=False),
    "strict": Form(lipschitz=math.sqrt(2.0), ceil=math.sqrt(2.0), sides=2.0, best_resolution=True),
}
"""`paper`: BFT Lemma 3.1 and Theorem 3.3 as published. `strict`: theory note `bound`, 1.2 (b), (c) and 1.6."""

MOST_MARGINS = 40
"""Margins that a grid holds at most; theory note `bound`, 2.5, asks for a grid and leaves its size open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the bound needs to know of the training set. count: N >= 1; dimension: d >= 1; x_rms > 0, of one entry."""

    count: int
    dimension: int
    x_rms: float = 1.0

    @property
    def log_norm(self) -> float:
        """ln ||X||_F = ln(x_rms sqrt(N d))."""
        return math.log(self.x_rms) + 0.5 * (math.log(self.count) + math.log(self.dimension))


# the complexity ------------------------------------------------------------------------------------------------------


def log_ramp_complexity(log_c: float, sample: Sample, *, margin: float, form: Form) -> float:
    """ln Q: the root of the covering constant of the ramp of the margin, ceilings paid for."""
    return log_c + sample.log_norm + math.log(form.ceil * form.lipschitz / margin)


def log_complexity_term(log_c: float, sample: Sample, *, margin: float, form: Form) -> float:
    """ln((36 / N) Q ln N), the part of the bound that the norms make. The same under both presets at equal norms."""
    n = sample.count
    return (
        math.log(36.0) + log_ramp_complexity(log_c, sample, margin=margin, form=form) + log(math.log(n)) - math.log(n)
    )


def log_best_resolution(log_q: float, n: int) -> float:
    """ln((24 Q / N) (1 + ln(N / (3 Q)))), chaining from the best resolution 3 Q / sqrt N; inf where 3 Q >= N.

    Derived: 2 min over alpha of 4 alpha / sqrt N + (12 Q / N) ln(sqrt N / alpha), with alpha at most sqrt N.
    """
    room = math.log(n) - math.log(3.0) - log_q
    if room <= 0.0:
        return math.inf
    return -math.inf if log_q == -math.inf else math.log(24.0) + log_q - math.log(n) + math.log1p(room)


def log_chaining(log_c: float, sample: Sample, *, margin: float, form: Form) -> float:
    """ln of twice the Rademacher complexity's bound, by the form's rule."""
    log_q = log_ramp_complexity(log_c, sample, margin=margin, form=form)
    plain = float(
        np.logaddexp(
            math.log(8.0) - 1.5 * math.log(sample.count), log_complexity_term(log_c, sample, margin=margin, form=form)
        )
    )
    return min(plain, log_best_resolution(log_q, sample.count)) if form.best_resolution else plain


def log_n_needed(log_c: float, *, dimension: int, x_rms: float, margin: float, form: Form) -> float:
    """ln of the N from which the complexity term stays at most 1: 36 ceil lip C x_rms sqrt(d) ln N = margin sqrt N."""
    one = Sample(count=1, dimension=dimension, x_rms=x_rms)
    rest = math.log(36.0) + log_ramp_complexity(log_c, one, margin=margin, form=form)
    # (ln N) / sqrt N rises to its top 2 / e at ln N = 2 and falls from there.
    if rest + math.log(2.0) - 1.0 <= 0.0:
        return 0.0
    low, high = 2.0, 4.0
    while rest + math.log(high) - high / 2.0 > 0.0:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rest + math.log(middle) - middle / 2.0 > 0.0 else (low, middle)
    return high


def log_margin_needed(log_c: float, sample: Sample, *, form: Form) -> float:
    """ln of the margin at which the complexity term is 1 with this many examples; -inf where it is 0 at any margin."""
    return log_complexity_term(log_c, sample, margin=1.0, form=form)


# the bound -----------------------------------------------------------------------------------------------------------


def tail(n: int, delta: float, form: Form, *, union: float = 0.0) -> float:
    """3 sqrt((ln(sides / delta) + union) / (2N)), the price of failing with probability delta at most.

    union: nats, from `norm_grid`.
    """
    return 3.0 * math.sqrt((math.log(form.sides / delta) + union) / (2.0 * n))


def log_bound(  # noqa: PLR0913 - the network's number, the data's, and what the user chooses
    log_c: float,
    sample: Sample,
    *,
    margin: float,
    risk: float,
    delta: float,
    form: Form,
    union: float = 0.0,
) -> float:
    """ln of the whole bound at one margin. risk: the empirical margin risk there; union: nats, `norm_grid`."""
    rest = risk + tail(sample.count, delta, form, union=union)
    return float(np.logaddexp(log(rest), log_chaining(log_c, sample, margin=margin, form=form)))


def bound(log_value: float) -> float | None:
    """The bound on the error from its logarithm, or None where it is vacuous: at least 1."""
    return math.exp(log_value) if log_value < 0.0 else None


# margins -------------------------------------------------------------------------------------------------------------


def ramp_risk(margins: ArrayLike, margin: float) -> float:
    """The mean over examples of the ramp: 0 for M >= margin, 1 - M / margin between, 1 for M <= 0.

    margins: M of every example, the score of its label minus the best other score; array or CPU tensor, any shape.
    Raises ValueError for no examples or NaN.
    """
    return float(np.clip(1.0 - _values(margins) / margin, 0.0, 1.0).mean())


def margin_grid(
    margins: ArrayLike, layers: int, *, low: float = 0.01, high: float = 0.99, most: int = MOST_MARGINS
) -> tuple[Rounded, ...]:
    """Margins (1 + 1/L)^k between the quantiles `low` and `high` of the positive margins, ascending; () if none is.

    Each costs its own nats in the tail, because it is chosen after the data were seen. Of more than `most`, both ends
    and margins evenly apart in k between them are kept: which ones are tried is free, every k is paid for in advance.
    Raises ValueError for no examples or NaN.
    """
    values = _values(margins)
    positive = values[(values > 0.0) & (values < math.inf)]
    if not positive.size:
        return ()
    first, last = (round_down(float(np.quantile(positive, share)), layers).index or 0 for share in (low, high))
    count = min(last - first + 1, most)
    indices = np.unique(np.linspace(first, last, count).round().astype(int)).tolist()
    return tuple(Rounded(value=power(index, layers), index=index) for index in indices)


def _values(margins: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(margins, dtype=np.float64).ravel()
    if not values.size or np.isnan(values).any():
        raise ValueError("the margins of no example, or NaN among them, give no risk")
    return values
