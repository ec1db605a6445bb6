import errno
import gc
import json
import multiprocessing
import os
import signal
import struct
import threading
import time

import psutil
import pytest

from benchmarks import executors, workers
from benchmarks.run import execute
from benchmarks.spec import BenchmarkError, Suite, plan
from benchmarks.store import Store
from benchmarks.workers import Job, Letter, Processes, Serial
from sb3_gipo import GIPO

# An episode of Pendulum lasts 200 steps: its runs end without a score, which is an error.
SUITE = Suite.model_validate(
    {
        "name": "tiny",
        "budget": 128,
        "seeds": 2,
        "repeats": 1,
        "score_episodes": 5,
        "tasks": ["CartPole-v1", "Acrobot-v1"],
        "learner": {"n_steps": 64, "batch_size": 32, "n_epochs": 1},
        "regimes": {"stale": {"replay_window": 2}},
        "algorithms": {"ppo": {"surrogate": "ppo_clip"}},
    }
)
GOOD = plan(SUITE, tasks=["CartPole-v1"])
LONG = [run.model_copy(update={"suite": SUITE.model_copy(update={"budget": 64_000})}) for run in GOOD]
ALWAYS = 1e-9


class Listener:
    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def kinds(self, *without):
        without = without or ("progress", "started")
        return sorted((event.run.id, event.kind) for event in self.events if event.kind not in without)

    def of(self, kind):
        return [event for event in self.events if event.kind == kind]


class Scripted:
    """A crew of one that answers each job with the next of the letters it was given."""

    def __init__(self, *letters):
        self.letters = list(letters)
        self.jobs = []
        self.stopped = False

    def has_room(self):
        return not self.jobs or self.jobs[-1] is None

    def start(self, job):
        self.jobs.append(job)

    def receive(self, handle, timeout):
        name = self.jobs[-1].run.id
        letter = self.letters.pop(0)
        letter = letter if isinstance(letter, Letter) else Letter(name, **letter)
        if letter.kind in ("done", "raised", "hopeless") and letter.run_id == name:
            self.jobs.append(None)
        handle(letter)

    def stop(self):
        self.stopped = True


@pytest.fixture(scope="module")
def record():
    return execute(GOOD[0])


def outcome(root):
    """The records of a store without what no two executions share."""
    records = [json.loads(path.read_text()) for path in sorted(root.rglob("*.json"))]
    return [
        {key: value for key, value in record.items() if not key.endswith("_seconds") and key != "checksum"}
        for record in records
    ]


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_processes_make_the_records_that_serial_makes(tmp_path):
    serial, parallel = Listener(), Listener()
    executors.carry_out(GOOD, tmp_path / "serial", serial, Serial())
    executors.carry_out(GOOD, tmp_path / "processes", parallel, Processes(2), checkpoint_minutes=ALWAYS)
    assert len(outcome(tmp_path / "serial")) == 2
    assert outcome(tmp_path / "serial") == outcome(tmp_path / "processes")
    assert files(tmp_path / "serial") == files(tmp_path / "processes") == [f"{run.id}.json" for run in GOOD]
    assert serial.kinds() == parallel.kinds() == [(run.id, "finished") for run in GOOD]
    for listener in (serial, parallel):
        assert [event.run for event in listener.of("started")] == GOOD
        steps = [event.steps for event in listener.events if event.kind == "progress" and event.run.id == GOOD[0].id]
        assert steps == [64, 128]


def test_what_repeating_cannot_help_is_recorded_at_once_and_the_rest_is_done(tmp_path):
    listener = Listener()
    executors.carry_out(plan(SUITE, seeds=[0]), tmp_path, listener, Processes(1))
    assert [(run.split("/")[3], kind) for run, kind in listener.kinds()] == [
        ("Acrobot-v1", "failed"),
        ("CartPole-v1", "finished"),
    ]
    message = listener.events[-1].message
    assert "Traceback" in message and "no episode ended within the budget of 128 steps" in message
    assert "recorded in" in message and "repeat0.failed.json" in message
    (run,) = plan(SUITE, seeds=[0], tasks=["Acrobot-v1"])
    failure = Store(tmp_path).read_failure(run)
    assert len(failure["tracebacks"]) == 1 and failure["tracebacks"][0] in message
    assert {"run", "digest", "configuration", "versions", "commit", "checksum"} <= failure.keys()
    # Whose machine it was is not told.
    assert 'File "benchmarks/run.py"' in failure["tracebacks"][0]
    assert os.getcwd() not in failure["tracebacks"][0]
    assert [path.name for path in tmp_path.rglob("*.json")].count("repeat0.json") == 1


