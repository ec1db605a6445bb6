"""The actor-critic loss: a pure function from what a minibatch evaluates to, to the numbers that are minimised."""

from typing import NamedTuple

import torch as th
from torch.nn import functional as F

from sb3_gipo.surrogates import Surrogate

__all__ = ["ActorCriticLosses", "actor_critic_losses"]


class ActorCriticLosses(NamedTuple):
    """Scalars. ``total`` is the weighted sum; its terms are given without their coefficients."""

    total: th.Tensor
    policy: th.Tensor
    value: th.Tensor
    entropy: th.Tensor
    kl: th.Tensor


def actor_critic_losses(
    surrogate: Surrogate,
    log_ratio: th.Tensor,
    advantages: th.Tensor,
    values: th.Tensor,
    returns: th.Tensor,
    entropy: th.Tensor,
    kl: th.Tensor,
    *,
    ent_coef: float,
    vf_coef: float,
    kl_coef: float,
) -> ActorCriticLosses:
    """
    policy + ent_coef·entropy + vf_coef·value + kl_coef·kl, each a mean over all its elements.

    :param surrogate: the objective to be maximised
    :param log_ratio: x, (batch,) for a joint ratio or (batch, dimensions) for one per action dimension
    :param advantages: (batch,), shared by all dimensions
    :param values: the critic's predictions, (batch,)
    :param returns: value targets, (batch,)
    :param entropy: of the policy, any shape; the loss term is minus its mean
    :param kl: exact KL(μ‖π), any shape
    :param ent_coef: coefficient of the entropy term
    :param vf_coef: coefficient of the squared value error
    :param kl_coef: coefficient of the KL term
    :return: the losses
    """
    if log_ratio.ndim > 1:
        advantages = advantages.unsqueeze(1)
    policy_loss = -surrogate.objective(log_ratio, advantages).mean()
    value_loss = F.mse_loss(returns, values)
    entropy_loss = -entropy.mean()
    kl_loss = kl.mean()
    total = policy_loss + ent_coef * entropy_loss + vf_coef * value_loss + kl_coef * kl_loss
    return ActorCriticLosses(total, policy_loss, value_loss, entropy_loss, kl_loss)
