"""
Choosing the width σ of the Gaussian trust weight from log-ratios: a tool, not a claim that the chosen σ learns best.
"""

import math

import torch as th

from sb3_gipo.surrogates import GaussianTrust

__all__ = ["suggest_sigma"]

#: Widths tried per decade: neighbours differ by 5 %.
_PER_DECADE = 48


def suggest_sigma(log_ratios: th.Tensor, target_ess: float = 0.5) -> float:
    """
    The smallest width σ of :class:`~sb3_gipo.surrogates.GaussianTrust` whose multiplier g has a wanted effective sample
    size ESS(σ) = (Σg)²/(NΣg²).

    ESS(σ) is not monotone. As σ → 0 the samples nearest to ρ = 1 are left alone, and ESS tends to 1/N (to their share,
    if several are equally near). As σ grows ESS rises to a peak, which may lie below 1; beyond it the heavy tail of ρ
    lets it fall again to the ESS of plain importance sampling. So a wanted ESS is reached never, once or several times.
    The smallest such σ is well defined, its ESS is ``target_ess``, it never falls when ``target_ess`` rises, and of all
    widths with that ESS it has the smallest multiplier bound e^{σ²/2}: the Hoeffding radius of ``bounds.py`` is the
    least. The price is the largest truncation E[ρ(1−ω)]. "Smallest" is up to the grid that is searched: 48 widths per
    decade, from 1e-4 of the median non-zero |x| to 1e4 times the largest, then bisection.

    Both signs of the advantage get the same width (``sigma_neg_ratio`` = 1), and log-ratios of one ratio level: σ does
    not transfer between ``joint`` and ``dimension``. The ESS counts spread of weights only, not correlation in time.

    :param log_ratios: x = ln π(a|s) − ln μ(a|s) of stale samples, any shape; all elements count alike
    :param target_ess: wanted ESS, in (0, 1]
    :return: σ > 0, in units of the log-ratio
    :raises ValueError: if ``target_ess`` is out of range, the log-ratios are none, not finite or all equal in size (σ
        then has no effect), or no width reaches the target: the message names the reachable range
    """
    if not 0 < target_ess <= 1:
        raise ValueError(f"target_ess must be in (0, 1], got {target_ess!r}")
    x = log_ratios.detach().flatten().to(th.float64)
    if not (len(x) and x.isfinite().all()):
        raise ValueError(
            f"log_ratios must be finite and not empty, got {len(x)} of which {int(x.isfinite().sum())} finite"
        )
    distances = x.abs()
    if distances.max() == distances.min():
        raise ValueError(f"all {len(x)} log-ratios have the same size |x| = {distances[0].item():.6g}: σ has no effect")

    narrowest, widest = 1e-4 * distances[distances > 0].median().item(), 1e4 * distances.max().item()
    points = 1 + math.ceil(_PER_DECADE * math.log10(widest / narrowest))
    widths = th.logspace(math.log10(narrowest), math.log10(widest), points, dtype=th.float64).tolist()
    sizes = [_effective_sample_size(x, sigma) for sigma in widths]
    if not sizes[0] < target_ess <= max(sizes):
        best = max(sizes)
        raise ValueError(
            f"target_ess={target_ess!r} is unreachable: over all widths the multiplier's effective sample size lies "
            f"above {sizes[0]:.6g} and reaches at most {best:.6g}, at sigma={widths[sizes.index(best)]:.6g}"
        )
    above = next(i for i, size in enumerate(sizes) if size >= target_ess)
    low, high = widths[above - 1], widths[above]
    # The bracket does not depend on the target, so bisection keeps the result monotone in it.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _effective_sample_size(x, middle) >= target_ess else (middle, high)
    return high


def _effective_sample_size(log_ratios: th.Tensor, sigma: float) -> float:
    """In log space: for a narrow σ every multiplier may underflow."""
    trust = GaussianTrust(sigma)
    log_multipliers = log_ratios + trust.log_trust_weight(log_ratios, th.ones_like(log_ratios))
    log_ess = 2 * th.logsumexp(log_multipliers, 0) - th.logsumexp(2 * log_multipliers, 0) - math.log(len(log_ratios))
    return math.exp(min(log_ess.item(), 0.0))