def test_a_run_that_raises_is_tried_three_times_and_then_recorded(tmp_path):
    listener, tries = Listener(), [{"kind": "raised", "text": f"Traceback {nth}"} for nth in (1, 2, 3)]
    crew = Scripted(*tries)
    executors.carry_out(GOOD[:1], tmp_path, listener, crew)
    assert [job.run for job in crew.jobs if job] == GOOD[:1] * 3 and crew.stopped
    assert [event.kind for event in listener.events if event.kind != "started"] == ["retrying", "retrying", "failed"]
    assert Store(tmp_path).read_failure(GOOD[0])["tracebacks"] == ["Traceback 1", "Traceback 2", "Traceback 3"]
    assert files(tmp_path) == [f"{GOOD[0].id}.failed.json"]


def test_other_runs_come_before_another_try(tmp_path, record):
    raised = {"kind": "raised", "text": "x"}
    crew = Scripted(raised, raised, {"kind": "done", "record": record}, {"kind": "done", "record": record})
    executors.carry_out(GOOD, tmp_path, Listener(), crew)
    assert [job.run.seed for job in crew.jobs if job] == [0, 1, 0, 1]


def test_a_recorded_failure_is_tried_again_only_if_asked(tmp_path, record):
    hopeless = {"kind": "hopeless", "text": "first"}
    executors.carry_out(GOOD[:1], tmp_path, Listener(), Scripted(hopeless))
    listener, crew = Listener(), Scripted()
    executors.carry_out(GOOD[:1], tmp_path, listener, crew)
    assert not crew.jobs and listener.kinds() == [(GOOD[0].id, "failed")]
    store = Store(tmp_path)
    executors.carry_out(GOOD[:1], tmp_path, listener, Scripted({"kind": "hopeless", "text": "2"}), retry_failed=True)
    assert store.read_failure(GOOD[0])["tracebacks"] == ["first"]
    done = Scripted({"kind": "done", "record": record})
    executors.carry_out(GOOD[:1], tmp_path, listener, done, retry_failed=True)
    assert store.read(GOOD[0]) and files(tmp_path) == [f"{GOOD[0].id}.json"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BenchmarkError("wrong"), "hopeless"),
        (FloatingPointError("non-finite"), "hopeless"),
        (MemoryError("none left"), "raised"),
        (None, "raised"),
    ],
)
def test_which_errors_are_worth_another_try(monkeypatch, error, kind):
    def execute(*_):
        if error:
            raise error
        return {"score": float("nan")}

    monkeypatch.setattr("benchmarks.run.execute", execute)
    letter = workers.attempt(workers.Job(GOOD[0], 0, None), print)
    assert letter.kind == kind and (str(error) if error else "Out of range float") in letter.text


def test_a_worker_keeps_nothing_of_a_finished_run():
    """Python's own search for rings comes too late: a worker of a large suite would fill the machine."""
    gc.collect()
    gc.disable()
    try:
        assert workers.attempt(workers.Job(GOOD[0], 0, None), lambda letter: None).kind == "done"
        left = [each for each in gc.get_objects() if type(each) is GIPO]
    finally:
        gc.enable()
    assert not left


@pytest.mark.parametrize("crew", [Serial, lambda: Processes(1)])
def test_a_record_made_meanwhile_is_kept(tmp_path, crew, record):
    run = GOOD[0]
    listener = Listener()
    path = Store(tmp_path).write(run, record | {"score": -1.0})
    before = path.read_bytes()
    executors.carry_out([run], tmp_path, listener, crew())
    assert listener.kinds() == [(run.id, "exists")] and path.read_bytes() == before
    assert files(tmp_path) == [f"{run.id}.json"]


