"""
Carries out runs: one after another in this process, or in local worker processes.

Either way a run's record is written by whoever made it, as soon as it is made, so that nothing finished is lost when the
driver dies. Workers die with their driver; what they had in flight is made again by the next `run`.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.spec import Run
from benchmarks.store import RecordExistsError, Store

__all__ = ["Event", "processes", "serial"]


@dataclass(frozen=True)
class Event:
    """
    What happened to a run.

    :param run: the run
    :param kind: "progress", "finished", "exists" (somebody else finished it meanwhile; that record is kept) or "failed"
    :param steps: environment steps made so far, for "progress"
    :param message: the traceback, for "failed"
    :param score: the score, for "finished"
    """

    run: Run
    kind: str
    steps: int = 0
    message: str = ""
    score: float | None = None


Report = Callable[[Event], None]


def serial(runs: list[Run], root: Path, report: Report) -> None:
    """
    Carry out runs one after another in this process.

    :param runs: what to run, in order
    :param root: the store's folder
    :param report: called with each event
    """
    for run in runs:
        report(_carry_out(run, root, report))


def processes(runs: list[Run], root: Path, report: Report, workers: int) -> None:
    """
    Carry out runs in local worker processes, each with one torch thread.

    A run that raises, or whose worker dies, fails alone: the others go on.

    :param runs: what to run, in order
    :param root: the store's folder
    :param report: called with each event, in this process; when it raises, the workers are stopped
    :param workers: number of processes, >= 1
    """
    waiting = deque(runs)
    crew = [_Worker(root) for _ in range(min(workers, len(runs)))]
    try:
        while waiting or any(worker.run for worker in crew):
            for worker in crew:
                if worker.run is None and waiting:
                    worker.start(waiting.popleft())
            busy = {worker.connection: worker for worker in crew if worker.run}
            for connection in wait(list(busy)):
                report(busy[connection].receive())  # type: ignore[index]
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """The driver's end of a worker process, which is started for its first run and again after a death."""

    def __init__(self, root: Path):
        self.root = root
        self.run: Run | None = None
        self.process: BaseProcess | None = None
        self.connection: Connection

    def start(self, run: Run) -> None:
        if self.process is None:
            self._spawn()
        self.run = run
        # A worker that died while idle is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(run)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.root), daemon=True)
        with _for_children():
            self.process.start()
        theirs.close()

    def receive(self) -> Event:
        assert self.run is not None and self.process is not None
        try:
            event = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            event = Event(self.run, "failed", message=f"the worker process died (exit code {self.process.exitcode})")
            self.connection.close()
            self.process = None
        if event.kind != "progress":
            self.run = None
        return event

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.join()
            self.connection.close()
            self.process = None


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


def _work(connection: Connection, root: Path) -> None:
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    while True:
        try:
            run = connection.recv()
        except EOFError:
            return
        connection.send(_carry_out(run, root, connection.send))


def _die_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _carry_out(run: Run, root: Path, report: Report) -> Event:
    # Imported here so that a worker watches its driver before it loads torch and the simulators.
    from benchmarks.run import execute

    try:
        record = execute(run, lambda steps: report(Event(run, "progress", steps=steps)))
        Store(root).write(run, record)
    except RecordExistsError as error:
        return Event(run, "exists", message=str(error))
    except Exception:
        return Event(run, "failed", message=traceback.format_exc())
    return Event(run, "finished", score=record["score"])
