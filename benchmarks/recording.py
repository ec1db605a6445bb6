"""What a run shows while it trains: its episodes, and its learning curve."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

__all__ = ["DIAGNOSTICS", "MAX_ROWS", "Recorder", "Recording", "short", "success"]

# What is logged about each update, in the record's learning curve under the name without "train/". Outside algorithms log
# a few of these; the others are null.
DIAGNOSTICS = (
    "lag_mean",
    "lag_max",
    "dead_fraction",
    "ess",
    "log_ratio_abs_p95",
    "approx_kl",
    "kl_loss",
    "policy_gradient_loss",
    "value_loss",
    "entropy_loss",
    "loss",
    "explained_variance",
)
#: Rows of a learning curve: records stay below some 150 kB, however many iterations a run has.
MAX_ROWS = 1000


@dataclass
class Recording:
    """
    What has been seen so far.

    :param curve: the learning curve, a list for each quantity with an entry a row
    :param episodes: what the environments said of each episode that ended
    :param steps: environment steps made when the last iteration ended
    :param logged: what was logged in each iteration since the last row
    :param episodes_in_rows: how many of the episodes ended before or in the last row
    """

    curve: dict[str, list[Any]]
    episodes: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    logged: list[dict[str, float]] = field(default_factory=list)
    episodes_in_rows: int = 0


class Recorder(BaseCallback):
    """
    Writes the learning curve: one row an iteration, closed when the next one begins, after the updates between them. Of runs
    with more than ``MAX_ROWS`` iterations as many share a row as are needed: it holds the return of all of its episodes and
    the mean of what each iteration logged, where that is finite. With asynchronous actors an iteration is a rollout that
    arrived, with what the last update before the next arrival logged.

    :param iterations: of the whole run
    :param progress: called after each iteration with the environment steps made so far
    :param timed: whether the curve also holds the seconds since the first rollout began, or arrived
    """

    def __init__(self, iterations: int, progress: Callable[[int], None], timed: bool = False):
        super().__init__()
        self._iterations_per_row = math.ceil(iterations / MAX_ROWS)
        self._progress = progress
        self._began: float | None = None
        self._timed = timed
        names = ("steps", "return", "success", "success_last", *DIAGNOSTICS, *(["seconds"] if timed else []))
        self.recording = Recording({name: [] for name in names})

    def _on_step(self) -> bool:
        self.recording.episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_start(self) -> None:
        if self._timed and self._began is None:
            self._began = time.monotonic()
        self._end_iteration()
        if len(self.recording.logged) == self._iterations_per_row:
            self._close_row()

    def _on_training_end(self) -> None:
        self._end_iteration()
        if self.recording.logged:
            self._close_row()

    def _end_iteration(self) -> None:
        # Nothing is new when a run starts, or goes on from a checkpoint.
        if self.num_timesteps == self.recording.steps:
            return
        logged = self.logger.name_to_value
        self.recording.steps = self.num_timesteps
        self.recording.logged.append({name: logged.get(f"train/{name}", math.nan) for name in DIAGNOSTICS})
        self._progress(self.num_timesteps)

    def _close_row(self) -> None:
        recording = self.recording
        finished = recording.episodes[recording.episodes_in_rows :]
        row = {
            "steps": recording.steps,
            "return": short(np.mean([episode["r"] for episode in finished])) if finished else None,
            "success": success(finished, "is_success"),
            "success_last": success(finished, "is_success_last"),
        }
        for name in DIAGNOSTICS:
            values = [logged[name] for logged in recording.logged if math.isfinite(logged[name])]
            row[name] = short(np.mean(values)) if values else None
        if self._timed:
            row["seconds"] = short(time.monotonic() - self._began)
        for name, value in row.items():
            recording.curve[name].append(value)
        recording.episodes_in_rows = len(recording.episodes)
        recording.logged = []


def success(episodes: list[dict[str, Any]], key: str) -> float | None:
    """
    :param episodes: what the environment said of each
    :param key: ``is_success``, at any step, or ``is_success_last``
    :return: the share of those that succeeded, in [0, 1], or None if the environment knows no success
    """
    values = [episode[key] for episode in episodes if key in episode]
    return float(np.mean(values)) if values else None


def short(number: float) -> float | None:
    """
    :param number: a quantity of a curve
    :return: its first six significant digits, or None if it is not finite (an undefined explained variance)
    """
    return float(f"{number:.6g}") if math.isfinite(number) else None