def test_a_record_that_arrives_while_ours_is_in_the_making_is_kept(tmp_path, record):
    """As where there are no locks."""
    listener = Listener()

    def interfere(event):
        listener(event)
        if event.kind == "started":
            Store(tmp_path).write(GOOD[0], record | {"score": -1.0})

    executors.carry_out(GOOD[:1], tmp_path, interfere, Scripted({"kind": "done", "record": record}))
    assert listener.kinds() == [(GOOD[0].id, "exists")] and Store(tmp_path).read(GOOD[0])["score"] == -1.0


def test_a_bad_record_is_set_aside_before_the_run_is_made(tmp_path, record):
    Store(tmp_path).write(GOOD[0], record).write_text("{")
    listener = Listener()
    executors.carry_out(GOOD[:1], tmp_path, listener, Scripted({"kind": "done", "record": record}))
    assert [event.kind for event in listener.events] == ["warning", "started", "finished"]
    assert (tmp_path / "tiny/set-aside/stale/ppo/CartPole-v1/seed0/repeat0.1.json").read_text() == "{"


def worker_processes():
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_worker_that_dies_is_replaced_and_its_run_goes_on_from_its_checkpoint(tmp_path):
    killed = []

    def kill_once(event):
        listener(event)
        if event.kind == "progress" and event.steps == 128 and not killed:
            (worker,) = worker_processes()
            killed.append(event.run)
            worker.send_signal(signal.SIGSTOP)
            worker.kill()

    listener = Listener()
    run = LONG[0].model_copy(update={"suite": SUITE.model_copy(update={"budget": 640})})
    executors.carry_out([run], tmp_path / "undisturbed", Listener(), Serial())
    executors.carry_out([run], tmp_path / "killed", kill_once, Processes(1), checkpoint_minutes=ALWAYS)
    assert killed and [kind for _, kind in listener.kinds()] == ["finished", "resumed", "retrying"]
    assert "the worker process died (exit code -9)" in listener.of("retrying")[0].message
    assert listener.of("resumed")[0].steps >= 64
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "undisturbed")
    assert files(tmp_path / "killed") == [f"{run.id}.json"]


def test_a_worker_that_dies_in_the_middle_of_a_letter_costs_its_run_a_try():
    """Its letter is larger than what a socket holds, and only half of it arrives."""
    ours, theirs = multiprocessing.Pipe()
    worker = workers._Worker()
    worker.job, worker.connection = Job(LONG[0], 0, None), ours
    worker.process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    worker.process.start()
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"half")
    theirs.close()
    worker.process.kill()
    letter = worker.receive()
    assert (letter.kind, letter.text) == ("raised", "the worker process died (exit code -9)")
    assert worker.job is None and worker.process is None


def test_a_worker_that_always_dies_fails_its_run_alone(tmp_path):
    def kill(event):
        listener(event)
        if event.kind == "progress" and event.run.id == LONG[0].id:
            for worker in worker_processes():
                worker.kill()

    listener = Listener()
    runs = [LONG[0], GOOD[1]]
    executors.carry_out(runs, tmp_path, kill, Processes(1), checkpoint_minutes=0)
    assert [kind for _, kind in listener.kinds()] == ["failed", "retrying", "retrying", "finished"]
    tracebacks = Store(tmp_path).read_failure(LONG[0])["tracebacks"]
    assert tracebacks == ["the worker process died (exit code -9)"] * 3
    assert not [name for name in files(tmp_path) if name.endswith("lock")]


def test_an_exception_in_the_driver_stops_the_workers_and_frees_the_runs(tmp_path):
    def give_up(event):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executors.carry_out(GOOD, tmp_path, give_up, Processes(2))
    assert not worker_processes() and files(tmp_path) == []


def test_what_another_command_is_making_is_left_to_it(tmp_path, record, monkeypatch):
    monkeypatch.setattr(executors, "_LOOK_AGAIN", 0.01)
    store = Store(tmp_path)
    lock = store.lock(GOOD[0])
    listener = Listener()
    order = []

    def finish_elsewhere(event):
        listener(event)
        order.append((event.run.seed, event.kind))
        if event.kind == "waiting":
            threading.Timer(0.05, lambda: (store.write(GOOD[0], record), lock.release())).start()

    other = execute(GOOD[1])
    crew = Scripted({"kind": "done", "record": other})
    executors.carry_out(GOOD, tmp_path, finish_elsewhere, crew)
    assert order == [(1, "started"), (1, "finished"), (0, "waiting"), (0, "exists")]
    assert listener.of("waiting")[0].message == "waiting for 1 runs that another command is making"
    assert files(tmp_path) == [f"{run.id}.json" for run in GOOD]


