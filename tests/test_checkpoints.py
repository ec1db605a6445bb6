"""A run that goes on from a checkpoint, in another process, ends in the record of one that was never interrupted."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from suites import TINY, write_suite

from benchmarks import checkpoints as room
from benchmarks import recording
from benchmarks.checkpoints import Checkpoints
from benchmarks.run import execute
from benchmarks.spec import load_suite, plan

ROOT = Path(__file__).resolve().parents[1]
# Shorter than any iteration: a checkpoint before each.
ALWAYS = 1e-9


class Shelf:
    """Keeps every checkpoint, and what was said of the last."""

    def __init__(self, last=None, minutes=ALWAYS):
        self.kept, self.resumed, self.ignored = [], [], []
        self.checkpoints = Checkpoints(
            minutes, last, self.kept.append, self.resumed.append, lambda *reason: self.ignored.append(reason)
        )


def timeless(record):
    return {key: value for key, value in record.items() if not key.endswith("_seconds")}


def run_of(folder, text=TINY, regime="stale", algorithm="gipo(1.0,0.5)"):
    return plan(load_suite(write_suite(folder, text)), regimes=[regime], algorithms=[algorithm])[0]


VARIANTS = {
    "as it is": TINY,
    "schedules, advantages recomputed, two learning rates": TINY.replace(
        "learning_rate = 0.01",
        "learning_rate = {peak = 0.01, warmup_iterations = 1}\nkl_coef = 0.1\n"
        "value_learning_rate = {peak = 0.1}\ncritic_updates = 2",
    )
    .replace('"stored"', '"vtrace"')
    .replace('"behavior"', '"proximal"'),
    "two environments, minimum lag": TINY.replace("replay_window = 3", "replay_window = 3\nmin_lag = 1")
    .replace("[learner]", "[environment]\nn_envs = 2\nreward_scale = 0.1\n\n[learner]")
    .replace("192", "384"),
    "continuous actions in bins, evaluation": TINY.replace("CartPole-v1", "Pendulum-v1")
    .replace("budget = 192", "budget = 512\nevaluation_episodes = 2")
    .replace("[learner]", "[environment]\naction_bins = 11\n\n[learner]")
    .replace("n_steps = 64", 'n_steps = 128\nratio_level = "dimension"'),
}


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_ends_in_the_record_of_an_undisturbed_one(tmp_path, text):
    run = run_of(tmp_path, text)
    undisturbed = timeless(execute(run))
    shelf, steps = Shelf(), []
    assert timeless(execute(run, checkpoints=shelf.checkpoints)) == undisturbed
    iterations = undisturbed["curve"]["steps"]
    assert len(shelf.kept) == len(iterations) - 1
    for nth, checkpoint in enumerate(shelf.kept):
        again, steps = Shelf(checkpoint), []
        assert timeless(execute(run, steps.append, again.checkpoints)) == undisturbed
        assert again.resumed == [iterations[nth]] and steps == iterations[nth + 1 :] and not again.ignored


def test_a_run_resumed_in_the_middle_of_a_row_of_its_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_ROWS", 2)
    run = run_of(tmp_path)
    shelf = Shelf()
    undisturbed = timeless(execute(run, checkpoints=shelf.checkpoints))
    assert undisturbed["curve"]["steps"] == [128, 192]
    for checkpoint in shelf.kept:
        again = Shelf(checkpoint)
        assert timeless(execute(run, checkpoints=again.checkpoints)) == undisturbed and again.resumed


def test_a_run_handed_on_to_another_process_and_back(tmp_path):
    text = TINY.replace("CartPole-v1", "button-press-v3").replace("n_steps = 64", "n_steps = 250")
    text = text.replace("192", "1000").replace("batch_size = 32", "batch_size = 50")
    run = run_of(tmp_path, text)
    script = """
import pickle, sys
from benchmarks.run import execute
from benchmarks.checkpoints import Checkpoints
run, last = pickle.load(sys.stdin.buffer)
kept = []
def stop(steps):
    if steps == 750:
        sys.stdout.buffer.write(kept[-1])
        sys.exit()
