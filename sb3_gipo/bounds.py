"""
The theory's numbers: how far an estimate of the surrogate can be off, and how much improvement a surrogate promises.

``docs/theory.md`` states and proves everything here. Notation: learned policy π, behavior policy μ, importance ratio
ρ = π/μ, log-ratio x = ln ρ, trust weight ω in [0, 1], multiplier g = ρ·ω, advantage A, discount γ. Everything is plain
numbers: a multiplier comes from ``surrogates.py``, so that a bound is about the code that trains.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "LowerBound",
    "hoeffding_radius",
    "lower_bound_radius",
    "multiplier_bound",
    "multiplier_peak",
    "performance_lower_bound",
    "samples_for_radius",
    "sigma_for_radius",
]


def multiplier_bound(sigma: float) -> float:
    """
    The largest value of the Gaussian multiplier exp(x − x²/2σ²) over all x: e^{σ²/2} (docs/theory.md, lemma 1).

    :param sigma: width of the trust weight, in units of the log-ratio, > 0
    :return: e^{σ²/2}; inf where that exceeds a float (σ > 37)
    :raises ValueError: if sigma is not a positive finite number
    """
    _require_positive("sigma", sigma)
    return _exp(sigma**2 / 2)


def multiplier_peak(sigma: float) -> float:
    """
    Where the Gaussian multiplier reaches its largest value: x = σ² (docs/theory.md, lemma 1).

    :param sigma: width of the trust weight, in units of the log-ratio, > 0
    :return: the log-ratio x = σ²
    :raises ValueError: if sigma is not a positive finite number
    """
    _require_positive("sigma", sigma)
    return sigma**2


def hoeffding_radius(
    advantage_bound: float, sigma: float, samples: int, delta: float = 0.05, sigma_neg_ratio: float = 1.0
) -> float:
    """
    How far the mean Ĵ of N Gaussian surrogates g·A can be from its expectation: |Ĵ − E Ĵ| ≤ radius with probability at
    least 1 − δ (docs/theory.md, theorem 1; Hoeffding 1963, theorem 2).

    Each surrogate lies in [−A_max·e^{σ⁻²/2}, A_max·e^{σ⁺²/2}], with σ⁺ = σ and σ⁻ = σ·r. The radius is
    A_max·(e^{σ⁺²/2} + e^{σ⁻²/2})·√(ln(2/δ)/2N), which for r = 1 is B·√(2·ln(2/δ)/N) with B = A_max·e^{σ²/2}.

    Assumes independent samples, a policy π fixed before they were drawn, and |A| ≤ A_max for every possible sample. A
    training run keeps none of the three exactly: there the radius is a yardstick. No such radius exists for the
    surrogates with an unbounded multiplier: PPO's clip (where A < 0), Cauchy, Laplace with σ > 1 and no-clip.

    :param advantage_bound: A_max, > 0
    :param sigma: width σ⁺ of the trust weight where A > 0, in units of the log-ratio, > 0
    :param samples: N, ≥ 1
    :param delta: probability δ of being outside, in (0, 1)
    :param sigma_neg_ratio: r > 0
    :return: the radius, in units of the advantage
    :raises ValueError: if an argument is out of its range
    """
    _require_samples(samples)
    return _surrogate_range(advantage_bound, sigma, sigma_neg_ratio) * math.sqrt(_log_tails(delta) / (2 * samples))


def samples_for_radius(
    radius: float, advantage_bound: float, sigma: float, delta: float = 0.05, sigma_neg_ratio: float = 1.0
) -> int:
    """
    The fewest samples for which :func:`hoeffding_radius` is at most ``radius``.

    :param radius: wanted radius, in units of the advantage, > 0
    :param advantage_bound: A_max, > 0
    :param sigma: width σ⁺, > 0
    :param delta: δ, in (0, 1)
    :param sigma_neg_ratio: r > 0
    :return: N ≥ 1
    :raises ValueError: if an argument is out of its range, or no number of samples that a float can hold is enough
    """
    _require_positive("radius", radius)
    exact = (_surrogate_range(advantage_bound, sigma, sigma_neg_ratio) / radius) * math.sqrt(_log_tails(delta) / 2)
    if exact > 1e150:
        raise ValueError(f"no practical number of samples brings the radius down to {radius!r} at sigma={sigma!r}")
    # The square's rounding may miss the smallest N by one.
    samples = max(1, math.ceil(exact**2))
    if samples > 1 and hoeffding_radius(advantage_bound, sigma, samples - 1, delta, sigma_neg_ratio) <= radius:
        samples -= 1
    elif hoeffding_radius(advantage_bound, sigma, samples, delta, sigma_neg_ratio) > radius:
        samples += 1
    return samples


def sigma_for_radius(
    radius: float, advantage_bound: float, samples: int, delta: float = 0.05, sigma_neg_ratio: float = 1.0
) -> float:
    """
    The widest σ for which N samples give a :func:`hoeffding_radius` of at most ``radius``.

    For r = 1 it is √(2·ln(radius/(A_max·√(2·ln(2/δ)/N)))).

    :param radius: wanted radius, in units of the advantage, > 0
    :param advantage_bound: A_max, > 0
    :param samples: N, ≥ 1
    :param delta: δ, in (0, 1)
    :param sigma_neg_ratio: r > 0; the result is σ⁺
    :return: σ⁺ > 0
    :raises ValueError: if an argument is out of its range, or even σ → 0 leaves a larger radius: then more samples are
        needed, and the message says how many
    """
    _require_positive("radius", radius)
    _require_positive("advantage_bound", advantage_bound)
    _require_positive("sigma_neg_ratio", sigma_neg_ratio)
    _require_samples(samples)
    # (e^u + e^{r²u})/2 = excess, with u = σ²/2, by bisection; the left side grows in u from 1.
    narrowest = advantage_bound * math.sqrt(2 * _log_tails(delta) / samples)
    excess = radius / narrowest
    if not excess > 1:
        needed = 2 * _log_tails(delta) * (advantage_bound / radius) ** 2
        raise ValueError(
            f"radius={radius!r} is unreachable with {samples} samples: every width leaves more than {narrowest:.6g}; "
            f"more than {needed:.6g} samples are needed"
        )
    low, high = 0.0, math.log(2 * excess) / max(1.0, sigma_neg_ratio**2)
    for _ in range(200):
        middle = (low + high) / 2
        if _exp(middle) + _exp(sigma_neg_ratio**2 * middle) <= 2 * excess:
            low = middle
        else:
            high = middle
    return math.sqrt(2 * low)


class LowerBound(NamedTuple):
    """The three terms of the performance lower bound, each in units of the discounted return."""

    #: E[g·A]/(1−γ), what the surrogate promises
    surrogate: float
    #: A_max·(1 − E[g])/(1−γ), what the trust weight may hide
    truncation: float
    #: 2γε/(1−γ)²·E[(1−ρ)⁺], what the change of the visited states may cost
    policy_shift: float

    @property
    def total(self) -> float:
        """The lower bound on J(π) − J(μ): surrogate − truncation − policy shift."""
        return self.surrogate - self.truncation - self.policy_shift


def performance_lower_bound(
    advantages: Sequence[float],
    log_ratios: Sequence[float],
    multipliers: Sequence[float],
    gamma: float,
    *,
    advantage_bound: float | None = None,
    expected_advantage_bound: float | None = None,
    probabilities: Sequence[float] | None = None,
) -> LowerBound:
    """
    A lower bound on the improvement J(π) − J(μ) for every surrogate with a trust weight 0 ≤ ω ≤ 1 (docs/theory.md,
    theorem 2; the policy-shift term is that of Kakade & Langford 2002 in the form of Achiam et al. 2017, corollary 1)::

        x, A = log_ratio, advantage                          # tensors of enumerated or sampled (s, a)
        g = GaussianTrust(0.5).multiplier(x, A)              # GIPO; PPOClip(0.2).multiplier(x, A) for PPO's clip
        performance_lower_bound(A.tolist(), x.tolist(), g.tolist(), gamma=0.99).total

    Equal to J(π) − J(μ) = 0 at π = μ. Exact when all pairs (s, a) are given with ``probabilities`` d^μ(s)·μ(a|s); with
    samples of d^μ and μ instead it is an unbiased estimate, and :func:`lower_bound_radius` says how far it may be off.

    Assumes A = A^μ, the advantages of the behavior policy; 0 ≤ g ≤ ρ; and A_max and ε that cover every state and
    action, also those outside the data. E[ρ(1−ω)] is computed as 1 − E[g] and the total variation distance ½·E|ρ−1| as
    E[(1−ρ)⁺]: equal where μ(a|s) > 0 wherever π(a|s) > 0, valid without that, and bounded in each sample.

    :param advantages: A^μ(s, a), one number for each of N pairs
    :param log_ratios: x = ln π(a|s) − ln μ(a|s), N numbers; −inf where π(a|s) = 0
    :param multipliers: g, N numbers ≥ 0
    :param gamma: discount factor, in [0, 1)
    :param advantage_bound: A_max ≥ max|A^μ|; None takes max|A| over what is given, which is too small on a mere sample
    :param expected_advantage_bound: ε ≥ max_s |E_{a~π} A^μ(s, a)|; None takes A_max, which always suffices
    :param probabilities: N numbers that sum to 1; None gives each pair 1/N
    :return: the three terms; their ``total`` is the bound
    :raises ValueError: if lengths differ, a number is out of its range or NaN, or a g is not in [0, ρ]
    """
    size = len(advantages)
    weights = [1 / size] * size if probabilities is None and size else list(probabilities or ())
    if not size or not size == len(log_ratios) == len(multipliers) == len(weights):
        raise ValueError(
            "advantages, log_ratios, multipliers and probabilities must have one common length ≥ 1, got "
            f"{size}, {len(log_ratios)}, {len(multipliers)} and {len(weights)}"
        )
    _require_pairs(advantages, log_ratios, multipliers)
    if not (min(weights) >= 0 and abs(math.fsum(weights) - 1) < 1e-6):
        raise ValueError(f"probabilities must be ≥ 0 and sum to 1, got a sum of {math.fsum(weights)!r}")
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1), got {gamma!r}")
    largest = max(abs(a) for a in advantages)
    a_max = largest if advantage_bound is None else advantage_bound
    if not largest <= a_max < math.inf:
        raise ValueError(f"advantage_bound must be finite and cover the largest |advantage| {largest!r}, got {a_max!r}")
    epsilon = a_max if expected_advantage_bound is None else expected_advantage_bound
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"expected_advantage_bound must be ≥ 0 and finite, got {epsilon!r}")

    promised = math.fsum(w * g * a for w, g, a in zip(weights, multipliers, advantages, strict=True))
    kept = math.fsum(w * g for w, g in zip(weights, multipliers, strict=True))
    total_variation = math.fsum(w * -math.expm1(min(x, 0.0)) for w, x in zip(weights, log_ratios, strict=True))
    return LowerBound(
        surrogate=promised / (1 - gamma),
        truncation=a_max * (1 - kept) / (1 - gamma),
        policy_shift=2 * gamma * epsilon / (1 - gamma) ** 2 * total_variation,
    )


def lower_bound_radius(
    advantage_bound: float,
    sigma: float,
    gamma: float,
    samples: int,
    delta: float = 0.05,
    sigma_neg_ratio: float = 1.0,
    expected_advantage_bound: float | None = None,
) -> float:
    """
    The finite-sample price of :func:`performance_lower_bound` for Gaussian weights: with probability at least 1 − δ
    over N independent samples of d^μ and μ, J(π) − J(μ) ≥ total − radius (docs/theory.md, theorem 3).

    Each sample's share of the bound lies in an interval of length
    A_max·max(2e^{σ⁺²/2}, e^{σ⁻²/2})/(1−γ) + 2γε/(1−γ)², times √(ln(1/δ)/2N) by the one-sided Hoeffding inequality.
    PPO's clip has no such radius: its multiplier is unbounded where A < 0.

    :param advantage_bound: A_max, > 0, the same as given to the bound
    :param sigma: width σ⁺ of the trust weight where A > 0, > 0
    :param gamma: discount factor, in [0, 1)
    :param samples: N, ≥ 1
    :param delta: probability that the guarantee fails, in (0, 1)
    :param sigma_neg_ratio: r > 0
    :param expected_advantage_bound: ε, the same as given to the bound; None takes A_max
    :return: the radius, in units of the discounted return
    :raises ValueError: if an argument is out of its range
    """
    _require_positive("advantage_bound", advantage_bound)
    _require_positive("sigma_neg_ratio", sigma_neg_ratio)
    _require_samples(samples)
    _require_probability("delta", delta)
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1), got {gamma!r}")
    epsilon = advantage_bound if expected_advantage_bound is None else expected_advantage_bound
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"expected_advantage_bound must be ≥ 0 and finite, got {epsilon!r}")
    largest = advantage_bound * max(2 * multiplier_bound(sigma), multiplier_bound(sigma * sigma_neg_ratio))
    length = largest / (1 - gamma) + 2 * gamma * epsilon / (1 - gamma) ** 2
    return length * math.sqrt(-math.log(delta) / (2 * samples))


def _surrogate_range(advantage_bound: float, sigma: float, sigma_neg_ratio: float) -> float:
    """Length of the interval that holds g·A."""
    _require_positive("advantage_bound", advantage_bound)
    _require_positive("sigma_neg_ratio", sigma_neg_ratio)
    return advantage_bound * (multiplier_bound(sigma) + multiplier_bound(sigma * sigma_neg_ratio))


def _log_tails(delta: float) -> float:
    _require_probability("delta", delta)
    return math.log(2 / delta)


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 709 else math.inf


def _require_pairs(advantages: Sequence[float], log_ratios: Sequence[float], multipliers: Sequence[float]) -> None:
    for a, x, g in zip(advantages, log_ratios, multipliers, strict=True):
        # The slack is for multipliers computed in float32.
        if not (math.isfinite(a) and 0 <= g <= _exp(x) * (1 + 1e-4)):
            raise ValueError(f"advantages must be finite and 0 ≤ g ≤ ρ, got A={a!r}, x={x!r}, g={g!r}")


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")


def _require_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value!r}")


def _require_samples(samples: int) -> None:
    if not samples >= 1:
        raise ValueError(f"samples must be at least 1, got {samples!r}")
