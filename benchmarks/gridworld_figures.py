"""Figures of the bias–variance study: numbers from ``gridworld.py`` in, PNG files out."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch as th
from matplotlib.figure import Figure

from benchmarks.gridworld import ESTIMATORS

#: Okabe and Ito's colours, told apart with any colour vision; a marker each besides. GIPO's five widths share one hue.
STYLES = {
    "No-Clip": ("#000000", "s"),
    "GIPO sigma=0.1": ("#9ecae1", "v"),
    "GIPO sigma=0.3": ("#6baed6", "<"),
    "GIPO sigma=0.5": ("#4292c6", ">"),
    "GIPO sigma=1.0": ("#2171b5", "^"),
    "GIPO sigma=2.0": ("#08306b", "D"),
    "Laplace sigma=1.0": ("#009E73", "P"),
    "Cauchy sigma=1.0": ("#CC79A7", "X"),
    "PPO": ("#D55E00", "o"),
    "SAPO": ("#E69F00", "h"),
}


def scatter(table: pd.DataFrame, target: str, path: Path, command: str) -> None:
    """
    Bias against variance at one target policy, one panel for each behavior case; the Pareto front is a dashed line.

    :param table: of ``bias_variance_table``
    :param target: name of the target policy
    :param path: PNG file to write
    :param command: what made it, written below
    """
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained")
    panels = table[table["target_policy"] == target].groupby("behavior_case", sort=False)
    for axis, (case, rows) in zip(axes.flat, panels, strict=False):
        front = rows[rows["pareto"]].sort_values(["bias", "variance"])
        axis.plot(front["bias"], front["variance"], "--", color="0.5", linewidth=1, zorder=1)
        for row in rows.itertuples():
            colour, marker = STYLES[row.estimator]
            fill = "none" if row.all_gradients_zero else colour
            axis.scatter(
                row.bias, row.variance, s=55, marker=marker, facecolor=fill, edgecolor=colour, linewidth=1.4, zorder=2
            )
        axis.set_title(f"case {case}{': on-policy, all coincide' if rows['bias'].max() < 1e-12 else ''}", fontsize=10)
        axis.set(xlabel="|bias|", ylabel="variance of one sample")
        axis.ticklabel_format(style="sci", scilimits=(-2, 2))
        axis.margins(0.1)
    _legend(axes.flat[-1], STYLES, "-- Pareto front\nhollow: every gradient is exactly 0")
    _finish(figure, f"Gradient of the logit `right` in S0, target {target}", path, command)


def multiplier_curves(path: Path, command: str) -> None:
    """
    The multiplier of every surrogate against the log-ratio and against the ratio, for both signs of the advantage.

    :param path: PNG file to write
    :param command: what made it, written below
    """
    figure, axes = plt.subplots(2, 3, figsize=(12.5, 7), layout="constrained", width_ratios=(1, 1, 0.38))
    for row, advantage in enumerate((1.0, -1.0)):
        for axis, log_scale in zip(axes[row], (True, False), strict=False):
            axis_values = np.linspace(-3, 2, 1001) if log_scale else np.linspace(0.001, 5, 1001)
            log_ratios = th.tensor(axis_values if log_scale else np.log(axis_values))
            for name, surrogate in ESTIMATORS.items():
                g = surrogate.multiplier(log_ratios, th.full_like(log_ratios, advantage)).numpy()
                colour, marker = STYLES[name]
                axis.plot(axis_values, g, color=colour, marker=marker, markevery=90, markersize=4.5, linewidth=1.4)
            axis.axvline(0 if log_scale else 1, color="0.7", linewidth=0.8, zorder=0)
            axis.set(ylim=(-0.05, 3), title=f"A {'>' if advantage > 0 else '<'} 0", ylabel="multiplier g = ρ·ω")
            axis.set_xlabel("log-ratio x = ln ρ" if log_scale else "importance ratio ρ")
        axes[row, 2].axis("off")
    _legend(axes[0, 2], STYLES, "at ρ = 1 all are 1")
    _finish(figure, "What is left of a sample's gradient", path, command)


def lag_curves(sweep: pd.DataFrame, path: Path, command: str) -> None:
    """
    Bias, variance, MSE and dead fraction of the whole gradient against the lag, one column for each start policy.

    :param sweep: the first frame of ``lag_sweep``
    :param path: PNG file to write
    :param command: what made it, written below
    """
    starts = list(dict.fromkeys(sweep["start_policy"]))
    measures = {"bias": "‖bias‖", "variance": "variance (trace)", "mse": "MSE of one sample", "dead_fraction": "dead"}
    figure, axes = plt.subplots(4, len(starts) + 1, figsize=(14, 11), layout="constrained", sharex="col")
    for column, start in enumerate(starts):
        for axis, (measure, label) in zip(axes[:, column], measures.items(), strict=True):
            for name, rows in sweep[sweep["start_policy"] == start].groupby("estimator", sort=False):
                colour, marker = STYLES[name]
                axis.plot(rows["lag"], rows[measure], color=colour, marker=marker, markersize=4, linewidth=1.2)
            axis.set_ylabel(label)
        axes[0, column].set_title(f"collected by {start}", fontsize=10)
        axes[-1, column].set_xlabel("lag k (exact gradient steps)")
    for axis in axes[:, -1]:
        axis.axis("off")
    _legend(axes[0, -1], STYLES, "whole gradient: all states and logits")
    _finish(figure, "Estimators on data that is k exact gradient steps old", path, command)


def best_widths(widths: pd.DataFrame, path: Path, command: str) -> None:
    """
    The σ of the Gaussian kernel with the least MSE against the lag, for each batch size.

    :param widths: the second frame of ``lag_sweep``
    :param path: PNG file to write
    :param command: what made it, written below
    """
    groups = widths.dropna(subset="sigma").groupby("start_policy", sort=False)
    figure, axes = plt.subplots(1, len(groups), figsize=(12.5, 4), layout="constrained", sharey=True)
    for axis, (start, rows) in zip(axes, groups, strict=True):
        for (batch, found), colour, marker in zip(
            rows.groupby("batch"), ("#E69F00", "#56B4E9", "#000000"), "osD", strict=True
        ):
            axis.plot(found["lag"], found["sigma"], color=colour, marker=marker, markersize=5, label=f"N = {batch}")
        axis.set(yscale="log", title=f"collected by {start}", xlabel="lag k (exact gradient steps)")
    axes[0].set_ylabel("σ with the least MSE")
    axes[0].legend(title="samples in the mean")
    _finish(figure, "The width of the Gaussian weight with the least MSE, by lag and batch size", path, command)


def _legend(axis: plt.Axes, styles: dict[str, tuple[str, str]], title: str) -> None:
    axis.axis("off")
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, (colour, marker) in styles.items()
    ]
    axis.legend(handles=handles, title=title, loc="upper left", fontsize=9, title_fontsize=9)


def _finish(figure: Figure, title: str, path: Path, command: str) -> None:
    figure.suptitle(title)
    figure.supxlabel(f"made by: {command}", fontsize=8, color="0.35", family="monospace")
    # Without the Software entry a PNG names the version of matplotlib and nothing else that could differ.
    figure.savefig(path, dpi=90, metadata={"Software": None, "Comment": command})
    plt.close(figure)
