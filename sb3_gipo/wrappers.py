"""Environment wrappers."""

import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

__all__ = ["FixedLatency", "TokenizeAction"]


class FixedLatency(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    Let every step wait a fixed time before it is made, as a robot or a heavy simulator somewhere else would. The processor
    is free meanwhile.

    :param env: environment to slow down
    :param seconds: how long each step waits, ≥ 0
    :raises ValueError: if ``seconds`` is negative
    """

    def __init__(self, env: gym.Env, seconds: float):
        gym.utils.RecordConstructorArgs.__init__(self, seconds=seconds)
        gym.Wrapper.__init__(self, env)
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, got {seconds}")
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self._seconds)
        return self.env.step(action)


class TokenizeAction(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """
    Replace each dimension of a Box action by a token in {0, ..., bins − 1}: token k stands for
    low + (high − low)·k/(bins − 1), evenly spaced values that include both bounds. The new action space is a
    MultiDiscrete with one entry per dimension (the Box is flattened), so that a policy learns a categorical
    distribution per dimension. GIPO's published MetaWorld study uses 256 bins on [−1, 1].

    Unlike gymnasium's ``DiscretizeAction``, whose values are the centers of the bins, the bounds can be reached.

    :param env: environment whose action space is a bounded Box of floats
    :param bins: how many values each dimension can take, ≥ 2
    :raises TypeError: if the action space is not a Box of floats
    :raises ValueError: if the Box is not bounded, or there are fewer than 2 bins
    """

    def __init__(self, env: gym.Env, bins: int = 256):
        gym.utils.RecordConstructorArgs.__init__(self, bins=bins)
        gym.ActionWrapper.__init__(self, env)
        box = env.action_space
        if not (isinstance(box, spaces.Box) and np.issubdtype(box.dtype, np.floating)):
            raise TypeError(f"TokenizeAction cuts Box actions of floats into bins; the action space is {box}")
        if not box.is_bounded():
            raise ValueError(f"TokenizeAction needs finite bounds in every action dimension; the action space is {box}")
        if bins < 2:
            raise ValueError(f"bins must be at least 2 (both bounds), got {bins}")
        # In float64, whose rounding errors vanish in a float32 action; the last value is the upper bound exactly.
        low, high = (bound.astype(np.float64).ravel() for bound in (box.low, box.high))
        self._values = np.linspace(low, high, bins).astype(box.dtype)
        self._shape = box.shape
        self.action_space = spaces.MultiDiscrete(np.full(low.size, bins))

    def action(self, action: Any) -> np.ndarray:
        """
        :param action: tokens, integers of shape (dimensions,)
        :return: the values they stand for, in the shape of the wrapped action space
        """
        return self._values[action, np.arange(self._values.shape[1])].reshape(self._shape)
