"""
Workers on a Ray cluster, which may share no disk with the driver: jobs, letters and records travel. Alone imports ray.

The cluster is that of ``RAY_ADDRESS``, whose machines need this benchmark's libraries, while its code is sent to them; or,
if that is not set, a local one, started for this crew and shut down with it.
"""

import contextlib
import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

import benchmarks
import sb3_gipo
from benchmarks import provenance
from benchmarks.spec import BenchmarkError
from benchmarks.workers import Handle, Job, Letter, attempt

__all__ = ["RayCrew"]

# How long a letter may lie in the mailbox, in seconds.
_ROUND = 0.5
# After so long without an answer the mailbox is taken for lost; records do not go through it.
_PATIENCE = 10.0


class RayCrew:
    """
    Ray tasks of one CPU, each carrying out one run. A lost worker costs its own run a try; the driver starts it again.

    :param workers: runs at a time, >= 1; None for as many as the cluster has CPUs when it is asked
    :raises BenchmarkError: if there is no cluster at ``RAY_ADDRESS``
    """

    def __init__(self, workers: int | None):
        address = os.environ.get("RAY_ADDRESS")
        self._ships_code = bool(address)
        quiet = {"log_to_driver": False, "logging_level": "error"}
        if address:
            try:
                ray.init(address, runtime_env={"py_modules": [benchmarks, sb3_gipo]}, **quiet)
            except ConnectionError as error:
                raise BenchmarkError(
                    f"there is no Ray cluster at RAY_ADDRESS {address!r}; unset it to start one"
                ) from error
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        self._room = workers or int(ray.cluster_resources().get("CPU", 1))
        self._mailbox = _Mailbox.remote()
        self._jobs: dict[ray.ObjectRef, Job] = {}

    def has_room(self) -> bool:
        return len(self._jobs) < self._room

    def start(self, job: Job) -> None:
        self._jobs[_attempt.remote(job, self._mailbox)] = job

    def receive(self, handle: Handle, timeout: float | None) -> None:
        ended, _ = ray.wait(list(self._jobs), timeout=_ROUND if timeout is None else min(timeout, _ROUND))
        # A worker ends when its other letters have arrived, so they are all here.
        with contextlib.suppress(RayActorError, GetTimeoutError):
            for letter in ray.get(self._mailbox.take.remote(), timeout=_PATIENCE):
                handle(letter)
        for reference in ended:
            handle(self._last_letter(reference))

    def _last_letter(self, reference: "ray.ObjectRef") -> Letter:
        job = self._jobs.pop(reference)
        try:
            letter = ray.get(reference)
        except RayTaskError as error:
            # It did not come as far as the run: something is missing on its machine.
            return Letter(job.run.id, "raised", text=provenance.without_folders(repr(error.cause)))
        except RayError as error:
            # Ray's own words name machines.
            return Letter(job.run.id, "raised", text=f"the Ray worker was lost ({type(error).__name__})")
        if letter.record and self._ships_code:
            letter.record["commit"] = provenance.commit()
            letter.record["versions"] |= {"sb3-gipo": provenance.versions()["sb3-gipo"]}
        return letter

    def stop(self) -> None:
        # A local cluster goes with it; in another one this ends what we have started.
        ray.shutdown()


@ray.remote(num_cpus=0, max_restarts=-1)
class _Mailbox:
    """Where workers put letters, for the driver to take."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []

    def put(self, letter: Letter) -> None:
        self._letters.append(letter)

    def take(self) -> list[Letter]:
        letters, self._letters = self._letters, []
        return letters


@ray.remote(num_cpus=1, max_retries=0)
def _attempt(job: Job, mailbox: Any) -> Letter:
    posted = []

    def send(letter: Letter) -> None:
        posted[:] = [mailbox.put.remote(letter)]

    last = attempt(job, send)
    # Letters arrive in the order in which they are sent.
    with contextlib.suppress(RayActorError, GetTimeoutError):
        ray.get(posted, timeout=_PATIENCE)
    return last
