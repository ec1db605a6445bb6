"""The bias–variance study as a reader sees it: tables, figures, and what the numbers say, for and against GIPO."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks import gridworld_figures as figures
from benchmarks import provenance
from benchmarks.gridworld import BATCHES, STEP_SIZE, TARGETS, WIDTHS, bias_variance_table, lag_sweep, logit_table

PAIR = ["target_policy", "behavior_case"]
#: Columns of the readable tables, with their headings.
SHOWN = {
    "estimator": "estimator",
    "expectation": "expectation",
    "bias": "bias",
    "variance": "variance",
    "mse": "MSE",
    "dead_fraction": "dead in S0",
    "gradient_bias": "bias, whole gradient",
    "gradient_variance": "variance, whole gradient",
    "gradient_dead_fraction": "dead, all states",
    "pareto": "Pareto",
}


def study(output: Path, size: int = 2, console: Console | None = None) -> None:
    """
    Make every table and figure of the study; about 20 seconds. Without randomness: the same files each time.

    :param output: folder to write to; it is made if need be, and files of the same names are replaced
    :param size: cells a side of the grid, ≥ 2
    :param console: where to print the table and the findings; None prints nothing
    :raises ValueError: if the size is below 2
    """
    command = f"python -m benchmarks gridworld --size {size}"
    made_by = f"Made by `{command}` at commit {provenance.commit()}"
    table, logits = bias_variance_table(size), logit_table(size)
    sweep, widths = lag_sweep(size)
    output.mkdir(parents=True, exist_ok=True)
    for name, frame in {"gridworld": table, "logits": logits, "lag_sweep": sweep, "lag_sigma": widths}.items():
        frame.to_csv(output / f"{name}.csv", index=False, float_format="%.12g", lineterminator="\n")
    for number, target in enumerate(TARGETS, start=1):
        figures.scatter(table, target, output / f"bias_variance_pi{number}.png", command)
    figures.multiplier_curves(output / "multipliers.png", command)
    figures.lag_curves(sweep, output / "lag_sweep.png", command)
    figures.best_widths(widths, output / "lag_sigma.png", command)
    said = findings(table, sweep, widths)
    _write(output / "table.md", f"# Every estimator at every pair\n\n{made_by}.\n\n{markdown_tables(table)}")
    _write(output / "README.md", readme(said, size, made_by))
    if console is not None:
        console.print(terminal_table(table))
        for line in said:
            console.print(f"• {line.replace('**', '').replace('`', '')}", highlight=False, markup=False)
        console.print(f"Tables and figures are in {output}", highlight=False, markup=False)


def findings(table: pd.DataFrame, sweep: pd.DataFrame, widths: pd.DataFrame) -> list[str]:
    """
    :param table: of ``bias_variance_table``
    :param sweep: the first frame of ``lag_sweep``
    :param widths: the second frame of ``lag_sweep``
    :return: sentences in Markdown, every number computed from the arguments
    """
    return [*_lost_gradients(table), *_lowest_errors(table), *_wrong_directions(table), *_lag(sweep, widths)]


def _lost_gradients(table: pd.DataFrame) -> list[str]:
    lost = table[table["all_gradients_zero"] == 1]
    lines = []
    for name, rows in lost.groupby("estimator", sort=False):
        everywhere = rows[rows["gradient_dead_fraction"] == 1]
        lines.append(
            f"**{name} has lost 100 % of its gradients in S0** at {len(rows)} of {_pairs(table)} pairs: "
            f"{_names(rows)}. In every state, not S0 alone, at {len(everywhere)}: {_names(everywhere)}."
        )
    others = [name for name in table["estimator"].unique() if name not in set(lost["estimator"])]
    lines.append(f"No gradient of these is exactly zero everywhere in S0 at any pair: {', '.join(others)}.")
    return lines


def _lowest_errors(table: pd.DataFrame) -> list[str]:
    stale = _off_policy(table)
    winners = stale.loc[stale.groupby(PAIR)["mse"].idxmin(), "estimator"].value_counts()
    lines = [
        f"**The lowest MSE of a single sample means little.** At the {_pairs(stale)} pairs that are not on-policy it "
        f"belongs to {_counted(winners)}."
    ]
    zero = stale[stale["all_gradients_zero"] == 1].drop_duplicates(PAIR).set_index(PAIR)
    if zero.empty:
        return lines
    winning = int((zero["mse"] <= stale.groupby(PAIR)["mse"].min().loc[zero.index] * (1 + 1e-12)).sum())
    lines.append(
        f"An estimator that is always zero has variance 0 and bias² as its MSE, and that is the lowest MSE of all at "
        f"{winning} of the {len(zero)} pairs where it occurs. It learns nothing there."
    )
    for name in ("GIPO sigma=1.0", "GIPO sigma=0.1"):
        rival = stale[stale["estimator"] == name].set_index(PAIR).loc[zero.index]
        # bias_g² + var_g/N < bias_0² ⇔ N > var_g/(bias_0² − bias_g²), and never if the bias is not smaller.
        gain = zero["bias"] ** 2 - rival["bias"] ** 2
        needed = np.ceil(rival["variance"] / gain)[gain > 0]
        beaten = f"; from N = {needed.max():.0f} on its MSE is lower at all of these" if len(needed) else ""
        lines.append(
            f"Against that zero gradient, {name} has the smaller bias at {len(needed)} of the {len(zero)} pairs{beaten}."
        )
    return lines


def _wrong_directions(table: pd.DataFrame) -> list[str]:
    stale = _off_policy(table)
    wanted = stale[stale["estimator"] == "No-Clip"].set_index(PAIR)
    lines = []
    for name in stale["estimator"].unique():
        rows = stale[stale["estimator"] == name].set_index(PAIR)
        against = rows["expectation"] * wanted["expectation"].loc[rows.index] < 0
        if against.any():
            lines.append(
                f"**{name} points the wrong way**: the expectation of the S0 component has the opposite sign at "
                f"{int(against.sum())} of {len(rows)} pairs: {_names(rows[against].reset_index())}."
            )
    if not lines:
        return lines
    lines.append(
        "How a component turns around: ω depends on |ln ρ| alone, and the policy has moved by different distances on its "
        "good and on its bad actions. A narrow weight keeps those nearest to ρ = 1 only, and what is left over may disagree "
        "with the sum. A zero gradient cannot do that."
    )
    # cos(u, v) from the norms of u, v and u − v.
    norms, whole = wanted["gradient_norm"], stale[stale["gradient_norm"] > 0].set_index(PAIR)
    norms = norms.loc[whole.index]
    cosine = (whole["gradient_norm"] ** 2 + norms**2 - whole["gradient_bias"] ** 2) / (
        2 * whole["gradient_norm"] * norms
    )
    worst = cosine.groupby(whole["estimator"], sort=False).min()
    lines.append(
        "In the whole gradient, the least cosine between an estimator's expectation and no-clip's, over all pairs where it "
        f"is not zero: {', '.join(f'{name} {value:.2f}' for name, value in worst.items())}."
    )
    return lines


def _lag(sweep: pd.DataFrame, widths: pd.DataFrame) -> list[str]:
    lines = []
    for start in TARGETS:
        ppo = sweep[(sweep["start_policy"] == start) & (sweep["estimator"] == "PPO")]
        first, most = ppo[ppo["dead_fraction"] > 0], ppo["dead_fraction"].max()
        at = ppo.loc[ppo["dead_fraction"].idxmax(), "lag"]
        lines.append(
            f"Lag, data of {start}: PPO's first dead gradients are at lag {first['lag'].min()}, and the most, "
            f"{100 * most:.0f} %, at lag {at}. {_widths_of(widths[widths['start_policy'] == start])}"
        )
    wide = widths[(widths["batch"] == max(BATCHES)) & (widths["lag"] > 0)]
    ratio = (wide["mse_no_clip"] / wide["mse"]).max()
    lines.append(
        f"**With N = {max(BATCHES)} plain importance sampling costs at most {100 * (ratio - 1):.1f} % more MSE than the "
        f"best σ**, at every lag. The largest ratio in the sweep is {sweep['largest_ratio'].max():.2f}: how a weight fares "
        f"where ratios explode is a question for the benchmark, not for this study."
    )
    return lines


def _widths_of(rows: pd.DataFrame) -> str:
    last = rows["lag"].max()
    parts = []
    for batch in BATCHES:
        first_sigma, last_sigma = (
            rows[(rows["batch"] == batch) & (rows["lag"] == lag)]["sigma"].item() for lag in (1, last)
        )
        parts.append(f"{_width(first_sigma)} → {_width(last_sigma)} for N = {batch}")
    return f"The σ with the least MSE from lag 1 to lag {last}: {', '.join(parts)}."


def _width(sigma: float) -> str:
    return f"≤ {sigma:.2g}" if sigma == WIDTHS[0] else f"≥ {sigma:.2g}" if sigma == WIDTHS[-1] else f"{sigma:.2g}"


def _off_policy(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["behavior_case"] != "D"]


def _pairs(table: pd.DataFrame) -> int:
    return len(table[PAIR].drop_duplicates())


def _names(rows: pd.DataFrame) -> str:
    by_target = rows.groupby("target_policy", sort=False)["behavior_case"].agg(lambda cases: "".join(sorted(cases)))
    return ", ".join(f"{target.split()[0]} {'/'.join(cases)}" for target, cases in by_target.items()) or "none"


def _counted(winners: pd.Series) -> str:
    return ", ".join(f"{name} ({count})" for name, count in winners.items())


def markdown_tables(table: pd.DataFrame) -> str:
    """
    :param table: of ``bias_variance_table``
    :return: one Markdown table for each pair, under headings
    """
    lines = []
    for (target, case), rows in table.groupby(PAIR, sort=False):
        lines += [f"## {target}, case {case}", "", "| " + " | ".join(SHOWN.values()) + " |", "|---" * len(SHOWN) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in _cells(rows[list(SHOWN)])]
        lines.append("")
    return "\n".join(lines)


def terminal_table(table: pd.DataFrame) -> Table:
    """
    :param table: of ``bias_variance_table``
    :return: all pairs in one table; the whole gradient is left to the files
    """
    columns = [*list(SHOWN)[:6], "pareto"]
    headings = [SHOWN[column] for column in columns]
    view = Table("target", "case", *headings, title="Gradient of the logit `right` in S0, one sample, exact")
    for (target, case), rows in table.groupby(PAIR, sort=False):
        for cells in _cells(rows[columns]):
            view.add_row(target.split()[0], case, *cells)
        view.add_section()
    return view


def _cells(rows: pd.DataFrame) -> list[list[str]]:
    return [
        ["✓" if v is True else "" if v is False else v if isinstance(v, str) else f"{v:.4g}" for v in values]
        for values in rows.astype(object).to_numpy().tolist()
    ]


def readme(said: list[str], size: int, made_by: str) -> str:
    """
    :param said: the findings
    :param size: cells a side of the grid
    :param made_by: the command and the commit that made the files
    :return: the README of the folder, in Markdown
    """
    return "\n".join(
        [
            f"# Bias and variance on the {size}×{size} GridWorld",
            "",
            f"{made_by},",
            "this text included: every number below is computed from the tables in this folder. Nothing is sampled, all",
            "pairs of state and action are enumerated. Measured is one sample's estimate of the policy gradient with",
            "respect to the logit of `right` in S0 (the start), and of all states and logits at once (columns",
            '`gradient_*`, "whole gradient"); `benchmarks/gridworld.py` defines both. Bias is the distance from no-clip\'s',
            "expectation; a mean of N samples has MSE bias² + variance/N. A ratio that equals 1 ± ε is inside the clip.",
            "",
            "## What the numbers show",
            "",
            *(f"- {line}" for line in said),
            "",
            "## Files",
            "",
            "- `gridworld.csv`: all pairs; `table.md`: the same to read. `logits.csv`: every logit of every state.",
            f"- `lag_sweep.csv`: data that is k exact gradient steps (step size {STEP_SIZE:g}) old, whole gradient.",
            "- `lag_sigma.csv`: the σ with the least MSE for each lag and batch size N, with the MSE of its rivals",
            f"  (searched from {WIDTHS[0]:g} to {WIDTHS[-1]:g}; at lag 0 σ has no effect).",
            "",
            *(f"![bias and variance, PI-{i}](bias_variance_pi{i}.png)" for i in range(1, len(TARGETS) + 1)),
            "![multipliers](multipliers.png)",
            "![lag sweep](lag_sweep.png)",
            "![best width](lag_sigma.png)",
            "",
        ]
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
