import sys

import numpy as np
import pandas as pd
import pytest
from suites import TINY, write_suite

from benchmarks import export
from benchmarks.recording import DIAGNOSTICS
from benchmarks.run import execute
from benchmarks.spec import BenchmarkError, load_suite, plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Of one run the last evaluation, of the other its first updates are missing."""
    text = TINY.replace("replay_window = 3", "replay_window = 3\nmin_lag = 1")
    text = text.replace("score_episodes = 5", "score_episodes = 5\nevaluation_episodes = 2")
    runs = plan(load_suite(write_suite(tmp_path_factory.mktemp("suite"), text)), algorithms=["ppo"], seeds=[1])[:2]
    records = [execute(run) | {"checksum": "c0ffee"} for run in runs]
    records[0]["evaluation"] = None
    return list(zip(runs, records, strict=True))


def test_scores_have_a_row_a_run(finished, tmp_path):
    table = pd.read_csv(export.write(export.scores(finished), tmp_path / "scores.csv"))
    assert list(table["regime"]) == ["fresh", "stale"] and set(table["seed"]) == {1}
    for (_, row), (_, record) in zip(table.iterrows(), finished, strict=True):
        assert row["score"] == record["score"] and row["cpu_seconds"] == record["cpu_seconds"]
        assert row["commit"] == record["commit"] and row["checksum"] == "c0ffee"
    # CartPole knows no success, and the first run was not evaluated.
    assert table["success"].isna().all() and table["evaluation_return"].isna().tolist() == [True, False]
    assert table["evaluation_return"][1] == finished[1][1]["evaluation"]["return"]


def test_curves_have_their_rows(finished, tmp_path):
    table = pd.read_csv(export.write(export.curves(finished), tmp_path / "curves.csv"))
    assert list(table["steps"]) == [64, 128, 192] * 2
    assert set(DIAGNOSTICS) < set(table.columns)
    for (run, record), (regime, rows) in zip(finished, table.groupby("regime"), strict=True):
        assert run.regime == regime
        for name, values in record["curve"].items():
            np.testing.assert_array_equal(rows[name], np.array(values, dtype=float), err_msg=name)
    assert table["loss"].isna().tolist() == [False] * 3 + [True] + [False] * 2


def test_parquet_holds_the_same(finished, tmp_path):
    pytest.importorskip("pyarrow")
    for table in (export.scores(finished), export.curves(finished)):
        again = pd.read_parquet(export.write(table, tmp_path / "table.parquet"))
        pd.testing.assert_frame_equal(again, table)
        assert all(again[name].dtype == np.float64 for name in ("success",))


def test_without_pyarrow_parquet_says_what_to_install(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BenchmarkError, match="pip install pyarrow"):
        export.write(export.scores(finished), tmp_path / "scores.parquet")
    assert not list(tmp_path.iterdir())
