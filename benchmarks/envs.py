"""
Makes the environments of the benchmark, MetaWorld's and Gymnasium's, and their seeds. Alone imports metaworld.

Seeds follow one rule: the environment depends on the seed alone (for MetaWorld: which 50 goals, and the order in which
episodes draw them), the learner on the seed and the repeat, and neither on the algorithm. Comparisons are paired.
"""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import metaworld
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker, TransformReward
from metaworld.policies import ENV_POLICY_MAP
from stable_baselines3.common.monitor import Monitor

from benchmarks.spec import choose
from sb3_gipo.wrappers import TokenizeAction

__all__ = ["OwnSeed", "check_task", "environment_seed", "evaluation_seed", "expert", "learner_seed", "make_env"]

_ENVIRONMENT, _LEARNER, _EVALUATION = 0, 1, 2


def environment_seed(seed: int, copy: int = 0) -> int:
    """
    :param seed: a suite's seed, >= 0
    :param copy: which of a learner's environments, >= 0
    :return: what seeds the environment, 32 bits; the same for every repeat and every algorithm
    """
    return _stream(seed, 0, _ENVIRONMENT, copy)


def evaluation_seed(seed: int, copy: int = 0) -> int:
    """
    :param seed: a suite's seed, >= 0
    :param copy: which of the environments, >= 0
    :return: what seeds the environment of evaluation episodes, 32 bits; the same for every repeat and every algorithm
    """
    return _stream(seed, 0, _EVALUATION, copy)


def learner_seed(seed: int, repeat: int) -> int:
    """
    :param seed: a suite's seed, >= 0
    :param repeat: a suite's repeat, >= 0
    :return: what seeds weights, action noise and minibatch order, 32 bits; the same for every algorithm
    """
    return _stream(seed, repeat, _LEARNER)


def _stream(seed: int, repeat: int, purpose: int, nth: int = 0) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(repeat, purpose)).generate_state(nth + 1)[nth])


def check_task(task: str) -> str:
    """
    :param task: a MetaWorld task such as "button-press-v3", or a Gymnasium id such as "CartPole-v1"
    :return: the same name
    :raises BenchmarkError: if there is no such task; the nearest one is offered
    """
    return choose("task", task, [*metaworld.ALL_V3_ENVIRONMENTS, *gym.registry])


def make_env(task: str, seed: int, reward_scale: float = 1.0, action_bins: int | None = None) -> gym.Env:
    """
    One environment, monitored.

    SB3's Monitor stands below the reward scale, so the returns in ``info["episode"]`` are unscaled. For MetaWorld that
    entry also holds ``is_success`` (success at any step of the episode, its maintainers' definition) and
    ``is_success_last`` (success at its last step); success does not end an episode, step 500 truncates it.

    :param task: a MetaWorld task or a Gymnasium id
    :param seed: from :func:`environment_seed`. It fixes MetaWorld's goals here; other environments take theirs at
        their first ``reset(seed=...)``, which MetaWorld ignores
    :param reward_scale: what the rewards that the learner sees are multiplied by
    :param action_bins: into how many values each dimension of a Box action is cut; None: it is left as it is. Discrete
        actions always are
    :return: the environment
    :raises BenchmarkError: if there is no such task
    """
    if check_task(task) in metaworld.ALL_V3_ENVIRONMENTS:
        env: gym.Env = Monitor(
            _SuccessInfo(_make_metaworld(task, seed)), info_keywords=("is_success", "is_success_last")
        )
    else:
        env = Monitor(gym.make(task))
    if action_bins is not None and isinstance(env.action_space, gym.spaces.Box):
        env = TokenizeAction(env, action_bins)
    return env if reward_scale == 1.0 else TransformReward(env, lambda reward: reward * reward_scale)


def _make_metaworld(task: str, seed: int) -> gym.Env:
    # The checker comes after the repair: until a task is set, the space says that every goal lies in [0, 0], and it is
    # not updated when one is (Metaworld#599). Setting a task draws nothing from the environment's stream.
    env = gym.make("Meta-World/MT1", env_name=task, seed=seed, disable_env_checker=True)
    simulation = env.unwrapped
    simulation.set_task(env.get_wrapper_attr("tasks")[0])
    space = simulation.sawyer_observation_space
    # A goal coordinate that the task never varies has equal bounds, which says nothing about its scale: leave it open.
    constant = space.low == space.high
    simulation.observation_space = gym.spaces.Box(
        np.where(constant, -np.inf, space.low), np.where(constant, np.inf, space.high), dtype=space.dtype
    )
    return PassiveEnvChecker(env)


class _SuccessInfo(gym.Wrapper):
    """
    Turns MetaWorld's success of a step into SB3's success of an episode. The rest of its info, which nobody reads, stays
    behind: to copy it at each step, as SB3 does, takes a tenth of the step's time.
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._succeeded = False
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        now = bool(info["success"])
        self._succeeded = self._succeeded or now
        successes = {"is_success": self._succeeded, "is_success_last": now}
        return observation, reward, terminated, truncated, successes


class OwnSeed(gym.Wrapper):
    """
    An environment that takes its own seed at its first reset, and no other: who resets it need not know the rule above. One
    that is made again, for an actor that was lost, begins again.

    :param env: the environment
    :param seed: from :func:`environment_seed`
    """

    def __init__(self, env: gym.Env, seed: int):
        super().__init__(env)
        self._seed: int | None = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        seed, self._seed = self._seed, None
        return self.env.reset(seed=seed, options=options)


def expert(task: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """
    :param task: a MetaWorld task or a Gymnasium id
    :return: MetaWorld's scripted expert, observation (39,) to action (4,) clipped to the action space as a learner's
        is; None where there is none
    """
    if task not in ENV_POLICY_MAP:
        return None
    policy = ENV_POLICY_MAP[task]()

    def act(observation: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            # The scripts warn that their actions will be clipped, which is what we do with them.
            warnings.filterwarnings("ignore", message=".*Environments clip response")
            return np.clip(policy.get_action(observation), -1.0, 1.0).astype(np.float32)

    return act
