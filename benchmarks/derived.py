"""
Files made of records: which command makes which, and whether those in a folder are still what their records say.

Every derived file names the command that made it, from which it is made again. Only the commit may differ.
"""

import io
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import figures, html, measurements, report, scores
from benchmarks.costs import Spent
from benchmarks.scores import RegimeScores
from benchmarks.spec import Suite, choose
from benchmarks.store import Found

__all__ = ["COMMANDS", "Study", "baseline_of", "read", "stale"]

#: What others are compared with, unless asked for otherwise.
BASELINE = "ppo"
_SUFFIXES = (".md", ".tex", ".csv", ".png", ".svg", ".html")
_ORIGIN = re.compile(r"made by `(?P<command>python -m benchmarks (table|plot|report) [^`]+)` at commit [^\s<\"]+")


@dataclass(frozen=True)
class Study:
    """
    What derived files are made of.

    :param suite: the suite
    :param regimes: its scores
    :param spent: what its finished runs cost, and where they were made
    :param failed: ids of the runs that failed for good
    """

    suite: Suite
    regimes: list[RegimeScores]
    spent: Spent
    failed: list[str]


#: The commands that write derived files, each with the files it makes of a study, given what is to be written of its origin.
COMMANDS: dict[str, Callable[[Study, str], dict[str, bytes]]] = {
    "table": lambda study, origin: (
        report.write(study.suite, study.regimes, origin) | figures.write(study.suite, study.regimes, origin, ["iqm"])
    ),
    "plot": lambda study, origin: figures.write(study.suite, study.regimes, origin),
    "report": lambda study, origin: {"report.html": _page(study, origin)},
}


def _page(study: Study, origin: str) -> bytes:
    drawn = figures.write(study.suite, study.regimes, origin)
    shown = {name: (figures.FIGURES[name][0], drawn[f"{name}.svg"]) for name in figures.drawn(study.suite)}
    return html.page(study.suite, study.regimes, study.spent, study.failed, shown, origin)


def baseline_of(suite: Suite, label: str | None) -> str | None:
    """
    :param suite: the suite
    :param label: what was asked for, if anything
    :return: the label of the algorithm that others are compared with; None if the suite has no "ppo" and none was named
    :raises BenchmarkError: if the suite has no such algorithm
    """
    if label is not None:
        return choose("algorithm", label, suite.algorithms)
    return BASELINE if BASELINE in suite.algorithms else None


def read(suite: Suite, every: Iterable[Found], anchors: dict[str, tuple[float, float]], baseline: str | None) -> Study:
    """
    :param suite: the suite
    :param every: what a store holds of its runs; no record is kept
    :param anchors: task to its (random, expert) mean returns
    :param baseline: of :func:`baseline_of`
    :return: the study, which may be of nothing
    """
    spent, measured, failed = Spent(), [], []
    for found in every:
        if found.record:
            spent.add(found.run, found.record)
            measured.append(measurements.measure(found.run, found.record))
        elif found.failure:
            failed.append(found.run)
    regimes = scores.score(suite, measured, anchors, baseline, failed)
    return Study(suite, regimes, spent, [run.id for run in failed])


def stale(folder: Path, study: Callable[[str | None], Study]) -> list[str]:
    """
    Make the derived files of a folder again, in memory, and compare.

    :param folder: a suite's folder of records and derived files
    :param study: makes the study for what was given as ``--baseline``, if anything
    :return: the names of the files that are not what the commands they name make of the records now
    """
    found, studies, made = [], {}, {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        origin = _origin(path)
        if origin is not None and origin[0] not in made:
            text, kind, baseline = origin
            if baseline not in studies:
                studies[baseline] = study(baseline)
            # With the commit that the file names, so that nothing needs to be left out of the comparison.
            made[text] = COMMANDS[kind](studies[baseline], text)
        if origin is None or not _same(path, made[origin[0]].get(path.name)):
            found.append(path.name)
    return found


def _origin(path: Path) -> tuple[str, str, str | None] | None:
    """What a file says of its origin, the command in it, and that command's ``--baseline``; None if it is damaged."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                text = str(image.info.get("Description", ""))
        else:
            text = unescape(path.read_text(encoding="utf-8"))
        named = _ORIGIN.search(text)
        if named is None:
            return None
        words = shlex.split(named["command"])
        return named[0], words[3], words[words.index("--baseline") + 1] if "--baseline" in words else None
    except (OSError, ValueError, IndexError):
        return None


def _same(path: Path, content: bytes | None) -> bool:
    if content is None or path.suffix != ".png":
        return content == path.read_bytes()
    # Other versions of zlib compress the same picture to other bytes.
    try:
        with Image.open(path) as old, Image.open(io.BytesIO(content)) as new:
            return np.array_equal(np.asarray(old), np.asarray(new))
    except OSError:  # cut off in the middle
        return False
