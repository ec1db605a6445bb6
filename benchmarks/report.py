"""
Scores to tables: in the terminal, as Markdown, LaTeX and CSV. Computes no statistic.

Every file names the command and commit that made it, and every number the normalisation it is.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.scores import AlgorithmScores, Diagnostics, NormalisedScores, RegimeScores, TaskScores
from benchmarks.spec import Suite
from benchmarks.statistics import Estimate, StepsRatio

__all__ = [
    "NORMALISATIONS",
    "Table",
    "done_of",
    "legend",
    "markdown",
    "missing",
    "print_tables",
    "show",
    "tables",
    "write",
]

#: The normalisations as fields of AlgorithmScores, with their names for readers.
NORMALISATIONS = {"min_max": "min-max", "absolute": "absolute"}
_MISSING = "–"
#: Columns of words, which stand at the left; those of numbers at the right.
WORDS = ("algorithm", "task", "case", "axis")
_AGGREGATES = ("iqm", "median", "mean", "optimality_gap", "area")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    _MISSING: "--",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """
    A table as a reader sees it.

    :param title: what it shows, of which suite and regime
    :param header: a name for each column
    :param rows: as many cells each
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


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
        "absolute: random policy = 0, expert = 1 (anchors.json). return: unscaled. success: at any step of an episode.",
        "IQM over seeds x tasks (repeats averaged first); [95 %]: stratified bootstrap over seeds. Rank: by IQM min-max.",
        "runs: finished/planned. seeds: finished on all tasks; the numbers rest on these.",
        "median: over tasks. gap: optimality gap, mean shortfall below 1. area: mean of the IQM's learning curve.",
        "|x|95: 95th percentile of the absolute log-ratio. lag: of the data, mean, in policy versions.",
        "lag, |x|95, dead fraction and ESS are those of the budget's last tenth.",
        "docs/statistics.md defines every number.",
    ]
    for baseline in dict.fromkeys(regime.baseline for regime in regimes):
        if baseline is not None:
            lines += [
                f"P(> {baseline}): probability that a run scores higher than one of {baseline} on the same task.",
                f"steps ratio: how many times fewer environment steps than {baseline} needs, to {baseline}'s final IQM; "
                "<: never reached.",
            ]
    without = [regime.regime for regime in regimes if regime.baseline is None]
    if without:
        lines.append(
            f"Nothing to compare with under {', '.join(without)}: no P(>), no steps ratio; --baseline LABEL names another."
        )
    unanchored = [task for task, anchors in regimes[0].anchors.items() if anchors is None] if regimes else []
    if unanchored:
        lines.append(f"No absolute score: no anchors for {', '.join(unanchored)}.")
    if any(entry.min_max and entry.min_max.curve is None for regime in regimes for entry in regime.algorithms):
        lines.append("No area and no steps ratio where the budget of a run ended before its first episode did.")
    if any(entry.failed for regime in regimes for entry in regime.algorithms):
        lines.append("Failed runs were tried three times; *.failed.json holds their tracebacks. They count as missing.")
    if any(missing(regime) for regime in regimes):
        lines.append("Runs are missing: the ranking is not final.")
    return lines


def missing(regime: RegimeScores) -> int:
    """How many runs of a regime are planned and not finished."""
    return sum(entry.planned - entry.finished for entry in regime.algorithms)


def print_tables(suite: Suite, regimes: list[RegimeScores], console: Console) -> None:
    """
    :param suite: the suite
    :param regimes: its scores
    :param console: where to
    """
    for regime in regimes:
        for table in tables(suite, regime):
            show(table, console, suite.note)
    for line in legend(suite, regimes):
        console.print(line, highlight=False)


