"""A folded layer computes what the layer and its batch normalisation compute."""

from __future__ import annotations

import pytest
import torch
from linear_oracles import kernel
from torch.nn import functional

from resnet_audit.linear import fold_batch_norm


def statistics(channels: int) -> dict[str, torch.Tensor]:
    return {"mean": kernel(channels, seed=3), "var": kernel(channels, seed=4).square()}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_folded_convolution_is_convolution_then_norm(affine: bool, biased: bool, groups: int) -> None:  # noqa: FBT001
    weight, images = kernel(6, 4 // groups, 3, 3), kernel(2, 4, 7, 5, seed=9)
    bias = kernel(6, seed=1) if biased else None
    gamma, beta = (kernel(6, seed=5), kernel(6, seed=6)) if affine else (None, None)
    running = statistics(6)
    plain = functional.conv2d(images, weight, bias, 1, 1, 1, groups)
    expected = functional.batch_norm(plain, running["mean"], running["var"], gamma, beta, training=False, eps=1e-3)
    folded, shift = fold_batch_norm(weight, bias, gamma=gamma, beta=beta, **running, eps=1e-3)
    torch.testing.assert_close(functional.conv2d(images, folded, shift, 1, 1, 1, groups), expected, rtol=0, atol=1e-12)


def test_a_folded_linear_layer_is_linear_then_norm() -> None:
    weight, bias, inputs, running = kernel(6, 4), kernel(6, seed=1), kernel(8, 4, seed=9), statistics(6)
    expected = functional.batch_norm(functional.linear(inputs, weight, bias), running["mean"], running["var"], eps=1e-5)
    folded, shift = fold_batch_norm(weight, bias, gamma=None, beta=None, **running, eps=1e-5)
    torch.testing.assert_close(functional.linear(inputs, folded, shift), expected, rtol=0, atol=1e-12)


def test_folding_is_unchanged_by_a_scale_that_the_norm_undoes() -> None:
    weight, running, affine = kernel(6, 4, 3, 3), statistics(6), {"gamma": kernel(6, seed=5), "beta": kernel(6, seed=6)}
    first = fold_batch_norm(weight, None, **affine, **running, eps=0.0)
    second = fold_batch_norm(5 * weight, None, **affine, mean=5 * running["mean"], var=25 * running["var"], eps=0.0)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_stored_half_precision_is_folded_in_float64() -> None:
    running = {name: value.half() for name, value in statistics(6).items()}
    folded, shift = fold_batch_norm(kernel(6, 4, 3, 3).half(), None, gamma=None, beta=None, **running, eps=1e-5)
    assert folded.dtype == shift.dtype == torch.float64


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="mean has 5 entries and the weight has 6 output channels"):
        fold_batch_norm(kernel(6, 4), None, gamma=None, beta=None, mean=kernel(5), var=torch.ones(6), eps=1e-5)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_a_variance_that_is_not_positive_is_refused(variance: float) -> None:
    var = torch.full((6,), variance)
    with pytest.raises(ValueError, match="not positive"):
        fold_batch_norm(kernel(6, 4), None, gamma=None, beta=None, mean=torch.zeros(6), var=var, eps=0.0)
