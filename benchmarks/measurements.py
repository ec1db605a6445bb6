"""
Records to matrices: what the statistics need of each run, looked up by algorithm.

Repeats of one seed share their goals and are therefore not independent: they are averaged first, so that a matrix has one
row a seed.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import curves
from benchmarks.spec import Run, Suite, plan

__all__ = ["Measurement", "RegimeRuns", "measure"]


@dataclass(frozen=True)
class Measurement:
    """
    What the statistics need of a run's record.

    :param run: the run
    :param score: mean unscaled return of its last episodes
    :param success: success rate in them; None where the task does not tell
    :param curve: (points,) the return on the grid of ``curves.py``
    :param dead_fraction: (points,) share of samples without gradient; NaN where the algorithm does not tell
    :param ess: (points,) effective sample size, likewise
    :param log_ratio_p95: (points,) 95th percentile of |x|, likewise
    :param lag: (points,) mean lag in policy versions, likewise
    :param seconds: (points,) when the run came there; NaN if its steps were not timed
    :param lags: (buckets,) the middle of each bucket of lags; empty where the record has none
    :param multiplier: (buckets,) mean multiplier of the samples in each; NaN where there were none
    :param cpu_seconds: what the run took
    :param wall_seconds: likewise
    """

    run: Run
    score: float
    success: float | None
    curve: np.ndarray
    dead_fraction: np.ndarray
    ess: np.ndarray
    log_ratio_p95: np.ndarray
    lag: np.ndarray
    seconds: np.ndarray
    lags: np.ndarray
    multiplier: np.ndarray
    cpu_seconds: float
    wall_seconds: float


def measure(run: Run, record: dict[str, Any]) -> Measurement:
    """
    Take from a record what the statistics need, which is little of it.

    :param run: a finished run
    :param record: its record
    :return: its numbers
    """
    curve = record["curve"]
    # Outside algorithms, and records made before there was such a field, have none.
    by_lag = record.get("by_lag") or {"first": [], "last": [], "multiplier": []}
    columns = {
        "curve": "return",
        "dead_fraction": "dead_fraction",
        "ess": "ess",
        "log_ratio_p95": "log_ratio_abs_p95",
        "lag": "lag_mean",
    }
    quantities = {
        name: curves.on_grid(curve["steps"], curve[column], run.suite.budget) for name, column in columns.items()
    }
    timed = "seconds" in curve
    return Measurement(
        run=run,
        score=record["score"],
        success=record["success"],
        lags=(np.array(by_lag["first"], dtype=float) + np.array(by_lag["last"], dtype=float)) / 2,
        multiplier=np.array(by_lag["multiplier"], dtype=float),
        seconds=curves.reached(curve["steps"], curve["seconds"], run.suite.budget)
        if timed
        else np.full(curves.POINTS, np.nan),
        cpu_seconds=record["cpu_seconds"],
        wall_seconds=record["wall_seconds"],
        **quantities,
    )


class RegimeRuns:
    """
    The finished runs of one regime.

    :param suite: the suite
    :param regime: one of its regimes
    :param done: the suite's finished runs; those of other regimes are left out
    :param failed: its runs that failed for good, likewise

    ``algorithms`` are those that the suite runs under the regime, in its order; ``planned`` counts the runs of each on each
    task, ``failed`` those that failed. ``seeds`` holds, for each algorithm that has any, those that it has finished on all
    tasks.
    """

    def __init__(self, suite: Suite, regime: str, done: Iterable[Measurement], failed: Iterable[Run] = ()):
        self.suite = suite
        of_regime = [run for run in plan(suite) if run.regime == regime]
        self.algorithms = list(dict.fromkeys(run.algorithm for run in of_regime))
        self.planned = Counter((run.algorithm, run.task) for run in of_regime)
        self.failed = Counter((run.algorithm, run.task) for run in failed if run.regime == regime)
        self._cells: dict[tuple[str, str, int], list[Measurement]] = {}
        for each in done:
            if each.run.regime == regime:
                self._cells.setdefault((each.run.algorithm, each.run.task, each.run.seed), []).append(each)
        whole = {
            algorithm: tuple(
                seed
                for seed in range(suite.seeds)
                if all((algorithm, task, seed) in self._cells for task in suite.tasks)
            )
            for algorithm in self.algorithms
        }
        self.seeds = {algorithm: seeds for algorithm, seeds in whole.items() if seeds}

    def of_task(self, algorithm: str, task: str) -> list[Measurement]:
        """The finished runs of an algorithm on a task, those of seeds not finished on all tasks too."""
        return [each for seed in range(self.suite.seeds) for each in self._cells.get((algorithm, task, seed), [])]

    def column(self, algorithm: str, task: str) -> np.ndarray:
        """The scores of an algorithm on a task, means over repeats, of all seeds with a finished run, shape (seeds, 1)."""
        cells = (self._cells.get((algorithm, task, seed)) for seed in range(self.suite.seeds))
        return np.array([[_mean([each.score for each in cell])] for cell in cells if cell])

    def matrix(self, algorithm: str, field: Callable[[Measurement], Any]) -> np.ndarray:
        """
        A field over the seeds that an algorithm has finished on all tasks: means over the finished repeats, NaN where a run
        has no such number.

        :param algorithm: one of ``seeds``
        :param field: a number or None, or an array of shape (points,)
        :return: shape (seeds, tasks), or (seeds, tasks, points)
        """
        return np.array(
            [
                [_mean([field(each) for each in self._cells[algorithm, task, seed]]) for task in self.suite.tasks]
                for seed in self.seeds[algorithm]
            ]
        )

    def common_seeds(self, algorithms: Iterable[str]) -> tuple[int, ...]:
        """The seeds that all of some algorithms have finished on all tasks."""
        return tuple(sorted(set.intersection(*(set(self.seeds[algorithm]) for algorithm in algorithms))))

    def rows(self, algorithm: str, seeds: tuple[int, ...]) -> np.ndarray:
        """Which rows of an algorithm's matrices are those of some seeds, shape (all its seeds,), boolean."""
        return np.isin(self.seeds[algorithm], seeds)


def _mean(repeats: list[Any]) -> np.ndarray:
    """
    Rounded once, at the end: repeats that are equal have their value as their mean, however many they are, and what ties
    remains a tie.
    """
    numbers = np.array(repeats, dtype=float)
    if len(numbers) <= 2:
        return numbers.mean(axis=0)
    return np.apply_along_axis(lambda each: statistics.mean(each.tolist()), 0, numbers)
