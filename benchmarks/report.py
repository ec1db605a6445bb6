"""
Scores to tables and figures: in the terminal, as Markdown, CSV and PNG. Computes no statistic.

Every file names the command and commit that made it, and every number the normalisation it is.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.scores import AlgorithmScores, Estimate, RegimeScores
from benchmarks.spec import Suite
from benchmarks.store import replace_file

__all__ = ["legend", "print_tables", "write_report"]

# Okabe and Ito's blue and vermilion, told apart with any colour vision.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_MISSING = "–"
_RANKING = (
    "rank",
    "algorithm",
    "runs",
    "seeds",
    "IQM min-max [95 %]",
    "IQM absolute [95 %]",
    "IQM return [95 %]",
    "success [95 %]",
)


def legend(suite: Suite, regimes: list[RegimeScores]) -> list[str]:
    """
    What a reader must know to read the tables.

    :param suite: the suite
    :param regimes: its scores
    :return: sentences
    """
    lines = [
        f"{suite.budget:,} environment steps a run; score: mean return of its last {suite.score_episodes} episodes.",
        "min-max: per task, 0 = worst and 1 = best seed of the algorithms compared, so even a small lead is stretched to 1.",
        "absolute: random policy = 0, scripted expert = 1. return: unscaled. success: at any step of an episode.",
        "IQM over seeds x tasks (repeats averaged first); [95 %]: stratified bootstrap over seeds. Rank: by IQM min-max.",
        "runs: finished/planned. seeds: finished on all tasks; the numbers rest on these.",
    ]
    if regimes and regimes[0].without_anchors:
        lines.append(f"No absolute score: no anchors for {', '.join(regimes[0].without_anchors)}.")
    if any(algorithm.finished < algorithm.planned for regime in regimes for algorithm in regime.algorithms):
        lines.append("Runs are missing: the ranking is not final.")
    return lines


def print_tables(suite: Suite, regimes: list[RegimeScores], console: Console) -> None:
    """
    :param suite: the suite
    :param regimes: its scores
    :param console: where to
    """
    for regime in regimes:
        for title, header, rows in _tables(suite, regime):
            table = Table(title=title, title_justify="left", caption=suite.note or None, caption_style="bold")
            for name in header:
                table.add_column(name, justify="left" if name in ("algorithm", "task") else "right")
            for row in rows:
                table.add_row(*row)
            console.print(table)
    for line in legend(suite, regimes):
        console.print(line, highlight=False)


def write_report(suite: Suite, regimes: list[RegimeScores], folder: Path, command: str, commit: str) -> list[Path]:
    """
    :param suite: the suite
    :param regimes: its scores
    :param folder: where to; made if need be
    :param command: the command line that made the report
    :param commit: the commit of the code that made it
    :return: the files written: Markdown, CSV of the ranking, CSV of the tasks, and the figure
    """
    origin = f"made by `{command}` at commit {commit}"
    files = {
        "table.md": _markdown(suite, regimes, origin),
        "ranking.csv": _csv(_ranking_records(regimes), suite, origin),
        "tasks.csv": _csv(_task_records(regimes), suite, origin),
    }
    for name, text in files.items():
        replace_file(folder / name, text)
    _figure(suite, regimes, folder / "iqm.png", origin)
    return [folder / name for name in (*files, "iqm.png")]


def _tables(suite: Suite, regime: RegimeScores) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    yield f"{suite.identity}, {regime.regime}: ranking", _RANKING, [_ranking_row(entry) for entry in regime.algorithms]
    header = ("task", *(entry.algorithm for entry in regime.algorithms))
    rows = []
    for task in suite.tasks:
        cells = (entry.tasks[task] for entry in regime.algorithms)
        rows.append((task, *(_text(cell.mean_return, 1) + _share(cell.finished, cell.planned) for cell in cells)))
    yield f"{suite.identity}, {regime.regime}: mean unscaled return of each task", header, rows


def _ranking_row(entry: AlgorithmScores) -> tuple[str, ...]:
    return (
        _MISSING if entry.rank is None else str(entry.rank),
        entry.algorithm,
        f"{entry.finished}/{entry.planned}",
        str(entry.seeds),
        _estimate(entry.min_max, 3),
        _estimate(entry.absolute, 3),
        _estimate(entry.raw, 1),
        _estimate(entry.success, 2),
    )


def _estimate(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return _MISSING
    if estimate.low is None:
        return f"{_text(estimate.value, digits)} [{_MISSING}]"
    return f"{_text(estimate.value, digits)} [{_text(estimate.low, digits)}, {_text(estimate.high, digits)}]"


def _text(number: float | None, digits: int) -> str:
    return _MISSING if number is None else f"{number:.{digits}f}"


def _share(finished: int, planned: int) -> str:
    return "" if finished == planned else f" ({finished}/{planned})"


def _markdown(suite: Suite, regimes: list[RegimeScores], origin: str) -> str:
    parts = [f"# {suite.identity}", suite.description]
    if suite.note:
        parts.append(f"**{suite.note}**")
    for regime in regimes:
        for title, header, rows in _tables(suite, regime):
            lines = [header, tuple("---" for _ in header), *rows]
            parts += [f"## {title}", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    parts += ["\n".join(f"- {line}" for line in legend(suite, regimes)), f"![IQM with intervals](iqm.png)\n\n{origin}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ranking_records(regimes: list[RegimeScores]) -> list[dict[str, object]]:
    records = []
    for regime in regimes:
        for entry in regime.algorithms:
            record: dict[str, object] = {
                "regime": regime.regime,
                "algorithm": entry.algorithm,
                "rank": entry.rank,
                "finished": entry.finished,
                "planned": entry.planned,
                "seeds": entry.seeds,
            }
            for name, estimate in (
                ("iqm_min_max", entry.min_max),
                ("iqm_absolute", entry.absolute),
                ("iqm_return", entry.raw),
                ("success", entry.success),
            ):
                record[name] = estimate and estimate.value
                record[f"{name}_low"] = estimate and estimate.low
                record[f"{name}_high"] = estimate and estimate.high
            records.append(record)
    return records


def _task_records(regimes: list[RegimeScores]) -> list[dict[str, object]]:
    return [
        {
            "regime": regime.regime,
            "algorithm": entry.algorithm,
            "task": task,
            "finished": scores.finished,
            "planned": scores.planned,
            "mean_return": scores.mean_return,
            "success": scores.success,
        }
        for regime in regimes
        for entry in regime.algorithms
        for task, scores in entry.tasks.items()
    ]


def _csv(records: list[dict[str, object]], suite: Suite, origin: str) -> str:
    text = io.StringIO()
    for comment in filter(None, (suite.note, origin)):
        text.write(f"# {comment}\n")
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _figure(suite: Suite, regimes: list[RegimeScores], path: Path, origin: str) -> None:
    """IQM intervals, a row for each regime and a column for each normalisation."""
    height = 1.0 + sum(0.8 + 0.3 * len(regime.algorithms) for regime in regimes)
    figure = Figure(figsize=(9, height), layout="constrained")
    grid = figure.subplots(len(regimes), 2, squeeze=False)
    for axes, regime in zip(grid, regimes, strict=True):
        names = [entry.algorithm for entry in regime.algorithms]
        for axis, colour, marker, label, estimates in (
            (axes[0], _BLUE, "o", "IQM, min-max over these algorithms", [e.min_max for e in regime.algorithms]),
            (axes[1], _VERMILION, "s", "IQM, random = 0, expert = 1", [e.absolute for e in regime.algorithms]),
        ):
            for position, estimate in enumerate(estimates):
                if estimate is None:
                    axis.annotate("missing", (0, position), color="0.4", va="center")
                    continue
                axis.plot(estimate.value, position, marker, color=colour)
                if estimate.low is not None:
                    axis.plot([estimate.low, estimate.high], [position, position], color=colour, linewidth=2)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_title(regime.regime, loc="left", fontsize="medium")
            axis.set_xlabel(label)
            axis.grid(axis="x", color="0.9")
    title = f"{suite.identity}: {suite.budget:,} steps a run, 95 % intervals"
    figure.suptitle(f"{title}\n{suite.note}" if suite.note else title)
    figure.supxlabel(origin, fontsize="xx-small", color="0.4")
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=150, metadata={"Description": origin})
    temporary.replace(path)
