"""What SB3's ``save()`` leaves out and exact resumption needs: the replay window and the random streams."""

import io
import pathlib
import random
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_gipo.buffers import StaleRolloutBuffer

__all__ = ["load", "save"]

Path = str | pathlib.Path | io.BufferedIOBase


def save(path: Path, rollout_buffer: StaleRolloutBuffer, verbose: int = 0) -> None:
    """
    :param path: where to; ``.pkl`` is appended where there is no suffix
    :param rollout_buffer: what to save, with the states of the random streams of torch, numpy and Python
    :param verbose: Verbosity level
    """
    save_to_pkl(
        path, {"rollout_buffer": rollout_buffer, "random_states": _random_states(rollout_buffer.device)}, verbose
    )


def load(path: Path, like: StaleRolloutBuffer, verbose: int = 0) -> StaleRolloutBuffer:
    """
    Load a buffer and set the random streams to what they were when it was saved.

    :param path: a file that :func:`save` wrote; it is a pickle, so only open files that you trust
    :param like: the buffer whose place it takes
    :param verbose: Verbosity level
    :return: the buffer
    :raises ValueError: if it is no such file, or does not fit: both shapes are named
    """
    state = load_from_pkl(path, verbose)
    if not (isinstance(state, dict) and isinstance(state.get("rollout_buffer"), StaleRolloutBuffer)):
        raise ValueError(f"{path} was not made by save_rollout_buffer")
    loaded: StaleRolloutBuffer = state["rollout_buffer"]
    if loaded.layout != like.layout:
        raise ValueError(
            f"the rollout buffer in {path} does not fit this model (axes: replay_window, n_envs, n_steps, ...):\n"
            f"  the file's:  {loaded.layout}\n  the model's: {like.layout}"
        )
    loaded.device, loaded.gamma, loaded.gae_lambda = like.device, like.gamma, like.gae_lambda
    _restore_random_states(state["random_states"], loaded.device)
    return loaded


def _random_states(device: th.device) -> dict[str, Any]:
    states = {"torch": th.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    if device.type == "cuda":
        states["cuda"] = th.cuda.get_rng_state(device)
    return states


def _restore_random_states(states: dict[str, Any], device: th.device) -> None:
    th.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if "cuda" in states and device.type == "cuda":
        th.cuda.set_rng_state(states["cuda"], device)
