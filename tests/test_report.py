import csv
import io

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.scores import AlgorithmScores, Estimate, RegimeScores, TaskScores
from benchmarks.spec import Suite

SUITE = Suite.model_validate(
    {
        "name": "tiny",
        "note": "only a test",
        "budget": 2048,
        "seeds": 2,
        "repeats": 1,
        "score_episodes": 5,
        "tasks": ["reach-v3", "CartPole-v1"],
        "regimes": {"stale": {"replay_window": 4}},
        "algorithms": {"ppo": {"surrogate": "ppo_clip"}, "no-clip": {"surrogate": "no_clip"}},
    }
)
WHOLE = AlgorithmScores(
    algorithm="ppo",
    rank=1,
    finished=4,
    planned=4,
    seeds=2,
    min_max=Estimate(0.625, 0.25, 0.875),
    absolute=Estimate(1.125, None, None),
    raw=Estimate(-123.04, -200.0, -100.0),
    success=None,
    tasks={"reach-v3": TaskScores(2, 2, 77.25, 0.5), "CartPole-v1": TaskScores(2, 2, 21.5, None)},
)
PARTIAL = AlgorithmScores(
    algorithm="no-clip",
    rank=None,
    finished=1,
    planned=4,
    seeds=0,
    min_max=None,
    absolute=None,
    raw=None,
    success=None,
    tasks={"reach-v3": TaskScores(1, 2, 33.0, 0.0), "CartPole-v1": TaskScores(0, 2, None, None)},
)
REGIMES = [RegimeScores("stale", [WHOLE, PARTIAL], without_anchors=["CartPole-v1"])]


def rows(path):
    lines = path.read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.fixture
def files(tmp_path):
    written = report.write_report(SUITE, REGIMES, tmp_path / "results", "make table", "abc123")
    return {path.name: path for path in written}


def test_the_terminal_shows_every_number_its_interval_and_what_is_missing():
    console = Console(width=160, record=True, file=io.StringIO())
    report.print_tables(SUITE, REGIMES, console)
    text = console.export_text()
    first, second = (line for line in text.splitlines() if " 4/4 " in line or " 1/4 " in line)
    cells = [cell.strip() for cell in first.split("│")[1:-1]]
    assert cells == ["1", "ppo", "4/4", "2", "0.625 [0.250, 0.875]", "1.125 [–]", "-123.0 [-200.0, -100.0]", "–"]
    assert [cell.strip() for cell in second.split("│")[1:-1]] == ["–", "no-clip", "1/4", "0", "–", "–", "–", "–"]
    assert "33.0 (1/2)" in text and "– (0/2)" in text
    assert "only a test" in text and "Runs are missing: the ranking is not final." in text
    assert "No absolute score: no anchors for CartPole-v1." in text


def test_a_complete_suite_is_not_called_incomplete():
    whole = [RegimeScores("stale", [WHOLE], without_anchors=[])]
    legend = " ".join(report.legend(SUITE, whole))
    assert "missing" not in legend and "no anchors" not in legend


def test_every_file_names_its_command_and_commit(files):
    assert list(files) == ["table.md", "ranking.csv", "tasks.csv", "iqm.png"]
    for path in files.values():
        content = path.read_bytes()
        assert b"make table" in content and b"abc123" in content, path.name
        # Every text carries the suite's warning too; in the figure it is drawn.
        assert path.suffix == ".png" or b"only a test" in content, path.name
    assert sorted(path.name for path in files["iqm.png"].parent.iterdir()) == sorted(files), "no temporary file stays"


def test_csv_holds_the_numbers_unrounded(files):
    whole, partial = rows(files["ranking.csv"])
    assert float(whole["iqm_return"]) == -123.04 and float(whole["iqm_return_low"]) == -200.0
    assert float(whole["iqm_absolute"]) == 1.125 and whole["iqm_absolute_low"] == "" and whole["success"] == ""
    assert partial["rank"] == "" and partial["iqm_min_max"] == "" and partial["finished"] == "1"
    tasks = {(row["algorithm"], row["task"]): row for row in rows(files["tasks.csv"])}
    assert (
        float(tasks["ppo", "reach-v3"]["mean_return"]) == 77.25 and tasks["no-clip", "CartPole-v1"]["mean_return"] == ""
    )


def test_markdown_tables_are_well_formed(files):
    lines = files["table.md"].read_text().splitlines()
    widths = [line.count("|") for line in lines if line.startswith("|")]
    assert widths == [9] * 4 + [4] * 4
    assert "| 1 | ppo | 4/4 | 2 | 0.625 [0.250, 0.875] | 1.125 [–] | -123.0 [-200.0, -100.0] | – |" in lines
