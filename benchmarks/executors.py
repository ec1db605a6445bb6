"""
Carries out runs, whoever the workers are: who makes which run, how often it is tried, and what becomes of it in the store.

The driver alone writes: a record as soon as it arrives, so that nothing finished is lost when the driver dies; a checkpoint
in place of the one before; and, after three tries, that a run has failed. It holds the lock of each run in flight, so that
several commands can share a store: what one is making, the others leave to it, and look again later.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import provenance
from benchmarks.locks import Lock
from benchmarks.spec import Run
from benchmarks.store import RecordExistsError, Store, UnwritableError
from benchmarks.workers import Crew, Job, Letter

__all__ = ["Event", "carry_out"]

TRIES = 3
CHECKPOINT_MINUTES = 10.0
# How long to wait, in seconds, before looking again at runs that somebody else is making.
_LOOK_AGAIN = 1.0


@dataclass(frozen=True)
class Event:
    """
    What happened to a run.

    :param run: the run
    :param kind: "started", "resumed" (from a checkpoint), "progress", "retrying" (a try failed), "warning", "waiting"
        (somebody else is making all that is left); and to end with "finished", "exists" (somebody else finished it; that
        record is kept), "failed" (for good) or "unsaved" (its record could not be written)
    :param steps: environment steps made so far, for "progress" and "resumed"
    :param message: what to tell, for all that need words
    :param score: the score, for "finished"
    """

    run: Run
    kind: str
    steps: int = 0
    message: str = ""
    score: float | None = None


Report = Callable[[Event], None]


def carry_out(
    runs: list[Run],
    root: Path,
    report: Report,
    crew: Crew,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    retry_failed: bool = False,
) -> None:
    """
    Carry out runs. It ends when each has a record, or is recorded as failed, whoever did that.

    A run that raises, or whose worker dies, is tried again, three times in all; the others go on meanwhile. When a record
    cannot be written, no further run is started: the disk is most likely full.

    :param runs: what to run, in order
    :param root: the store's folder
    :param report: called with each event, in this process
    :param crew: who does it; it is stopped at the end, whatever happens
    :param checkpoint_minutes: a run goes on from its last checkpoint, and makes one each time so many minutes have passed;
        0: no checkpoints
    :param retry_failed: whether to try again what is recorded as failed
    """
    driver = _Driver(runs, Store(root), report, crew, checkpoint_minutes, retry_failed)
    try:
        driver.drive()
    finally:
        crew.stop()
        driver.release_all()


class _Driver:
    def __init__(
        self,
        runs: list[Run],
        store: Store,
        report: Report,
        crew: Crew,
        checkpoint_minutes: float,
        retry_failed: bool,
    ):
        self._store = store
        self._report = report
        self._crew = crew
        self._checkpoint_minutes = checkpoint_minutes
        self._retry_failed = retry_failed
        self._waiting = deque(runs)
        self._in_flight: dict[str, Run] = {}
        self._locks: dict[str, Lock] = {}
        self._tracebacks: dict[str, list[str]] = defaultdict(list)
        self._disk_refuses = False
        self._told_to_wait = False

    def drive(self) -> None:
        while self._in_flight or self._to_do:
            while self._crew.has_room() and (run := self._next()):
                self._start(run)
            if self._in_flight:
                others_first = self._crew.has_room() and self._to_do
                self._crew.receive(self._handle, _LOOK_AGAIN if others_first else None)
            elif self._to_do:
                self._wait_for_others()

    @property
    def _to_do(self) -> bool:
        return bool(self._waiting) and not self._disk_refuses

    def _wait_for_others(self) -> None:
        if not self._told_to_wait:
            self._told_to_wait = True
            message = f"waiting for {len(self._waiting)} runs that another command is making"
            self._report(Event(self._waiting[0], "waiting", message=message))
        time.sleep(_LOOK_AGAIN)

    def release_all(self) -> None:
        for lock in self._locks.values():
            lock.release()

    def _next(self) -> Run | None:
        """The next run that is ours to make. Those that somebody else is making go to the end."""
        for _ in range(len(self._waiting)):
            if self._disk_refuses:
                break
            run = self._waiting.popleft()
            try:
                if self._reserve(run):
                    return run
            except UnwritableError as error:
                self._give_up(run, error)
        return None

    def _reserve(self, run: Run) -> bool:
        """Lock a run, and see what has become of it meanwhile. Whether it is to be made now."""
        if run.id in self._locks:  # for another try
            return True
        lock = self._store.lock(run)
        if lock is None:
            self._waiting.append(run)
            return False
        self._locks[run.id] = lock
        for problem, place in self._store.set_aside(run):
            self._report(Event(run, "warning", message=f"{problem}. It is now {place}"))
        if self._store.finished(run):
            self._end(run, Event(run, "exists", message="another command made it"))
            return False
        if not self._retry_failed and self._store.read_failure(run):
            self._end(run, Event(run, "failed", message=f"recorded in {self._store.failure_path(run)}"))
            return False
        return True

    def _start(self, run: Run) -> None:
        self._in_flight[run.id] = run
        self._told_to_wait = False
        self._report(Event(run, "started"))
        checkpoint = self._store.read_checkpoint(run) if self._checkpoint_minutes > 0 else None
        self._crew.start(Job(run, self._checkpoint_minutes, checkpoint))

    def _handle(self, letter: Letter) -> None:
        run = self._in_flight.get(letter.run_id)
        if run is None:
            return  # it comes too late: the worker was given up
        if letter.kind in ("progress", "resumed"):
            self._report(Event(run, letter.kind, steps=letter.steps))
        elif letter.kind == "checkpoint":
            self._keep(run, letter.data)
        elif letter.kind == "ignored":
            self._ignore_checkpoint(run, letter)
        else:
            del self._in_flight[run.id]
            try:
                self._conclude(run, letter)
            except UnwritableError as error:
                self._give_up(run, error)

    def _keep(self, run: Run, checkpoint: bytes) -> None:
        try:
            self._store.write_checkpoint(run, checkpoint)
        except UnwritableError as error:
            self._report(Event(run, "warning", message=f"{error}. The run goes on without this checkpoint"))

    def _ignore_checkpoint(self, run: Run, letter: Letter) -> None:
        message = f"its checkpoint is not used: {letter.text}. The run starts anew"
        if letter.suspicious:
            message += f"; the checkpoint is now {self._store.set_checkpoint_aside(run)}"
        self._report(Event(run, "warning", message=message))

    def _conclude(self, run: Run, letter: Letter) -> None:
        """:raises UnwritableError: if what has become of the run cannot be written"""
        if letter.kind == "done":
            assert letter.record is not None
            try:
                self._store.write(run, letter.record)
            except RecordExistsError as error:
                self._end(run, Event(run, "exists", message=str(error)))
            else:
                self._end(run, Event(run, "finished", score=letter.record["score"]))
            return
        tracebacks = self._tracebacks[run.id]
        tracebacks.append(letter.text)
        if letter.kind == "raised" and len(tracebacks) < TRIES:
            self._report(
                Event(run, "retrying", message=f"try {len(tracebacks)} of {TRIES} failed: {_cause_first(letter.text)}")
            )
            self._waiting.append(run)
            return
        path = self._store.write_failure(run, _failure(run, tracebacks))
        self._end(run, Event(run, "failed", message=f"{_cause_first(letter.text)}\nrecorded in {path}"))

    def _give_up(self, run: Run, error: UnwritableError) -> None:
        self._disk_refuses = True
        self._end(run, Event(run, "unsaved", message=str(error)))

    def _end(self, run: Run, event: Event) -> None:
        if lock := self._locks.pop(run.id, None):
            lock.release()
        self._report(event)


def _cause_first(traceback: str) -> str:
    """A traceback's last line tells most: it goes before it."""
    lines = traceback.rstrip().splitlines()
    return traceback if len(lines) == 1 else f"{lines[-1]}\n{traceback}"


def _failure(run: Run, tracebacks: list[str]) -> dict[str, object]:
    return {
        "run": run.id,
        "digest": run.digest,
        "configuration": run.configuration,
        "tracebacks": tracebacks,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
    }
