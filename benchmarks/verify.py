"""Checks a whole store, and changes nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.spec import BenchmarkError, Run, choose, load_suite, plan, suite_names
from benchmarks.store import FAILED, BadRecordError, read_record, require_configuration

__all__ = ["Verdict", "verify"]


@dataclass
class Verdict:
    """
    What was found in a store.

    :param records: records of finished runs, good or not
    :param failures: records of failed runs, likewise
    :param set_aside: files that `run` has set aside, which are not checked
    :param wrong: a line for each file that is not what it should be
    """

    records: int = 0
    failures: int = 0
    set_aside: int = 0
    wrong: list[str] = field(default_factory=list)


def verify(root: Path, suites: Iterable[str] = ()) -> Verdict:
    """
    Check every record: its checksum, its digest, its place, its learning curve, and, where its suite is known, that it is a
    run of it with the configuration that it has now.

    :param root: the store's folder
    :param suites: only these suites, in all budgets: names or .toml files; empty for all, of which only those that come
        with the benchmark are known
    :return: the verdict
    :raises BenchmarkError: if there is no such folder or suite, or a file cannot be read
    """
    if not root.is_dir():
        raise BenchmarkError(f"there is no folder {root}: --results names the one to be checked")
    folders = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
    own = {load_suite(name).name: name for name in suites if name.endswith(".toml")}
    sources = {name: name for name in suite_names()} | own
    known = {*sources, *(_suite_of(folder) for folder in folders)}
    wanted = {*own, *(choose("suite", name, known) for name in suites if not name.endswith(".toml"))}
    verdict = Verdict()
    for folder in folders:
        name = _suite_of(folder)
        if not wanted or name in wanted:
            runs = _runs(folder, sources[name]) if name in sources else None
            for path in sorted(folder.rglob("seed*/repeat*.json")):
                _take_in(verdict, root, path, runs)
    return verdict


def _suite_of(folder: Path) -> str:
    return folder.name.partition("@")[0]


def _runs(folder: Path, source: str) -> dict[str, Run]:
    """What may lie in a folder, by id. Nothing, if its suite no longer has such a budget."""
    _, _, budget = folder.name.partition("@")
    try:
        return {run.id: run for run in plan(load_suite(source, int(budget) if budget else None))}
    except (BenchmarkError, ValueError):
        return {}


def _take_in(verdict: Verdict, root: Path, path: Path, runs: dict[str, Run] | None) -> None:
    # What is set aside has a number in its name.
    if re.fullmatch(r"repeat\d+(\.failed)?\.\d+\.json", path.name):
        verdict.set_aside += 1
        return
    if path.name.endswith(FAILED):
        verdict.failures += 1
    else:
        verdict.records += 1
    try:
        _check(root, path, runs)
    except BadRecordError as error:
        verdict.wrong.append(str(error))


def _check(root: Path, path: Path, runs: dict[str, Run] | None) -> None:
    failed = path.name.endswith(FAILED)
    # Numbers are finite, or the record would not agree with its checksum.
    record = read_record(path, {"tracebacks"} if failed else {"score", "curve"})
    place = str(path.relative_to(root)).removesuffix(FAILED if failed else ".json")
    if record["run"] != place:
        raise BadRecordError(f"{path} has been moved: it is the record of {record['run']}")
    if runs is not None:
        if place not in runs:
            raise BadRecordError(f"{path} is not of a run of its suite")
        require_configuration(record, runs[place], path)
    if not failed and (problem := _problem_of_curve(record["curve"])):
        raise BadRecordError(f"{path} has no learning curve: {problem}")


def _problem_of_curve(curve: Any) -> str | None:
    if not isinstance(curve, dict) or not all(isinstance(values, list) for values in curve.values()):
        return "it must be lists by name"
    lengths = {name: len(values) for name, values in curve.items()}
    if len(set(lengths.values())) > 1:
        return f"its lists differ in length, {lengths}"
    return None
