"""
The speed benchmark: what GIPO costs beside Stable-Baselines3's own PPO.

Both make the same number of environment steps and of gradient steps of the same size. They take turns in one process, so
that both see the same machine; only ratios of the same turn are compared, and no absolute time is worth anything elsewhere.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks import provenance
from sb3_gipo import GIPO

__all__ = ["TASKS", "WINDOWS", "measure"]

TASKS = ("CartPole-v1", "HalfCheetah-v5")
WINDOWS = (1, 40)


def measure(
    tasks: Iterable[str] = TASKS,
    windows: Iterable[int] = WINDOWS,
    iterations: int = 10,
    repetitions: int = 7,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Time ``learn()`` of GIPO and of PPO in turns.

    :param tasks: Gymnasium ids
    :param windows: GIPO's replay windows; each is filled before the clock starts
    :param iterations: iterations that one timing takes, each of 512 environment steps and 80 gradient steps, >= 1
    :param repetitions: turns, >= 1
    :param progress: called with a line for each task and window done
    :return: JSON data: for each task and window the ratio GIPO / PPO of CPU seconds, one for each turn, with its median; the
        CPU seconds; versions, commit and machine
    """
    th.set_num_threads(1)
    rows = []
    for task, window in itertools.product(tasks, windows):
        learners = {"ppo": _learner(PPO, task), "gipo": _learner(GIPO, task, replay_window=window)}
        _train(learners["ppo"], 2)
        _train(learners["gipo"], max(window, 2))
        seconds: dict[str, list[float]] = {name: [] for name in learners}
        for turn in range(repetitions):
            # Who goes first changes from turn to turn.
            for name in sorted(learners, reverse=bool(turn % 2)):
                seconds[name].append(_train(learners[name], iterations))
        ratios = np.array(seconds["gipo"]) / np.array(seconds["ppo"])
        rows.append(
            {
                "task": task,
                "replay_window": window,
                "median_ratio": round(float(np.median(ratios)), 3),
                "ratios": ratios.round(3).tolist(),
                "cpu_seconds": seconds,
            }
        )
        progress(
            f"{task}, window {window}: GIPO takes {np.median(ratios):.2f} times PPO's CPU time "
            f"({ratios.min():.2f} to {ratios.max():.2f} in {repetitions} turns)"
        )
    return {
        "iterations": iterations,
        "against_ppo": rows,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
    }


def _learner(algorithm: type[OnPolicyAlgorithm], task: str, **arguments: Any) -> OnPolicyAlgorithm:
    # Written out where the two classes' defaults may differ: what is compared is the same work.
    same = {"n_steps": 512, "batch_size": 64, "n_epochs": 10}
    model = algorithm("MlpPolicy", gym.make(task), seed=0, device="cpu", **same, **arguments)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _train(model: OnPolicyAlgorithm, iterations: int) -> float:
    """CPU seconds of so many iterations."""
    start = time.process_time()
    model.learn(iterations * model.n_steps, reset_num_timesteps=False)
    return round(time.process_time() - start, 4)
