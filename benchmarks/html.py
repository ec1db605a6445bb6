"""
Scores, figures, protocol and costs on one web page that needs nothing else. Computes no statistic.

The page is ``page.html.jinja``; figures are embedded, and there is no script and no link.
"""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from benchmarks import report
from benchmarks.costs import Spent
from benchmarks.scores import RegimeScores
from benchmarks.spec import Suite

__all__ = ["page"]


@dataclass(frozen=True)
class _Table(report.Table):
    """A table with the places of the columns that are words."""

    left: frozenset[int] = field(default_factory=frozenset)


def page(
    suite: Suite,
    regimes: list[RegimeScores],
    spent: Spent,
    failed: list[str],
    figures: dict[str, tuple[str, bytes]],
    origin: str,
) -> bytes:
    """
    :param suite: the suite
    :param regimes: its scores
    :param spent: what its finished runs cost
    :param failed: ids of the runs that failed for good
    :param figures: name to title and SVG
    :param origin: "made by `command` at commit ..."
    :return: the page
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    planned = sum(entry.planned for regime in regimes for entry in regime.algorithms)
    finished = planned - sum(report.missing(regime) for regime in regimes)
    text = environment.get_template("page.html.jinja").render(
        suite=suite,
        origin=origin,
        progress=f"{finished} of {planned} runs are finished.",
        failed=failed,
        results={regime.regime: [_words_left(each) for each in report.tables(suite, regime)] for regime in regimes},
        legend=report.legend(suite, regimes),
        figures={
            name: (title, f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}")
            for name, (title, content) in figures.items()
        },
        protocol=_protocol(suite),
        settings=_settings(suite),
        runs=_runs(regimes),
        costs=_costs(spent),
        made_with=_made_with(spent),
        again=_again(origin),
    )
    return text.encode()


def _words_left(table: report.Table) -> _Table:
    left = frozenset(place for place, name in enumerate(table.header) if name in report.WORDS)
    return _Table(table.title, table.header, table.rows, left)


def _protocol(suite: Suite) -> list[str]:
    tasks, algorithms, regimes = len(suite.tasks), len(suite.algorithms), len(suite.regimes)
    lines = [
        f"{_count(algorithms, 'algorithm')} on {_count(tasks, 'task')} under {_count(regimes, 'regime')}, with "
        f"{_count(suite.seeds, 'seed')} of {_count(suite.repeats, 'repeat')} each: a seed fixes the environment, a repeat "
        "the learner's weights, action noise and minibatches. Both are the same for all algorithms.",
        f"A run makes {suite.budget:,} environment steps in {_count(suite.environment.n_envs, 'environment')}; its score is "
        f"the mean unscaled return of its last {suite.score_episodes} training episodes.",
        f"Tasks: {', '.join(suite.tasks)}.",
    ]
    if suite.evaluation_episodes:
        lines.append(
            f"After training, the deterministic policy plays {suite.evaluation_episodes} episodes, which are recorded."
        )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _settings(suite: Suite) -> list[_Table]:
    def table(title: str, parts: dict[str, Any]) -> _Table:
        rows = [(name, key, _value(value)) for name, part in parts.items() for key, value in part.items()]
        return _Table(title, ("of", "setting", "value"), rows, frozenset({0, 1}))

    return [
        table("Regimes: how old the data is", {name: each.model_dump() for name, each in suite.regimes.items()}),
        table("Algorithms", {name: each.model_dump(exclude_none=True) for name, each in suite.algorithms.items()}),
        table(
            "What all algorithms share",
            {"environment": suite.environment.model_dump(), "learner": suite.learner.model_dump()},
        ),
    ]


def _value(value: Any) -> str:
    return "–" if value in (None, {}) else str(value)


def _runs(regimes: list[RegimeScores]) -> _Table:
    rows = [
        (regime.regime, entry.algorithm, report.done_of(entry), str(entry.seeds))
        for regime in regimes
        for entry in regime.algorithms
    ]
    header = ("regime", "algorithm", "runs finished/planned", "seeds finished on all tasks")
    return _Table("Records that the numbers rest on", header, rows, frozenset({0, 1}))


def _costs(spent: Spent) -> _Table:
    rows = [(regime, name, f"{seconds / 3600:.2f}") for (regime, name), seconds in spent.cpu_seconds.items()]
    rows.append(("all", "all", f"{spent.cpu_seconds.total() / 3600:.2f}"))
    return _Table("CPU hours of the finished runs", ("regime", "algorithm", "CPU hours"), rows, frozenset({0, 1}))


def _made_with(spent: Spent) -> _Table:
    rows = [
        (kind, what, str(count))
        for kind, counted in {"machine": spent.machines, "version": spent.versions, "commit": spent.commits}.items()
        for what, count in sorted(counted.items())
    ]
    return _Table("What they were made with", ("kind", "", "runs"), rows, frozenset({0, 1}))


def _again(origin: str) -> list[str]:
    """The command that made the page, after the one that makes the records."""
    command = origin.split("`")[1]
    run = re.sub(r" --baseline (?:'[^']*'|\S+)", "", command).replace(" report ", " run ", 1)
    return [run, command]
