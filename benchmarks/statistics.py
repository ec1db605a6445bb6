"""
Aggregates of score matrices, with bootstrap intervals. Pure numbers; alone imports rliable. ``docs/statistics.md`` defines
every number.

A *score matrix* has shape (seeds, tasks). Seeds are resampled within each task, with rliable's stratified bootstrap. The
resamples are drawn once for each shape and shared by all statistics and algorithms: seeds are shared by the algorithms, so
that comparisons resample them together, and the same matrix always gives the same interval.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rliable import library

__all__ = [
    "BOOTSTRAPS",
    "Band",
    "Estimate",
    "StepsRatio",
    "area",
    "band",
    "first_reach",
    "interval",
    "iqm",
    "mean",
    "median",
    "optimality_gap",
    "probability_of_improvement",
    "profile",
    "rank_distribution",
    "resampled",
    "steps_ratio",
]

BOOTSTRAPS = 2000
_SEED = 20260303
_ENDS = (2.5, 97.5)

Aggregate = Callable[[np.ndarray], np.ndarray]


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
class Band:
    """
    Numbers along an axis, each with its (pointwise) 95 % interval.

    :param value: (points,) the point estimates
    :param low: (points,) lower ends; None with fewer than two seeds
    :param high: (points,) upper ends, likewise
    """

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


@dataclass(frozen=True)
class StepsRatio:
    """
    How many times fewer environment steps an algorithm needs than the baseline to reach the baseline's final score.

    :param ratio: baseline's steps / algorithm's steps; 0 where the algorithm never gets there. The interval counts
        resamples without arrival as 0
    :param bound: baseline's steps / budget: below it the ratio lies where the algorithm never gets there
    :param reached: share of the resamples in which it gets there; None with fewer than two seeds
    """

    ratio: Estimate
    bound: float
    reached: float | None


def iqm(scores: np.ndarray) -> np.ndarray:
    """
    Interquartile mean over seeds and tasks: what is left without the lowest and the highest quarter of all scores.

    :param scores: shape (..., seeds, tasks), as for all aggregates
    :return: shape (...)
    """
    # scipy's trim_mean, which rliable uses, takes twice the time for its checks.
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    last = flat.shape[-1] - cut
    # Sorted whole: the same scores in another order have the same mean, to the last bit, and the same rank.
    return np.sort(flat, axis=-1)[..., cut:last].mean(axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds and tasks."""
    return scores.mean(axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Median over the tasks of their means over seeds."""
    return np.median(scores.mean(axis=-2), axis=-1)


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    """How far scores are below 1 on average; those above 1 count as 1."""
    return 1.0 - np.minimum(scores, 1.0).mean(axis=(-2, -1))


def resampled(matrix: np.ndarray) -> np.ndarray:
    """
    :param matrix: shape (seeds, tasks), at least two seeds
    :return: its resamples, shape (BOOTSTRAPS, seeds, tasks)
    """
    return matrix.take(_drawn(*matrix.shape))


@lru_cache(maxsize=8)
def _drawn(seeds: int, tasks: int) -> np.ndarray:
    """Which entry of the flattened matrix each entry of a resample is, shape (BOOTSTRAPS, seeds, tasks)."""
    entries = np.arange(seeds * tasks).reshape(seeds, tasks)
    with _global_seed(_SEED):
        drawn = np.stack([of_data[0] for of_data, _ in library.StratifiedBootstrap(entries).bootstrap(BOOTSTRAPS)])
    drawn.setflags(write=False)
    return drawn


@lru_cache(maxsize=8)
def _weights(seeds: int, tasks: int) -> np.ndarray:
    """The share of each row in each resample, shape (BOOTSTRAPS, seeds, tasks): over seeds they sum to 1."""
    rows = _drawn(seeds, tasks) // tasks
    return np.stack([(rows == row).mean(axis=1) for row in range(seeds)], axis=1)


def interval(matrix: np.ndarray, aggregate: Aggregate) -> Estimate:
    """
    An aggregate with its interval.

    :param matrix: scores, shape (seeds, tasks), at least one seed
    :param aggregate: a function (..., seeds, tasks) to (...), such as :func:`iqm`
    :return: the estimate
    """
    return _estimate(float(aggregate(matrix)), aggregate(resampled(matrix)) if len(matrix) > 1 else None)


def band(values: np.ndarray, aggregate: Aggregate) -> tuple[Band, np.ndarray | None]:
    """
    An aggregate along an axis, such as a learning curve.

    :param values: shape (seeds, tasks, points), at least one seed, without NaN
    :param aggregate: a function (..., seeds, tasks) to (...)
    :return: the band, and what it was made of: the aggregate of each resample, shape (BOOTSTRAPS, points), where a resample
        draws whole runs; None with fewer than two seeds
    """
    # Sorted, it would count as the highest score of all.
    assert not np.isnan(values).any()
    # One point after the other: all at once would need gigabytes.
    points = range(values.shape[-1])
    value = np.array([aggregate(values[..., point]) for point in points])
    if len(values) < 2:
        return Band(value, None, None), None
    draws = np.stack([aggregate(resampled(values[..., point])) for point in points], axis=-1)
    return _band(value, draws), draws


def area(curve: Band, draws: np.ndarray | None) -> Estimate:
    """
    Area under a curve on an even grid, divided by the budget: the mean of its points.

    :param curve: the curve
    :param draws: (BOOTSTRAPS, points) the curve in each resample, of :func:`band`
    :return: the estimate
    """
    return _estimate(float(curve.value.mean()), None if draws is None else draws.mean(axis=-1))


def profile(matrix: np.ndarray, thresholds: np.ndarray) -> Band:
    """
    Performance profile: the share of runs (over seeds and tasks) whose score is above each threshold.

    :param matrix: scores, shape (seeds, tasks)
    :param thresholds: shape (points,)
    :return: the band over the thresholds
    """
    above = (matrix[..., None] > thresholds).reshape(matrix.size, -1).astype(float)
    value = above.mean(axis=0)
    if len(matrix) < 2:
        return Band(value, None, None)
    weights = _weights(*matrix.shape).reshape(BOOTSTRAPS, -1) / matrix.shape[1]
    return _band(value, weights @ above)


def probability_of_improvement(matrix: np.ndarray, baseline: np.ndarray) -> Estimate:
    """
    How probable it is that a run scores higher than one of the baseline on the same task: the share of all pairs of runs,
    where equals count half, averaged over tasks.

    :param matrix: scores, shape (seeds, tasks)
    :param baseline: the baseline's, same shape, the same seeds in the same order: they are resampled together
    :return: the estimate
    """
    seeds = len(matrix)
    ours, theirs = matrix[:, None, :], baseline[None, :, :]
    wins = (ours > theirs) + 0.5 * (ours == theirs)
    value = float(wins.mean())
    if seeds < 2:
        return Estimate(value, None, None)
    weights = _weights(*matrix.shape)
    pairs = np.einsum("bit,ijt,bjt->bt", weights, wins, weights, optimize=True)
    # Without the pairs of one draw with itself: with them, resamples would count pairs of one seed twice as often as the
    # data does, and the interval might miss its own estimate.
    same = np.einsum("bit,iit->bt", weights, wins) / seeds
    return _estimate(value, ((pairs - same) * seeds / (seeds - 1)).mean(axis=-1))


def rank_distribution(matrices: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """
    How often each algorithm ranks first, second, ... by IQM when the seeds are resampled. Equals share their ranks evenly,
    so that each algorithm's shares sum to 1, and those of each rank too.

    :param matrices: algorithm to scores, all of the same shape (seeds, tasks) and of the same seeds, which are resampled
        together; at least two seeds
    :return: algorithm to its shares, those of rank 1 first
    """
    drawn = np.stack([iqm(resampled(matrix)) for matrix in matrices.values()])
    places = np.arange(len(drawn))
    shares = {}
    for name, own in zip(matrices, drawn, strict=True):
        first, equals = (drawn > own).sum(axis=0), (drawn == own).sum(axis=0)
        taken = (places[:, None] >= first) & (places[:, None] < first + equals)
        shares[name] = [float(share) for share in (taken / equals).mean(axis=1)]
    return shares


def first_reach(steps: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """
    When a curve first reaches a target, between grid points by linear interpolation.

    :param steps: (points,) ascending environment steps, > 0
    :param curves: (..., points)
    :param targets: (...)
    :return: (...) environment steps; the first grid point where the curve begins above its target, infinity where it never
        gets there
    """
    there = curves >= targets[..., None]
    after = there.argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(curves, at[..., None], -1)[..., 0] for at in (before, after))
    rise = np.where(high > low, high - low, 1.0)
    # Where the curve begins above its target, both points are the first one.
    reached = steps[before] + (steps[after] - steps[before]) * (targets - low) / rise
    return np.where(there.any(axis=-1), reached, np.inf)


def steps_ratio(
    steps: np.ndarray,
    curve: np.ndarray,
    baseline: np.ndarray,
    draws: np.ndarray | None,
    baseline_draws: np.ndarray | None,
) -> StepsRatio:
    """
    Compare when two aggregated curves first reach the last point of the baseline's.

    :param steps: (points,) the grid, ascending environment steps; the last is the budget
    :param curve: (points,) the algorithm's
    :param baseline: (points,) the baseline's
    :param draws: (BOOTSTRAPS, points) the algorithm's in each resample, of :func:`band`
    :param baseline_draws: the baseline's, of the same seeds
    :return: the ratio
    """

    def ratios(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        needed = first_reach(steps, theirs, theirs[..., -1])
        return needed / first_reach(steps, ours, theirs[..., -1]), needed / steps[-1]

    ratio, bound = ratios(curve, baseline)
    if draws is None or baseline_draws is None:
        return StepsRatio(Estimate(float(ratio), None, None), float(bound), None)
    drawn, _ = ratios(draws, baseline_draws)
    return StepsRatio(_estimate(float(ratio), drawn), float(bound), float((drawn > 0).mean()))


def _estimate(value: float, draws: np.ndarray | None) -> Estimate:
    if draws is None:
        return Estimate(value, None, None)
    low, high = np.percentile(draws, _ENDS)
    return Estimate(value, float(low), float(high))


def _band(value: np.ndarray, draws: np.ndarray) -> Band:
    low, high = np.percentile(draws, _ENDS, axis=0)
    return Band(value, low, high)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """rliable draws its resamples from numpy's global stream, although it takes a ``random_state``."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
