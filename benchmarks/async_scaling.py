"""
The scaling benchmark of asynchronous actors: transitions per second as actors are added, on an environment that mostly
waits, and how long the learner waits when it has enough to do. Only ratios of the same turn mean anything elsewhere.
"""

import functools
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks import provenance
from benchmarks.report import Table, markdown
from benchmarks.turns import kind, spread, spread_text
from sb3_gipo import FixedLatency
from sb3_gipo.remote import AsyncGIPO, cluster

__all__ = ["ACTORS", "LEGEND", "measure", "tables", "write"]

#: How many actors there are, from turn to turn.
ACTORS = (1, 2, 4, 8)
#: So many samples for each transition keep any learner busy.
_PLENTY = 100.0
_CPUS_PER_ACTOR = 0.1

LEGEND = (
    "CartPole-v1 whose every step waits a fixed time; all actors and the learner share the machine.",
    "x linear: transitions per second, over those of one actor in the same turn times the number of actors.",
    "x latency: transitions per second, over what the environments' waiting alone would allow.",
    "learner waits, actors wait: shares of time; with 100 samples per insert the learner has more to do than it can.",
    "Medians [lowest, highest turn], measured from when every actor has delivered a rollout.",
)


class _Numbered(gym.Wrapper):
    """Tells in which actor an environment lives."""

    def __init__(self, env: gym.Env, number: int):
        super().__init__(env)
        self._number = number

    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        return *rest, {**info, "actor": self._number}


def _make(latency: float, number: int) -> gym.Env:
    return _Numbered(FixedLatency(gym.make("CartPole-v1"), latency), number)


class _Stretch(BaseCallback):
    """Takes the time from when all actors have delivered a rollout, and ends the run after so many seconds."""

    def __init__(self, n_actors: int, seconds: float):
        super().__init__()
        self._missing = set(range(n_actors))
        self._seconds = seconds
        self._began: Any = None

    def _on_rollout_end(self) -> None:
        self._missing -= {self.locals["infos"][0]["actor"]}
        if not self._missing and self._began is None:
            self._began = self.model.tally.now()

    def _on_step(self) -> bool:
        if self._began is None or time.monotonic() - self._began.at < self._seconds:
            return True
        self.rates = self.model.tally.now().since(self._began)
        return False


def measure(
    actors: Iterable[int] = ACTORS,
    latency: float = 0.01,
    seconds: float = 20.0,
    repetitions: int = 3,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Count transitions.

    :param actors: numbers of actors, 1 first
    :param latency: seconds that each step of an environment waits
    :param seconds: how long each is measured
    :param repetitions: turns of each, >= 1
    :param progress: called with a line for each number of actors
    :return: JSON data, medians with the lowest and the highest turn; versions, commit and machine
    """
    th.set_num_threads(1)
    # One update for each rollout; then, with as many actors as there are, more than the learner can do.
    cases = [(n_actors, 4.0) for n_actors in actors]
    cases.append((cases[-1][0], _PLENTY))
    turns: dict[tuple[int, float], list[dict[str, float]]] = {case: [] for case in cases}
    with cluster(cases[-1][0], _CPUS_PER_ACTOR):
        for _ in range(repetitions):
            for case in cases:
                turns[case].append(_turn(*case, latency, seconds))
    alone = np.array([turn["transitions_per_second"] for turn in turns[cases[0]]])
    rows = [_row(*case, turns[case], alone, latency) for case in cases]
    for row in rows:
        linear = row["ratio_to_linear"]["median"]
        progress(f"{row['actors']} actors, {row['samples_per_insert']:g} samples per insert: {linear:.2f} times linear")
    return {
        "latency_seconds": latency,
        "rows": rows,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
    }


def _turn(n_actors: int, samples_per_insert: float, latency: float, seconds: float) -> dict[str, float]:
    stretch = _Stretch(n_actors, seconds)
    AsyncGIPO(
        "MlpPolicy",
        [functools.partial(_make, latency, number) for number in range(n_actors)],
        n_actors=n_actors,
        samples_per_insert=samples_per_insert,
        cpus_per_actor=_CPUS_PER_ACTOR,
        n_steps=64,
        batch_size=64,
        n_epochs=4,
        replay_window=8,
        seed=0,
        device="cpu",
    ).learn(10**12, callback=stretch, log_interval=10**9)
    return stretch.rates


def _row(
    n_actors: int, samples_per_insert: float, turns: list[dict[str, float]], alone: np.ndarray, latency: float
) -> dict[str, Any]:
    numbers = {name: np.array([turn[name] for turn in turns]) for name in turns[0]}
    rate = numbers["transitions_per_second"]
    return {
        "actors": n_actors,
        "samples_per_insert": samples_per_insert,
        **{name: spread(each) for name, each in numbers.items()},
        "ratio_to_linear": spread(rate / (alone * n_actors)),
        "ratio_to_latency": spread(rate * latency / n_actors),
    }


def tables(measured: dict[str, Any]) -> list[Table]:
    """
    :param measured: of :func:`measure`
    :return: one table
    """
    columns = {
        "transitions/s": ("transitions_per_second", 0),
        "x linear": ("ratio_to_linear", 2),
        "x latency": ("ratio_to_latency", 2),
        "updates/s": ("updates_per_second", 1),
        "learner waits": ("learner_waiting", 3),
        "actors wait": ("actors_waiting", 3),
    }
    rows = [
        (
            str(row["actors"]),
            f"{row['samples_per_insert']:g}",
            *(spread_text(row[name], digits) for name, digits in columns.values()),
        )
        for row in measured["rows"]
    ]
    title = f"asynchronous actors, {1000 * measured['latency_seconds']:g} ms a step"
    return [Table(title, ("actors", "samples per insert", *columns), rows)]


def write(measured: dict[str, Any], origin: str) -> dict[str, bytes]:
    """
    :param measured: of :func:`measure`
    :param origin: "made by `command` at commit ..."
    :return: name to content: JSON and Markdown
    """
    name = kind(measured)
    text = [f"# Asynchronous actors on {name}", *map(markdown, tables(measured))]
    text += ["\n".join(f"- {line}" for line in LEGEND), origin]
    return {
        f"{name}.json": (json.dumps(measured, indent=1) + "\n").encode(),
        f"{name}.md": ("\n\n".join(text) + "\n").encode(),
    }
