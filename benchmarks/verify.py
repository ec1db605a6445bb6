"""Checks a whole store, and changes nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.spec import choose, load_suite, suite_names
from benchmarks.store import FAILED, BadRecordError, read_record

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
    Check every record: its checksum, its digest, its place, and its learning curve.

    :param root: the store's folder
    :param suites: only these suites, in all budgets: names or .toml files; empty for all
    :return: the verdict
    :raises BenchmarkError: if there is no such suite, or a file cannot be read
    """
    folders = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
    known = {*suite_names(), *(_suite_of(folder) for folder in folders)}
    wanted = {load_suite(name).name if name.endswith(".toml") else choose("suite", name, known) for name in suites}
    verdict = Verdict()
    for folder in folders:
        if not wanted or _suite_of(folder) in wanted:
            for path in sorted(folder.rglob("seed*/repeat*.json")):
                _take_in(verdict, root, path)
    return verdict


def _suite_of(folder: Path) -> str:
    return folder.name.partition("@")[0]


def _take_in(verdict: Verdict, root: Path, path: Path) -> None:
    # What is set aside has a number in its name.
    if re.fullmatch(r"repeat\d+(\.failed)?\.\d+\.json", path.name):
        verdict.set_aside += 1
        return
    if path.name.endswith(FAILED):
        verdict.failures += 1
    else:
        verdict.records += 1
    try:
        _check(root, path)
    except BadRecordError as error:
        verdict.wrong.append(str(error))


def _check(root: Path, path: Path) -> None:
    failed = path.name.endswith(FAILED)
    # Numbers are finite, or the record would not agree with its checksum.
    record = read_record(path, {"tracebacks"} if failed else {"score", "curve"})
    place = str(path.relative_to(root)).removesuffix(FAILED if failed else ".json")
    if record["run"] != place:
        raise BadRecordError(f"{path} has been moved: it is the record of {record['run']}")
    if not failed and (problem := _problem_of_curve(record["curve"])):
        raise BadRecordError(f"{path} has no learning curve: {problem}")


def _problem_of_curve(curve: Any) -> str | None:
    if not isinstance(curve, dict) or not all(isinstance(values, list) for values in curve.values()):
        return "it must be lists by name"
    lengths = {name: len(values) for name, values in curve.items()}
    if len(set(lengths.values())) > 1:
        return f"its lists differ in length, {lengths}"
    return None
