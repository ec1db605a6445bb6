"""
What must be remembered of a behavior policy: the log-probability of each action dimension, and the parameters of its
action distribution, so that the exact KL(μ‖π) can be computed long after μ is gone.

Squashing by tanh and clipping to the action bounds are the same map for μ and π, so the KL of a squashed Gaussian is the
KL of the Gaussian below it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import distributions as td

__all__ = [
    "StackedCategoricalDistribution",
    "as_emitted",
    "kl_divergence",
    "log_prob",
    "n_dimensions",
    "n_parameters",
    "parameters",
    "stack_categoricals",
    "unvalidated",
]


@contextmanager
def unvalidated() -> Iterator[None]:
    """
    Within it, torch's distributions do not check their arguments, which costs a tenth of the time of collecting. GIPO
    checks for itself what could go wrong: observations, rewards, losses and gradients.
    """
    default = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        td.Distribution.set_default_validate_args(default)


def n_dimensions(action_space: spaces.Space) -> int:
    """
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :return: how many numbers :func:`log_prob` gives for one action
    """
    return th.Size(action_space.shape or ()).numel()


class StackedCategoricalDistribution(MultiCategoricalDistribution):
    """
    SB3's distribution of MultiDiscrete actions for dimensions that all have the same number of values, all dimensions at
    once: the log-softmax is taken once and everything else comes from it. One action out of 4 × 256 takes a third of the
    time. The same samples from the same random stream, and the same numbers up to float32 rounding (1e-6), except that the
    KL stays finite where SB3's overflows: where π gives less than 1e-38 to what μ does.

    ``log_probs``: log π of every value, (batch, dimensions, values).
    """

    log_probs: th.Tensor

    def proba_distribution(self, action_logits: th.Tensor) -> "StackedCategoricalDistribution":
        self.log_probs = th.log_softmax(self.stacked(action_logits), dim=-1)
        return self

    def stacked(self, parameters: th.Tensor) -> th.Tensor:
        """(batch, dimensions · values) to (batch, dimensions, values)."""
        return parameters.unflatten(1, (len(self.action_dims), -1))

    def log_prob_by_dimension(self, actions: th.Tensor) -> th.Tensor:
        """(batch, dimensions) to the same shape."""
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.log_prob_by_dimension(actions).sum(dim=1)

    def entropy(self) -> th.Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(dim=(1, 2))

    def sample(self) -> th.Tensor:
        # What torch's multinomial does for one sample, without its checks of the probabilities, in half of the time. SB3
        # draws dimension after dimension.
        probs = self.log_probs.exp().transpose(0, 1)
        noise = th.empty(probs.shape, device=probs.device).exponential_()
        return (probs / noise).argmax(dim=-1).T.contiguous()

    def mode(self) -> th.Tensor:
        return self.log_probs.argmax(dim=-1)


def stack_categoricals(policy: ActorCriticPolicy) -> None:
    """
    :param policy: whose MultiDiscrete actions, if they are that, with as many values in each dimension, are computed all
        at once from now on
    """
    distribution = policy.action_dist
    if type(distribution) is MultiCategoricalDistribution and len(set(distribution.action_dims)) == 1:
        policy.action_dist = StackedCategoricalDistribution(distribution.action_dims)


def as_emitted(actions: th.Tensor, action_space: spaces.Space) -> th.Tensor:
    """
    :param actions: as SB3's buffers give them: floats, (batch, n)
    :param action_space: of the policy
    :return: as the policy's distribution takes them: integers (batch,) for Discrete actions, else unchanged
    """
    return actions.long().flatten() if isinstance(action_space, spaces.Discrete) else actions


def log_prob(distribution: Distribution, actions: th.Tensor) -> th.Tensor:
    """
    :param distribution: SB3's action distribution, conditioned on a batch of states
    :param actions: what the policy emitted: (batch,) for Discrete actions, else (batch, *action shape)
    :return: (batch, dimensions), whose sum over dimensions is SB3's ``log_prob``
    :raises TypeError: for a distribution that SB3 does not have
    """
    actions = actions.flatten(start_dim=1) if actions.ndim > 1 else actions
    if isinstance(distribution, SquashedDiagGaussianDistribution):
        correction = th.log(1 - actions**2 + distribution.epsilon)
        return distribution.distribution.log_prob(TanhBijector.inverse(actions)) - correction
    if isinstance(distribution, StateDependentNoiseDistribution) and distribution.bijector is not None:
        gaussian_actions = distribution.bijector.inverse(actions)
        correction = distribution.bijector.log_prob_correction(gaussian_actions)
        return distribution.distribution.log_prob(gaussian_actions) - correction
    if isinstance(distribution, DiagGaussianDistribution | StateDependentNoiseDistribution | BernoulliDistribution):
        return distribution.distribution.log_prob(actions)
    if isinstance(distribution, StackedCategoricalDistribution):
        return distribution.log_prob_by_dimension(actions)
    if isinstance(distribution, MultiCategoricalDistribution):
        pairs = zip(distribution.distribution, actions.unbind(dim=1), strict=True)
        return th.stack([dimension.log_prob(action) for dimension, action in pairs], dim=1)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.distribution.log_prob(actions).unsqueeze(1)
    raise TypeError(_unknown(distribution))


def n_parameters(action_space: spaces.Space) -> int:
    """
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :return: how many numbers :func:`parameters` gives for one state
    :raises TypeError: for any other space
    """
    if isinstance(action_space, spaces.Box):
        return 2 * int(th.Size(action_space.shape).numel())
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return int(action_space.nvec.sum())
    if isinstance(action_space, spaces.MultiBinary):
        return int(action_space.n)  # type: ignore[arg-type]
    raise TypeError(f"no behavior distribution is known for the action space {action_space}")


def parameters(distribution: Distribution) -> th.Tensor:
    """
    :param distribution: SB3's action distribution, conditioned on a batch of states
    :return: (batch, n_parameters): means then standard deviations, or logits
    :raises TypeError: for a distribution that SB3 does not have
    """
    if isinstance(distribution, DiagGaussianDistribution | StateDependentNoiseDistribution):
        return th.cat([distribution.distribution.mean, distribution.distribution.stddev], dim=1)
    if isinstance(distribution, StackedCategoricalDistribution):
        return distribution.log_probs.flatten(start_dim=1)
    if isinstance(distribution, MultiCategoricalDistribution):
        return th.cat([dimension.logits for dimension in distribution.distribution], dim=1)
    if isinstance(distribution, CategoricalDistribution | BernoulliDistribution):
        return distribution.distribution.logits
    raise TypeError(_unknown(distribution))


def kl_divergence(behavior_parameters: th.Tensor, distribution: Distribution) -> th.Tensor:
    """
    The exact KL(μ‖π) of each action dimension; the joint KL is their sum, since all of SB3's distributions are products.

    :param behavior_parameters: of μ, (batch, n_parameters), from :func:`parameters`
    :param distribution: π, conditioned on the same states
    :return: (batch, dimensions), each ≥ 0, differentiable with respect to π (one dimension for Discrete actions)
    :raises TypeError: for a distribution that SB3 does not have
    """
    if isinstance(distribution, DiagGaussianDistribution | StateDependentNoiseDistribution):
        mean, std = behavior_parameters.chunk(2, dim=1)
        return td.kl_divergence(td.Normal(mean, std), distribution.distribution)
    if isinstance(distribution, StackedCategoricalDistribution):
        mu = distribution.stacked(behavior_parameters)
        return (mu.exp() * (mu - distribution.log_probs)).sum(dim=-1)
    if isinstance(distribution, MultiCategoricalDistribution):
        logits = behavior_parameters.split(list(distribution.action_dims), dim=1)
        pairs = zip(logits, distribution.distribution, strict=True)
        return th.stack([td.kl_divergence(td.Categorical(logits=mu), pi) for mu, pi in pairs], dim=1)
    if isinstance(distribution, CategoricalDistribution):
        return td.kl_divergence(td.Categorical(logits=behavior_parameters), distribution.distribution).unsqueeze(1)
    if isinstance(distribution, BernoulliDistribution):
        return td.kl_divergence(td.Bernoulli(logits=behavior_parameters), distribution.distribution)
    raise TypeError(_unknown(distribution))


def _unknown(distribution: Distribution) -> str:
    return (
        f"{type(distribution).__name__} is not one of SB3's action distributions: its dimensions and its exact KL are not "
        'known; use ratio_level="joint" and kl_coef=0'
    )
