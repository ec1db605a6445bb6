"""
Runs on a local Ray cluster, which takes some seconds to start: it is started once, for runs that end in every way.

Whatever happens to a Ray worker, the records are those of this process.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from suites import write_suite
from test_executors import ALWAYS, GOOD, SUITE, Listener, files, outcome

from benchmarks import executors
from benchmarks.spec import load_suite, plan
from benchmarks.store import Store
from benchmarks.workers import Serial

ROOT = Path(__file__).resolve().parents[1]
# Long enough to be killed in the middle.
LONG = plan(SUITE.model_copy(update={"name": "long", "budget": 1920}), tasks=["CartPole-v1"], seeds=[0])
(HOPELESS,) = plan(SUITE, tasks=["Acrobot-v1"], seeds=[0])


def ray_workers():
    """The processes of runs."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "ray::_attempt" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def crew_module():
    return pytest.importorskip("benchmarks.ray_executor")


@pytest.fixture(scope="module")
def disturbed(crew_module, tmp_path_factory):
    """All runs on two workers; those of the long run are killed once, after its second iteration."""
    root, listener = tmp_path_factory.mktemp("ray"), Listener()
    killed = []

    def kill_once(event):
        listener(event)
        # A worker does not tell whose it is: the run that fails anyway must not be among those that are killed.
        started, failed = ([event.run for event in listener.of(kind)] for kind in ("started", "failed"))
        if HOPELESS in started and HOPELESS not in failed:
            return
        if event.kind == "progress" and event.run == LONG[0] and event.steps >= 128 and not killed:
            for worker in ray_workers():
                killed.append(worker.pid)
                worker.kill()

    crew = crew_module.RayCrew(2)
    executors.carry_out([*LONG, *GOOD, HOPELESS], root, kill_once, crew, checkpoint_minutes=ALWAYS)
    assert killed
    return root, listener


def test_ray_makes_the_records_that_serial_makes(disturbed, tmp_path):
    root, _ = disturbed
    executors.carry_out([*LONG, *GOOD, HOPELESS], tmp_path, Listener(), Serial(), checkpoint_minutes=ALWAYS)
    assert files(root) == files(tmp_path)
    # Of a run that failed, the checkpoint is kept too: it may be tried again.
    assert [name for name in files(root) if not name.endswith("/repeat0.json")] == [
        str(Path(HOPELESS.id).with_name(".repeat0") / "checkpoint"),
        f"{HOPELESS.id}.failed.json",
    ]
    assert outcome(root) == outcome(tmp_path)


def test_progress_and_checkpoints_come_back(disturbed):
    _, listener = disturbed
    for run in [*LONG, *GOOD]:
        steps = [event.steps for event in listener.of("progress") if event.run == run]
        # Nothing is lost but what a killed worker had not sent.
        assert set(steps) == set(range(64, run.suite.budget + 1, 64)) or run in LONG
        assert steps[-1] == run.suite.budget
    assert [event.run for event in listener.of("resumed")].count(LONG[0]) == 1


def test_a_lost_workers_run_is_tried_again(disturbed):
    _, listener = disturbed
    messages = [event.message for event in listener.of("retrying") if event.run == LONG[0]]
    assert messages == ["try 1 of 3 failed: the Ray worker was lost (WorkerCrashedError)"]


def test_a_failure_tells_nothing_of_its_machine(disturbed):
    root, _ = disturbed
    (traceback,) = Store(root).read_failure(HOPELESS)["tracebacks"]
    assert 'File "benchmarks/run.py"' in traceback and "no episode ended" in traceback
    assert os.getcwd() not in traceback and sys.prefix not in traceback


def test_the_cluster_ends_with_the_crew(disturbed):
    assert not ray_workers()
    assert not [child for child in psutil.Process().children(recursive=True) if "raylet" in child.name()]


@pytest.mark.slow
def test_a_cluster_somewhere_else_needs_none_of_our_files(crew_module, tmp_path):
    """A cluster that was started in another folder, without this checkout on its path; it and the command share a token."""
    suite = write_suite(tmp_path, seeds=1, repeats=1)
    shared = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elsewhere = {name: value for name, value in shared.items() if name != "PYTHONPATH"}
    ours = shared | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:26379"}
    options = ("--head", "--node-ip-address=127.0.0.1", "--port=26379", "--num-cpus=2", "--include-dashboard=false")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--disable-usage-stats", "--block"]
    run = [sys.executable, "-m", "benchmarks", "run", suite, "--executor", "ray", "--checkpoint-minutes", "1e-9"]
    (tmp_path / "elsewhere").mkdir()
    cluster = subprocess.Popen(start, cwd=tmp_path / "elsewhere", env=elsewhere, stdout=subprocess.DEVNULL)
    try:
        done = subprocess.run(run, cwd=tmp_path, env=ours, capture_output=True, text=True)
    finally:
        cluster.terminate()
        cluster.wait(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    executors.carry_out(plan(load_suite(suite)), tmp_path / "serial", Listener(), Serial())
    assert outcome(tmp_path / "results") == outcome(tmp_path / "serial")
