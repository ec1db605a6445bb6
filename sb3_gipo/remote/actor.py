"""What runs in an actor's process: its own environments, a copy of the policy, and GIPO up to the end of a rollout."""

import functools
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_gipo.buffers import Rollout
from sb3_gipo.gipo import GIPO

__all__ = ["Actor", "Arrival", "EnvMaker", "Environments", "env_makers", "stand_ins"]

EnvMaker = Callable[[], gym.Env]
#: What users may give: a Gymnasium id, a function that makes one environment, or a function for each environment.
Environments = str | EnvMaker | Sequence[EnvMaker]


def env_makers(env: Environments, n_envs: int) -> list[EnvMaker]:
    """
    :param env: what the user gave
    :param n_envs: how many environments are needed
    :return: a function for each
    :raises TypeError: if it is an environment itself
    :raises ValueError: if there are not as many functions as environments
    """
    if isinstance(env, gym.Env | VecEnv):
        raise TypeError(
            f"env must be what makes environments, a Gymnasium id or functions, as every actor has its own; got {env!r}"
        )
    if isinstance(env, str):
        # The specification travels: the id need not be registered in the actors' processes.
        return [functools.partial(gym.make, gym.spec(env))] * n_envs
    if callable(env):
        return [env] * n_envs
    if len(env) != n_envs:
        raise ValueError(
            f"env must hold a function for each environment, n_actors * envs_per_actor = {n_envs} of them, got {len(env)}"
        )
    return list(env)


class _StandIn(gym.Env):
    """
    Has the spaces of an environment that lives elsewhere. It stands where SB3 wants to see a training environment: SB3 asks
    it for spaces and seeds it, and resets it before it learns.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        raise NotImplementedError("AsyncGIPO's environments live in its actors: nobody can step them here")


def stand_ins(make: EnvMaker, n_envs: int) -> DummyVecEnv:
    """
    :param make: makes one environment, whose spaces are read before it is closed again
    :param n_envs: how many environments an actor has
    :return: what the learner has in their place
    :raises TypeError: if it makes anything but an environment, such as several at once
    """
    env = make()
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"env must make one gymnasium.Env at each call, got {env!r}: an actor puts its environments side by side "
            "itself, and normalization belongs into a gymnasium wrapper"
        )
    try:
        observation_space, action_space = env.observation_space, env.action_space
    finally:
        env.close()
    return DummyVecEnv([functools.partial(_StandIn, observation_space, action_space)] * n_envs)


class Arrival(NamedTuple):
    """
    What an actor sends for a rollout of T steps in E environments.

    ``rollout``: for the buffer. ``rewards`` and ``dones``: as the environments gave them, (T, E). ``infos``: (T lists of E).
    ``waited``: seconds between the actor's last rollout and this one. ``collected``: seconds that it took.
    """

    rollout: Rollout
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[list[dict[str, Any]]]
    waited: float
    collected: float


class Collector(GIPO):
    """
    GIPO up to the end of a rollout, and never further. Its buffer holds one rollout, but stores what the learner needs.

    :param policy: The policy model to use
    :param env: The environments to collect from
    :param always_fresh: whether the learner trains on nothing but the newest policy's data
    :param n_steps: steps of a rollout for each environment
    :param options: GIPO's, those that concern collecting
    """

    def __init__(self, policy: Any, env: DummyVecEnv, *, always_fresh: bool, n_steps: int, **options: Any):
        self._learner_is_fresh = always_fresh
        # Nothing is trained here: no minibatch is too large or too small.
        super().__init__(
            policy,
            env,
            n_steps=n_steps,
            batch_size=n_steps * env.num_envs,
            normalize_advantage=False,
            device="cpu",
            replay_window=1,
            **options,
        )
        self._steps = _StepRecorder()
        self._setup_learn(0, self._steps)

    @property
    def _always_fresh(self) -> bool:
        return self._learner_is_fresh

    def collect(self) -> "_StepRecorder":
        """
        :return: what happened in each step of the rollout that is now in ``rollout_buffer``
        """
        assert self.env is not None
        self.collect_rollouts(self.env, self._steps, self.rollout_buffer, self.n_steps)
        return self._steps


class _StepRecorder(BaseCallback):
    """Keeps what callbacks on the learner's side are told of each step."""

    def _on_rollout_start(self) -> None:
        self.rewards: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []
        self.infos: list[list[dict[str, Any]]] = []

    def _on_step(self) -> bool:
        # The value of a future cut off by a time limit joins the reward afterwards, in place.
        self.rewards.append(self.locals["rewards"].copy())
        self.dones.append(self.locals["dones"])
        self.infos.append(self.locals["infos"])
        return True


class Actor:
    """
    Collects rollouts, one at each call, in a process of its own.

    :param plan: pickled options of :class:`Collector`, and what makes its environments
    :param seed: of all its random streams, environment k with ``seed + k``; None: unpredictable
    """

    def __init__(self, plan: bytes, seed: int | None):
        # Nothing is tried before it is asked for, so that what fails comes back with its traceback.
        self._plan = plan
        self._seed = seed
        self._version: int | None = None

    def prepare(self) -> None:
        """Make the environments and the policy, which can take long: weights are best chosen after it."""
        self._collector = _collector(self._plan, self._seed)
        self._idle_since = time.monotonic()

    def collect(self, weights: dict[str, th.Tensor], version: int) -> Arrival:
        """
        Collect one rollout, once prepared.

        :param weights: the policy's state
        :param version: the policy version that these weights are
        :return: the rollout and all that the learner wants to know of it
        """
        collector, started = self._collector, time.monotonic()
        if version != self._version:
            collector.policy.load_state_dict(weights)
            collector.policy_version = self._version = version
        steps = collector.collect()
        waited, self._idle_since = started - self._idle_since, time.monotonic()
        return Arrival(
            rollout=collector.rollout_buffer.newest(),
            rewards=np.stack(steps.rewards),
            dones=np.stack(steps.dones),
            infos=steps.infos,
            waited=waited,
            collected=self._idle_since - started,
        )


def _collector(plan: bytes, seed: int | None) -> Collector:
    options, makers = pickle.loads(plan)
    th.set_num_threads(1)
    if seed is None:
        # A new process's torch stream is always the same: without a seed all actors would explore alike.
        th.seed()
    return Collector(env=DummyVecEnv([functools.partial(_monitored, make) for make in makers]), seed=seed, **options)


def _monitored(make: EnvMaker) -> gym.Env:
    env = make()
    return env if is_wrapped(env, Monitor) else Monitor(env)
