"""
Checkpoints within a run: a run that was killed goes on from its last one, and ends in the record that it would have ended
in, bit by bit on the same kind of machine, apart from what it cost.

Few simulators can restore their state. So a checkpoint holds every action that was sent to the environment: on resumption
the environment is made anew with its seed, and the actions are replayed. On MetaWorld with a small network, where
simulation is most of the cost, a replayed step takes about a quarter of the CPU time of a learned one (measured with
``metaworld8``, stale, GIPO: 0.44 ms beside 1.84 ms); the larger the learner, the smaller the share.
"""

import hashlib
import io
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from benchmarks import provenance
from benchmarks.recording import Recorder
from benchmarks.spec import Run
from sb3_gipo import GIPO, UtilizationRecorder

__all__ = ["Checkpointer", "Checkpoints", "Stopwatch"]

# Of the files as they were loaded: somebody may edit them while a run goes on.
_CODE = provenance.code()


class Stopwatch:
    """Wall and CPU seconds of a run, over all of its attempts."""

    def __init__(self) -> None:
        self._wall, self._cpu = -time.perf_counter(), -time.process_time()

    def read(self) -> dict[str, float]:
        """:return: ``wall_seconds`` and ``cpu_seconds`` so far"""
        wall, cpu = self._wall + time.perf_counter(), self._cpu + time.process_time()
        return {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}

    def add(self, earlier: dict[str, float]) -> None:
        """:param earlier: what an earlier attempt had read"""
        self._wall += earlier["wall_seconds"]
        self._cpu += earlier["cpu_seconds"]


@dataclass(frozen=True)
class Checkpoints:
    """
    What a run needs to be checkpointed. It knows no disk: whoever carries out the run keeps the checkpoints.

    :param minutes: at least so long between two checkpoints, > 0
    :param last: the checkpoint to go on from, or None to start
    :param keep: called with each new checkpoint, which replaces the one before it
    :param resumed: called with the environment steps that ``last`` saved
    :param ignored: called with a line that says why ``last`` is of no use, and whether that should be looked into
    """

    minutes: float
    last: bytes | None
    keep: Callable[[bytes], None]
    resumed: Callable[[int], None]
    ignored: Callable[[str, bool], None]


class _UselessError(Exception):
    """
    :param reason: why a checkpoint is of no use
    :param suspicious: whether that should be looked into
    """

    def __init__(self, reason: str, suspicious: bool):
        super().__init__(reason)
        self.reason = reason
        self.suspicious = suspicious


