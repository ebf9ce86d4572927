"""Batch normalisation folded into the linear map before it.

Source     standard; in evaluation mode a batch normalisation is y -> gamma (y - mean) / sqrt(var + eps) + beta.
Formula    K'[o] = K[o] a_o,   c'_o = beta_o + (c_o - mean_o) a_o,   a_o = gamma_o / sqrt(var_o + eps)
Symbols    K  weight, c  bias, o  output channel (the first axis of the weight)
Guarantee  exact up to float64 rounding, for the running statistics; it says nothing of training mode.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold_batch_norm(  # noqa: PLR0913 - a batch normalisation is five numbers a channel
    weight: Tensor,
    bias: Tensor | None,
    *,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution or linear layer followed by a batch normalisation.

    weight: (c_out, ...); bias, gamma, beta, mean, var: (c_out,). None stands for 0, 1 and 0 (bias, gamma, beta).
    The weight of a transposed convolution has c_out on its second axis: the caller transposes it.
    Raises ValueError if a vector does not have c_out entries, or if var + eps is not positive everywhere.
    """
    channels = weight.shape[0]
    spread = _vector(var, channels, "var", 1.0) + eps
    if not bool((spread > 0).all()):
        raise ValueError("a running variance plus eps is not positive; the batch normalisation cannot be folded")
    gain = _vector(gamma, channels, "gamma", 1.0) / spread.sqrt()
    centred = _vector(bias, channels, "bias", 0.0) - _vector(mean, channels, "mean", 0.0)
    # One copy in place: all folded weights of a network are held at once.
    folded = weight.detach().to(device="cpu", dtype=torch.float64, copy=True)
    folded *= gain.reshape(-1, *[1] * (weight.dim() - 1))
    return folded, _vector(beta, channels, "beta", 0.0) + centred * gain


def _vector(given: Tensor | None, channels: int, name: str, default: float) -> Tensor:
    if given is None:
        return torch.full((channels,), default, dtype=torch.float64)
    if given.numel() != channels:
        raise ValueError(f"{name} has {given.numel()} entries and the weight has {channels} output channels")
    return given.detach().to(device="cpu", dtype=torch.float64).reshape(channels)
