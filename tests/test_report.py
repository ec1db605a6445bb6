import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console
from synthetic import make_suite, realistic

from benchmarks import report, scores, statistics
from benchmarks.measurements import measure
from benchmarks.spec import plan
from benchmarks.statistics import Estimate, StepsRatio

ANCHORS = {"reach-v3": (0.0, 2000.0), "button-press-v3": (0.0, 2000.0)}
ORIGIN = "made by `python -m benchmarks table x` at commit abc123"
SUITE = make_suite(note="only a test")


def scored(suite=SUITE, only=lambda run: True, anchors=ANCHORS, baseline="ppo"):
    return scores.score(suite, [measure(run, realistic(run)) for run in plan(suite) if only(run)], anchors, baseline)


@pytest.fixture(scope="module")
def whole():
    return scored()


@pytest.fixture(scope="module")
def partial():
    return scored(only=lambda run: run.algorithm == "ppo" or run.seed == run.suite.tasks.index(run.task), anchors={})


@pytest.fixture
def files(whole):
    return {name: content.decode() for name, content in report.write(SUITE, whole, ORIGIN).items()}


def rows(text):
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def printed(regimes, width=140):
    console = Console(width=width, record=True, file=io.StringIO())
    report.print_tables(SUITE, regimes, console)
    return console.export_text()


