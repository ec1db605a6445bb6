"""
The anchors of the absolute normalisation: what a random policy (0) and an expert (1) return on a task.

MetaWorld's expert is its scripted policy. Gymnasium has none; there 1 is the return from which its registry calls the task
solved, which is a convention, and a learner may exceed it. Pendulum-v1 has no such return either: about -150 is what the
best published agents reach.

They are measured once, by `python -m benchmarks anchors`, and committed. Unlike a min-max over the algorithms compared, they
do not move when an algorithm is added.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks import envs, provenance
from benchmarks.spec import BenchmarkError
from benchmarks.store import read_json

__all__ = ["load_anchors", "measure", "read"]

_SOLVED = {"Pendulum-v1": -150.0}
Policy = Callable[[np.ndarray], Any]
# The anchors that come with the benchmark.
COMMITTED = Path(__file__).parents[1] / "results" / "anchors.json"


def measure(
    tasks: Iterable[str],
    seeds: Iterable[int],
    episodes: int,
    command: str,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Measure the anchors.

    :param tasks: MetaWorld tasks or Gymnasium ids
    :param seeds: seeds of the environment, each with its own goals
    :param episodes: episodes for each seed, >= 1
    :param command: the command line, for the record
    :param progress: called with a line for each task done
    :return: JSON data: for each task and policy the mean and standard deviation of the unscaled return, the success rate
        and the number of episodes; with the command, commit, seeds and versions
    :raises BenchmarkError: if there is no such task, it cannot be made, or nothing tells what 1 is
    """
    seeds = list(seeds)
    made = {
        "command": command,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "seeds": seeds,
        "episodes_per_seed": episodes,
    }
    measured: dict[str, Any] = {}
    for task in tasks:
        try:
            expert = _expert(envs.check_task(task), seeds, episodes)
            random = _measure(task, _random, seeds, episodes)
        except gym.error.Error as error:
            raise BenchmarkError(f"task {task!r} cannot be made: {error}") from error
        measured[task] = {"random": random, "expert": expert, "made": made}
        progress(f"{task}: random {random['mean']:.1f}, expert {expert['mean']:.1f}")
    return measured


def _random(environment: gym.Env, seed: int) -> Policy:
    environment.action_space.seed(envs.learner_seed(seed, 0))
    return lambda observation: environment.action_space.sample()


def _expert(task: str, seeds: list[int], episodes: int) -> dict[str, Any]:
    script = envs.expert(task)
    if script is not None:
        return _measure(task, lambda environment, seed: script, seeds, episodes)
    solved = _SOLVED.get(task, gym.spec(task).reward_threshold)
    if solved is None:
        raise BenchmarkError(
            f"task {task!r} has neither a scripted expert nor a return that solves it: it has no anchors"
        )
    return {"mean": float(solved), "source": "the return that solves the task, not measured"}


def _measure(
    task: str, make_policy: Callable[[gym.Env, int], Policy], seeds: list[int], episodes: int
) -> dict[str, Any]:
    finished = []
    for seed in seeds:
        environment = envs.make_env(task, envs.environment_seed(seed))
        environment.reset(seed=envs.environment_seed(seed))
        policy = make_policy(environment, seed)
        finished += [_episode(environment, policy) for _ in range(episodes)]
        environment.close()
    returns = [episode["r"] for episode in finished]
    successes = [episode["is_success"] for episode in finished if "is_success" in episode]
    return {
        "mean": round(float(np.mean(returns)), 3),
        "std": round(float(np.std(returns)), 3),
        "success": float(np.mean(successes)) if successes else None,
        "episodes": len(finished),
    }


def _episode(environment: gym.Env, policy: Policy) -> dict[str, Any]:
    observation, _ = environment.reset()
    while True:
        observation, _, terminated, truncated, info = environment.step(policy(observation))
        if terminated or truncated:
            return info["episode"]


def read(path: Path) -> dict[str, Any]:
    """
    :param path: a file of anchors; it may be missing
    :return: task to what :func:`measure` gave
    :raises BenchmarkError: if the file is damaged, or an expert is no better than a random policy
    """
    if not path.exists():
        return {}
    try:
        tasks = read_json(path)["tasks"]
        ends = {task: (float(entry["random"]["mean"]), float(entry["expert"]["mean"])) for task, entry in tasks.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(
            f"{path} is not a file of anchors: make it anew with `python -m benchmarks anchors`"
        ) from error
    for task, (random, expert) in ends.items():
        if not -math.inf < random < expert < math.inf:
            raise BenchmarkError(
                f"{path}: on {task} the expert returns {expert} and the random policy {random}: that is no scale from 0 to 1"
            )
    return tasks


def load_anchors(root: Path) -> dict[str, tuple[float, float]]:
    """
    :param root: a store's folder; the tasks of its own ``anchors.json`` come before the committed ones
    :return: task to (random, expert) mean returns; tasks that were not measured are absent
    :raises BenchmarkError: as :func:`read` does
    """
    tasks = read(COMMITTED) | read(root / "anchors.json")
    return {task: (float(entry["random"]["mean"]), float(entry["expert"]["mean"])) for task, entry in tasks.items()}
