"""
Rollout buffers that remember: a ring of past rollouts, each stamped with the policy version that collected it.

They know no policy and no objective. What they add to SB3's ``RolloutBuffer`` is which rollouts may be trained on, and
minibatches of them that carry their lag.
"""

import copy
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

__all__ = [
    "DictStaleRolloutBuffer",
    "Rollout",
    "RolloutEnd",
    "StaleRolloutBuffer",
    "StaleRolloutBufferSamples",
    "Trajectories",
    "map_observation",
]

_EMPTY = -1


class StaleRolloutBufferSamples(NamedTuple):
    """
    A minibatch. The first six fields are those of SB3's ``RolloutBufferSamples``, in its order.

    ``lags`` (batch,): policy versions between now and the collection of each transition, integers ≥ 0.
    ``anchor_parameters`` (batch, n_anchor_parameters), or None when none are stored.
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    lags: th.Tensor
    anchor_parameters: th.Tensor | None


class Trajectories(NamedTuple):
    """
    All trainable rollouts, unshuffled, as axes (time, trajectories): time = ``buffer_size``, and one trajectory for each
    environment of each rollout. They may hold several episodes.

    ``rewards``: as given to ``add``, (time, trajectories). ``dones``: whether an episode ended with the step, likewise.
    ``last_observations``: after the last step, (trajectories, ...). ``time_limits``: (2, n), the time and trajectory of the
    n steps that a time limit ended, and ``terminal_observations`` (n, ...) what was seen after them, or None where n = 0.
    """

    rewards: th.Tensor
    dones: th.Tensor
    last_observations: th.Tensor | TensorDict
    time_limits: th.Tensor
    terminal_observations: th.Tensor | TensorDict | None


@dataclass
class RolloutEnd:
    """How a rollout and the episodes in it ended. Each time limit is (time, environment, terminal observation)."""

    observations: Any = None
    dones: np.ndarray | None = None
    time_limits: list[tuple[int, int, Any]] = field(default_factory=list)


class Rollout(NamedTuple):
    """
    One complete rollout outside of any buffer: what an actor sends to its learner.

    ``version``: the policy version that collected it. ``arrays``: what the buffer stores of it, by name, each
    (n_envs, buffer_size, ...), or a dictionary of them for Dict observations. ``end``: how it ended, with
    ``keep_trajectories``.
    """

    version: int
    arrays: dict[str, Any]
    end: RolloutEnd


class StaleRolloutBuffer(RolloutBuffer):
    """
    The last ``replay_window`` rollouts of ``buffer_size`` steps in ``n_envs`` environments, in one preallocated ring.

    A rollout belongs to the policy version that was current when its collection began (``policy_version``, which the
    algorithm keeps up to date). Its *lag* is ``policy_version`` now minus that version. Trainable are all complete
    rollouts whose lag is at least ``min_lag`` and at most ``max_lag``: before the window has filled these are the ones
    collected so far, and with ``min_lag > 0`` none at all for the first ``min_lag`` versions. A rollout under collection
    replaces the oldest one from its first step on; if collection is interrupted, the next one starts over in the same
    place.

    A rollout need not have been collected here: :meth:`newest` takes one out and :meth:`ingest` puts it into another
    buffer, also when others of the same or of a later version are there already.

    With ``replay_window=1, min_lag=0`` it yields exactly the minibatches of SB3's ``RolloutBuffer``, drawn from the same
    global numpy stream. The inherited attributes (``observations``, ``rewards``, ...) are always the newest rollout,
    shaped (buffer_size, n_envs, ...), and stay so: sampling does not flatten them.

    Memory is allocated once: per transition the observation, the action, 24 bytes (reward, episode start, value, behavior
    log-probability, advantage and value target in float32), 4 bytes per anchor parameter, and 4 bytes for each
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
    :param max_lag: a rollout is no longer trainable once it is more than this many versions old, ≥ ``min_lag``. None: no
        limit but the window
    :param n_anchor_parameters: how many parameters of the distribution that a KL penalty is measured from are stored per
        transition: given at collection, or all anew by :meth:`set_anchor`
    :param n_log_probs: how many behavior log-probabilities are stored per transition: None for the joint one, as SB3
        does, or one for each action dimension (then ``old_log_prob`` has shape (batch, n_log_probs))
    :param keep_trajectories: also keep what value targets are computed from, for :meth:`trajectories`: each environment's
        observation after the last step, and those at time limits. It costs one observation for each of these
    :raises ValueError: if ``replay_window``, ``min_lag`` or ``max_lag`` is out of its range
    """

    anchor_parameters: np.ndarray

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
        n_anchor_parameters: int = 0,
        n_log_probs: int | None = None,
        keep_trajectories: bool = False,
        max_lag: int | None = None,
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
        if max_lag is not None and max_lag < min_lag:
            raise ValueError(f"max_lag must be at least min_lag={min_lag}, or None for no limit, got {max_lag}")
        self.replay_window = replay_window
        self.min_lag = min_lag
        self.max_lag = max_lag
        self.n_anchor_parameters = n_anchor_parameters
        self.n_log_probs = n_log_probs
        self.keep_trajectories = keep_trajectories
        self.policy_version = 0
        self._versions = np.full(replay_window, _EMPTY, dtype=np.int64)
        self._slot = 0
        self._storage: dict[str, Any] = {}
        self._ends: list[RolloutEnd] = [RolloutEnd() for _ in range(replay_window)]
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
            "anchor_parameters": ring((self.n_anchor_parameters,)),
            "log_probs": ring(() if self.n_log_probs is None else (self.n_log_probs,)),
            **{name: ring() for name in ("rewards", "returns", "episode_starts", "values", "advantages")},
        }

    def reset(self) -> None:
        """Begin a rollout of the current ``policy_version``, in place of the oldest. Older ones stay as they are."""
        if not self._storage:
            self._storage = self._allocate()
        self._open_slot()
        self._ends[self._slot] = RolloutEnd()
        self._collecting_version = self.policy_version
        self.pos = 0
        self.full = False

    def _open_slot(self) -> None:
        """Make room for the newest rollout: a place that holds none is older than any."""
        self._slot = int(np.argmin(self._versions))
        self._versions[self._slot] = _EMPTY
        self._bind()

    def _bind(self) -> None:
        """Make the inherited attributes views of the newest rollout's place in the ring."""
        for name, ring in self._storage.items():
            setattr(self, name, map_observation(lambda array: array[self._slot].swapaxes(0, 1), ring))

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
            "max_lag": self.max_lag,
            "keep_trajectories": self.keep_trajectories,
            **{
                name: map_observation(lambda ring: (ring.shape, str(ring.dtype)), ring)
                for name, ring in self._storage.items()
            },
        }

    def add(self, *args: Any, anchor_parameters: th.Tensor | None = None, **kwargs: Any) -> None:
        """
        Add one step of every environment: SB3's arguments (obs, action, reward, episode_start, value, log_prob).

        :param anchor_parameters: of the distribution that the actions were drawn from, shape
            (n_envs, n_anchor_parameters); leave out where none are stored, or :meth:`set_anchor` will give them
        """
        if anchor_parameters is not None:
            self.anchor_parameters[self.pos] = anchor_parameters.cpu().numpy()
        super().add(*args, **kwargs)

    def remember_time_limit(self, env_index: int, terminal_observation: Any) -> None:
        """
        Remember that the step added next was ended by a time limit.

        :param env_index: of which environment
        :param terminal_observation: what was seen after the step, before the environment was reset
        """
        self._ends[self._slot].time_limits.append((self.pos, env_index, terminal_observation))

    def remember_last(self, last_observations: Any, dones: np.ndarray) -> None:
        """
        Remember how the newest rollout ended.

        :param last_observations: of each environment after the last step, (n_envs, ...)
        :param dones: whether each environment's last step ended its episode, (n_envs,)
        """
        end = self._ends[self._slot]
        end.observations, end.dones = map_observation(np.array, last_observations), np.array(dones)

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

    def newest(self) -> Rollout:
        """
        :return: a copy of the newest rollout, without the arrays that hold no numbers
        """
        version = int(self._versions[self._slot])
        assert version != _EMPTY, "the newest rollout is not complete"
        arrays = {
            name: map_observation(lambda ring: ring[self._slot].copy(), ring) for name, ring in self._storage.items()
        }
        if not self.n_anchor_parameters:
            del arrays["anchor_parameters"]
        return Rollout(version, arrays, copy.deepcopy(self._ends[self._slot]))

    def ingest(self, rollout: Rollout) -> None:
        """
        Put a rollout in place of the one with the lowest version. It becomes the newest, whatever its version.

        :param rollout: from a buffer of the same spaces, steps and environments. It may come without anchor parameters,
            which :meth:`set_anchor` then has to give before they are drawn
        :raises ValueError: if it does not fit
        """
        missing = self._storage.keys() ^ rollout.arrays.keys()
        if missing - {"anchor_parameters"}:
            raise ValueError(f"the rollout does not fit this buffer: only one of them has {sorted(missing)}")
        if self.keep_trajectories and rollout.end.dones is None:
            raise ValueError("the rollout does not fit this buffer: it comes without how it ended")
        for name, arrays in rollout.arrays.items():
            given = map_observation(np.shape, arrays)
            shapes = map_observation(lambda ring: ring.shape[1:], self._storage[name])
            if given != shapes:
                raise ValueError(f"the rollout does not fit this buffer: its {name} are {given}, not {shapes}")
        self._open_slot()
        for name, arrays in rollout.arrays.items():
            _write(self._storage[name], self._slot, arrays)
        # A copy: arrays that came through shared memory would hold all of theirs for as long as the window is.
        self._ends[self._slot] = copy.deepcopy(rollout.end)
        self._versions[self._slot] = rollout.version
        self.pos, self.full = self.buffer_size, True

    @property
    def nbytes(self) -> int:
        """Bytes of the whole ring, and of what is kept of the ends of rollouts and episodes."""
        arrays: list[np.ndarray] = []
        for ring in self._storage.values():
            map_observation(arrays.append, ring)
        for end in self._ends:
            for observation in (end.observations, *(limit[2] for limit in end.time_limits)):
                map_observation(lambda array: arrays.append(np.asarray(array)), observation)
        return sum(array.nbytes for array in arrays if array.dtype != object)

    @property
    def n_trainable(self) -> int:
        """How many transitions may be trained on now."""
        return len(self._trainable_slots()) * self.buffer_size * self.n_envs

    def _trainable_slots(self) -> np.ndarray:
        lags = self.policy_version - self._versions
        trainable = (self._versions != _EMPTY) & (lags >= self.min_lag)
        if self.max_lag is not None:
            trainable &= lags <= self.max_lag
        return np.flatnonzero(trainable)

    def trajectories(self) -> Trajectories:
        """
        All trainable rollouts, each in the order of time.

        :return: copies, on the buffer's device
        """
        assert self.keep_trajectories, "the buffer was made without keep_trajectories: how rollouts ended is not known"
        slots = self._trainable_slots()
        ends = [self._ends[slot] for slot in slots]

        def tensors(arrays: Any) -> Any:
            return map_observation(self.to_torch, arrays)

        rewards, starts = (
            self.in_time(tensors(self._storage[name][slots].reshape(-1))) for name in ("rewards", "episode_starts")
        )
        last_dones = tensors(np.stack([end.dones for end in ends]).reshape(1, -1)).to(starts.dtype)
        time_limits = [
            (time, nth * self.n_envs + env, observation)
            for nth, end in enumerate(ends)
            for time, env, observation in end.time_limits
        ]
        return Trajectories(
            rewards=rewards,
            dones=th.cat([starts[1:], last_dones]),
            last_observations=tensors(_join([end.observations for end in ends], np.concatenate)),
            time_limits=tensors(np.array([limit[:2] for limit in time_limits], dtype=np.int64).reshape(-1, 2).T),
            terminal_observations=tensors(_join([limit[2] for limit in time_limits], np.stack))
            if time_limits
            else None,
        )

    def in_time(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: of all trainable transitions in the order of :meth:`in_order`, (n_trainable, ...)
        :return: as in :class:`Trajectories`, (time, trajectories, ...)
        """
        return numbers.unflatten(0, (-1, self.buffer_size)).transpose(0, 1)

    def set_anchor(self, parameters: th.Tensor) -> None:
        """
        Replace the anchor parameters of all trainable transitions.

        :param parameters: (n_trainable, n_anchor_parameters), in the order of :meth:`in_order`
        """
        ring = self._storage["anchor_parameters"]
        slots = self._trainable_slots()
        ring[slots] = parameters.reshape(len(slots), *ring.shape[1:]).cpu().numpy()

    def set_targets(self, advantages: th.Tensor, returns: th.Tensor) -> None:
        """
        Replace the advantages and value targets of all trainable rollouts.

        :param advantages: (time, trajectories), as in :class:`Trajectories`
        :param returns: value targets, likewise
        """
        slots = self._trainable_slots()
        for name, numbers in (("advantages", advantages), ("returns", returns)):
            ring = self._storage[name]
            ring[slots] = numbers.T.reshape(len(slots), *ring.shape[1:]).cpu().numpy()

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
        order = np.random.permutation(self._trainable_places())
        assert len(order) > 0, "no complete rollout has a lag from min_lag to max_lag: there is nothing to train on"
        batch_size = batch_size or len(order)
        for start in range(0, len(order), batch_size):
            yield self._get_samples(order[start : start + batch_size])

    def in_order(self, batch_size: int) -> Generator[tuple[Any, th.Tensor, th.Tensor], None, None]:
        """
        What the policy may look at again: all trainable transitions, trajectory after trajectory, each in the order of time.

        :param batch_size: how many at once; the last ones may be fewer
        :return: observations, actions, behavior log-probabilities, each (batch, ...)
        """
        places = self._trainable_places()
        for start in range(0, len(places), batch_size):
            batch_inds = places[start : start + batch_size]
            yield (
                self._gather("observations", batch_inds),
                # SB3's habit, here as in minibatches: actions travel as floats.
                self._gather("actions", batch_inds).to(th.float32),
                self._gather("log_probs", batch_inds),
            )

    def _trainable_places(self) -> np.ndarray:
        """Where all trainable transitions are in the flattened ring."""
        rollout_size = self.buffer_size * self.n_envs
        return (self._trainable_slots()[:, None] * rollout_size + np.arange(rollout_size)).reshape(-1)

    def _gather(self, name: str, batch_inds: np.ndarray) -> Any:
        return map_observation(lambda ring: self.to_torch(_flat(ring)[batch_inds], copy=False), self._storage[name])

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> StaleRolloutBufferSamples:
        lags = self.policy_version - self._versions[batch_inds // (self.buffer_size * self.n_envs)]
        return StaleRolloutBufferSamples(
            observations=self._gather("observations", batch_inds),
            actions=self._gather("actions", batch_inds).to(th.float32),
            old_values=self._gather("values", batch_inds),
            old_log_prob=self._gather("log_probs", batch_inds),
            advantages=self._gather("advantages", batch_inds),
            returns=self._gather("returns", batch_inds),
            lags=self.to_torch(lags, copy=False),
            anchor_parameters=self._gather("anchor_parameters", batch_inds) if self.n_anchor_parameters else None,
        )


class DictStaleRolloutBuffer(StaleRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """
    :class:`StaleRolloutBuffer` for Dict observations: ``observations`` is a dictionary of arrays or tensors.

    :raises AssertionError: if the observation space is not a Dict
    """


def map_observation(function: Callable[..., Any], arrays: Any) -> Any:
    """
    :param function: of one array or tensor
    :param arrays: an array or tensor, or the dictionary of them that a Dict observation is
    :return: the function's result, or the dictionary of its results
    """
    if isinstance(arrays, dict):
        return {key: function(array) for key, array in arrays.items()}
    return function(arrays)


def _join(parts: list[Any], join: Any) -> Any:
    """Join arrays, or the arrays of Dict observations key by key."""
    if isinstance(parts[0], dict):
        return {key: join([part[key] for part in parts]) for key in parts[0]}
    return join(parts)


def _write(ring: Any, slot: int, arrays: Any) -> None:
    if isinstance(ring, dict):
        for key, part in ring.items():
            part[slot] = arrays[key]
    else:
        ring[slot] = arrays


def _flat(ring: np.ndarray) -> np.ndarray:
    return ring.reshape(-1, *ring.shape[3:])