def cells(text, algorithm):
    """The rows of an algorithm in the terminal's tables."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return [line for line in lines if algorithm in line[:2]]


def test_the_terminal_shows_every_table_in_140_columns_without_breaking_a_cell(whole):
    text = printed(whole)
    for regime in whole:
        for title, number in (("ranking", 1), ("aggregates, min-max", 1), ("aggregates, absolute", 1), ("return", 1)):
            found = [line for line in text.splitlines() if f"synthetic, {regime.regime}: " in line and title in line]
            assert len(found) == number, title
    ranking, *_ = cells(text, "gipo(1.0,1.0)")
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", ranking[4])
    assert not re.search(r"│ +│ +│", text), "no cell goes on in the next line"
    assert "only a test" in text and "missing" not in text and "no anchors" not in text


def test_what_is_missing_is_marked(partial):
    text = printed(partial)
    (
        ranking,
        *_,
    ) = cells(text, "gipo(1.0,1.0)")
    assert ranking == ["–", "gipo(1.0,1.0)", "2/8", "0", "–", "–", "–", "–"]
    assert "(1/4)" in text and "Runs are missing: the ranking is not final." in text
    assert "No absolute score: no anchors for reach-v3, button-press-v3." in text and "aggregates, absolute" not in text


def test_without_a_baseline_the_columns_go_and_a_line_says_so():
    text = printed(scored(baseline=None))
    assert "P(>" not in text.replace("no P(>)", "") and "Nothing to compare with under fresh, stale" in text
    assert "Nothing to compare with under stale:" in printed(scored(baseline="sb3-ppo"))


def test_returns_of_each_task_stand_beside_their_anchors(files, partial):
    table = files["table.md"].split("mean unscaled return of each task")[1].split("##")[0]
    assert "| random | expert |" in table
    for task in SUITE.tasks:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {task} ")]
        assert row.endswith("| 0.0 | 2000.0 |")
    unknown = [line for line in printed(partial).splitlines() if line.startswith(("│ reach-v3", "│ button-press-v3"))]
    assert unknown and all(re.search(r"– │\s+– │$", line) for line in unknown)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (None, "–"),
        (StepsRatio(Estimate(7.5, 5.25, 9.0), 1.0, 1.0), "7.50 [5.25, 9.00]"),
        (StepsRatio(Estimate(0.0, 0.0, 1.1), 0.98, 0.3), "< 0.98 [0.00, 1.10]"),
        (StepsRatio(Estimate(2.0, None, None), 1.0, None), "2.00 [–]"),
    ],
)
def test_a_ratio_that_is_never_reached_is_a_bound(steps, text):
    assert report._steps(steps) == text


def test_there_is_no_negative_zero():
    assert report._estimate(Estimate(-0.004, -0.006, 0.004), 2) == "0.00 [-0.01, 0.00]"


def test_every_file_names_its_command_and_commit_and_the_warning(files):
    assert list(files) == ["table.md", "table.tex", "ranking.csv", "tasks.csv"]
    for name, text in files.items():
        assert ORIGIN in text and "only a test" in text, name


def test_csv_holds_the_numbers_unrounded(files, whole):
    found = {(row["regime"], row["algorithm"]): row for row in rows(files["ranking.csv"])}
    for regime in whole:
        for entry in regime.algorithms:
            row = found[regime.regime, entry.algorithm]
            assert float(row["iqm_min_max"]) == pytest.approx(entry.min_max.iqm.value, rel=1e-11)
            assert float(row["optimality_gap_absolute_high"]) == pytest.approx(
                entry.absolute.optimality_gap.high, rel=1e-11
            )
            assert float(row["steps_ratio_absolute"]) == pytest.approx(entry.absolute.steps.ratio.value, rel=1e-11)
            assert float(row["improvement_low"]) == pytest.approx(entry.improvement.low, rel=1e-11)
    tasks = {(row["regime"], row["algorithm"], row["task"]): row for row in rows(files["tasks.csv"])}
    assert len(tasks) == 10
    expected = whole[0].algorithms[0].tasks["reach-v3"].mean_return.value
    first = tasks["fresh", whole[0].algorithms[0].algorithm, "reach-v3"]
    assert float(first["mean_return"]) == pytest.approx(expected, rel=1e-11) and first["finished"] == "4"


def test_failed_runs_are_in_the_tables():
    broken = [
        run for run in plan(SUITE) if run.algorithm == "gipo(1.0,1.0)" and run.seed == 2 and run.regime == "stale"
    ]
    done = [measure(run, realistic(run)) for run in plan(SUITE) if run not in broken]
    regimes = scores.score(SUITE, done, ANCHORS, "ppo", broken)
    files = {name: content.decode() for name, content in report.write(SUITE, regimes, ORIGIN).items()}
    assert "| gipo(1.0,1.0) | 6/8, 2 failed | 3 |" in files["table.md"] and "(3/4, 1 failed)" in files["table.md"]
    assert "Failed runs were tried three times" in files["table.md"]
    found = {(row["regime"], row["algorithm"]): row["failed"] for row in rows(files["ranking.csv"])}
    assert found.pop(("stale", "gipo(1.0,1.0)")) == "2" and set(found.values()) == {"0"}
    assert [row["failed"] for row in rows(files["tasks.csv"])].count("1") == 2


def test_returns_of_each_task_have_intervals_over_seeds(files, whole):
    entry = whole[0].algorithms[0]
    found = {(row["regime"], row["algorithm"], row["task"]): row for row in rows(files["tasks.csv"])}
    row = found["fresh", entry.algorithm, "reach-v3"]
    column = np.array(
        [
            [realistic(run)["score"]]
            for run in plan(SUITE, tasks=["reach-v3"], regimes=["fresh"], algorithms=[entry.algorithm])
        ]
    )
    expected = statistics.interval(column, statistics.mean)
    assert [float(row[f"mean_return{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
        [expected.value, expected.low, expected.high], rel=1e-11
    )
    assert expected.low < expected.value < expected.high


def test_csv_of_missing_numbers_is_empty(partial):
    found = rows(report.write(SUITE, partial, ORIGIN)["ranking.csv"].decode())
    (row,) = (row for row in found if row["algorithm"] == "gipo(1.0,1.0)" and row["regime"] == "stale")
    assert row["rank"] == row["iqm_min_max"] == row["steps_ratio_absolute_bound"] == "" and row["finished"] == "2"
    assert all("nan" not in value for row in found for value in row.values())


def test_markdown_tables_are_well_formed_and_say_what_the_csv_says(files):
    blocks = re.findall(r"(?:^\|.*\n)+", files["table.md"], flags=re.MULTILINE)
    assert len(blocks) == 12
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    for row in rows(files["ranking.csv"]):
        low, high = (f"{float(row[f'iqm_return_{end}']):.1f}" for end in ("low", "high"))
        assert f"| {float(row['iqm_return']):.1f} [{low}, {high}] |" in files["table.md"]


def test_latex_tables_are_well_formed(files):
    text = re.sub(r"^%.*\n", "", files["table.tex"], flags=re.MULTILINE)
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == text.count(r"\midrule") == 12
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 3
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
    assert text.count("{") == text.count("}")
    assert r"[95 \%]" in text and not re.search(r"(?<!\\)[%#_]", text) and "–" not in text


def test_latex_escapes():
    assert report._escape(r"a_b & 5 % <1 {|x|} \ –") == r"a\_b \& 5 \% $<$1 \{$|$x$|$\} \textbackslash{} --"
