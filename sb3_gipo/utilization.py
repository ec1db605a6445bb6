"""
How much of the data the gradient uses. Pure functions from tensors to scalar tensors; they never touch a logger.
"""

import torch as th

__all__ = ["dead_fraction", "effective_sample_size", "log_ratio_quantile"]


def dead_fraction(multiplier: th.Tensor) -> th.Tensor:
    """
    The share of samples whose gradient is exactly zero. Utilization collapse is its tending to 1.

    :param multiplier: g ≥ 0, any shape
    :return: in [0, 1]; underflow to zero counts as dead
    """
    return (multiplier == 0).float().mean()


def effective_sample_size(multiplier: th.Tensor) -> th.Tensor:
    """
    (Σg)²/(NΣg²): the share of equally weighted samples that would have the variance of these weights.

    :param multiplier: g ≥ 0, any shape with N elements
    :return: in [0, 1], 1 when all are equal, 0 when all are zero
    """
    weights = multiplier.double()  # squares of float32 multipliers can overflow in float32
    squares = (weights**2).sum().clamp(min=th.finfo(weights.dtype).tiny)
    return weights.sum() ** 2 / (weights.numel() * squares)


def log_ratio_quantile(log_ratio: th.Tensor, q: float) -> th.Tensor:
    """
    :param log_ratio: x, any shape
    :param q: in [0, 1]
    :return: the q-quantile of |x|: how far the policy is from its data
    """
    return th.quantile(log_ratio.abs().flatten(), q)