def show(table: Table, console: Console, note: str = "") -> None:
    """
    :param table: to be printed
    :param console: where to
    :param note: written below it
    """
    shown = RichTable(title=table.title, title_justify="left", caption=note or None, caption_style="bold")
    for name in table.header:
        left = name in WORDS
        shown.add_column(name, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def write(suite: Suite, regimes: list[RegimeScores], origin: str) -> dict[str, bytes]:
    """
    :param suite: the suite
    :param regimes: its scores
    :param origin: which command and commit make the files
    :return: name to content: Markdown, LaTeX, CSV of the ranking and of the tasks
    """
    files = {
        "table.md": _markdown(suite, regimes, origin),
        "table.tex": _latex(suite, regimes, origin),
        "ranking.csv": _csv(_ranking_records(regimes), suite, origin),
        "tasks.csv": _csv(_task_records(regimes), suite, origin),
    }
    return {name: text.encode() for name, text in files.items()}


def tables(suite: Suite, regime: RegimeScores) -> Iterator[Table]:
    """
    :param suite: the suite
    :param regime: scores of one of its regimes
    :return: the ranking, the aggregates of each normalisation that there is, the ranks, how runs ended and what they cost,
        and the returns of each task beside its anchors
    """
    where = f"{suite.identity}, {regime.regime}"
    header = ("rank", "algorithm", "runs", "seeds")
    header += ("IQM min-max [95 %]", "IQM absolute [95 %]", "IQM return [95 %]", "success [95 %]")
    yield Table(f"{where}: ranking", header, [_ranking_row(entry) for entry in regime.algorithms])
    for field, name in NORMALISATIONS.items():
        scores = [(entry, getattr(entry, field)) for entry in regime.algorithms]
        if any(of_kind for _, of_kind in scores):
            header = ("algorithm", "median", "mean", "gap", "area")
            header += (f"P(> {regime.baseline})", "steps ratio") if regime.baseline else ()
            rows = [_aggregates_row(entry, of_kind, bool(regime.baseline)) for entry, of_kind in scores]
            yield Table(f"{where}: aggregates, {name} [95 %]", header, rows)
    ranked = [entry for entry in regime.algorithms if entry.ranks is not None]
    if ranked:
        header = ("algorithm", *(str(rank) for rank in range(1, len(ranked) + 1)))
        rows = [(entry.algorithm, *(f"{share:.2f}" for share in entry.ranks or ())) for entry in ranked]
        yield Table(f"{where}: share of resamples in each rank by IQM min-max", header, rows)
    header = ("algorithm", "lag", "|x|95", "largest |x|95", "dead fraction", "ESS", "CPU s/run", "wall s/run")
    ended = [_diagnostics_row(entry.algorithm, entry.diagnostics) for entry in regime.algorithms if entry.diagnostics]
    if ended:
        yield Table(f"{where}: how runs ended, what one costs", header, ended)
    header = ("task", *(entry.algorithm for entry in regime.algorithms), "random", "expert")
    rows = []
    for task in suite.tasks:
        cells = (entry.tasks[task] for entry in regime.algorithms)
        returns = (
            _text(cell.mean_return and cell.mean_return.value, 1)
            + ("" if cell.finished == cell.planned else f" ({done_of(cell)})")
            for cell in cells
        )
        rows.append((task, *returns, *(_text(anchor, 1) for anchor in regime.anchors[task] or (None, None))))
    yield Table(f"{where}: mean unscaled return of each task", header, rows)


def _ranking_row(entry: AlgorithmScores) -> tuple[str, ...]:
    return (
        _MISSING if entry.rank is None else str(entry.rank),
        entry.algorithm,
        done_of(entry),
        str(entry.seeds),
        _estimate(entry.min_max and entry.min_max.iqm, 3),
        _estimate(entry.absolute and entry.absolute.iqm, 3),
        _estimate(entry.raw, 1),
        _estimate(entry.success, 2),
    )


def done_of(scores: AlgorithmScores | TaskScores) -> str:
    """How many of its runs are finished, and how many have failed."""
    return f"{scores.finished}/{scores.planned}" + (f", {scores.failed} failed" if scores.failed else "")


def _aggregates_row(entry: AlgorithmScores, scores: NormalisedScores | None, compared: bool) -> tuple[str, ...]:
    row = (entry.algorithm, *(_estimate(scores and getattr(scores, name), 2) for name in _AGGREGATES[1:]))
    return (*row, _estimate(entry.improvement, 2), _steps(scores and scores.steps)) if compared else row


def _diagnostics_row(algorithm: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    return (
        algorithm,
        _text(diagnostics.lag, 1),
        _text(diagnostics.log_ratio_p95, 2),
        _text(diagnostics.largest_log_ratio_p95, 2),
        _text(diagnostics.dead_fraction, 3),
        _text(diagnostics.ess, 3),
        _text(diagnostics.cpu_seconds, 1),
        _text(diagnostics.wall_seconds, 1),
    )


def _estimate(estimate: Estimate | None, digits: int) -> str:
    return _MISSING if estimate is None else f"{_text(estimate.value, digits)} {_interval(estimate, digits)}"


def _interval(estimate: Estimate, digits: int) -> str:
    if estimate.low is None:
        return f"[{_MISSING}]"
    return f"[{_text(estimate.low, digits)}, {_text(estimate.high, digits)}]"


def _steps(steps: StepsRatio | None) -> str:
    if steps is None or steps.ratio.value > 0:
        return _estimate(steps and steps.ratio, 2)
    return f"< {_text(steps.bound, 2)} {_interval(steps.ratio, 2)}"


def _text(number: float | None, digits: int) -> str:
    # Rounded first, and never "-0.00".
    return _MISSING if number is None else f"{round(number, digits) + 0.0:.{digits}f}"


def _markdown(suite: Suite, regimes: list[RegimeScores], origin: str) -> str:
    parts = [f"# {suite.identity}", suite.description]
    if suite.note:
        parts.append(f"**{suite.note}**")
    for regime in regimes:
        parts += [markdown(table) for table in tables(suite, regime)]
    parts += ["\n".join(f"- {line}" for line in legend(suite, regimes)), f"![IQM with intervals](iqm.png)\n\n{origin}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(table: Table) -> str:
    """A table with its title as a heading."""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return f"## {table.title}\n\n" + "\n".join(_markdown_row(line) for line in lines)


def _markdown_row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex(suite: Suite, regimes: list[RegimeScores], origin: str) -> str:
    """Tables to be \\input; numbers keep their brackets, so that a column reads as in the terminal."""
    lines = [
        f"% {line}" for line in (origin, "Needs \\usepackage{booktabs}.", suite.note, *legend(suite, regimes)) if line
    ]
    for regime in regimes:
        for table in tables(suite, regime):
            columns = "".join("l" if name in WORDS else "r" for name in table.header)
            caption = f"{table.title} ({suite.note})" if suite.note else table.title
            lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{_escape(caption)}}}"]
            lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(table.header), r"\midrule"]
            lines += [*(_latex_row(row) for row in table.rows), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: tuple[str, ...]) -> str:
    return " & ".join(_escape(cell) for cell in cells) + r" \\"