execute(run, stop, Checkpoints(1e-9, last, kept.append, lambda steps: None, print))
"""
    here = Shelf()
    undisturbed = timeless(execute(run, checkpoints=here.checkpoints))
    given = pickle.dumps((run, here.kept[0]))
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, check=True, cwd=ROOT)
    back = Shelf(done.stdout)
    assert timeless(execute(run, checkpoints=back.checkpoints)) == undisturbed
    assert back.resumed == [500]


def test_the_cost_of_all_attempts_is_added_up(tmp_path, monkeypatch):
    """Each attempt, and what it has done when it makes a checkpoint, takes 100 seconds, 10 of them of a CPU."""
    monkeypatch.setattr(room.Stopwatch, "__init__", lambda self: vars(self).update(_wall=100.0, _cpu=10.0))
    monkeypatch.setattr(room.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(room.time, "process_time", lambda: 0.0)
    run = run_of(tmp_path)
    last = None
    for attempt in (1, 2, 3):
        shelf = Shelf(last)
        record = execute(run, checkpoints=shelf.checkpoints)
        assert (record["wall_seconds"], record["cpu_seconds"]) == (100.0 * attempt, 10.0 * attempt)
        last = shelf.kept[0]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_damaged_checkpoint_is_ignored_with_a_reason(tmp_path, place):
    run = run_of(tmp_path)
    shelf = Shelf()
    undisturbed = timeless(execute(run, checkpoints=shelf.checkpoints))
    damaged = bytearray(shelf.kept[-1])
    damaged[place] ^= 1
    again = Shelf(bytes(damaged))
    assert timeless(execute(run, checkpoints=again.checkpoints)) == undisturbed
    assert again.ignored == [("it is damaged", True)] and not again.resumed
    empty = Shelf(b"")
    execute(run, checkpoints=empty.checkpoints)
    assert empty.ignored == [("it is damaged", True)]


def test_a_checkpoint_of_another_run_or_version_is_ignored(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    shelf = Shelf()
    undisturbed = timeless(execute(run, checkpoints=shelf.checkpoints))
    other = run.model_copy(update={"repeat": 1})
    again = Shelf(shelf.kept[-1])
    execute(other, checkpoints=again.checkpoints)
    assert again.ignored == [("it is of another version of the benchmark (run, configuration)", False)]
    monkeypatch.setattr(room, "_CODE", "edited")
    again = Shelf(shelf.kept[-1])
    assert timeless(execute(run, checkpoints=again.checkpoints)) == undisturbed
    assert again.ignored == [("it is of another version of the benchmark (code)", False)] and not again.resumed


def test_an_environment_that_replays_differently_makes_the_run_anew(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    shelf = Shelf()
    undisturbed = timeless(execute(run, checkpoints=shelf.checkpoints))
    replay = room._replay

    for wrong in ("observations", "returns"):

        def elsewhere(environment, actions, wrong=wrong):
            observations, returns = replay(environment, actions)
            if wrong == "observations":
                return np.nextafter(observations, np.inf), returns
            return observations, [*returns[:-1], returns[-1] + 1]

        monkeypatch.setattr(room, "_replay", elsewhere)
        again = Shelf(shelf.kept[-1])
        assert timeless(execute(run, checkpoints=again.checkpoints)) == undisturbed
        ((reason, suspicious),) = again.ignored
        assert "led elsewhere" in reason and suspicious and not again.resumed


def test_checkpoints_are_as_far_apart_as_asked(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock))
    run = run_of(tmp_path, TINY.replace("192", "1280"))
    often, seldom = Shelf(minutes=1), Shelf(minutes=4)
    execute(run, checkpoints=often.checkpoints)
    execute(run, checkpoints=seldom.checkpoints)
    assert len(often.kept) == 19 and len(seldom.kept) == 4


def test_outside_algorithms_run_without(tmp_path):
    text = TINY + '\n[algorithms.sb3-ppo]\noutside = "PPO"\n'
    run = run_of(tmp_path, text, regime="fresh", algorithm="sb3-ppo")
    shelf = Shelf(b"of no use to it")
    assert timeless(execute(run, checkpoints=shelf.checkpoints)) == timeless(execute(run))
    assert not shelf.kept and not shelf.ignored
