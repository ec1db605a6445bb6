"""
Records on disk: one JSON file a run, written whole or not at all, checksummed, and never overwritten.

A record lies at ``<store>/<run id>.json``, what is known of a run that failed for good at ``<run id>.failed.json``. Each is
written to a temporary file beside its place, flushed to the disk, and then linked to its name, which fails if the name
exists. What a killed writer leaves behind is a hidden temporary file that no reader looks at. A hidden folder beside the
record's place (``.repeat0`` for ``repeat0.json``) holds what is needed while the run is made: its lock and its checkpoint.
"""

import contextlib
import itertools
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.locks import Lock, try_lock
from benchmarks.spec import BenchmarkError, Run, digest

__all__ = [
    "BadRecordError",
    "Found",
    "RecordExistsError",
    "Store",
    "UnwritableError",
    "read_json",
    "read_record",
    "replace_file",
    "require_configuration",
]

SET_ASIDE = "set-aside"
FAILED = ".failed.json"
_CHECKSUM = "checksum"
_FIELDS = {"run", "digest", "configuration"}


class RecordExistsError(BenchmarkError):
    """The run already has a record. It is kept."""


class BadRecordError(BenchmarkError):
    """What is in a record's place and must not be counted: damaged, unreadable, edited, moved, of another configuration."""


class UnwritableError(BenchmarkError):
    """The disk is full, or refuses to be written for another reason. No half file is left behind."""


class Found(NamedTuple):
    """
    What a store holds of a run: one of the following, or nothing.

    :param run: the run
    :param record: its record, if it is finished
    :param failure: what is known of its failure, if it failed for good and has no record
    :param problem: a line that names a file in its place that must not be counted, and says why
    """

    run: Run
    record: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    problem: str | None = None


class Store:
    """
    :param root: the folder of all records; made when the first one is written
    """

    def __init__(self, root: Path):
        self.root = root

    def path(self, run: Run) -> Path:
        """Where the record of a run is, or will be."""
        return self.root / f"{run.id}.json"

    def failure_path(self, run: Run) -> Path:
        """Where it is recorded that a run failed for good."""
        return self.root / f"{run.id}{FAILED}"

    def _checkpoint_path(self, run: Run) -> Path:
        return self._workshop(run) / "checkpoint"

    def _workshop(self, run: Run) -> Path:
        path = self.path(run)
        return path.with_name(f".{path.stem}")

    def lock(self, run: Run) -> Lock | None:
        """
        Reserve a run, to make it or to move its files.

        :param run: the run
        :return: the lock, or None if somebody else holds it
        :raises UnwritableError: if the lock's file cannot be made
        """
        path = self._workshop(run) / "lock"
        with _named(path):
            return try_lock(path)

    def finished(self, run: Run) -> bool:
        """Whether the run has a record; whether it is a good one, :meth:`read` says."""
        return os.path.lexists(self.path(run))

    def read(self, run: Run) -> dict[str, Any]:
        """
        :param run: a finished run
        :return: its record
        :raises BadRecordError: if the file is damaged, or its record is that of another configuration; it is left as it is
        """
        return _of_run(read_record(self.path(run), {"score", "curve"}), run, self.path(run))

    def read_failure(self, run: Run) -> dict[str, Any] | None:
        """
        :param run: any run
        :return: what is known of its failure, with the tracebacks of all tries, or None if it has not failed for good
        :raises BadRecordError: as :meth:`read` does
        """
        path = self.failure_path(run)
        return _of_run(read_record(path, {"tracebacks"}), run, path) if os.path.lexists(path) else None

    def survey(self, runs: Iterable[Run]) -> Iterator[Found]:
        """
        Read what there is, and stop at nothing.

        :param runs: the runs asked for
        :return: what there is of each, one at a time: all records of a large suite fill gigabytes
        """
        for run in runs:
            try:
                if self.finished(run):
                    yield Found(run, record=self.read(run))
                else:
                    yield Found(run, failure=self.read_failure(run))
            except BadRecordError as error:
                yield Found(run, problem=str(error))

    def set_aside(self, run: Run) -> list[tuple[str, Path]]:
        """
        Move a run's files that must not be counted out of the way, so that it can be made anew. Nothing is deleted.

        :param run: the run; whoever calls this holds its lock
        :return: what was wrong with each file, and where it is now
        """
        moved = []
        for path, read in ((self.path(run), self.read), (self.failure_path(run), self.read_failure)):
            try:
                if os.path.lexists(path):
                    read(run)
            except BadRecordError as error:
                moved.append((str(error), self._move_aside(run, path)))
        return moved

    def _move_aside(self, run: Run, path: Path) -> Path:
        folder = self.root / run.suite.identity / SET_ASIDE
        folder /= path.parent.relative_to(self.root / run.suite.identity)
        with _named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                place = folder / f"{path.stem}.{number}.json"
                if not os.path.lexists(place):
                    break
            # A folder or a broken link in a record's place can be moved, but not linked to.
            path.rename(place)
        _flush_folder(path.parent)
        return place

    def write(self, run: Run, record: dict[str, Any]) -> Path:
        """
        Write a record, which ends the run: its checkpoint and what was known of its failures go.

        :param run: a run without a record
        :param record: its record without the checksum, JSON data without NaN or infinity
        :return: the file written
        :raises RecordExistsError: if the run has a record by now; that one stays
        :raises UnwritableError: if the disk is full, or refuses it
        """
        path = _write_once(self.path(run), record)
        self._tidy(run)
        return path

    def write_failure(self, run: Run, failure: dict[str, Any]) -> Path:
        """
        Record that a run failed for good.

        :param run: a run without a record
        :param failure: JSON data like a record's, with ``tracebacks``
        :return: the file, which is the older one if there was one already
        :raises UnwritableError: if the disk is full, or refuses it
        """
        path = self.failure_path(run)
        with contextlib.suppress(RecordExistsError):
            _write_once(path, failure)
        return path

    def read_checkpoint(self, run: Run) -> bytes | None:
        """
        :param run: a run without a record
        :return: its last checkpoint, or None if there is none that can be read
        """
        try:
            return self._checkpoint_path(run).read_bytes()
        except OSError:
            return None

    def write_checkpoint(self, run: Run, checkpoint: bytes) -> None:
        """
        :param run: a run without a record
        :param checkpoint: its new checkpoint, which replaces the one before it
        :raises UnwritableError: if the disk is full, or refuses it; the one before it stays
        """
        replace_file(self._checkpoint_path(run), checkpoint)

    def set_checkpoint_aside(self, run: Run) -> Path:
        """
        Keep a checkpoint that is of no use, to be looked into.

        :param run: its run
        :return: where it is now; it replaces one that was set aside before
        """
        path = self._checkpoint_path(run)
        return path.replace(path.with_name("checkpoint.set-aside"))

    def sweep(self, run: Run) -> None:
        """
        Remove what somebody who was killed at the very end of a run has left behind.

        :param run: a run with a record
        """
        if self._leftovers(run) or self._workshop(run).exists() or self.failure_path(run).exists():
            lock = self.lock(run)
            if lock is not None:
                self._tidy(run)
                lock.release()

    def _tidy(self, run: Run) -> None:
        """
        Remove what a finished run needed while it was made, and how it failed before: nobody can write its record any more.
        """
        for path in (self.failure_path(run), self._checkpoint_path(run), *self._leftovers(run)):
            path.unlink(missing_ok=True)
        # A lock that is held stays, and a checkpoint that was set aside, and their folder with them.
        with contextlib.suppress(OSError):
            self._workshop(run).rmdir()

    def _leftovers(self, run: Run) -> list[Path]:
        """Temporary files of killed writers."""
        path = self.path(run)
        return [*path.parent.glob(f".{path.stem}.*.tmp"), *self._workshop(run).glob(".*.tmp")]


