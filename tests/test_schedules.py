import json
import pickle
from itertools import pairwise

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo import GIPO
from sb3_gipo.schedules import WarmupCosineSchedule


class Nothing(gym.Env):
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        return self.observation_space.low, 0.0, False, False, {}


class LearningRates(BaseCallback):
    """The optimizer's learning rate of each iteration's update."""

    def __init__(self):
        super().__init__()
        self.found = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.found.append(self.model.policy.optimizer.param_groups[0]["lr"])

    def _on_training_end(self):
        self._on_rollout_start()


def test_each_iteration_of_learn_gets_its_golden_learning_rate(golden):
    expected = dict(json.loads((golden / "lr_schedule.json").read_text()))
    rates = LearningRates()
    schedule = WarmupCosineSchedule(3e-4, warmup_iterations=10, n_iterations=1000)
    model = GIPO("MlpPolicy", Nothing(), learning_rate=schedule, n_steps=3, batch_size=3, n_epochs=1, device="cpu")
    model.learn(3000, callback=rates)
    at_construction, *found = rates.found
    assert at_construction == 0 and len(found) == 1000
    assert [found[iteration] for iteration in expected] == pytest.approx(list(expected.values()), rel=1e-12, abs=0)


@pytest.mark.parametrize("rollout_size", [1, 7, 500, 2048, 16384])
@pytest.mark.parametrize("n_iterations", [11, 300, 1000, 4999])
def test_rounding_never_misses_the_iteration(rollout_size, n_iterations):
    schedule = WarmupCosineSchedule(1.0, 10, n_iterations)
    total = rollout_size * n_iterations
    values = [schedule(1.0 - float(rollout_size * (k + 1)) / float(total)) for k in range(n_iterations)]
    assert values[:11] == [k / 10 for k in range(11)]
    assert all(a > b > 0 for a, b in pairwise(values[10:]))
    for k, value in enumerate(values):
        progress_remaining = 1 - (k + 1) / n_iterations
        for error in (-0.4, 0.4):
            assert schedule(progress_remaining + error / n_iterations) == value


def test_the_ends():
    schedule = WarmupCosineSchedule(2.0, 0, 5)
    assert schedule(1.0) == schedule(1 - 1 / 5) == 2.0
    assert schedule(-1 / 5) == schedule(-3.0) == 0.0, "steps beyond the planned ones must not climb the cosine again"
    assert WarmupCosineSchedule(2.0, 3, 5)(1.0) == 0.0


def test_it_survives_pickling():
    schedule = WarmupCosineSchedule(3e-4, 10, 1000)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_bad_lengths_are_named():
    for warmup, n in ((10, 10), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match=f"warmup_iterations={warmup}, n_iterations={n}"):
            WarmupCosineSchedule(1.0, warmup, n)
