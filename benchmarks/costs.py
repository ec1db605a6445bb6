"""What a suite has cost, and will cost, judged by the runs of it that are finished."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.spec import Run

__all__ = ["Cost", "Spent", "estimate"]


@dataclass(frozen=True)
class Cost:
    """
    :param steps: environment steps of all runs
    :param cpu_seconds: estimated; None where no finished run tells
    """

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
        return Cost(steps, None)
    each = (next(mean[kind(run)] for kind, mean in zip(kinds, means, strict=True) if kind(run) in mean) for run in runs)
    return Cost(steps, sum(each))


@dataclass(frozen=True)
class Spent:
    """
    What finished runs have cost, and what they were made with.

    :param cpu_seconds: by (regime, algorithm)
    :param machines: runs by description of the machine
    :param versions: runs by "package version"
    :param commits: runs by commit
    """

    cpu_seconds: Counter[tuple[str, str]] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)

    def add(self, run: Run, record: dict[str, Any]) -> None:
        """
        :param run: a finished run
        :param record: its record
        """
        self.cpu_seconds[run.regime, run.algorithm] += record["cpu_seconds"]
        machine = record["machine"]
        self.machines[f"{machine['system']}, {machine['architecture']}, {machine['cpus']} CPUs"] += 1
        self.versions.update(f"{package} {version}" for package, version in record["versions"].items() if version)
        self.commits[record["commit"]] += 1