def read_record(path: Path, fields: Set[str] = frozenset()) -> dict[str, Any]:
    """
    :param path: a record's file, or a failure's
    :param fields: which fields it must have beside those that all have
    :return: what it holds, as it was written
    :raises BadRecordError: if it is damaged, or not what was written; it is left as it is
    """
    record = read_json(path)
    if not isinstance(record, dict) or not _FIELDS | fields <= record.keys():
        raise BadRecordError(f"{path} is not a record of a run")
    if _CHECKSUM not in record:
        raise BadRecordError(f"{path} has no checksum: it is of an older version of the benchmark")
    if not _agrees(record):
        raise BadRecordError(f"{path} has been damaged or edited: it does not agree with its checksum")
    if digest(record["configuration"]) != record["digest"]:
        raise BadRecordError(f"{path} has a digest that is not its configuration's")
    return record


def _agrees(record: dict[str, Any]) -> bool:
    """Whether a record is what its checksum was taken of."""
    try:
        return digest({key: value for key, value in record.items() if key != _CHECKSUM}) == record[_CHECKSUM]
    except ValueError:  # a number that is not finite, which nobody wrote
        return False


def _of_run(record: dict[str, Any], run: Run, path: Path) -> dict[str, Any]:
    if record["run"] != run.id:
        raise BadRecordError(f"{path} has been moved: it is the record of {record['run']}")
    require_configuration(record, run, path)
    return record


def require_configuration(record: dict[str, Any], run: Run, path: Path) -> None:
    """
    :param record: a record, or what is known of a failure
    :param run: its run, as its suite is now
    :param path: its file, for the message
    :raises BadRecordError: if it was made by another configuration; what differs is named
    """
    if record["digest"] != run.digest:
        changed = _differences(record["configuration"], run.configuration)
        raise BadRecordError(f"{path} was made by another configuration ({changed})")


def read_json(path: Path) -> Any:
    """
    :param path: a JSON file
    :return: what it holds
    :raises BadRecordError: if it is damaged, or cannot be read; the file is named and left as it is
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRecordError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"{path} is damaged ({error})") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """
    Write a derived file (a table, the anchors, a checkpoint), whole or not at all. Unlike a record it may replace an older
    one.

    :param path: the file
    :param content: its content
    :raises UnwritableError: if the disk is full, or refuses it
    """
    with _named(path):
        os.replace(_write_temporary(path, content), path)


def _write_once(path: Path, record: dict[str, Any]) -> Path:
    # Raises for NaN and infinity, before anything is written.
    sealed = record | {_CHECKSUM: digest(record)}
    # A line for each field: differences stay readable.
    fields = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sealed.items())
    with _named(path):
        temporary = _write_temporary(path, "{\n" + ",\n".join(fields) + "\n}\n")
        try:
            os.link(temporary, path)
        except (FileExistsError, FileNotFoundError) as error:
            # Not found: whoever wrote the record has already swept our temporary file away with the leftovers.
            if path.exists():
                raise RecordExistsError(f"{path} exists already: records are never overwritten") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)
    return path


def _write_temporary(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say in one line what could not be written."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"cannot write {path}: {error.strerror}") from error


def _flush_folder(folder: Path) -> None:
    # Some file systems cannot flush a folder; the record itself is on the disk already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _differences(old: Any, new: Any, where: str = "") -> str:
    """Name what two configurations disagree on, for a message."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = []
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                parts.append(_differences(old.get(key), new.get(key), f"{where}.{key}" if where else key))
        return ", ".join(parts)
    return f"{where} {old!r} instead of {new!r}"
