"""
What the current policy makes of the whole replay window: values, log-probabilities, action distributions, and from them
new advantages, value targets and anchors.

Stored targets age with their critic, and with the policy whose actions followed. These functions let the current policy
look at every trainable transition again, in one forward pass.
"""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_gipo import behavior, targets
from sb3_gipo.buffers import StaleRolloutBuffer, Trajectories

__all__ = ["Revaluation", "recompute_targets", "revaluate"]

# What goes through the networks at once: at most so many transitions, of at most so many numbers observed in all.
_CHUNK = 4096
_CHUNK_NUMBERS = 2**22


class Revaluation(NamedTuple):
    """
    Of all N trainable transitions, in the order of ``buffer.in_order``.

    ``values``: V of the state before the step, (N,). ``log_ratio``: ln π(a|s)/μ(a|s) of the whole action, (N,), and
    ``parameters`` of the current action distribution, (N, n_anchor_parameters); each None unless asked for.
    """

    values: th.Tensor
    log_ratio: th.Tensor | None
    parameters: th.Tensor | None


@th.no_grad()
def revaluate(
    policy: ActorCriticPolicy, buffer: StaleRolloutBuffer, *, log_ratio: bool, parameters: bool
) -> Revaluation:
    """
    :param policy: the current policy, in evaluation mode
    :param buffer: whose trainable transitions are seen again, in bounded memory
    :param log_ratio: whether to compute the log-ratios
    :param parameters: whether to compute the parameters of the action distributions
    :return: what it makes of them
    """
    chunk = max(1, min(_CHUNK, _CHUNK_NUMBERS // get_flattened_obs_dim(buffer.observation_space)))
    values, log_ratios, distributions = [], [], []
    for observations, actions, behavior_log_probs in buffer.in_order(chunk):
        if not (log_ratio or parameters):
            values.append(policy.predict_values(observations).flatten())
            continue
        emitted = behavior.as_emitted(actions, policy.action_space)
        value, log_prob, _ = policy.evaluate_actions(observations, emitted)
        values.append(value.flatten())
        if log_ratio:
            log_ratios.append(log_prob - behavior_log_probs.reshape(len(log_prob), -1).sum(dim=1))
        if parameters:
            distributions.append(behavior.parameters(policy.action_dist))
    return Revaluation(
        th.cat(values), th.cat(log_ratios) if log_ratio else None, th.cat(distributions) if parameters else None
    )


@th.no_grad()
def recompute_targets(
    policy: ActorCriticPolicy,
    buffer: StaleRolloutBuffer,
    seen: Revaluation,
    gamma: float,
    trace_lambda: float,
    rho_bar: float,
    c_bar: float,
) -> None:
    """
    New advantages and value targets along each rollout, with the current critic: where ``seen`` has log-ratios V-trace with
    the joint ratio of the current policy (arXiv 1802.01561), else GAE (AcceRL's value recomputation, arXiv 2603.18464).

    :param policy: the current policy, in evaluation mode
    :param buffer: with ``keep_trajectories``; its advantages and value targets are replaced
    :param seen: what the policy makes of the buffer
    :param gamma: discount factor
    :param trace_lambda: λ of the traces, or of GAE
    :param rho_bar: ρ̄ of :func:`~sb3_gipo.targets.vtrace`
    :param c_bar: c̄ of :func:`~sb3_gipo.targets.vtrace`
    """
    window = buffer.trajectories()
    last_values, terminal_values = _values_after(policy, window)
    values = buffer.in_time(seen.values)
    if seen.log_ratio is None:
        new = targets.gae(window.rewards, values, last_values, window.dones, gamma, trace_lambda, terminal_values)
    else:
        new = targets.vtrace(
            buffer.in_time(seen.log_ratio),
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
    buffer.set_targets(*new)


def _values_after(policy: ActorCriticPolicy, window: Trajectories) -> tuple[th.Tensor, th.Tensor]:
    """The current values of the states after the last steps (trajectories,), and after time limits (time, trajectories)."""
    terminal_values = th.zeros_like(window.rewards)
    if window.terminal_observations is not None:
        after = policy.predict_values(window.terminal_observations).flatten()  # type: ignore[arg-type]
        terminal_values[tuple(window.time_limits)] = after
    return policy.predict_values(window.last_observations).flatten(), terminal_values  # type: ignore[arg-type]
