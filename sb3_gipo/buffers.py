"""
Rollout buffers that remember: a ring of past rollouts, each stamped with the policy version that collected it.

They know no policy and no objective. What they add to SB3's ``RolloutBuffer`` is which rollouts may be trained on, and
minibatches of them that carry their lag.
"""

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

__all__ = ["DictStaleRolloutBuffer", "StaleRolloutBuffer", "StaleRolloutBufferSamples"]

_EMPTY = -1


class StaleRolloutBufferSamples(NamedTuple):
    """
    A minibatch. The first six fields are those of SB3's ``RolloutBufferSamples``, in its order.

    ``lags`` (batch,): policy versions between now and the collection of each transition, integers ≥ 0.
    ``behavior_parameters`` (batch, n_behavior_parameters), or None when they are not stored.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    lags: th.Tensor
    behavior_parameters: th.Tensor | None


class StaleRolloutBuffer(RolloutBuffer):
    """
    The last ``replay_window`` rollouts of ``buffer_size`` steps in ``n_envs`` environments, in one preallocated ring.

    A rollout belongs to the policy version that was current when its collection began (``policy_version``, which the
    algorithm keeps up to date). Its *lag* is ``policy_version`` now minus that version. Trainable are all complete
    rollouts whose lag is at least ``min_lag``: before the window has filled these are the ones collected so far, and
    with ``min_lag > 0`` none at all for the first ``min_lag`` versions. A rollout under collection replaces the oldest
    one from its first step on; if collection is interrupted, the next one starts over in the same place.

    With ``replay_window=1, min_lag=0`` it yields exactly the minibatches of SB3's ``RolloutBuffer``, drawn from the same
    global numpy stream. The inherited attributes (``observations``, ``rewards``, ...) are always the newest rollout,
    shaped (buffer_size, n_envs, ...), and stay so: sampling does not flatten them.

    Memory is allocated once: per transition the observation, the action, 24 bytes (reward, episode start, value, behavior
    log-probability, advantage and value target in float32), 4 bytes per behavior parameter, and 4 bytes for each
    log-probability after the first. This is SB3's own layout; staleness itself costs 8 bytes a rollout.

    :param buffer_size: steps per environment in a rollout, ≥ 1
    :param observation_space: Observation space
    :param action_space: Action space
    :param device: PyTorch device of the minibatches
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param gamma: Discount factor
    :param n_envs: Number of parallel environments
    :param replay_window: how many past rollouts are kept, the newest included, ≥ 1; 1 is on-policy
    :param min_lag: a rollout becomes trainable only once it is this many versions old, 0 ≤ ``min_lag < replay_window``
    :param n_behavior_parameters: how many parameters of the behavior distribution are stored per transition
    :param n_log_probs: how many behavior log-probabilities are stored per transition: None for the joint one, as SB3
        does, or one for each action dimension (then ``old_log_prob`` has shape (batch, n_log_probs))
    :raises ValueError: if ``replay_window`` or ``min_lag`` is out of its range
    """

    behavior_parameters: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        replay_window: int = 1,
        min_lag: int = 0,
        n_behavior_parameters: int = 0,
        n_log_probs: int | None = None,
    ):
        if replay_window < 1:
            raise ValueError(
                f"replay_window must be at least 1 (1 keeps the newest rollout alone), got {replay_window}"
            )
        if not 0 <= min_lag < replay_window:
            raise ValueError(
                f"min_lag must be in [0, replay_window - 1] = [0, {replay_window - 1}], got {min_lag}: "
                "the window keeps no rollout that old"
            )
        self.replay_window = replay_window
        self.min_lag = min_lag
        self.n_behavior_parameters = n_behavior_parameters
        self.n_log_probs = n_log_probs
        self.policy_version = 0
        self._versions = np.full(replay_window, _EMPTY, dtype=np.int64)
        self._slot = 0
        self._storage: dict[str, Any] = {}
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def _allocate(self) -> dict[str, Any]:
        """
        Axes (replay_window, n_envs, buffer_size): a transition's place in the flattened ring is then SB3's own order
        within its rollout, and a minibatch is one gather.
        """

        def ring(shape: tuple[int, ...] = (), dtype: Any = np.float32) -> np.ndarray:
            return np.zeros((self.replay_window, self.n_envs, self.buffer_size, *shape), dtype=dtype)

        if isinstance(self.observation_space, spaces.Dict):
            observations: Any = {
                key: ring(shape, self.observation_space[key].dtype)
                for key, shape in self.obs_shape.items()  # type: ignore[attr-defined]
            }
        else:
            observations = ring(self.obs_shape, self.observation_space.dtype)
        return {
            "observations": observations,
            "actions": ring((self.action_dim,), self.action_space.dtype),
            "behavior_parameters": ring((self.n_behavior_parameters,)),
            "log_probs": ring(() if self.n_log_probs is None else (self.n_log_probs,)),
            **{name: ring() for name in ("rewards", "returns", "episode_starts", "values", "advantages")},
        }

    def reset(self) -> None:
        """Begin a rollout of the current ``policy_version``, in place of the oldest. Older ones stay as they are."""
        if not self._storage:
            self._storage = self._allocate()
        if self._versions[self._slot] != _EMPTY:
            self._slot = (self._slot + 1) % self.replay_window
        self._versions[self._slot] = _EMPTY
        self._bind()
        self._collecting_version = self.policy_version
        self.pos = 0
        self.full = False

    def _bind(self) -> None:
        """Make the inherited attributes views of the newest rollout's place in the ring."""
        for name, ring in self._storage.items():
            setattr(self, name, _map(lambda array: array[self._slot].swapaxes(0, 1), ring))

    def __getstate__(self) -> dict[str, Any]:
        # Pickled views would become arrays of their own, cut off from the ring.
        return {name: value for name, value in self.__dict__.items() if name not in self._storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    @property
    def layout(self) -> dict[str, Any]:
        """What two buffers must share for one's contents to fit the other: the shape and type of every ring."""
        return {
            "min_lag": self.min_lag,
            **{name: _map(lambda ring: (ring.shape, str(ring.dtype)), ring) for name, ring in self._storage.items()},
        }

    def add(self, *args: Any, behavior_parameters: th.Tensor | None = None, **kwargs: Any) -> None:
        """
        Add one step of every environment: SB3's arguments (obs, action, reward, episode_start, value, log_prob).

        :param behavior_parameters: of the distribution that the actions were drawn from, shape
            (n_envs, n_behavior_parameters); leave out where none are stored
        """
        if behavior_parameters is not None:
            self.behavior_parameters[self.pos] = behavior_parameters.cpu().numpy()
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        Compute GAE advantages and value targets of the newest rollout, which completes it.

        :param last_values: state value estimation after the last step, one for each environment
        :param dones: whether each environment's last step ended its episode
        """
        returns = self.returns
        super().compute_returns_and_advantage(last_values, dones)
        # SB3 binds a new array; the ring must own the numbers.
        returns[...] = self.returns
        self.returns = returns
        self._versions[self._slot] = self._collecting_version

    @property
    def nbytes(self) -> int:
        """Bytes of the whole ring."""
        arrays: list[np.ndarray] = []
        for ring in self._storage.values():
            _map(arrays.append, ring)
        return sum(array.nbytes for array in arrays)

    @property
    def n_trainable(self) -> int:
        """How many transitions may be trained on now."""
        return len(self._trainable_slots()) * self.buffer_size * self.n_envs

    def _trainable_slots(self) -> np.ndarray:
        lags = self.policy_version - self._versions
        return np.flatnonzero((self._versions != _EMPTY) & (lags >= self.min_lag))

    def advantage_moments(self) -> tuple[float, float]:
        """
        :return: mean and standard deviation of the advantages of all trainable transitions
        """
        advantages = self._storage["advantages"][self._trainable_slots()]
        return float(advantages.mean(dtype=np.float64)), float(advantages.std(dtype=np.float64))

    def get(self, batch_size: int | None = None) -> Generator[StaleRolloutBufferSamples, None, None]:  # type: ignore[override]
        """
        One pass over all trainable transitions in random order, each exactly once.

        :param batch_size: Minibatch size; the last minibatch of a pass may be smaller. None: all in one
        :return: minibatches
        """
        n_trainable = self.n_trainable
        assert n_trainable > 0, "no rollout is both complete and min_lag versions old: there is nothing to train on"
        slots = self._trainable_slots()
        order = np.random.permutation(n_trainable)
        batch_size = batch_size or n_trainable
        rollout_size = self.buffer_size * self.n_envs
        for start in range(0, n_trainable, batch_size):
            nth_slot, place = np.divmod(order[start : start + batch_size], rollout_size)
            yield self._get_samples(slots[nth_slot] * rollout_size + place)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> StaleRolloutBufferSamples:
        def gather(name: str) -> Any:
            return _map(lambda ring: self.to_torch(_flat(ring)[batch_inds], copy=False), self._storage[name])

        lags = self.policy_version - self._versions[batch_inds // (self.buffer_size * self.n_envs)]
        return StaleRolloutBufferSamples(
            observations=gather("observations"),
            # SB3's habit: actions travel as floats.
            actions=gather("actions").to(th.float32),
            old_values=gather("values"),
            old_log_prob=gather("log_probs"),
            advantages=gather("advantages"),
            returns=gather("returns"),
            lags=self.to_torch(lags, copy=False),
            behavior_parameters=gather("behavior_parameters") if self.n_behavior_parameters else None,
        )


class DictStaleRolloutBuffer(StaleRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """
    :class:`StaleRolloutBuffer` for Dict observations: ``observations`` is a dictionary of arrays or tensors.

    :raises AssertionError: if the observation space is not a Dict
    """


def _map(function: Any, arrays: Any) -> Any:
    """Apply to the array, or to every array of a Dict observation."""
    if isinstance(arrays, dict):
        return {key: function(array) for key, array in arrays.items()}
    return function(arrays)


def _flat(ring: np.ndarray) -> np.ndarray:
    return ring.reshape(-1, *ring.shape[3:])
