"""Products of polynomials with coefficients of any size, by their logarithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def log_product(factors: Sequence[Mapping[int, float]]) -> NDArray[np.float64]:
    """ln of the coefficients of the product, by degree; a factor maps degrees to ln of its coefficients, all >= 0.

    Gains of 1e-200 in 50 blocks neither vanish nor overflow.
    """
    product = np.zeros(1)
    for terms in factors:
        longer = np.full(len(product) + max(terms), -np.inf)
        for degree, value in terms.items():
            part = longer[degree : degree + len(product)]
            np.logaddexp(part, product + value, out=part)
        product = longer
    return product
