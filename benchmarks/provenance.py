"""
Where a number came from: package versions, commit and platform, the same facts in records, anchors and reports.

Of the machine it says what can change a number, and nothing that tells whose machine it is.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["code", "commit", "machine", "versions", "without_folders"]

_PACKAGES = (
    "sb3-gipo",
    "stable-baselines3",
    "sb3-contrib",
    "ray",
    "torch",
    "numpy",
    "gymnasium",
    "metaworld",
    "mujoco",
)
_ROOT = Path(__file__).parents[1]


def versions() -> dict[str, str | None]:
    """The version of Python and of each package that can change a run's numbers; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str:
    """
    The git commit of this code, with "+changes" behind it if its tracked files differ from the commit, results apart.

    :return: the commit, or "unknown" outside a git checkout
    """
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "benchmarks", "sb3_gipo")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def code() -> str:
    """The SHA-256 of this code's files: unlike the commit it is known everywhere, and tells uncommitted changes apart."""
    folders = [Path(*find_spec(package).submodule_search_locations) for package in ("benchmarks", "sb3_gipo")]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    parts = (f"{file.relative_to(folder)}\0".encode() + file.read_bytes() for folder, file in files)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def without_folders(text: str) -> str:
    """
    :param text: a traceback, or another text that names files
    :return: the same with file names that start inside this code, a library or a home: whose machine it was is not told
    """
    folders = {str(_ROOT), *sys.path, sys.prefix, sys.base_prefix, os.getcwd(), str(Path.home()), tempfile.gettempdir()}
    for folder in sorted((folder.rstrip(os.sep) for folder in folders), key=len, reverse=True):
        if folder:
            text = text.replace(folder + os.sep, "")
    return text


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> dict[str, str | int | None]:
    """Operating system, architecture and number of CPUs."""
    return {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count()}
