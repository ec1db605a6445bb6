import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import locks
from benchmarks.locks import try_lock

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from benchmarks.locks import try_lock
assert try_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "lock"


def test_one_holder_at_a_time_and_nothing_is_left(path):
    lock = try_lock(path)
    assert lock is not None and try_lock(path) is None
    lock.release()
    assert not path.parent.exists()
    again = try_lock(path)
    assert again is not None
    again.release()


def test_a_folder_that_holds_something_else_stays(path):
    lock = try_lock(path)
    (path.parent / "checkpoint").touch()
    lock.release()
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint"]


def test_the_kernel_releases_the_lock_of_a_killed_holder(path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert try_lock(path) is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = try_lock(path)
    assert lock is not None
    lock.release()
    holder.stdout.close()


def test_a_file_removed_while_we_waited_for_it_is_no_lock(path, monkeypatch):
    """Between opening the file and locking it, its holder lets go, and somebody else takes a new file."""
    flock = locks._flock
    others = []

    def slow(descriptor):
        if not others:
            monkeypatch.setattr(locks, "_flock", flock)
            os.unlink(path)
            others.append(try_lock(path))
        return flock(descriptor)

    monkeypatch.setattr(locks, "_flock", slow)
    assert try_lock(path) is None and others[0] is not None
    others[0].release()


def test_where_there_are_no_locks_everybody_gets_one(path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    first, second = try_lock(path), try_lock(path)
    assert first is not None and second is not None
    first.release()
    second.release()
    assert not path.exists()
