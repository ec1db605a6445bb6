"""
Scores to figures: numbers in, PNG and SVG out. Computes no statistic.

The same scores give the same bytes: nothing random, no date, no version is written, and text stays text. The command is
drawn below each figure; the commit is in the file's metadata alone, so that the picture is the same at every commit.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from benchmarks import curves
from benchmarks.report import NORMALISATIONS
from benchmarks.scores import THRESHOLDS, AlgorithmScores, RegimeScores
from benchmarks.spec import Suite
from benchmarks.statistics import Band, Estimate

__all__ = ["COLOURS", "FIGURES", "RC", "drawn", "write"]

#: Most algorithms in a panel of lines.
PANEL = 9
# Okabe and Ito's colours, told apart with any colour vision, without their yellow, which is lost on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX<>*h"
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
RC = {
    "figure.dpi": 150,
    "savefig.dpi": "figure",
    "svg.fonttype": "none",
    "svg.hashsalt": "sb3_gipo",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
}
_AXES = {
    "min_max": "IQM, min-max over the algorithms compared",
    "absolute": "IQM, random policy = 0, expert = 1",
}

Style = dict[str, object]


def write(suite: Suite, regimes: list[RegimeScores], origin: str, names: Sequence[str] = ()) -> dict[str, bytes]:
    """
    :param suite: the suite
    :param regimes: its scores
    :param origin: "made by `command` at commit ..."
    :param names: only these of ``FIGURES``; empty for all that the suite has numbers for
    :return: name to content, a PNG and an SVG of each
    """
    files = {}
    for name in names or drawn(suite):
        title, draw = FIGURES[name]
        with matplotlib.rc_context(RC):
            figure = draw(suite, regimes)
            heading = f"{suite.identity}: {title}"
            # What users write is text, dollars or not.
            figure.suptitle(f"{heading}\n{suite.note}" if suite.note else heading, fontsize=11, parse_math=False)
            made_by = origin.partition(" at commit ")[0].replace("`", "")
            figure.supxlabel(made_by, fontsize=6, color="0.4", parse_math=False)
            # Laid out once, and alike in both.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            for suffix, metadata in (
                ("png", {"Software": None, "Description": origin}),
                ("svg", {"Date": None, "Creator": None, "Description": origin}),
            ):
                content = io.BytesIO()
                figure.savefig(content, format=suffix, metadata=metadata)
                files[f"{name}.{suffix}"] = content.getvalue()
    return files


def drawn(suite: Suite) -> list[str]:
    """
    Which of ``FIGURES`` a suite has: one over wall time only if something in it waits for something else, and one against
    lag only if there are more regimes than a fresh and a stale one.
    """
    left_out = set()
    if not any(regime.actors for regime in suite.regimes.values()):
        left_out.add("clock")
    if len(suite.regimes) < 3:
        left_out.add("staleness")
    return [name for name in FIGURES if name not in left_out]


def _iqm(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    figure, grid = _rows_of_names(regimes, len(NORMALISATIONS))
    for axes, regime in zip(grid, regimes, strict=True):
        for axis, field, colour, marker in zip(axes, NORMALISATIONS, COLOURS, _MARKERS, strict=False):
            scores = [getattr(entry, field) for entry in regime.algorithms]
            _intervals(axis, regime, [each and each.iqm for each in scores], colour, marker)
            axis.set(title=regime.regime, xlabel=_AXES[field])
            if not any(scores):
                _say(axis, _why_nothing(regime, field))
    return figure


def _improvement(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    figure, grid = _rows_of_names(regimes, 1)
    for (axis,), regime in zip(grid, regimes, strict=True):
        own = [None if entry.algorithm == regime.baseline else entry.improvement for entry in regime.algorithms]
        _intervals(axis, regime, own, COLOURS[0], "o")
        axis.axvline(0.5, color="0.4", linewidth=0.8, linestyle="--")
        axis.set(title=regime.regime, xlim=(-0.02, 1.02))
        axis.set_xlabel(f"probability that a run scores higher than one of {regime.baseline} on the same task")
        if regime.baseline is None:
            axis.set_xlabel("")
            _say(axis, "nothing to compare with")
    return figure


def _ranks(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    figure, grid = _rows_of_names(regimes, 1)
    for (axis,), regime in zip(grid, regimes, strict=True):
        ranked = [entry for entry in regime.algorithms if entry.ranks is not None]
        axis.set(title=regime.regime, xlabel="rank by IQM min-max")
        axis.grid(False)
        if not ranked:
            axis.set(xticks=[], yticks=[])
            _say(axis, "fewer than two seeds are finished by all")
            continue
        shares = np.array([entry.ranks for entry in ranked])
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                axis.annotate(f"{share:.2f}", (column, row), color=colour, ha="center", va="center", fontsize=8)
        axis.set_xticks(range(len(ranked)), [str(rank) for rank in range(1, len(ranked) + 1)])
        axis.set_yticks(range(len(ranked)), [entry.algorithm for entry in ranked])
        axis.tick_params(length=0)
    return figure


def _profiles(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    def draw(axis: Axes, field: str, entry: AlgorithmScores, style: Style) -> bool:
        scores = getattr(entry, field)
        return scores is not None and _line(axis, THRESHOLDS, scores.profile, style)

    def finish(axis: Axes, field: str) -> None:
        axis.set(ylim=(-0.02, 1.02), ylabel="share of runs above it", xlabel=f"score, {NORMALISATIONS[field]}")

    return _lines(suite, regimes, list(NORMALISATIONS), draw, finish)


def _efficiency(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    steps = curves.grid(suite.budget)
    return _learning_curves(suite, regimes, lambda entry: steps, lambda axis: _over_training(axis, suite))


def _clock(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    every = [entry.seconds for regime in regimes for entry in regime.algorithms if entry.seconds is not None]
    # One scale: what one regime takes is to be seen beside the others.
    longest = max((seconds[-1] for seconds in every), default=1.0)
    return _learning_curves(
        suite, regimes, lambda entry: entry.seconds, lambda axis: axis.set(xlim=(0, longest), xlabel="seconds")
    )


def _learning_curves(
    suite: Suite,
    regimes: list[RegimeScores],
    positions: Callable[[AlgorithmScores], np.ndarray | None],
    over: Callable[[Axes], object],
) -> Figure:
    def draw(axis: Axes, field: str, entry: AlgorithmScores, style: Style) -> bool:
        scores, where = getattr(entry, field), positions(entry)
        if scores is None or scores.curve is None or where is None:
            return False
        return _line(axis, where, scores.curve, style)

    def finish(axis: Axes, field: str) -> None:
        over(axis)
        axis.set_ylabel(f"IQM, {NORMALISATIONS[field]}")

    return _lines(suite, regimes, list(NORMALISATIONS), draw, finish)


def _utilization(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    steps = curves.grid(suite.budget)

    def draw(axis: Axes, field: str, entry: AlgorithmScores, style: Style) -> bool:
        used = entry.utilization
        if used is None or getattr(used, field) is None:
            return False
        return _line(axis, used.lags if field == "multiplier" else steps, getattr(used, field), style)

    def finish(axis: Axes, field: str) -> None:
        if field == "multiplier":
            axis.set_ylabel("mean multiplier g")
            axis.set_ylim(bottom=0)
            _over_lag(axis)
            return
        _over_training(axis, suite)
        _share_used(axis, field)

    return _lines(suite, regimes, ["dead_fraction", "ess", "multiplier"], draw, finish)


def _staleness(suite: Suite, regimes: list[RegimeScores]) -> Figure:
    """A line goes from regime to regime, each at the lag that was measured there."""

    def points(field: str, name: str) -> Iterator[tuple[float, Estimate]]:
        for entry in (each for regime in regimes for each in regime.algorithms if each.algorithm == name):
            seen = entry.diagnostics
            if seen is None or seen.lag is None:
                continue
            if field != "absolute":
                yield seen.lag, Estimate(getattr(seen, field), None, None)
            elif entry.absolute is not None:
                yield seen.lag, entry.absolute.iqm

    def draw(axis: Axes, field: str, entry: AlgorithmScores, style: Style) -> bool:
        found = sorted(points(field, entry.algorithm), key=lambda point: point[0])
        if not found:
            return False
        lags, estimates = zip(*found, strict=True)
        # Not a number, where there is no interval, is not drawn.
        low, value, high = np.array([(each.low, each.value, each.high) for each in estimates], dtype=float).T
        return _line(axis, np.array(lags), Band(value, low, high), style)

    def finish(axis: Axes, field: str) -> None:
        _over_lag(axis)
        if field == "absolute":
            axis.set_ylabel(_AXES[field])
        else:
            _share_used(axis, field)

    every = {entry.algorithm: entry for regime in regimes for entry in regime.algorithms}
    together = replace(regimes[0], regime="all regimes", algorithms=list(every.values()))
    return _lines(suite, [together], ["absolute", "dead_fraction", "ess"], draw, finish)


FIGURES: dict[str, tuple[str, Callable[[Suite, list[RegimeScores]], Figure]]] = {
    "iqm": ("interquartile means, 95 % intervals", _iqm),
    "efficiency": ("sample efficiency, 95 % bands", _efficiency),
    "clock": ("return over wall time (mean over runs), 95 % bands", _clock),
    "profiles": ("performance profiles, 95 % bands", _profiles),
    "improvement": ("probability of improvement, 95 % intervals", _improvement),
    "ranks": ("how often each ranks first, second, ... when seeds are resampled", _ranks),
    "utilization": ("how much of the data is used; means over runs, 95 % bands", _utilization),
    "staleness": ("score, dead fraction and effective sample size against the lag of the data", _staleness),
}


def _rows_of_names(regimes: list[RegimeScores], columns: int) -> tuple[Figure, np.ndarray]:
    """A row of panels for each regime, with room for a line of text for each algorithm."""
    heights = [0.9 + 0.26 * len(regime.algorithms) for regime in regimes]
    figure = Figure(figsize=(4.6 * columns if columns > 1 else 6.4, 0.8 + sum(heights)), layout="constrained")
    return figure, figure.subplots(len(regimes), columns, squeeze=False, height_ratios=heights)


def _intervals(
    axis: Axes, regime: RegimeScores, estimates: Sequence[Estimate | None], colour: str, marker: str
) -> None:
    names = [entry.algorithm for entry in regime.algorithms]
    for position, estimate in enumerate(estimates):
        if estimate is None:
            continue
        axis.plot(estimate.value, position, marker, color=colour)
        if estimate.low is not None:
            axis.plot([estimate.low, estimate.high], [position, position], color=colour, linewidth=2)
    axis.set_yticks(
        range(len(names)), [_dashed(name, each is not None) for name, each in zip(names, estimates, strict=True)]
    )
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def _dashed(name: str, there: bool) -> str:
    return name if there else f"{name}  –"


def _lines(
    suite: Suite,
    regimes: list[RegimeScores],
    fields: list[str],
    draw: Callable[[Axes, str, AlgorithmScores, Style], bool],
    finish: Callable[[Axes, str], None],
) -> Figure:
    """A row of panels for each regime (more where it has many algorithms), a column for each field, and legends beside."""
    rows = [(regime, group) for regime in regimes for group in _groups(regime)]
    figure = Figure(figsize=(3.6 * len(fields) + 1.6, 0.8 + 2.7 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(fields) + 1, squeeze=False, width_ratios=[3.6] * len(fields) + [1.6])
    styles = _styles(suite)
    for axes, (regime, group) in zip(grid, rows, strict=True):
        shown: set[str] = set()
        for axis, field in zip(axes, fields, strict=False):
            of_field = {each.algorithm for each in group if draw(axis, field, each, styles[each.algorithm])}
            axis.set_title(regime.regime)
            finish(axis, field)
            if not of_field:
                _say(axis, _why_nothing(regime, field))
            shown |= of_field
        handles = [
            Line2D([], [], label=_dashed(each.algorithm, each.algorithm in shown), **styles[each.algorithm])
            for each in group
        ]
        axes[-1].axis("off")
        axes[-1].legend(handles=handles, loc="center left", handlelength=3.2, borderaxespad=0)
    return figure


def _groups(regime: RegimeScores) -> Iterator[list[AlgorithmScores]]:
    """At most PANEL algorithms at a time, in groups of about equal size, the baseline in each."""
    others = [entry for entry in regime.algorithms if entry.algorithm != regime.baseline]
    if len(regime.algorithms) <= PANEL:
        yield regime.algorithms
        return
    count = -(-len(others) // (PANEL - 1))
    for group in np.array_split(np.arange(len(others)), count):
        chosen = {others[index].algorithm for index in group} | {regime.baseline}
        yield [entry for entry in regime.algorithms if entry.algorithm in chosen]


def _styles(suite: Suite) -> dict[str, Style]:
    """A look for each algorithm, by its place in the suite: the same in all figures and regimes."""
    return {
        name: {"color": colour, "marker": marker, "linestyle": line}
        for name, colour, marker, line in zip(
            suite.algorithms, cycle(COLOURS), cycle(_MARKERS), cycle(_LINES), strict=False
        )
    }


def _line(axis: Axes, positions: np.ndarray, band: Band, style: Style) -> bool:
    # About ten markers a line, so that it is told apart without colour.
    axis.plot(positions, band.value, **style, markevery=max(len(positions) // 10, 1))
    if band.low is not None and band.high is not None:
        axis.fill_between(positions, band.low, band.high, color=style["color"], alpha=0.13, linewidth=0)
    return True


def _over_training(axis: Axes, suite: Suite) -> None:
    axis.set(xlim=(0, suite.budget), xlabel="environment steps")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _over_lag(axis: Axes) -> None:
    axis.set_xlabel("lag (policy versions)")
    if max((line.get_xdata()[-1] for line in axis.get_lines()), default=0) > 100:
        axis.set_xscale("symlog", linthresh=1)


def _share_used(axis: Axes, field: str) -> None:
    axis.set_ylabel("dead fraction" if field == "dead_fraction" else "effective sample size")
    axis.set_ylim(-0.02, 1.02)


def _why_nothing(regime: RegimeScores, field: str) -> str:
    if not any(entry.seeds for entry in regime.algorithms):
        return "no seed is finished\non all tasks"
    return {"absolute": "no anchors"}.get(field, "not in the records")


def _say(axis: Axes, text: str) -> None:
    axis.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color="0.4")
