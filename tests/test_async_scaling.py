import contextlib
import json

import pytest
from conftest import REPOSITORY

pytest.importorskip("ray")
from benchmarks import async_scaling

COMMITTED = sorted((REPOSITORY / "results" / "async-scaling").glob("*.json"))


@pytest.fixture
def measured(monkeypatch):
    """Turns that take no time: two actors are 1.8 times as fast as one, whose speed changes from turn to turn."""
    speeds = {1: iter([10.0, 40.0, 20.0]), 2: iter([18.0, 1.0, 72.0, 2.0, 36.0, 3.0])}

    def turn(n_actors, samples_per_insert, latency, seconds):
        rates = {"transitions_per_second": next(speeds[n_actors]), "updates_per_second": samples_per_insert}
        return {**rates, "learner_waiting": 0.5, "actors_waiting": 0.25}

    monkeypatch.setattr(async_scaling, "_turn", turn)
    monkeypatch.setattr(async_scaling, "cluster", lambda *_: contextlib.nullcontext())
    return async_scaling.measure(actors=(1, 2), latency=0.02, repetitions=3)


def test_ratios_are_those_within_a_turn(measured):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    assert [(row["actors"], row["samples_per_insert"]) for row in measured["rows"]] == [(1, 4), (2, 4), (2, 100)]
    _, two, busy = measured["rows"]
    assert two["transitions_per_second"] == {"median": 36.0, "low": 18.0, "high": 72.0}
    assert two["ratio_to_linear"] == {"median": 0.9, "low": 0.9, "high": 0.9}
    assert two["ratio_to_latency"] == {"median": 0.36, "low": 0.18, "high": 0.72}
    assert busy["updates_per_second"]["median"] == 100


@pytest.mark.slow
def test_a_turn_counts_what_its_actors_collect():
    """On a Ray of its own. Only that each actor is waited for, and that no environment is faster than it can be, is sure."""
    rates = async_scaling._turn(2, 4.0, latency=0.01, seconds=1.0)
    # What had been collected when the stretch began may be counted: three rollouts of each actor.
    assert 0 < rates["transitions_per_second"] < 2 / 0.01 + 2 * 3 * 64
    assert 0 < rates["learner_waiting"] <= 1 and 0 <= rates["actors_waiting"] <= 1


def test_the_written_table_names_its_command(measured):
    files = async_scaling.write(measured, "made by `a command`")
    (text,) = (content.decode() for name, content in files.items() if name.endswith(".md"))
    assert "| actors | samples per insert | transitions/s |" in text and text.endswith("made by `a command`\n")
    assert json.loads(next(iter(files.values()))) == measured


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_tables_are_what_their_json_says(path):
    text = path.with_suffix(".md").read_text()
    origin = text.rstrip().splitlines()[-1]
    assert async_scaling.write(json.loads(path.read_text()), origin)[path.with_suffix(".md").name].decode() == text
