"""
Advantages and value targets of the whole replay window, computed anew with what the policy knows now.

Stored targets age with their critic. These functions let the current one look at every trainable rollout again, and write
the result into the buffer. Each costs a forward pass over the window.
"""

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo import behavior, targets
from sb3_gipo.buffers import StaleRolloutBuffer, Trajectories, map_observation

__all__ = ["recompute_gae", "recompute_vtrace"]

# How many transitions go through the networks at once.
_CHUNK = 8192


@th.no_grad()
def recompute_gae(policy: ActorCriticPolicy, buffer: StaleRolloutBuffer, gamma: float, gae_lambda: float) -> None:
    """
    GAE along each rollout with the current critic's values: AcceRL's value recomputation (arXiv 2603.18464).

    :param policy: the current policy, in evaluation mode
    :param buffer: with ``keep_trajectories``; its advantages and value targets are replaced
    :param gamma: discount factor
    :param gae_lambda: λ of GAE
    """
    window = buffer.trajectories()
    (values,) = _in_chunks(window, lambda observations, actions: (policy.predict_values(observations).flatten(),))
    last_values, terminal_values = _values_after(policy, window)
    buffer.set_targets(
        *targets.gae(window.rewards, values, last_values, window.dones, gamma, gae_lambda, terminal_values)
    )


@th.no_grad()
def recompute_vtrace(
    policy: ActorCriticPolicy,
    buffer: StaleRolloutBuffer,
    gamma: float,
    trace_lambda: float,
    rho_bar: float,
    c_bar: float,
) -> None:
    """
    V-trace along each rollout with the current critic and the joint ratio of the current policy (arXiv 1802.01561).

    :param policy: the current policy, in evaluation mode
    :param buffer: with ``keep_trajectories``; its advantages and value targets are replaced
    :param gamma: discount factor
    :param trace_lambda: λ of the traces
    :param rho_bar: ρ̄ of :func:`~sb3_gipo.targets.vtrace`
    :param c_bar: c̄ of :func:`~sb3_gipo.targets.vtrace`
    """

    def evaluate(observations: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        emitted = behavior.as_emitted(actions, policy.action_space)
        values, log_probs, _ = policy.evaluate_actions(observations, emitted)
        return values.flatten(), log_probs

    window = buffer.trajectories()
    values, log_probs = _in_chunks(window, evaluate)
    last_values, terminal_values = _values_after(policy, window)
    behavior_log_probs = window.log_probs.reshape(*values.shape, -1).sum(dim=-1)
    advantages, returns = targets.vtrace(
        log_probs - behavior_log_probs,
        window.rewards,
        values,
        last_values,
        window.dones,
        gamma,
        trace_lambda,
        rho_bar,
        c_bar,
        terminal_values,
    )
    buffer.set_targets(advantages, returns)


def _in_chunks(
    window: Trajectories, evaluate: Callable[[Any, th.Tensor], tuple[th.Tensor, ...]]
) -> tuple[th.Tensor, ...]:
    """Apply to all observations and actions, in bounded memory; each result is (time, trajectories)."""
    observations = map_observation(lambda part: part.flatten(0, 1), window.observations)
    actions = window.actions.flatten(0, 1)
    results = []
    for start in range(0, len(actions), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        results.append(evaluate(map_observation(lambda part, chunk=chunk: part[chunk], observations), actions[chunk]))
    return tuple(th.cat(parts).reshape(window.rewards.shape) for parts in zip(*results, strict=True))


def _values_after(policy: ActorCriticPolicy, window: Trajectories) -> tuple[th.Tensor, th.Tensor]:
    """The current values of the states after the last steps (trajectories,), and after time limits (time, trajectories)."""
    terminal_values = th.zeros_like(window.rewards)
    if window.terminal_observations is not None:
        after = policy.predict_values(window.terminal_observations).flatten()  # type: ignore[arg-type]
        terminal_values[tuple(window.time_limits)] = after
    return policy.predict_values(window.last_observations).flatten(), terminal_values  # type: ignore[arg-type]
