"""What several test files share: an environment without dynamics, every action distribution, a model's parameters."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

# Every action distribution of SB3's actor-critics: its space, and the policy's options.
ACTIONS = {
    "box": (spaces.Box(-1, 1, (2,)), {}),
    "sde": (spaces.Box(-1, 1, (2,)), {"use_sde": True}),
    "squashed_sde": (spaces.Box(-1, 1, (2,)), {"use_sde": True, "squash_output": True}),
    "discrete": (spaces.Discrete(4), {}),
    "multi_discrete": (spaces.MultiDiscrete([3, 2]), {}),
    "multi_binary": (spaces.MultiBinary(3), {}),
}


def parameters(model):
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


class RandomEnv(gym.Env):
    """Random observations, and rewards that depend on the action; cut by a time limit after 7 steps."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self._steps += 1
        return self.observation_space.sample(), float(np.mean(action)), False, self._steps == 7, {}
