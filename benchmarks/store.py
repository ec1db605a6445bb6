"""
Records on disk: one JSON file a run, written whole or not at all, and never overwritten.

A record lies at ``<store>/<run id>.json``. It is written to a temporary file beside its place, flushed to the disk, and then
linked to its name, which fails if the name exists. What a killed writer leaves behind is a hidden temporary file that no
reader looks at.
"""

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from benchmarks.spec import BenchmarkError, Run, digest

__all__ = ["RecordExistsError", "Store", "read_json", "replace_file"]


class RecordExistsError(BenchmarkError):
    """The run already has a record. It is kept."""


class Store:
    """
    :param root: the folder of all records; made when the first one is written
    """

    def __init__(self, root: Path):
        self.root = root

    def path(self, run: Run) -> Path:
        """Where the record of a run is, or will be."""
        return self.root / f"{run.id}.json"

    def finished(self, run: Run) -> bool:
        """Whether the run has a record; whether it is a good one, :meth:`read` says."""
        return self.path(run).exists()

    def read(self, run: Run) -> dict[str, Any]:
        """
        :param run: a finished run
        :return: its record
        :raises BenchmarkError: if the file is damaged, or its record is that of another configuration; it is left as it is
        """
        path = self.path(run)
        record = read_json(path)
        if not isinstance(record, dict) or not {"run", "digest", "configuration", "score"} <= record.keys():
            raise BenchmarkError(f"{path} is not a record of a run; {_WAY_OUT}")
        if record["run"] != run.id or digest(record["configuration"]) != record["digest"]:
            raise BenchmarkError(
                f"{path} has been moved or edited: its name or its settings are not those it was written with; {_WAY_OUT}"
            )
        if record["digest"] != run.digest:
            changed = _differences(record["configuration"], run.configuration)
            raise BenchmarkError(
                f"{path} was made by another configuration ({changed}); give the changed suite another name, or {_WAY_OUT}"
            )
        return record

    def write(self, run: Run, record: dict[str, Any]) -> Path:
        """
        :param run: a run without a record
        :param record: its record, JSON data without NaN or infinity
        :return: the file written
        :raises RecordExistsError: if the run has a record by now; that one stays
        """
        path = self.path(run)
        fields = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
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
        # From here on nobody can write this record, so what other writers of it left behind is of no use.
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        return path


_WAY_OUT = "move it away or delete it, and run the suite again to make it anew"


def read_json(path: Path) -> Any:
    """
    :param path: a JSON file
    :return: what it holds
    :raises BenchmarkError: if it cannot be read as a whole; the file is named and left as it is
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise BenchmarkError(f"{path} is damaged ({error}); {_WAY_OUT}") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """
    Write a derived file (a table, the anchors), whole or not at all. Unlike a record it may replace an older one.

    :param path: the file
    :param content: its content
    """
    os.replace(_write_temporary(path, content), path)


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
