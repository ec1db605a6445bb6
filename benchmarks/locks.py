"""
A lock that two commands on one machine, or on one shared disk, respect, and that the kernel releases when its holder dies.

It saves work, not records: those are never overwritten, locked or not. So where there is no such lock (no fcntl, or a file
system without flock) everybody gets it.
"""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["Lock", "try_lock"]


class Lock:
    """
    A lock that is held.

    :param path: its file
    :param descriptor: the open file that carries the lock
    """

    def __init__(self, path: Path, descriptor: int):
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go; its file vanishes, and its folder with it if nothing else is there."""
        # The file goes while the lock is held, so that nobody can have locked it in between.
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()
        os.close(self._descriptor)


def try_lock(path: Path) -> Lock | None:
    """
    :param path: the lock's file; made, with its folder
    :return: the lock, or None if somebody else holds it
    :raises OSError: if the file cannot be made
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # its last holder has just removed the folder
        if not _flock(descriptor):
            os.close(descriptor)
            return None
        # A file that was removed before we locked it protects nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return Lock(path, descriptor)
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # this file system has no locks
    return True
