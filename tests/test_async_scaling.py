import json

import numpy as np
import pytest
from conftest import REPOSITORY

pytest.importorskip("ray")
from benchmarks import async_scaling

COMMITTED = sorted((REPOSITORY / "results" / "async-scaling").glob("*.json"))


@pytest.fixture(scope="module")
def measured():
    """Two actors, a second each: enough to see that it counts the right things."""
    return async_scaling.measure(actors=(1, 2), latency=0.02, seconds=1.0, repetitions=1)


def test_everything_is_counted(measured):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert [(row["actors"], row["samples_per_insert"]) for row in measured["rows"]] == [(1, 4), (2, 4), (2, 100)]
    one, two, busy = measured["rows"]
    assert one["ratio_to_linear"]["median"] == 1
    for row in (one, two):
        linear = row["transitions_per_second"]["median"] / row["actors"] / one["transitions_per_second"]["median"]
        assert row["ratio_to_linear"]["median"] == pytest.approx(linear, rel=1e-3)
        # No environment can be faster than its waiting; a rollout may end just after the stretch has begun.
        assert 0 < row["ratio_to_latency"]["median"] < 3
        assert row["learner_waiting"]["median"] > busy["learner_waiting"]["median"]
    assert busy["updates_per_second"]["median"] > two["updates_per_second"]["median"]


def test_spreads_are_those_of_ratios_within_a_turn():
    turns = [dict.fromkeys(("transitions_per_second", "learner_waiting"), rate) for rate in (30.0, 10.0, 40.0)]
    row = async_scaling._row(2, 4.0, turns, np.array([20.0, 10.0, 40.0]), latency=0.1)
    assert row["ratio_to_linear"] == {"median": 0.5, "low": 0.5, "high": 0.75}
    assert row["ratio_to_latency"] == {"median": 1.5, "low": 0.5, "high": 2.0}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_tables_are_what_their_json_says(path):
    text = path.with_suffix(".md").read_text()
    origin = text.rstrip().splitlines()[-1]
    assert async_scaling.write(json.loads(path.read_text()), origin)[path.with_suffix(".md").name].decode() == text


def test_the_written_table_names_its_command(measured):
    files = async_scaling.write(measured, "made by `a command`")
    (text,) = (content.decode() for name, content in files.items() if name.endswith(".md"))
    assert "| actors | samples per insert | transitions/s |" in text and text.endswith("made by `a command`\n")
    assert json.loads(next(iter(files.values()))) == measured
