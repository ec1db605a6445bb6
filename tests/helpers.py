"""What several test files share: environments without dynamics, and a model's parameters as one vector."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces


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