def _escape(text: str) -> str:
    return re.sub("|".join(re.escape(character) for character in _LATEX), lambda found: _LATEX[found[0]], text)


def _ranking_records(regimes: list[RegimeScores]) -> list[dict[str, object]]:
    records = []
    for regime in regimes:
        for entry in regime.algorithms:
            record: dict[str, object] = {
                "regime": regime.regime,
                "algorithm": entry.algorithm,
                "rank": entry.rank,
                "finished": entry.finished,
                "failed": entry.failed,
                "planned": entry.planned,
                "seeds": entry.seeds,
            }
            for field in NORMALISATIONS:
                scores: NormalisedScores | None = getattr(entry, field)
                for name in _AGGREGATES:
                    record |= _columns(f"{name}_{field}", scores and getattr(scores, name))
                steps = scores and scores.steps
                record |= _columns(f"steps_ratio_{field}", steps and steps.ratio)
                record[f"steps_ratio_{field}_bound"] = _number(steps and steps.bound)
                record[f"steps_ratio_{field}_reached"] = _number(steps and steps.reached)
            record |= _columns("iqm_return", entry.raw) | _columns("success", entry.success)
            record["baseline"] = regime.baseline
            record |= _columns("improvement", entry.improvement)
            records.append(record)
    return records


def _columns(name: str, estimate: Estimate | None) -> dict[str, object]:
    return {
        name: _number(estimate and estimate.value),
        f"{name}_low": _number(estimate and estimate.low),
        f"{name}_high": _number(estimate and estimate.high),
    }


def _number(number: float | None) -> str | None:
    """Twelve significant digits: more would differ from one processor to another."""
    return None if number is None else f"{number:.12g}"


def _task_records(regimes: list[RegimeScores]) -> list[dict[str, object]]:
    return [
        {
            "regime": regime.regime,
            "algorithm": entry.algorithm,
            "task": task,
            "finished": scores.finished,
            "failed": scores.failed,
            "planned": scores.planned,
            **_columns("mean_return", scores.mean_return),
            "success": _number(scores.success),
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
