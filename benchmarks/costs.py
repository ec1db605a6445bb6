"""What a suite will cost, judged by the runs of it that are finished."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.spec import Run

__all__ = ["Cost", "estimate"]


@dataclass(frozen=True)
class Cost:
    """
    :param runs: how many
    :param steps: environment steps of all of them
    :param cpu_seconds: estimated; None where no finished run tells
    """

    runs: int
    steps: int
    cpu_seconds: float | None


def estimate(runs: Iterable[Run], finished: Iterable[tuple[Run, float]]) -> Cost:
    """
    Estimate what runs cost: each as much as the mean finished run that is likest it, by algorithm, regime and task, then
    by algorithm and regime, then by any.

    :param runs: what is to be run
    :param finished: finished runs with their CPU seconds
    :return: the sum
    """
    kinds = (
        lambda run: (run.algorithm, run.regime, run.task),
        lambda run: (run.algorithm, run.regime),
        lambda run: (),
    )
    known: list[dict[tuple[str, ...], list[float]]] = [{} for _ in kinds]
    for run, seconds in finished:
        for kind, seen in zip(kinds, known, strict=True):
            seen.setdefault(kind(run), []).append(seconds)
    means = [{key: float(np.mean(values)) for key, values in seen.items()} for seen in known]
    runs = list(runs)
    steps = sum(run.suite.budget for run in runs)
    if not means[-1]:
        return Cost(len(runs), steps, None)
    each = (next(mean[kind(run)] for kind, mean in zip(kinds, means, strict=True) if kind(run) in mean) for run in runs)
    return Cost(len(runs), steps, sum(each))
