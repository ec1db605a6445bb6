"""Records to tidy tables for other programs: one of scores, with a row a run, and one of learning curves."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.spec import BenchmarkError, Run
from benchmarks.store import replace_file

__all__ = ["curves", "scores", "write"]


def scores(finished: Iterable[tuple[Run, dict[str, Any]]]) -> pd.DataFrame:
    """
    :param finished: runs with their records, at least one
    :return: a row for each; what a run has not is NaN
    """
    return pd.DataFrame([_coordinates(run) | _results(record) for run, record in finished])


def curves(finished: Iterable[tuple[Run, dict[str, Any]]]) -> pd.DataFrame:
    """
    :param finished: runs with their records, at least one
    :return: the rows of each one's learning curve, in the order in which they were made; what a row has not is NaN
    """
    parts = []
    for run, record in finished:
        curve = {name: _numbers(values) for name, values in record["curve"].items()}
        parts.append(pd.DataFrame(_coordinates(run) | curve).astype({"steps": np.int64}))
    return pd.concat(parts, ignore_index=True)


def write(table: pd.DataFrame, path: Path) -> Path:
    """
    :param table: what to write
    :param path: the file, which ends in .csv or .parquet; an older one is replaced
    :return: the file
    :raises BenchmarkError: if it is Parquet, and pyarrow is not installed
    """
    formats: dict[str, Callable[[], str | bytes]] = {
        ".csv": lambda: table.to_csv(index=False, lineterminator="\n"),
        ".parquet": lambda: table.to_parquet(index=False, engine="pyarrow"),
    }
    try:
        content = formats[path.suffix]()
    except ImportError as error:
        raise BenchmarkError("--format parquet needs pyarrow: `pip install pyarrow`, or take csv") from error
    replace_file(path, content)
    return path


def _coordinates(run: Run) -> dict[str, Any]:
    return {
        "suite": run.suite.identity,
        "regime": run.regime,
        "algorithm": run.algorithm,
        "task": run.task,
        "seed": run.seed,
        "repeat": run.repeat,
    }


def _results(record: dict[str, Any]) -> dict[str, Any]:
    evaluation = record.get("evaluation") or {}
    return {
        "budget": record["configuration"]["budget"],
        "score": record["score"],
        "success": _number(record["success"]),
        "success_last": _number(record["success_last"]),
        "episodes": record["episodes"],
        "scored_episodes": record["scored_episodes"],
        **{
            f"evaluation_{name}": _number(evaluation.get(name))
            for name in ("return", "success", "success_last", "episodes")
        },
        "environment_seed": record["seeds"]["environment"],
        "learner_seed": record["seeds"]["learner"],
        "cpu_seconds": record["cpu_seconds"],
        "wall_seconds": record["wall_seconds"],
        "commit": record["commit"],
        "digest": record["digest"],
        "checksum": record["checksum"],
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: list[float | None]) -> np.ndarray:
    # None becomes NaN.
    return np.array(values, dtype=np.float64)
