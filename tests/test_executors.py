import json
import signal

import psutil
import pytest

from benchmarks import executors
from benchmarks.spec import Suite, plan
from benchmarks.store import Store

# An episode of Pendulum lasts 200 steps: its runs end without a score, which is an error.
SUITE = Suite.model_validate(
    {
        "name": "tiny",
        "budget": 128,
        "seeds": 2,
        "repeats": 1,
        "score_episodes": 5,
        "tasks": ["CartPole-v1", "Pendulum-v1"],
        "learner": {"n_steps": 64, "batch_size": 32, "n_epochs": 1},
        "regimes": {"stale": {"replay_window": 2}},
        "algorithms": {"ppo": {"surrogate": "ppo_clip"}},
    }
)
GOOD = plan(SUITE, tasks=["CartPole-v1"])


class Listener:
    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def kinds(self):
        return sorted((event.run.id, event.kind) for event in self.events if event.kind != "progress")


def outcome(root):
    """The records of a store without what no two executions share."""
    records = [json.loads(path.read_text()) for path in sorted(root.rglob("*.json"))]
    return [
        {key: value for key, value in record.items() if not key.endswith("_seconds") and key != "checksum"}
        for record in records
    ]


def test_processes_make_the_records_that_serial_makes(tmp_path):
    serial, parallel = Listener(), Listener()
    executors.serial(GOOD, tmp_path / "serial", serial)
    executors.processes(GOOD, tmp_path / "processes", parallel, workers=2)
    assert len(outcome(tmp_path / "serial")) == 2
    assert outcome(tmp_path / "serial") == outcome(tmp_path / "processes")
    assert serial.kinds() == parallel.kinds() == [(run.id, "finished") for run in GOOD]
    for listener in (serial, parallel):
        steps = [event.steps for event in listener.events if event.kind == "progress" and event.run.id == GOOD[0].id]
        assert steps == [64, 128]


def test_a_failing_run_is_reported_with_its_traceback_and_the_rest_is_done(tmp_path):
    listener = Listener()
    executors.processes(plan(SUITE, seeds=[0]), tmp_path, listener, workers=1)
    assert [(event.run.task, event.kind) for event in listener.events if event.kind != "progress"] == [
        ("CartPole-v1", "finished"),
        ("Pendulum-v1", "failed"),
    ]
    message = listener.events[-1].message
    assert "Traceback" in message and "no episode ended within the budget of 128 steps" in message
    assert [path.name for path in tmp_path.rglob("*.*")] == ["repeat0.json"]


@pytest.mark.parametrize("executor", [executors.serial, lambda *work: executors.processes(*work, workers=1)])
def test_a_record_made_meanwhile_is_kept(tmp_path, executor):
    run = GOOD[0]
    listener = Listener()
    path = Store(tmp_path).path(run)
    path.parent.mkdir(parents=True)
    path.write_text("somebody else's")
    executor([run], tmp_path, listener)
    assert listener.kinds() == [(run.id, "exists")] and path.read_text() == "somebody else's"


def test_a_dead_worker_costs_its_own_run_alone(tmp_path):
    killed = []

    def kill_the_first(event):
        listener(event)
        if event.kind == "progress" and not killed:
            (worker,) = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
            killed.append(event.run)
            worker.send_signal(signal.SIGSTOP)
            worker.kill()

    listener = Listener()
    long = [run.model_copy(update={"suite": SUITE.model_copy(update={"budget": 64_000})}) for run in GOOD[:1]]
    executors.processes([*long, GOOD[1]], tmp_path, kill_the_first, workers=1)
    ends = [event for event in listener.events if event.kind != "progress"]
    assert [(event.run.seed, event.kind) for event in ends] == [(0, "failed"), (1, "finished")]
    assert "the worker process died (exit code -9)" in ends[0].message
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["seed1"]


def test_an_exception_in_the_driver_stops_the_workers(tmp_path):
    def give_up(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executors.processes(GOOD, tmp_path, give_up, workers=2)
    children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert not children
