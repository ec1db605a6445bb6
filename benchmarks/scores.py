"""
Records to scores: normalisation, interquartile means with intervals, and ranks. Alone imports rliable.

A *score matrix* has shape (seeds, tasks). Repeats of one seed share their goals and are therefore not independent: they are
averaged first, and intervals resample seeds within each task (rliable's stratified bootstrap, 95 %, percentile).

Two normalisations, always side by side:

- *min-max* (the published one): for each task and regime, 0 is the worst and 1 the best row of all algorithms compared. It
  stretches any difference over 0 to 1, and moves when an algorithm is added. Where all rows of a task tie, every one is 0.5.
- *absolute*: 0 is a random policy, 1 MetaWorld's scripted expert (see ``anchors.py``). It does not move. A learner may
  exceed 1: some experts finish their task without collecting much reward.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rliable import library, metrics

from benchmarks.spec import Run, Suite

__all__ = ["AlgorithmScores", "Estimate", "RegimeScores", "TaskScores", "absolute", "interval", "min_max", "score"]

BOOTSTRAPS = 2000
_SEED = 20260303


@dataclass(frozen=True)
class Estimate:
    """
    A number with its 95 % interval.

    :param value: the point estimate
    :param low: lower end; None with fewer than two seeds, which say nothing about their spread
    :param high: upper end, likewise
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskScores:
    """
    One algorithm on one task.

    :param finished: runs that have a record
    :param planned: runs of the suite
    :param mean_return: mean unscaled return over all finished runs; None if there are none
    :param success: mean success rate over them; None where the task does not tell
    """

    finished: int
    planned: int
    mean_return: float | None
    success: float | None


@dataclass(frozen=True)
class AlgorithmScores:
    """
    One algorithm under one regime. Estimates are None where no seed is finished on all tasks.

    :param rank: 1 is the highest min-max IQM, equals share a rank; None without an IQM
    :param seeds: seeds finished on all tasks, which the estimates rest on
    :param min_max: IQM, normalised to the algorithms compared
    :param absolute: IQM, random policy = 0 and scripted expert = 1; None too where a task has no anchors
    :param raw: IQM of the unscaled returns
    :param success: mean success rate; None too where a task does not tell
    :param tasks: task to its scores
    """

    algorithm: str
    rank: int | None
    finished: int
    planned: int
    seeds: int
    min_max: Estimate | None
    absolute: Estimate | None
    raw: Estimate | None
    success: Estimate | None
    tasks: dict[str, TaskScores]


@dataclass(frozen=True)
class RegimeScores:
    """
    All algorithms under one regime, the best first.

    :param without_anchors: tasks for which the absolute score is missing
    """

    regime: str
    algorithms: list[AlgorithmScores]
    without_anchors: list[str]


def score(
    suite: Suite,
    results: Iterable[tuple[Run, float, float | None]],
    anchors: Mapping[str, tuple[float, float]],
) -> list[RegimeScores]:
    """
    Score whatever is finished.

    :param suite: the suite
    :param results: each finished run with its mean unscaled return and its success rate (None where there is none)
    :param anchors: task to its (random, expert) mean returns
    :return: one entry a regime, in the suite's order
    """
    cells: dict[tuple[str, str, str, int], list[tuple[float, float | None]]] = {}
    for run, mean_return, success in results:
        cells.setdefault((run.regime, run.algorithm, run.task, run.seed), []).append((mean_return, success))
    missing = [task for task in suite.tasks if task not in anchors]
    scored = []
    for regime in suite.regimes:
        of_regime = {key[1:]: values for key, values in cells.items() if key[0] == regime}
        scored.append(RegimeScores(regime, _score_regime(suite, of_regime, anchors if not missing else None), missing))
    return scored


