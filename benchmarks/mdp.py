"""
Finite Markov decision processes solved exactly, with arrays and linear algebra only.

Axes: S states, A actions. A policy is an array (S, A) whose rows are probabilities. J(π) is the expected discounted
return from the start distribution; d^π is the discounted state distribution (1−γ)·Σ_t γ^t·P(s_t = s), which sums to 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

UP, DOWN, LEFT, RIGHT = range(4)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """
    A finite MDP given as arrays. An end of the episode is an absorbing state without reward.

    :param transitions: P(s'|s, a), shape (S, A, S); the last axis sums to 1
    :param rewards: expected reward of (s, a), shape (S, A)
    :param gamma: discount factor, in [0, 1)
    :param start: start distribution, shape (S,)
    :raises ValueError: if a shape does not fit, a distribution does not sum to 1, or gamma is out of range
    """

    transitions: np.ndarray
    rewards: np.ndarray
    gamma: float
    start: np.ndarray

    def __post_init__(self) -> None:
        for name in ("transitions", "rewards", "start"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        states, actions = self.rewards.shape if self.rewards.ndim == 2 else (-1, -1)
        if self.transitions.shape != (states, actions, states) or self.start.shape != (states,):
            raise ValueError(
                "transitions must be (S, A, S), rewards (S, A) and start (S,), got "
                f"{self.transitions.shape}, {self.rewards.shape} and {self.start.shape}"
            )
        if not np.isfinite(self.rewards).all():
            raise ValueError("rewards must be finite")
        _require_distribution("transitions", self.transitions)
        _require_distribution("start", self.start)
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {self.gamma!r}")

    @cached_property
    def terminal(self) -> np.ndarray:
        """
        :return: (S,) bool: the absorbing states without reward. The episode is over there: no sample comes from them
        """
        states = np.arange(len(self.start))
        return (self.transitions[states, :, states] == 1).all(axis=1) & (self.rewards == 0).all(axis=1)

    def check_policy(self, policy: np.ndarray) -> np.ndarray:
        """
        :param policy: probabilities, shape (S, A)
        :return: the same as float64
        :raises ValueError: if the shape does not fit or a row is no distribution
        """
        policy = np.asarray(policy, dtype=np.float64)
        if policy.shape != self.rewards.shape:
            raise ValueError(f"a policy of this MDP has shape {self.rewards.shape}, got {policy.shape}")
        _require_distribution("policy", policy)
        return policy

    def _under(self, policy: np.ndarray) -> np.ndarray:
        """P^π(s'|s), shape (S, S)."""
        return np.einsum("sa,sat->st", policy, self.transitions)

    def values(self, policy: np.ndarray) -> np.ndarray:
        """
        :param policy: (S, A)
        :return: V^π, shape (S,): the solution of the Bellman equation (I − γP^π)·V = r^π
        """
        policy = self.check_policy(policy)
        system = np.eye(len(self.start)) - self.gamma * self._under(policy)
        return np.linalg.solve(system, (policy * self.rewards).sum(axis=1))

    def advantages(self, policy: np.ndarray) -> np.ndarray:
        """
        :param policy: (S, A)
        :return: A^π = Q^π − V^π, shape (S, A)
        """
        values = self.values(policy)
        return self.rewards + self.gamma * self.transitions @ values - values[:, None]

    def performance(self, policy: np.ndarray) -> float:
        """
        :param policy: (S, A)
        :return: J(π), the expected discounted return
        """
        return float(self.start @ self.values(policy))

    def visitation(self, policy: np.ndarray) -> np.ndarray:
        """
        :param policy: (S, A)
        :return: d^π, shape (S,), terminal states included
        """
        policy = self.check_policy(policy)
        system = np.eye(len(self.start)) - self.gamma * self._under(policy).T
        return (1 - self.gamma) * np.linalg.solve(system, self.start)

    def policy_gradient(self, policy: np.ndarray) -> np.ndarray:
        """
        :param policy: (S, A), the softmax of logits θ of the same shape
        :return: ∂J/∂θ, shape (S, A): d^π(s)·π(a|s)·A^π(s, a)/(1−γ)
        """
        return self.visitation(policy)[:, None] * policy * self.advantages(policy) / (1 - self.gamma)


def gridworld(size: int = 2, gamma: float = 0.9) -> FiniteMDP:
    """
    The GridWorld of the bias–variance study: start at the top left, goal (absorbing) at the bottom right, reward −1 a
    step until then; moves are deterministic and walls keep the agent in place. States are numbered row by row, actions
    are (up, down, left, right).

    :param size: cells a side, ≥ 2
    :param gamma: discount factor, in [0, 1)
    :raises ValueError: if there is no cell but the goal
    """
    if size < 2:
        raise ValueError(f"size must be at least 2 cells a side, got {size!r}")
    cells = size * size
    transitions = np.zeros((cells, 4, cells))
    for state in range(cells):
        row, column = divmod(state, size)
        for action, (down, right) in enumerate(MOVES):
            inside = 0 <= row + down < size and 0 <= column + right < size and state != cells - 1
            transitions[state, action, state + (down * size + right if inside else 0)] = 1
    rewards = np.full((cells, 4), -1.0)
    rewards[-1] = 0
    return FiniteMDP(transitions, rewards, gamma, start=np.eye(cells)[0])


def _require_distribution(name: str, probabilities: np.ndarray) -> None:
    total = probabilities.sum(axis=-1)
    if not ((probabilities >= 0).all() and np.allclose(total, 1, rtol=0, atol=1e-9)):
        worst = total.flat[np.argmax(np.abs(total - 1))]
        raise ValueError(
            f"{name} must be probabilities that sum to 1 along the last axis, got a minimum of {probabilities.min()!r} "
            f"and a sum of {worst!r}"
        )