def test_what_another_command_died_on_is_taken_over(tmp_path, record, monkeypatch):
    monkeypatch.setattr(executors, "_LOOK_AGAIN", 0.01)
    lock = Store(tmp_path).lock(GOOD[0])
    threading.Timer(0.05, lock.release).start()
    listener = Listener()
    executors.carry_out(GOOD[:1], tmp_path, listener, Scripted({"kind": "done", "record": record}))
    assert listener.kinds() == [(GOOD[0].id, "finished"), (GOOD[0].id, "waiting")]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_starts_nothing_new_and_loses_nothing(tmp_path, record, monkeypatch):
    """The first run's last checkpoint is still there, and it goes on from it when there is space again."""
    listener = Listener()
    crew = Scripted({"kind": "checkpoint", "data": b"saved"}, {"kind": "done", "record": record})

    def fill_up(event):
        listener(event)
        if event.kind == "started":
            monkeypatch.setattr(os, "link", full)

    executors.carry_out(GOOD, tmp_path, fill_up, crew)
    assert listener.kinds() == [(GOOD[0].id, "unsaved")]
    assert listener.of("unsaved")[0].message.endswith("repeat0.json: No space left on device")
    assert [job.run for job in crew.jobs if job] == GOOD[:1]
    assert files(tmp_path) == ["tiny/stale/ppo/CartPole-v1/seed0/.repeat0/checkpoint"]
    monkeypatch.undo()
    again = Scripted({"kind": "done", "record": record})
    executors.carry_out(GOOD[:1], tmp_path, listener, again)
    assert again.jobs[0].checkpoint == b"saved" and files(tmp_path) == [f"{GOOD[0].id}.json"]


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(tmp_path, record, monkeypatch):
    listener = Listener()
    checkpoint = {"kind": "checkpoint", "data": b"first"}
    crew = Scripted(checkpoint, checkpoint | {"data": b"second"}, {"kind": "done", "record": record})
    replace = os.replace
    calls = iter([replace, full])
    monkeypatch.setattr(os, "replace", lambda *places: next(calls)(*places))
    executors.carry_out(GOOD[:1], tmp_path, listener, crew)
    assert listener.kinds() == [(GOOD[0].id, "finished"), (GOOD[0].id, "warning")]
    assert "No space left on device. The run goes on without this checkpoint" in listener.of("warning")[0].message


def test_without_checkpoints_none_is_made_or_used(tmp_path, record):
    Store(tmp_path).write_checkpoint(GOOD[0], b"of an earlier command")
    crew = Scripted({"kind": "done", "record": record})
    executors.carry_out(GOOD[:1], tmp_path, Listener(), crew, checkpoint_minutes=0)
    assert crew.jobs[0].checkpoint is None and files(tmp_path) == [f"{GOOD[0].id}.json"]


def test_a_suspicious_checkpoint_is_set_aside_and_the_run_made_anew(tmp_path):
    store, listener = Store(tmp_path), Listener()
    store.write_checkpoint(GOOD[0], b"nonsense")
    executors.carry_out(GOOD[:1], tmp_path, listener, Serial())
    (warning,) = listener.of("warning")
    assert "its checkpoint is not used: it is damaged. The run starts anew; the checkpoint is now" in warning.message
    folder = store.path(GOOD[0]).parent
    assert (folder / ".repeat0/checkpoint.set-aside").read_bytes() == b"nonsense"
    assert store.finished(GOOD[0])


def test_letters_of_a_run_that_has_ended_are_not_opened(tmp_path, record):
    late = Letter(GOOD[1].id, "checkpoint", data=b"late")
    executors.carry_out(GOOD[:1], tmp_path, Listener(), Scripted(late, {"kind": "done", "record": record}))
    assert files(tmp_path) == [f"{GOOD[0].id}.json"]