def _score_regime(
    suite: Suite,
    cells: dict[tuple[str, str, int], list[tuple[float, float | None]]],
    anchors: Mapping[str, tuple[float, float]] | None,
) -> list[AlgorithmScores]:
    raw = {algorithm: _matrix(suite, cells, algorithm, 0) for algorithm in suite.algorithms}
    success = {algorithm: _matrix(suite, cells, algorithm, 1) for algorithm in suite.algorithms}
    raw = {algorithm: matrix for algorithm, matrix in raw.items() if len(matrix)}
    normalised = min_max(raw)
    ends = np.array([anchors[task] for task in suite.tasks]) if anchors is not None else None

    entries = []
    for algorithm in suite.algorithms:
        estimates: dict[str, Estimate | None] = dict.fromkeys(("min_max", "absolute", "raw", "success"))
        if algorithm in raw:
            estimates["min_max"] = interval(normalised[algorithm], metrics.aggregate_iqm)
            estimates["raw"] = interval(raw[algorithm], metrics.aggregate_iqm)
            if ends is not None:
                estimates["absolute"] = interval(absolute(raw[algorithm], ends), metrics.aggregate_iqm)
            if not np.isnan(success[algorithm]).any():
                estimates["success"] = interval(success[algorithm], metrics.aggregate_mean)
        entries.append((algorithm, estimates, _task_scores(suite, cells, algorithm)))

    entries.sort(key=lambda entry: -entry[1]["min_max"].value if entry[1]["min_max"] else np.inf)
    ranked = [estimates["min_max"].value for _, estimates, _ in entries if estimates["min_max"]]
    return [
        AlgorithmScores(
            algorithm=algorithm,
            rank=1 + ranked.index(estimates["min_max"].value) if estimates["min_max"] else None,
            finished=sum(task.finished for task in tasks.values()),
            planned=sum(task.planned for task in tasks.values()),
            seeds=len(raw.get(algorithm, ())),
            tasks=tasks,
            **estimates,
        )
        for algorithm, estimates, tasks in entries
    ]


def _matrix(
    suite: Suite, cells: dict[tuple[str, str, int], list[tuple[float, float | None]]], algorithm: str, field: int
) -> np.ndarray:
    """
    The score matrix of an algorithm, shape (seeds finished on all tasks, tasks): means over the finished repeats, NaN where
    a run has no such number.
    """
    rows = []
    for seed in range(suite.seeds):
        runs = [cells.get((algorithm, task, seed)) for task in suite.tasks]
        if all(runs):
            values = [[np.nan if run[field] is None else run[field] for run in of_task] for of_task in runs if of_task]
            rows.append([np.mean(of_task) for of_task in values])
    return np.array(rows, dtype=float).reshape(-1, len(suite.tasks))


def _task_scores(
    suite: Suite, cells: dict[tuple[str, str, int], list[tuple[float, float | None]]], algorithm: str
) -> dict[str, TaskScores]:
    scores = {}
    for task in suite.tasks:
        runs = [run for seed in range(suite.seeds) for run in cells.get((algorithm, task, seed), [])]
        successes = [success for _, success in runs if success is not None]
        scores[task] = TaskScores(
            finished=len(runs),
            planned=suite.seeds * suite.repeats,
            mean_return=float(np.mean([mean_return for mean_return, _ in runs])) if runs else None,
            success=float(np.mean(successes)) if successes else None,
        )
    return scores


def min_max(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    The published normalisation: per task, between the worst and the best row of all algorithms.

    :param matrices: algorithm to raw returns, each of shape (seeds, tasks); the numbers of seeds may differ
    :return: the same shapes, in [0, 1]; 0.5 for a task on which all rows tie
    """
    if not matrices:
        return {}
    rows = np.concatenate(list(matrices.values()))
    low, spread = rows.min(axis=0), np.ptp(rows, axis=0)
    width = np.where(spread > 0, spread, 1.0)
    return {name: np.where(spread > 0, (matrix - low) / width, 0.5) for name, matrix in matrices.items()}


def absolute(matrix: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """
    The absolute normalisation: random policy = 0, scripted expert = 1.

    :param matrix: raw returns, shape (seeds, tasks)
    :param ends: mean returns of random policy and expert, shape (tasks, 2)
    :return: shape (seeds, tasks), not clipped
    """
    return (matrix - ends[:, 0]) / (ends[:, 1] - ends[:, 0])


def interval(matrix: np.ndarray, aggregate: Callable[[np.ndarray], float]) -> Estimate:
    """
    An aggregate with its 95 % stratified-bootstrap interval: seeds are resampled within each task.

    :param matrix: scores, shape (seeds, tasks), at least one seed
    :param aggregate: a function of such a matrix, from rliable's metrics
    :return: the estimate; the same for the same matrix, whatever the state of numpy's global random stream, which is left
        as it was
    """
    if len(matrix) < 2:
        return Estimate(float(aggregate(matrix)), None, None)
    with _global_seed(_SEED):
        points, intervals = library.get_interval_estimates(
            {"": matrix}, lambda scores: np.array([aggregate(scores)]), reps=BOOTSTRAPS
        )
    low, high = intervals[""][:, 0]
    return Estimate(float(points[""][0]), float(low), float(high))


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """rliable draws its resamples from numpy's global stream, although it takes a ``random_state``."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
