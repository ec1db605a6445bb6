"""
Surrogate objectives: what a policy gradient maximises when its data came from another policy.

Every surrogate is a function of the log-ratio ``x = ln π(a|s) − ln μ(a|s)`` between the policy that learns and the
behavior policy that acted, and of the advantage ``A``. Two views of the same thing:

- the *objective*, one number per sample, whose mean over a minibatch is maximised by gradient ascent;
- the *multiplier* ``g``, the derivative of the objective with respect to ``x`` divided by ``A``. The policy gradient is
  ``E[g·A·∇ln π]``, so ``g`` says how much of a sample's gradient survives. ``g = ρ·ω``, where ``ρ = exp(x)`` is the
  importance ratio and ``ω`` the trust weight, 1 at ``ρ = 1``.

========================================  =====================================  ==========================
class                                     trust weight ω                         largest multiplier
========================================  =====================================  ==========================
:class:`GaussianTrust`                    exp(−x²/2σ²)                           e^{σ²/2}, at x = σ²
:class:`LaplaceTrust`                     exp(−|x|/σ)                            1 for σ ≤ 1, else unbounded
:class:`CauchyTrust`                      1/(1 + (x/σ)²)                         unbounded
:class:`PPOClip`                          1, or 0 where the clip is active       unbounded for A < 0
:class:`SAPO`                             4p(1−p), p = sigmoid(τ(ρ−1))           bounded
:class:`NoClip`                           1                                      unbounded
========================================  =====================================  ==========================

Everything here is pure: no in-place writes and no Python branches on data, so it can be mapped over many learners.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch.nn import functional as F

__all__ = ["SAPO", "CauchyTrust", "GaussianTrust", "LaplaceTrust", "NoClip", "PPOClip", "Surrogate"]


class Surrogate(ABC):
    """
    What all surrogates share. Shapes broadcast: ``log_ratio`` is (batch,) for a joint ratio or (batch, dimensions) for
    one ratio per action dimension, and ``advantage`` any shape that broadcasts against it.
    """

    @abstractmethod
    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        """
        :param log_ratio: x = ln π(a|s) − ln μ(a|s), any real number
        :param advantage: A; only its sign is used
        :return: ln ω, −inf where the surrogate drops the sample
        """

    def multiplier(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        """
        The multiplier g = ρ·ω, computed as one exponential, which cannot produce inf·0.

        :param log_ratio: x = ln π(a|s) − ln μ(a|s), any real number
        :param advantage: A; only its sign is used
        :return: g ≥ 0, without gradient
        """
        with th.no_grad():
            return th.exp(log_ratio + self.log_trust_weight(log_ratio, advantage))

    def objective(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        """
        The per-sample objective, to be maximised: sg(ω)·ρ·A. The trust weight is a constant in the backward pass
        (``sg`` stops the gradient), so the derivative with respect to x is g·A and equals the objective itself.

        :param log_ratio: x = ln π(a|s) − ln μ(a|s), any real number
        :param advantage: A, a constant
        :return: J, differentiable with respect to ``log_ratio``
        """
        return th.exp(log_ratio + self.log_trust_weight(log_ratio.detach(), advantage)) * advantage


@dataclass(frozen=True)
class _TrustKernel(Surrogate):
    """A trust weight that falls with |x| at its own width for each sign of the advantage."""

    sigma: float = 1.0
    sigma_neg_ratio: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("sigma", self.sigma, "the width of the trust weight, in units of the log-ratio")
        _require_positive("sigma_neg_ratio", self.sigma_neg_ratio, "it multiplies sigma where the advantage is ≤ 0")

    def _width(self, advantage: th.Tensor) -> th.Tensor | float:
        if self.sigma_neg_ratio == 1:
            return self.sigma
        negative = self.sigma * self.sigma_neg_ratio
        return th.where(advantage > 0, th.full_like(advantage, self.sigma), th.full_like(advantage, negative))


class GaussianTrust(_TrustKernel):
    """
    GIPO: the Gaussian trust weight ω = exp(−x²/2σ²) (arXiv 2603.03955).

    The only kernel whose multiplier is bounded for every width, by e^{σ²/2}: the finite-sample guarantee needs that.
    In float32 it underflows to exactly 0 beyond x − x²/2σ² ≈ −103 (|x| ≈ 14 at σ = 1, ≈ 2.9 at σ = 0.2).

    :param sigma: width σ⁺ where A > 0, in units of the log-ratio, > 0
    :param sigma_neg_ratio: r > 0; elsewhere the width is σ⁻ = σ⁺·r
    :raises ValueError: if either is not a positive finite number
    """

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        return -0.5 * (log_ratio / self._width(advantage)) ** 2


class LaplaceTrust(_TrustKernel):
    """
    The Laplace trust weight ω = exp(−|x|/σ). Its multiplier is unbounded for σ > 1, so no concentration bound holds.

    :param sigma: width σ⁺ where A > 0, in units of the log-ratio, > 0
    :param sigma_neg_ratio: r > 0; elsewhere the width is σ⁻ = σ⁺·r
    :raises ValueError: if either is not a positive finite number
    """

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        return -log_ratio.abs() / self._width(advantage)


class CauchyTrust(_TrustKernel):
    """
    The Cauchy trust weight ω = 1/(1 + (x/σ)²). Its multiplier is unbounded for every σ: no concentration bound holds.

    :param sigma: width σ⁺ where A > 0, in units of the log-ratio, > 0
    :param sigma_neg_ratio: r > 0; elsewhere the width is σ⁻ = σ⁺·r
    :raises ValueError: if either is not a positive finite number
    """

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        return -th.log1p((log_ratio / self._width(advantage)) ** 2)


@dataclass(frozen=True)
class PPOClip(Surrogate):
    """
    PPO's clipped objective min(ρA, clip(ρ, 1−ε, 1+ε)A) (arXiv 1707.06347, equation 7).

    :param clip_range: ε > 0
    :raises ValueError: if ε is not a positive finite number
    """

    clip_range: float = 0.2

    def __post_init__(self) -> None:
        _require_positive("clip_range", self.clip_range, "the distance of ρ from 1 at which the gradient is cut")

    def _clipped(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        upper = math.log1p(self.clip_range)
        lower = math.log1p(-self.clip_range) if self.clip_range < 1 else -math.inf
        below = th.where(advantage < 0, log_ratio.clamp(min=lower), log_ratio)
        return th.where(advantage > 0, log_ratio.clamp(max=upper), below)

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        return th.where(self._clipped(log_ratio, advantage) == log_ratio, 0.0, -math.inf)

    def objective(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        # The minimum picks the clipped term exactly where these clamps act; in log space no dropped sample overflows.
        return th.exp(self._clipped(log_ratio, advantage)) * advantage


@dataclass(frozen=True)
class SAPO(Surrogate):
    """
    SAPO's soft gate (4/τ)·sigmoid(τ(ρ−1))·A (arXiv 2511.20347), a smooth gate in ρ rather than in its logarithm.

    :param tau_pos: temperature τ⁺ where A > 0, > 0
    :param tau_neg: temperature τ⁻ elsewhere, > 0; the SAPO paper uses 1.05, the GIPO experiments 2.0
    :raises ValueError: if either is not a positive finite number
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    def __post_init__(self) -> None:
        _require_positive("tau_pos", self.tau_pos, "the gate's temperature where the advantage is > 0")
        _require_positive("tau_neg", self.tau_neg, "the gate's temperature where the advantage is ≤ 0")

    def _tau(self, advantage: th.Tensor) -> th.Tensor:
        return th.where(advantage > 0, th.full_like(advantage, self.tau_pos), th.full_like(advantage, self.tau_neg))

    def _gate(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        # e^80 saturates the sigmoid at any temperature; without the clamp ρ overflows and the gradient becomes 0·inf.
        return self._tau(advantage) * (th.exp(log_ratio.clamp(max=80.0)) - 1)

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        gate = self._gate(log_ratio, advantage)
        return math.log(4) + F.logsigmoid(gate) + F.logsigmoid(-gate)

    def objective(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        # sigmoid(u) written as 1 − sigmoid(−u): its gradient stays exact where sigmoid(u) rounds to 1.
        gate = self._gate(log_ratio, advantage)
        return 4 / self._tau(advantage) * (1 - th.sigmoid(-gate)) * advantage


@dataclass(frozen=True)
class NoClip(Surrogate):
    """Plain importance sampling, ρA: unbiased, and of unbounded variance."""

    def log_trust_weight(self, log_ratio: th.Tensor, advantage: th.Tensor) -> th.Tensor:
        return th.zeros_like(log_ratio)


def _require_positive(name: str, value: float, meaning: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive finite number, got {value!r} ({name}: {meaning})")
