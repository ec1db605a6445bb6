"""
How much of the data the gradient uses, and how old that data is. Pure functions of tensors; they never touch a logger.

Below, ``multiplier`` is g, the share of a sample's gradient that survives, and ``log_ratio`` is x = ln π − ln μ. Both have
shape (batch,), or (batch, dimensions) when every action dimension has a ratio of its own; ``lags`` is (batch,).
"""

import math

import numpy as np
import torch as th

__all__ = [
    "LAG_BUCKETS",
    "contribution_by_lag",
    "dead_fraction",
    "effective_sample_size",
    "summary",
    "suppressed_fraction",
    "truncation",
]

# First lag of each bucket: fresh, a few versions, and the published windows of 20 and 40 rollouts and beyond.
LAG_BUCKETS = (0, 1, 5, 20, 40)
_SUPPRESSED = 1e-3


def dead_fraction(multiplier: th.Tensor) -> th.Tensor:
    """
    The share of samples whose gradient is exactly zero. Utilization collapse is its tending to 1.

    :param multiplier: g ≥ 0
    :return: in [0, 1]; underflow to zero counts as dead
    """
    return (multiplier == 0).float().mean()


def suppressed_fraction(log_trust_weight: th.Tensor) -> th.Tensor:
    """
    The share of samples with a trust weight ω < 1e-3: not dead, but as good as.

    :param log_trust_weight: ln ω
    :return: in [0, 1], never less than the share that the surrogate drops
    """
    return (log_trust_weight < math.log(_SUPPRESSED)).float().mean()


def effective_sample_size(multiplier: th.Tensor) -> th.Tensor:
    """
    (Σg)²/(NΣg²): the share of equally weighted samples that would have the variance of these weights.

    :param multiplier: g ≥ 0, N elements
    :return: in [0, 1], 1 when all are equal, 0 when all are zero
    """
    weights = multiplier.double()  # squares of float32 multipliers can overflow in float32
    squares = (weights**2).sum().clamp(min=th.finfo(weights.dtype).tiny)
    return weights.sum() ** 2 / (weights.numel() * squares)


def contribution_by_lag(multiplier: th.Tensor, advantages: th.Tensor, lags: th.Tensor) -> th.Tensor:
    """
    The share of Σ|gA| that comes from each bucket of :data:`LAG_BUCKETS`: which ages of data move the policy.

    :param multiplier: g ≥ 0
    :param advantages: A, broadcasting against g
    :param lags: policy versions since collection, ≥ 0
    :return: (len(LAG_BUCKETS),), each in [0, 1], with sum 1, or all 0 when no sample contributes
    """
    contribution = (multiplier * advantages).abs().double().reshape(len(lags), -1).sum(dim=1)
    starts = th.tensor(LAG_BUCKETS, device=lags.device)
    member = (
        th.bucketize(lags, starts, right=True).unsqueeze(0)
        == th.arange(1, len(LAG_BUCKETS) + 1, device=lags.device)[:, None]
    )
    by_bucket = (member * contribution).sum(dim=1)
    return by_bucket / by_bucket.sum().clamp(min=th.finfo(by_bucket.dtype).tiny)


def truncation(log_ratio: th.Tensor, log_trust_weight: th.Tensor) -> th.Tensor:
    """
    The estimate of E[ρ(1−ω)], the share of the learned policy's probability that the trust weight hides. Times
    A_max/(1−γ) it is the truncation term of :func:`~sb3_gipo.bounds.performance_lower_bound`, which estimates the same
    as 1 − E[g].

    :param log_ratio: x
    :param log_trust_weight: ln ω
    :return: ≥ 0, 0 where every sample is trusted, at most 1 in expectation; inf where ρ overflows
    """
    # As one exponential, like the multiplier: ρ·(1 − ω) would be inf·0 where ρ overflows and ω = 1. SAPO's ω, a product
    # of two rounded numbers, may come out a little above 1.
    hidden = -th.expm1(log_trust_weight.clamp(max=0.0))
    return th.exp(log_ratio + th.log(hidden)).mean()


def summary(
    log_ratio: th.Tensor, log_trust_weight: th.Tensor, multiplier: th.Tensor, advantages: th.Tensor, lags: th.Tensor
) -> dict[str, float]:
    """
    All of the above and the quantiles of x, |x| and the lag, under the names they are logged by (docs/metrics.md).

    :param log_ratio: x
    :param log_trust_weight: ln ω
    :param multiplier: g
    :param advantages: A, broadcasting against g
    :param lags: policy versions since collection, ≥ 0
    :return: name → value
    """
    age = lags.float()
    x_quantiles = dict(zip(("p05", "p50", "p95"), _quantiles(log_ratio, 0.05, 0.5, 0.95), strict=True))
    shares = contribution_by_lag(multiplier, advantages, lags).tolist()
    return {
        "lag_mean": age.mean().item(),
        "lag_p95": _quantiles(lags, 0.95)[0],
        "lag_max": age.max().item(),
        "dead_fraction": dead_fraction(multiplier).item(),
        "suppressed_fraction": suppressed_fraction(log_trust_weight).item(),
        "ess": effective_sample_size(multiplier).item(),
        "truncation": truncation(log_ratio, log_trust_weight).item(),
        **{f"log_ratio_{name}": value for name, value in x_quantiles.items()},
        "log_ratio_abs_p95": _quantiles(log_ratio.abs(), 0.95)[0],
        "log_ratio_abs_max": log_ratio.abs().max().item(),
        **{f"contribution_lag_{start}": share for start, share in zip(LAG_BUCKETS, shares, strict=True)},
    }


def _quantiles(numbers: th.Tensor, *levels: float) -> list[float]:
    # th.quantile refuses more than 2**24 numbers: an iteration of 256 environments has as many.
    return np.quantile(numbers.cpu().numpy(), levels).tolist()