class Checkpointer(BaseCallback):
    """
    Makes the checkpoints of a run, between two iterations. Give it to ``learn()`` after the recorders.

    :param run: the run
    :param checkpoints: where they go, and where they come from
    :param recorder: the run's learning curve so far
    :param utilization: the run's multipliers so far
    :param stopwatch: the run's cost so far
    """

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        recorder: Recorder,
        utilization: UtilizationRecorder,
        stopwatch: Stopwatch,
    ):
        super().__init__()
        self._run = run
        self._checkpoints = checkpoints
        self._recorder = recorder
        self._utilization = utilization
        self._stopwatch = stopwatch
        # (steps of the whole run, environments, ...), allocated with the first action.
        self._actions: np.ndarray | None = None
        self._taken = 0
        self._last_time = time.monotonic()

    def resume(self, model: GIPO, start_over: Callable[[], GIPO]) -> GIPO:
        """
        Go on from the last checkpoint, if there is one that fits.

        :param model: the run's model, with its environment; neither has been used yet
        :param start_over: makes another such model, for when replaying has gone wrong
        :return: the model to go on with; its ``num_timesteps`` says from where
        """
        if self._checkpoints.last is None:
            return model
        try:
            state = self._open(self._checkpoints.last)
            resumed = _restore(model, state)
        except _UselessError as error:
            self._checkpoints.ignored(error.reason, error.suspicious)
            model.get_env().close()
            return start_over()
        self._recorder.recording = state["recording"]
        self._utilization.histogram = state["histogram"]
        self._utilization.multiplier_sum = state["multiplier_sum"]
        self._stopwatch.add(state["cost"])
        for actions in state["actions"]:
            self._log(actions)
        self._checkpoints.resumed(resumed.num_timesteps)
        return resumed

    def _on_step(self) -> bool:
        self._log(self.locals["clipped_actions"])
        return True

    def _log(self, actions: np.ndarray) -> None:
        if self._actions is None:
            suite = self._run.suite
            steps = suite.budget // suite.environment.n_envs
            self._actions = np.empty((steps, *actions.shape), dtype=actions.dtype)
        self._actions[self._taken] = actions
        self._taken += 1

    def _on_rollout_start(self) -> None:
        if self._actions is not None and time.monotonic() - self._last_time >= 60 * self._checkpoints.minutes:
            self._checkpoints.keep(self._pack(self._actions[: self._taken]))
            self._last_time = time.monotonic()

    def _pack(self, actions: np.ndarray) -> bytes:
        model, buffer = io.BytesIO(), io.BytesIO()
        self.model.save(model)
        self.model.save_rollout_buffer(buffer)
        state = {
            "model": model.getvalue(),
            "buffer": buffer.getvalue(),
            "recording": self._recorder.recording,
            "histogram": self._utilization.histogram,
            "multiplier_sum": self._utilization.multiplier_sum,
            "actions": actions,
            "cost": self._stopwatch.read(),
        }
        content = json.dumps(self._stamp()).encode() + b"\n" + pickle.dumps(state)
        return hashlib.sha256(content).digest() + content

    def _open(self, data: bytes) -> dict[str, Any]:
        seal, content = data[:32], data[32:]
        if hashlib.sha256(content).digest() != seal:
            raise _UselessError("it is damaged", suspicious=True)
        stamp, _, state = content.partition(b"\n")
        theirs, ours = json.loads(stamp), self._stamp()
        if theirs != ours:
            differing = ", ".join(name for name in ours if theirs.get(name) != ours[name])
            raise _UselessError(f"it is of another version of the benchmark ({differing})", suspicious=False)
        return pickle.loads(state)

    def _stamp(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to lead to the same record."""
        return {
            "run": self._run.id,
            "configuration": self._run.digest,
            "versions": provenance.versions(),
            "code": _CODE,
        }


def _restore(model: GIPO, state: dict[str, Any]) -> GIPO:
    """:return: the model of the checkpoint, in the environment of the new one, which is brought to where it was"""
    environment = model.get_env()
    observations, returns = _replay(environment, state["actions"])
    resumed = GIPO.load(io.BytesIO(state["model"]), env=environment, device=model.device, force_reset=False)
    if not _equal(observations, resumed._last_obs) or returns != [
        episode["r"] for episode in state["recording"].episodes
    ]:
        raise _UselessError("replaying its actions led elsewhere: the task is not deterministic", suspicious=True)
    resumed.set_logger(model.logger)
    # Making and loading models reseeds everything, so the random streams come last, with the buffer.
    resumed.load_rollout_buffer(io.BytesIO(state["buffer"]))
    return resumed


def _replay(environment: VecEnv, actions: np.ndarray) -> tuple[Any, list[float]]:
    """:return: the observation after the last action, and the returns of the episodes that ended on the way"""
    observations = environment.reset()
    returns = []
    for each in actions:
        observations, _, _, infos = environment.step(each)
        returns += [info["episode"]["r"] for info in infos if "episode" in info]
    return observations, returns


def _equal(one: Any, other: Any) -> bool:
    """Whether observations, arrays or dictionaries of them, are the same."""
    if isinstance(one, dict):
        return all(np.array_equal(array, other[key]) for key, array in one.items())
    return np.array_equal(one, other)
