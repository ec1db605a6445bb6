"""Learning curves of records, on a grid of environment steps that all runs of a suite share. Pure numbers."""

from collections.abc import Sequence

import numpy as np

__all__ = ["POINTS", "WINDOW", "grid", "on_grid", "reached"]

POINTS = 40
#: Share of the budget that a point looks back.
WINDOW = 0.1


def grid(budget: int) -> np.ndarray:
    """
    :param budget: environment steps of a run
    :return: (POINTS,) evenly spaced environment steps, the last of which is the budget
    """
    return budget * np.arange(1, POINTS + 1) / POINTS


def on_grid(steps: Sequence[int], values: Sequence[float | None], budget: int) -> np.ndarray:
    """
    A quantity at each grid point: its mean over the rows that ended in the last tenth of the budget before it. Where
    there was none (no episode ended, nothing was trained), the point before is kept; before the first, the first.

    :param steps: environment steps after each row, ascending
    :param values: the quantity in each, None where there was none
    :param budget: environment steps of a run
    :return: (POINTS,), all NaN if there is no value at all, and otherwise free of NaN
    """
    numbers = np.array(values, dtype=float)
    known = ~np.isnan(numbers)
    if not known.any():
        return np.full(POINTS, np.nan)
    points = grid(budget)
    begin, end = (np.searchsorted(steps, bound, side="right") for bound in (points - WINDOW * budget, points))
    sums, counts = (np.concatenate([[0.0], np.cumsum(each)]) for each in (np.where(known, numbers, 0.0), known))
    count = counts[end] - counts[begin]
    means = np.divide(sums[end] - sums[begin], count, out=np.full(POINTS, np.nan), where=count > 0)
    filled = np.where(count > 0, np.arange(POINTS), -1)
    last = np.maximum.accumulate(filled)
    return means[np.where(last < 0, filled[filled >= 0][:1], last)]


def reached(steps: Sequence[int], seconds: Sequence[float], budget: int) -> np.ndarray:
    """
    When a run came to each grid point, steps between two rows taken as evenly spread.

    :param steps: environment steps after each row, ascending
    :param seconds: since the run began, at the end of each
    :param budget: environment steps of a run
    :return: (POINTS,) seconds
    """
    return np.interp(grid(budget), [0, *steps], [0.0, *seconds])
