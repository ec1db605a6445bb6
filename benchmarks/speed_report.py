"""What the speed benchmark measured, as JSON, tables and a figure. Every number is a median of turns, with their range."""

import io
import json
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.figures import COLOURS, RC
from benchmarks.report import Table, markdown
from benchmarks.speed import AXES, COMPONENTS
from benchmarks.turns import kind, spread_text

__all__ = ["LEGEND", "tables", "write"]

LEGEND = (
    "CPU seconds of one process with one torch thread: medians [lowest, highest turn].",
    "floor: bare mj_step at the task's frame skip, and bare matrix products of all linear layers, forward and backward.",
    "x PPO: SB3's PPO with as many environment and gradient steps of the same size. update: forward, backward, optimizer.",
    "environments, window, minibatch: of one learner. workers: as many processes with a learner each, at the same moment.",
    "x first: a gradient step's cost over that of the first size in the same turn.",
    "Only ratios mean anything on another machine.",
)
_NAMES = {"n_envs": "environments", "replay_window": "window", "batch_size": "minibatch", "workers": "workers"}


def tables(measured: dict[str, Any]) -> list[Table]:
    """
    :param measured: of :func:`benchmarks.speed.measure`
    :return: the ratios, the components of an iteration, and the scaling
    """
    cases = measured["cases"]
    ratios = [
        (
            row["case"],
            spread_text(row["iteration_seconds"], 3),
            spread_text(row["ratio_to_ppo"], 2),
            spread_text(row["ratio_to_floor"], 2),
            spread_text(row["update_ratio_to_matrices"], 2),
        )
        for row in cases
    ]
    floors = ("simulation", "matrices")
    parts = [
        (
            row["case"],
            *(f"{row['component_seconds'][name]['median']:.3f}" for name in COMPONENTS),
            *(f"{row['floor_seconds'][name]['median']:.3f}" for name in floors),
        )
        for row in cases
    ]
    scaling = [
        (
            _NAMES[row["axis"]],
            str(row["size"]),
            spread_text(row["microseconds_per_transition"], 0),
            spread_text(row["microseconds_per_gradient_step"], 0),
            spread_text(row["gradient_step_ratio_to_first"], 2),
            f"{row['bytes_per_transition']:.1f}",
        )
        for row in measured["scaling"]
    ]
    return [
        Table(
            "an iteration",
            ("case", "seconds", "x PPO", "x floor", "update x matrices"),
            ratios,
        ),
        Table(
            "seconds of an iteration, by part",
            ("case", *COMPONENTS, *(f"floor: {name}" for name in floors)),
            parts,
        ),
        Table(
            "MlpPolicy on CartPole-v1, as one number grows",
            ("axis", "size", "µs/transition collected", "µs/gradient step", "x first", "bytes/transition"),
            scaling,
        ),
    ]


def write(measured: dict[str, Any], origin: str) -> dict[str, bytes]:
    """
    :param measured: of :func:`benchmarks.speed.measure`
    :param origin: "made by `command` at commit ..."
    :return: name to content: JSON, Markdown and PNG
    """
    name = kind(measured)
    text = [f"# Speed on {name}", *map(markdown, tables(measured)), "\n".join(f"- {line}" for line in LEGEND)]
    text.append(f"![parts of an iteration, and scaling]({name}.png)\n\n{origin}")
    return {
        f"{name}.json": (json.dumps(measured, indent=1) + "\n").encode(),
        f"{name}.md": ("\n\n".join(text) + "\n").encode(),
        f"{name}.png": _figure(measured, origin),
    }


def _figure(measured: dict[str, Any], origin: str) -> bytes:
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        parts, growth = figure.subplots(1, 2, width_ratios=(3, 2))
        rows = measured["cases"]
        places = np.arange(len(rows))
        left = np.zeros(len(rows))
        for component, colour in zip(COMPONENTS, [*COLOURS, "0.6", "0.85"], strict=True):
            seconds = np.array([row["component_seconds"][component]["median"] for row in rows])
            whole = np.array([sum(each["median"] for each in row["component_seconds"].values()) for row in rows])
            parts.barh(places, seconds / whole, left=left, color=colour, label=component)
            left += seconds / whole
        parts.set(yticks=places, yticklabels=[row["case"] for row in rows], xlabel="share of an iteration", xlim=(0, 1))
        parts.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=len(COMPONENTS), handles=parts.containers)
        for axis, colour, marker in zip(AXES, COLOURS, "osD^", strict=False):
            grown = [row for row in measured["scaling"] if row["axis"] == axis]
            ratios = [row["gradient_step_ratio_to_first"]["median"] for row in grown]
            growth.plot([row["size"] for row in grown], ratios, marker=marker, color=colour, label=_NAMES[axis])
        growth.set(xscale="log", yscale="log", xlabel="size", ylabel="cost of a gradient step, smallest size = 1")
        growth.legend()
        figure.suptitle("Where an iteration's time goes, and how a gradient step's cost grows")
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None, "Description": origin})
    return content.getvalue()
