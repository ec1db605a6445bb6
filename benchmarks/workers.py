"""
Those who carry out runs: this process, or local worker processes. Each gets jobs and answers with letters; none touches the
store, so that it does not matter where a worker is. Workers die with their driver.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from benchmarks import provenance
from benchmarks.spec import BenchmarkError, Run

__all__ = ["Crew", "Job", "Letter", "Processes", "Serial", "attempt"]


@dataclass(frozen=True)
class Job:
    """
    :param run: what to run
    :param checkpoint_minutes: time between two checkpoints, 0 for none
    :param checkpoint: the checkpoint to go on from, None to start
    """

    run: Run
    checkpoint_minutes: float
    checkpoint: bytes | None


@dataclass(frozen=True)
class Letter:
    """
    What a worker tells its driver.

    :param run_id: of which run
    :param kind: "progress" (with ``steps``), "resumed" (from a checkpoint of so many ``steps``), "checkpoint" (``data``),
        "ignored" (the checkpoint given is of no use; ``text`` says why, and ``suspicious`` whether to look into it); and to
        end with "done" (``record``), "raised" (``text`` is the traceback) or "hopeless" (likewise; repeating cannot help)
    """

    run_id: str
    kind: str
    steps: int = 0
    text: str = ""
    suspicious: bool = False
    data: bytes = b""
    record: dict[str, Any] | None = None


Handle = Callable[[Letter], None]


class Crew(Protocol):
    """One or more workers."""

    def has_room(self) -> bool:
        """Whether a job can be started now."""

    def start(self, job: Job) -> None:
        """Start a job; there is room for it."""

    def receive(self, handle: Handle, timeout: float | None) -> None:
        """
        Wait for letters of the jobs that were started, at least one of which has not ended.

        :param handle: called with each letter
        :param timeout: seconds after which to give up; None to wait for at least one letter
        """

    def stop(self) -> None:
        """Stop at once, whatever is in flight."""


def attempt(job: Job, send: Handle) -> Letter:
    """
    Carry out a run in this process.

    :param job: what to do
    :param send: called with each letter but the last
    :return: the last letter
    """
    # Imported here so that a worker watches its driver before it loads torch and the simulators.
    from benchmarks.checkpoints import Checkpoints
    from benchmarks.run import execute

    name = job.run.id
    checkpoints = Checkpoints(
        job.checkpoint_minutes,
        job.checkpoint,
        keep=lambda data: send(Letter(name, "checkpoint", data=data)),
        resumed=lambda steps: send(Letter(name, "resumed", steps=steps)),
        ignored=lambda reason, suspicious: send(Letter(name, "ignored", text=reason, suspicious=suspicious)),
    )
    try:
        record = execute(
            job.run,
            lambda steps: send(Letter(name, "progress", steps=steps)),
            checkpoints if job.checkpoint_minutes > 0 else None,
        )
        json.dumps(record, allow_nan=False)
    except (BenchmarkError, FloatingPointError):
        # Runs are seeded: it would only diverge again.
        return Letter(name, "hopeless", text=_traceback())
    except Exception:
        return Letter(name, "raised", text=_traceback())
    finally:
        # Model, callbacks and environment hold each other, on MetaWorld 40 MB of them, and Python by itself would not look
        # for such rings for hundreds of runs.
        gc.collect()
    return Letter(name, "done", record=record)


def _traceback() -> str:
    return provenance.without_folders(traceback.format_exc())


class Serial:
    """This process, one run after another."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def has_room(self) -> bool:
        return self._job is None

    def start(self, job: Job) -> None:
        self._job = job

    def receive(self, handle: Handle, timeout: float | None) -> None:
        assert self._job is not None
        letter = attempt(self._job, handle)
        self._job = None
        handle(letter)

    def stop(self) -> None:
        self._job = None


class Processes:
    """
    Local worker processes, each with one torch thread. One that dies is replaced, and costs its own run alone a try.

    :param workers: number of processes, >= 1; they are started as they are needed
    """

    def __init__(self, workers: int):
        self._crew = [_Worker() for _ in range(workers)]

    def has_room(self) -> bool:
        return any(worker.job is None for worker in self._crew)

    def start(self, job: Job) -> None:
        idle = [worker for worker in self._crew if worker.job is None]
        # Rather one that has loaded everything already.
        max(idle, key=lambda worker: worker.process is not None).start(job)

    def receive(self, handle: Handle, timeout: float | None) -> None:
        busy = {worker.connection: worker for worker in self._crew if worker.job}
        for connection in wait(list(busy), timeout):
            handle(busy[connection].receive())

    def stop(self) -> None:
        for worker in self._crew:
            worker.stop()


class _Worker:
    """The driver's end of a worker process, which is started for its first job and again after a death."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.process: BaseProcess | None = None
        self.connection: Connection

    def start(self, job: Job) -> None:
        if self.process is None:
            self._spawn()
        self.job = job
        # A worker that died while idle is noticed when its answer is read.
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _for_children():
            self.process.start()
        theirs.close()

    def receive(self) -> Letter:
        assert self.job is not None and self.process is not None
        try:
            letter = self.connection.recv()
        except (EOFError, OSError):  # the second where it died in the middle of a letter
            self.process.join()
            cause = f"the worker process died (exit code {self.process.exitcode})"
            letter = Letter(self.job.run.id, "raised", text=cause)
            self.connection.close()
            self.process = None
        if letter.kind in ("done", "raised", "hopeless"):
            self.job = None
        return letter

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.join()
            self.connection.close()
            self.process = None
        self.job = None


@contextlib.contextmanager
def _for_children() -> Iterator[None]:
    """
    What worker processes inherit: one thread for torch and BLAS, and deafness to Ctrl-C, which reaches the whole process
    group but is the driver's to handle.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    main_thread = threading.current_thread() is threading.main_thread()
    handler: Any = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
    try:
        yield
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, handler)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _work(connection: Connection) -> None:
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(attempt(job, connection.send))


def _die_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
