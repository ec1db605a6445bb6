"""
Advantages and value targets: GAE and V-trace.

Pure functions of tensors with axes (time, ...): time first, then any others, such as (time, env) for one rollout or
(time, rollout, env) for a whole replay window, which costs no more Python iterations than one rollout. No gradient flows
through what they return.

``dones[t]`` says that the episode ended after step t. What the state after an ended episode was worth is told by
``terminal_values``: zero where it terminated, the value of the terminal observation where a time limit cut it. In both
cases nothing of the next episode leaks in.
"""

import math

import torch as th

__all__ = ["gae", "vtrace"]


@th.no_grad()
def gae(
    rewards: th.Tensor,
    values: th.Tensor,
    last_values: th.Tensor,
    dones: th.Tensor,
    gamma: float,
    gae_lambda: float,
    terminal_values: th.Tensor | None = None,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Generalized Advantage Estimation (https://arxiv.org/abs/1506.02438), and the λ-return as value target.

    :param rewards: (time, ...)
    :param values: V of the state before each step, (time, ...)
    :param last_values: V of the state after the last step, (...); not used where ``dones`` ends with True
    :param dones: whether the episode ended after each step, (time, ...), bool or 0/1
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: λ in [0, 1]; 0 is the one-step TD error, 1 the Monte-Carlo return minus V
    :param terminal_values: V of the terminal observation where a time limit ended the episode, 0 where it terminated;
        (time, ...), read only where ``dones``. None: every end counts as terminal
    :return: advantages, and value targets ``advantages + values``; each (time, ...)
    :raises ValueError: if the shapes do not fit together
    """
    _check_shapes(last_values, rewards=rewards, values=values, dones=dones, terminal_values=terminal_values)
    next_values = _next_values(values, last_values, dones, terminal_values)
    advantages = _discounted_sum(
        rewards + gamma * next_values - values, gamma * gae_lambda * (~dones.bool()).to(values.dtype)
    )
    return advantages, advantages + values


@th.no_grad()
def vtrace(
    log_ratio: th.Tensor,
    rewards: th.Tensor,
    values: th.Tensor,
    last_values: th.Tensor,
    dones: th.Tensor,
    gamma: float,
    vtrace_lambda: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    terminal_values: th.Tensor | None = None,
) -> tuple[th.Tensor, th.Tensor]:
    """
    V-trace (https://arxiv.org/abs/1802.01561, equation 1): value targets v for data of another policy,

        v_t = V_t + ρ_t·(r_t + γV_{t+1} − V_t) + γc_t·(v_{t+1} − V_{t+1}),   ρ_t = min(ρ̄, e^{x_t}), c_t = λ·min(c̄, e^{x_t}).

    The advantage is r_t + γ((1−λ)V_{t+1} + λv_{t+1}) − V_t. It is *not* multiplied by ρ_t, as IMPALA's policy gradient
    is: a surrogate multiplies it by its own trust-weighted ratio, and the correction for the action a_t must enter once.
    Corrected here is only what comes after a_t. With ρ̄ = c̄ = ∞ it is an unbiased estimate of the target policy's
    advantage of (s_t, a_t) when V is that policy's value, for every λ.

    When no ratio is truncated or differs from 1 (x = 0, ρ̄, c̄ ≥ 1), advantages and value targets are those of
    :func:`gae` with the same λ. IMPALA's own advantage, with v_{t+1} alone after r_t, has λ = 1 and would equal
    GAE's only there: for smaller λ it is one reward longer.

    :param log_ratio: x = ln π(a|s)/μ(a|s) of the whole action (summed over its dimensions), (time, ...)
    :param rewards: (time, ...)
    :param values: V of the state before each step, (time, ...)
    :param last_values: V of the state after the last step, (...); not used where ``dones`` ends with True
    :param dones: whether the episode ended after each step, (time, ...), bool or 0/1
    :param gamma: discount factor, in [0, 1]
    :param vtrace_lambda: λ in [0, 1] of the traces; 1 is IMPALA's V-trace
    :param rho_bar: ρ̄ > 0, may be infinite. It sets the fixed point: the value of the policy ∝ min(ρ̄μ, π), which is π
        itself for ρ̄ = ∞
    :param c_bar: 0 < c̄ ≤ ρ̄. It sets the speed and the variance, not the fixed point
    :param terminal_values: V of the terminal observation where a time limit ended the episode, 0 where it terminated;
        (time, ...), read only where ``dones``. None: every end counts as terminal
    :return: advantages and value targets, each (time, ...)
    :raises ValueError: if the shapes do not fit together, or not 0 < ``c_bar`` ≤ ``rho_bar``
    """
    if not 0 < c_bar <= rho_bar:
        raise ValueError(f"V-trace needs 0 < c_bar <= rho_bar, got c_bar={c_bar}, rho_bar={rho_bar}")
    _check_shapes(
        last_values, rewards=rewards, log_ratio=log_ratio, values=values, dones=dones, terminal_values=terminal_values
    )
    # Truncated before the exponential, which could overflow.
    rho = log_ratio.clamp(max=math.log(rho_bar)).exp()
    c = log_ratio.clamp(max=math.log(c_bar)).exp()
    trace = gamma * vtrace_lambda * (~dones.bool()).to(values.dtype)
    deltas = rewards + gamma * _next_values(values, last_values, dones, terminal_values) - values
    corrections = _discounted_sum(rho * deltas, trace * c)  # v − V
    next_corrections = th.cat([corrections[1:], th.zeros_like(corrections[:1])])
    return deltas + trace * next_corrections, values + corrections


def _next_values(
    values: th.Tensor, last_values: th.Tensor, dones: th.Tensor, terminal_values: th.Tensor | None
) -> th.Tensor:
    """What each step's successor state is worth, (time, ...)."""
    if terminal_values is None:
        terminal_values = th.zeros_like(values)
    return th.where(dones.bool(), terminal_values, th.cat([values[1:], last_values.unsqueeze(0)]))


def _discounted_sum(terms: th.Tensor, discounts: th.Tensor) -> th.Tensor:
    """y_t = terms_t + discounts_t·y_{t+1}, with y = 0 after the end; (time, ...)."""
    total = th.zeros_like(terms[0])
    totals = []
    for term, discount in zip(reversed(terms.unbind()), reversed(discounts.unbind()), strict=True):
        total = term + discount * total
        totals.append(total)
    return th.stack(totals[::-1])


def _check_shapes(last_values: th.Tensor, rewards: th.Tensor, **others: th.Tensor | None) -> None:
    """Broadcasting would hide a forgotten axis."""
    for name, array in others.items():
        if array is not None and array.shape != rewards.shape:
            raise ValueError(
                f"{name} has shape {tuple(array.shape)}, rewards {tuple(rewards.shape)}: they must be equal"
            )
    if last_values.shape != rewards.shape[1:]:
        raise ValueError(
            f"last_values has shape {tuple(last_values.shape)}, but rewards without the time axis "
            f"{tuple(rewards.shape[1:])}"
        )
