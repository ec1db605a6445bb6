"""
Through the command line: killed at random moments and started again, it ends in the records of an undisturbed execution.

The moments are drawn from a seed, and counted in files that appear rather than in seconds, so that every kill meets a
command that is at work.
"""

import contextlib
import json
import os
import random
import signal
import time

import psutil
import pytest
import suites
from suites import TINY, write_suite

from benchmarks.executors import carry_out
from benchmarks.spec import load_suite, plan
from benchmarks.workers import Serial

# Eight runs of ten iterations, and a checkpoint before each but the first.
LONGER = TINY.replace("budget = 192", "budget = 640").replace("seeds = 2", "seeds = 1")


def start(*arguments, cwd):
    """The command line, to be killed. What it says goes to a file."""
    with open(cwd / "output", "a") as output:
        return suites.start(*arguments, cwd=cwd, stdout=output)


def timeless(folder):
    """All records of a store, as they were written, without what no two executions share."""
    records = {}
    for path in sorted(folder.rglob("*.json")):
        record = json.loads(path.read_text())
        different = {name for name in record if name.endswith("_seconds") or name == "checksum"}
        records[str(path.relative_to(folder))] = {name: record[name] for name in record.keys() - different}
    return records


def finished(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("repeat*.json")}


def written(folder):
    """When each checkpoint and record was written."""
    times = set()
    for path in [*folder.rglob("checkpoint"), *folder.rglob("repeat*.json")]:
        with contextlib.suppress(FileNotFoundError):  # its run has just ended
            times.add((path, path.stat().st_mtime_ns))
    return times


def await_files(folder, count, process):
    """Until so many checkpoints and records have been written from now on, or the command has ended."""
    seen = set(before := written(folder))
    while len(seen) < len(before) + count and process.poll() is None:
        seen |= written(folder)
        time.sleep(0.002)


def kill(victim, process):
    started = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            started.append((child, " ".join(child.cmdline())))
    workers = [child for child, command in started if "spawn_main" in command or "ray::_attempt" in command]
    if victim == "worker":
        # The one that has loaded most is at work; Ray may be starting one just now.
        for worker in sorted(workers, key=lambda worker: worker.memory_info().rss)[-1:]:
            worker.kill()
        return
    if victim == "driver":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Workers die with their driver; Ray's own agents take a little longer.
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in alive if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


def disturb(folder, suite, victims, rng, *options):
    """Start the command, kill a victim at a random moment, and so on; the last time it is left alone."""
    command = ("run", suite, "--workers", "2", "--checkpoint-minutes", "1e-9", *options)
    results = folder / "results"
    process = start(*command, cwd=folder)
    for victim in victims:
        await_files(results, rng.randrange(1, 12), process)
        if process.poll() is None:
            before = finished(results)
            kill(victim, process)
            assert before.items() <= finished(results).items(), "what is finished stays as it is"
        if process.poll() is not None:
            process = start(*command, cwd=folder)
    if process.wait(timeout=600) != 0:
        # Some run has lost three workers: it is recorded as failed, until it is asked for again.
        process = start(*command, "--retry-failed", cwd=folder)
    assert process.wait(timeout=600) == 0, (folder / "output").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    carry_out(plan(load_suite(write_suite(folder, LONGER))), folder / "results", lambda event: None, Serial(), 0)
    return timeless(folder / "results")


def check(folder, undisturbed):
    assert timeless(folder / "results") == undisturbed
    assert not list((folder / "results").rglob(".*")), "no lock, checkpoint or temporary file is left"
    output = (folder / "output").read_text()
    assert "goes on from step" in output and "Traceback" not in output


def test_killed_at_random_moments(tmp_path, undisturbed):
    disturb(tmp_path, write_suite(tmp_path, LONGER), ["worker", "driver", "everything"], random.Random(0))
    check(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "driver", "everything"])
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_killed_ten_times(tmp_path, undisturbed, victim, executor):
    # A run whose worker is killed goes to the end of the queue, so that hardly any is killed three times.
    rng = random.Random(f"{victim} {executor}")
    disturb(tmp_path, write_suite(tmp_path, LONGER), [victim] * 10, rng, "--executor", executor)
    check(tmp_path, undisturbed)
