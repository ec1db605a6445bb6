"""
Scores of a suite's algorithms: normalisation, aggregates and ranks. ``docs/statistics.md`` defines every number.

Two normalisations, always side by side:

- *min-max* (the published one): for each task and regime, 0 is the worst and 1 the best row of all algorithms compared. It
  stretches any difference over 0 to 1, and moves when an algorithm is added. Where all rows of a task tie, every one is 0.5.
- *absolute*: 0 is a random policy, 1 an expert (see ``anchors.py``). It does not move. A learner may exceed 1: some experts
  finish their task without collecting much reward.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks import curves, statistics
from benchmarks.measurements import Measurement, RegimeRuns
from benchmarks.spec import Run, Suite
from benchmarks.statistics import Band, Estimate, StepsRatio

__all__ = [
    "THRESHOLDS",
    "AlgorithmScores",
    "Diagnostics",
    "NormalisedScores",
    "RegimeScores",
    "TaskScores",
    "Utilization",
    "extremes",
    "normalise",
    "score",
]

#: Scores at which performance profiles are evaluated.
THRESHOLDS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class TaskScores:
    """
    One algorithm on one task.

    :param finished: runs that have a record
    :param failed: runs that failed for good and have none
    :param planned: runs of the suite
    :param mean_return: mean unscaled return over the seeds that have finished runs of this task; None if there are none
    :param success: mean success rate over all finished runs; None where the task does not tell
    """

    finished: int
    failed: int
    planned: int
    mean_return: Estimate | None
    success: float | None


@dataclass(frozen=True)
class NormalisedScores:
    """
    One algorithm's aggregates under one normalisation.

    :param iqm: interquartile mean
    :param median: median over tasks
    :param mean: mean
    :param optimality_gap: how far scores are below 1 on average
    :param area: mean over training of the aggregated learning curve; None without one
    :param steps: environment steps against the baseline's; None without one, without a seed that both have finished, or
        without a learning curve of either
    :param profile: performance profile over ``THRESHOLDS``
    :param curve: IQM over the grid of environment steps; None where a run's budget ended before its first episode did
    """

    iqm: Estimate
    median: Estimate
    mean: Estimate
    optimality_gap: Estimate
    area: Estimate | None
    steps: StepsRatio | None
    profile: Band
    curve: Band | None


@dataclass(frozen=True)
class Utilization:
    """
    How much of its data an algorithm uses: means over seeds and tasks.

    :param dead_fraction: share of samples without gradient, over the grid of environment steps
    :param ess: effective sample size of the multiplier, over the same grid
    :param lags: (buckets,) middles of the buckets of lags in which every run has samples; empty where the records have none
    :param multiplier: mean multiplier in each; None where the records have none
    """

    dead_fraction: Band
    ess: Band
    lags: np.ndarray
    multiplier: Band | None


@dataclass(frozen=True)
class Diagnostics:
    """
    How an algorithm's finished runs ended, and what they cost. The first five describe the last tenth of the budget, and are
    None for algorithms that do not tell.

    :param lag: in policy versions, mean over runs
    :param log_ratio_p95: 95th percentile of the absolute log-ratio |x|, mean over runs
    :param largest_log_ratio_p95: of the run where it is largest
    :param dead_fraction: share of samples without gradient, mean over runs
    :param ess: effective sample size of the multiplier, mean over runs
    :param cpu_seconds: of a run, median
    :param wall_seconds: likewise
    """

    lag: float | None
    log_ratio_p95: float | None
    largest_log_ratio_p95: float | None
    dead_fraction: float | None
    ess: float | None
    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class AlgorithmScores:
    """
    One algorithm under one regime. Estimates are None where no seed is finished on all tasks.

    :param rank: 1 is the highest min-max IQM, equals share a rank; None without an IQM
    :param finished: runs that have a record
    :param failed: runs that failed for good and have none
    :param planned: runs of the suite
    :param seeds: seeds finished on all tasks, which the estimates rest on
    :param min_max: normalised to the algorithms compared
    :param absolute: random policy = 0 and expert = 1; None too where a task has no anchors
    :param raw: IQM of the unscaled returns
    :param success: mean success rate; None too where a task does not tell
    :param improvement: probability of improvement over the baseline; None too without one, or without a seed that both have
        finished
    :param ranks: how often it ranks first, second, ... by min-max IQM under the bootstrap; None too where the ranked
        algorithms have fewer than two finished seeds in common
    :param utilization: None too for algorithms that do not tell
    :param seconds: (points,) when it came to each point of the grid of environment steps, mean over runs; None too where
        steps are not timed
    :param diagnostics: of all finished runs; None if there are none
    :param tasks: task to its scores
    """

    algorithm: str
    rank: int | None
    finished: int
    failed: int
    planned: int
    seeds: int
    min_max: NormalisedScores | None
    absolute: NormalisedScores | None
    raw: Estimate | None
    success: Estimate | None
    improvement: Estimate | None
    ranks: list[float] | None
    utilization: Utilization | None
    seconds: np.ndarray | None
    diagnostics: Diagnostics | None
    tasks: dict[str, TaskScores]


@dataclass(frozen=True)
class RegimeScores:
    """
    All algorithms that the suite runs under one regime, the best first.

    :param regime: its name
    :param algorithms: their scores
    :param anchors: of each task, what a random policy and an expert return; None where that is not known, and then no
        absolute score is
    :param baseline: what the others are compared with; None if it has no seed finished on all tasks under this regime
    """

    regime: str
    algorithms: list[AlgorithmScores]
    anchors: dict[str, tuple[float, float] | None]
    baseline: str | None


def score(
    suite: Suite,
    measurements: Iterable[Measurement],
    anchors: Mapping[str, tuple[float, float]],
    baseline: str | None = None,
    failed: Iterable[Run] = (),
) -> list[RegimeScores]:
    """
    Score whatever is finished.

    :param suite: the suite
    :param measurements: of each finished run
    :param anchors: task to its (random, expert) mean returns
    :param baseline: label of the algorithm that the others are compared with
    :param failed: the runs that failed for good
    :return: one entry a regime, in the suite's order
    """
    measurements, failed = list(measurements), list(failed)
    known = {task: anchors.get(task) for task in suite.tasks}
    ends = None if None in known.values() else np.array(list(known.values()))
    scored = []
    for regime in suite.regimes:
        runs = RegimeRuns(suite, regime, measurements, failed)
        compared = baseline if baseline in runs.seeds else None
        scored.append(RegimeScores(regime, _score_regime(runs, ends, compared), known, compared))
    return scored


def extremes(matrices: Iterable[np.ndarray]) -> np.ndarray:
    """
    The ends of the published normalisation: per task, the worst and the best row of all algorithms.

    :param matrices: of each algorithm, shape (seeds, tasks); the numbers of seeds may differ
    :return: shape (tasks, 2)
    """
    rows = np.concatenate(list(matrices))
    return np.stack([rows.min(axis=0), rows.max(axis=0)], axis=1)


def normalise(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """
    :param values: returns, shape (seeds, tasks) or (seeds, tasks, points)
    :param ends: the returns that become 0 and 1, shape (tasks, 2)
    :return: the same shape, not clipped; 0.5 for a task whose two ends are equal
    """
    zero, one = np.expand_dims(ends.T, tuple(range(2, values.ndim)))
    spread = one - zero
    return np.where(spread > 0, (values - zero) / np.where(spread > 0, spread, 1.0), 0.5)


def _score_regime(runs: RegimeRuns, ends: np.ndarray | None, baseline: str | None) -> list[AlgorithmScores]:
    if not runs.seeds:
        return [_entry(runs, name) for name in runs.algorithms]
    raw = {name: runs.matrix(name, lambda each: each.score) for name in runs.seeds}
    training = {name: runs.matrix(name, lambda each: each.curve) for name in runs.seeds}
    found = extremes(raw.values())
    scale = {"min_max": found} if ends is None else {"min_max": found, "absolute": ends}
    normalised = {kind: _normalised(runs, raw, training, ends, baseline) for kind, ends in scale.items()}
    ranks = _ranks(runs, {name: normalise(matrix, found) for name, matrix in raw.items()})

    entries = [_entry(runs, name) for name in runs.algorithms if name not in raw]
    for name, matrix in raw.items():
        success = runs.matrix(name, lambda each: each.success)
        seconds = runs.matrix(name, lambda each: each.seconds)
        entries.append(
            replace(
                _entry(runs, name),
                raw=statistics.interval(matrix, statistics.iqm),
                success=None if np.isnan(success).any() else statistics.interval(success, statistics.mean),
                improvement=_improvement(runs, raw, name, baseline),
                ranks=ranks.get(name),
                utilization=_utilization(runs, name),
                seconds=None if np.isnan(seconds).any() else seconds.mean(axis=(0, 1)),
                **{kind: of_kind[name] for kind, of_kind in normalised.items()},
            )
        )
    return _ranked(entries)


def _entry(runs: RegimeRuns, algorithm: str) -> AlgorithmScores:
    """What is known of an algorithm without a seed that is finished on all tasks."""
    tasks = {}
    every: list[Measurement] = []
    for task in runs.suite.tasks:
        done = runs.of_task(algorithm, task)
        every += done
        successes = [each.success for each in done if each.success is not None]
        tasks[task] = TaskScores(
            finished=len(done),
            failed=runs.failed[algorithm, task],
            planned=runs.planned[algorithm, task],
            mean_return=statistics.interval(runs.column(algorithm, task), statistics.mean) if done else None,
            success=float(np.mean(successes)) if successes else None,
        )
    return AlgorithmScores(
        algorithm=algorithm,
        rank=None,
        finished=sum(task.finished for task in tasks.values()),
        failed=sum(task.failed for task in tasks.values()),
        planned=sum(task.planned for task in tasks.values()),
        seeds=len(runs.seeds.get(algorithm, ())),
        min_max=None,
        absolute=None,
        raw=None,
        success=None,
        improvement=None,
        ranks=None,
        utilization=None,
        seconds=None,
        diagnostics=_diagnostics(every) if every else None,
        tasks=tasks,
    )


def _diagnostics(done: list[Measurement]) -> Diagnostics:
    def over_runs(field: str, aggregate: Callable[[np.ndarray], np.floating]) -> float | None:
        last = np.array([getattr(each, field)[-1] for each in done])
        return None if np.isnan(last).any() else float(aggregate(last))

    return Diagnostics(
        lag=over_runs("lag", np.mean),
        log_ratio_p95=over_runs("log_ratio_p95", np.mean),
        largest_log_ratio_p95=over_runs("log_ratio_p95", np.max),
        dead_fraction=over_runs("dead_fraction", np.mean),
        ess=over_runs("ess", np.mean),
        cpu_seconds=float(np.median([each.cpu_seconds for each in done])),
        wall_seconds=float(np.median([each.wall_seconds for each in done])),
    )


def _normalised(
    runs: RegimeRuns,
    raw: dict[str, np.ndarray],
    training: dict[str, np.ndarray],
    ends: np.ndarray,
    baseline: str | None,
) -> dict[str, NormalisedScores]:
    steps = curves.grid(runs.suite.budget)

    @cache
    def curve(name: str, seeds: tuple[int, ...]) -> tuple[Band | None, np.ndarray | None]:
        of_seeds = training[name][runs.rows(name, seeds)]
        return (None, None) if np.isnan(of_seeds).any() else statistics.band(normalise(of_seeds, ends), statistics.iqm)

    def against_baseline(name: str) -> StepsRatio | None:
        seeds = runs.common_seeds([name, baseline]) if baseline else ()
        if not baseline or not seeds:
            return None
        (ours, draws), (theirs, baseline_draws) = curve(name, seeds), curve(baseline, seeds)
        if ours is None or theirs is None:
            return None
        return statistics.steps_ratio(steps, ours.value, theirs.value, draws, baseline_draws)

    scored = {}
    for name, matrix in raw.items():
        final = normalise(matrix, ends)
        own, draws = curve(name, runs.seeds[name])
        scored[name] = NormalisedScores(
            iqm=statistics.interval(final, statistics.iqm),
            median=statistics.interval(final, statistics.median),
            mean=statistics.interval(final, statistics.mean),
            optimality_gap=statistics.interval(final, statistics.optimality_gap),
            area=None if own is None else statistics.area(own, draws),
            steps=against_baseline(name),
            profile=statistics.profile(final, THRESHOLDS),
            curve=own,
        )
    return scored


def _improvement(runs: RegimeRuns, raw: dict[str, np.ndarray], name: str, baseline: str | None) -> Estimate | None:
    seeds = runs.common_seeds([name, baseline]) if baseline else ()
    if not baseline or not seeds:
        return None
    ours, theirs = (raw[label][runs.rows(label, seeds)] for label in (name, baseline))
    return statistics.probability_of_improvement(ours, theirs)


def _ranks(runs: RegimeRuns, normalised: dict[str, np.ndarray]) -> dict[str, list[float]]:
    seeds = runs.common_seeds(normalised)
    if len(seeds) < 2:
        return {}
    return statistics.rank_distribution({name: matrix[runs.rows(name, seeds)] for name, matrix in normalised.items()})


def _utilization(runs: RegimeRuns, name: str) -> Utilization | None:
    dead, ess = (runs.matrix(name, field) for field in (lambda each: each.dead_fraction, lambda each: each.ess))
    if np.isnan(dead).any() or np.isnan(ess).any():
        return None
    lags, multiplier = np.zeros(0), None
    every = [each.lags for task in runs.suite.tasks for each in runs.of_task(name, task)]
    if all(each.size for each in every):
        # Asynchronous runs have ranges of their own, as far as their lags went.
        at = every[0]
        matrix = runs.matrix(name, lambda each: np.interp(at, each.lags, each.multiplier, left=np.nan, right=np.nan))
        seen = ~np.isnan(matrix).any(axis=(0, 1))
        if seen.any():
            lags, (multiplier, _) = at[seen], statistics.band(matrix[..., seen], statistics.mean)
    return Utilization(
        dead_fraction=statistics.band(dead, statistics.mean)[0],
        ess=statistics.band(ess, statistics.mean)[0],
        lags=lags,
        multiplier=multiplier,
    )


def _ranked(entries: list[AlgorithmScores]) -> list[AlgorithmScores]:
    def value(entry: AlgorithmScores) -> float:
        return entry.min_max.iqm.value if entry.min_max else -np.inf

    entries = sorted(entries, key=value, reverse=True)
    order = [value(entry) for entry in entries]
    return [replace(entry, rank=1 + order.index(value(entry))) if entry.min_max else entry for entry in entries]
