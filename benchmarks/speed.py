"""
The speed benchmark: what a training iteration costs, beside what the processor needs at least and beside SB3's own PPO.

Everything is CPU seconds of one process with one torch thread. What is compared takes turns in the same process, so that
both see the same machine; only ratios of the same turn mean anything elsewhere.
"""

import functools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks import floors, provenance
from benchmarks.run import make_model
from benchmarks.spec import load_suite, plan
from benchmarks.turns import spread
from sb3_gipo import GIPO

__all__ = ["AXES", "CASES", "COMPONENTS", "Case", "measure"]


@dataclass(frozen=True)
class Case:
    """
    A learner to be timed.

    :param name: what it is called in tables
    :param gipo: makes it
    :param ppo: makes an SB3 PPO that does the same number of environment and gradient steps of the same size
    :param iterations: how many a timing takes
    """

    name: str
    gipo: Callable[[], GIPO]
    ppo: Callable[[], PPO]
    iterations: int


def _gymnasium(task: str, replay_window: int) -> Case:
    # Written out where the two classes' defaults may differ: what is compared is the same work.
    same = {"n_steps": 512, "batch_size": 64, "n_epochs": 10, "seed": 0, "device": "cpu"}
    return Case(
        f"{task}, window {replay_window}",
        lambda: GIPO("MlpPolicy", gym.make(task), replay_window=replay_window, **same),
        lambda: PPO("MlpPolicy", gym.make(task), **same),
        iterations=10,
    )


def _published() -> Case:
    run = plan(load_suite("published"), seeds=[0], repeats=[0], regimes=["stale"], algorithms=["gipo(1.0,1.0)"])[0]

    def ppo() -> PPO:
        theirs = make_model(run)
        # As many optimizer steps as GIPO's policy and value-only steps together; PPO has no value-only ones, and no
        # minibatch of 512 in a rollout of 500.
        return PPO(
            type(theirs.policy),
            theirs.env,
            n_steps=theirs.n_steps,
            batch_size=theirs.n_steps,
            n_epochs=theirs.n_epochs * (1 + theirs.critic_updates),
            seed=0,
            device="cpu",
        )

    return Case(f"published protocol, {run.task}", lambda: make_model(run), ppo, iterations=1)


#: The learners that are timed.
CASES: dict[str, Callable[[], Case]] = {
    "published": _published,
    **{
        f"{task}/{window}": functools.partial(_gymnasium, task, window)
        for task in ("CartPole-v1", "HalfCheetah-v5")
        for window in (1, 40)
    },
}

#: What grows, in the scaling table.
AXES = {
    "n_envs": (1, 2, 4, 8, 16, 32),
    "replay_window": (1, 4, 40, 400),
    "batch_size": (64, 256, 1024, 4096),
    "workers": (1, 2),
}

#: What an iteration is made of, in the order of the table. What none of them covers is "rest".
COMPONENTS = ("environment", "inference", "buffer", "targets", "forward", "backward", "optimizer", "logging", "rest")


#: A turn of one learner takes a fraction of a second: so many of them for one of the others.
_SHORT = 5

#: What a process of :func:`_turns_of_workers` keeps from turn to turn.
_worker: dict[str, Any] = {}

#: The components that a gradient step consists of.
_UPDATE = ("forward", "backward", "optimizer")


def _parts(model: GIPO) -> Iterator[tuple[str, Any, str]]:
    """Component, object, and the name of its method. Time in a method that another one calls is the inner one's alone."""
    buffer, optimizer = model.rollout_buffer, model.policy.optimizer
    yield "environment", model.env, "step"
    yield "inference", model.policy, "forward"
    yield "inference", model.policy, "predict_values"
    for method in ("add", "reset", "_get_samples"):
        yield "buffer", buffer, method
    yield "targets", buffer, "compute_returns_and_advantage"
    yield "targets", model, "_revaluate"
    for method in ("_evaluate", "_update_critic"):
        yield "forward", model, method
    yield "backward", th.Tensor, "backward"
    yield "optimizer", optimizer, "step"
    yield "optimizer", optimizer, "zero_grad"
    yield "optimizer", th.nn.utils, "clip_grad_norm_"
    for method in ("_record", "dump_logs"):
        yield "logging", model, method


@contextmanager
def _components(model: GIPO) -> Iterator[Counter[str]]:
    """Within it, CPU seconds are counted by component."""
    seconds: Counter[str] = Counter()
    running: list[str] = []
    last = time.process_time()

    def switch() -> None:
        nonlocal last
        now = time.process_time()
        seconds[running[-1] if running else "rest"] += now - last
        last = now

    def timed(component: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            switch()
            running.append(component)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                running.pop()

        return wrapper

    originals = [(owner, name, owner.__dict__.get(name), getattr(owner, name)) for _, owner, name in _parts(model)]
    for component, owner, name in list(_parts(model)):
        setattr(owner, name, timed(component, getattr(owner, name)))
    try:
        yield seconds
    finally:
        switch()
        for owner, name, own, function in originals:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


def measure(
    cases: Iterable[str] = tuple(CASES),
    axes: Mapping[str, Iterable[int]] = AXES,
    repetitions: int = 7,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Time learners.

    :param cases: names in ``CASES``
    :param axes: arguments of the learner, each with the sizes that it is given
    :param repetitions: turns of each, >= 1
    :param progress: called with a line for each case done
    :return: JSON data, medians with the lowest and the highest turn: for each case the CPU seconds of an iteration, of its
        components and of its floors, and the ratios; for each size what a transition and a gradient step cost; versions,
        commit and machine
    """
    th.set_num_threads(1)
    rows = []
    for name in cases:
        row = _measure(CASES[name](), repetitions)
        rows.append(row)
        progress(_line(row))
    scaling = []
    for axis, sizes in axes.items():
        scaling += _scaling(axis, tuple(sizes), repetitions)
        progress(f"{axis}: timed")
    return {
        "cases": rows,
        "scaling": scaling,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
    }


def _scaling(axis: str, sizes: Iterable[int], repetitions: int) -> list[dict[str, Any]]:
    """What a transition and a gradient step cost as one number grows, the others staying what they are."""
    if axis == "workers":
        models = dict.fromkeys(sizes, _learner())
        turns = _turns_of_workers(sizes, repetitions)
    else:
        models = {size: _learner(**{axis: size}) for size in sizes}
        turns = _turns(models, _SHORT * repetitions)
    rows = []
    first = None
    for size, model in models.items():
        collecting, training = np.array(turns[size]).T
        transitions = model.n_steps * model.n_envs
        step = training / (model.n_epochs * transitions // model.batch_size)
        first = step if first is None else first
        rows.append(
            {
                "axis": axis,
                "size": size,
                "microseconds_per_transition": spread(1e6 * collecting / transitions),
                "microseconds_per_gradient_step": spread(1e6 * step),
                "gradient_step_ratio_to_first": spread(step / first),
                "bytes_per_transition": round(model.rollout_buffer.nbytes / (transitions * model.replay_window), 1),
            }
        )
    return rows


def _turns(models: dict[int, GIPO], repetitions: int) -> dict[int, list[tuple[float, float]]]:
    callbacks = {size: _fill(model) for size, model in models.items()}
    turns: dict[int, list[tuple[float, float]]] = {size: [] for size in models}
    for _ in range(repetitions):
        for size, model in models.items():
            turns[size].append(_collect_and_train(model, callbacks[size]))
    return turns


def _turns_of_workers(sizes: Iterable[int], repetitions: int) -> dict[int, list[tuple[float, float]]]:
    """The same learner in so many processes, each turn at the same moment in all: the mean of their CPU seconds."""
    context = multiprocessing.get_context("spawn")
    turns: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    with ExitStack() as stack:
        pools = {
            size: stack.enter_context(context.Pool(size, _start_worker, (context.Barrier(size),))) for size in turns
        }
        for _ in range(repetitions):
            for size, pool in pools.items():
                collecting, training = np.mean(pool.map(_turn_of_worker, range(size), chunksize=1), axis=0)
                turns[size].append((float(collecting), float(training)))
    return turns


def _start_worker(barrier: Barrier) -> None:
    th.set_num_threads(1)
    model = _learner()
    _worker.update(model=model, callback=_fill(model), barrier=barrier)


def _turn_of_worker(_: int) -> tuple[float, float]:
    _worker["barrier"].wait()
    return _collect_and_train(_worker["model"], _worker["callback"])


def _learner(n_envs: int = 1, replay_window: int = 1, batch_size: int = 64) -> GIPO:
    model = GIPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs),
        n_steps=max(128, batch_size) // n_envs,
        batch_size=batch_size,
        n_epochs=10,
        replay_window=replay_window,
        # Seeing the window again is a cost of its own.
        advantage="stored",
        kl_anchor="behavior",
        seed=0,
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _collect_and_train(model: GIPO, callback: BaseCallback) -> tuple[float, float]:
    start = time.process_time()
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    middle = time.process_time()
    model.train()
    return middle - start, time.process_time() - middle


def _measure(case: Case, repetitions: int) -> dict[str, Any]:
    ours, theirs = case.gipo(), case.ppo()
    for model in (ours, theirs):
        model.set_logger(Logger(folder=None, output_formats=[]))
    _fill(ours)
    with floors.products_of(ours.policy) as products:
        _train(ours, 1)
    _train(theirs, 1)
    turns: dict[str, list[float]] = {key: [] for key in ("gipo", "ppo", "matrices", "simulation")}
    components: list[Counter[str]] = []
    for turn in range(repetitions):
        # Who goes first changes from turn to turn.
        for key in sorted(("gipo", "ppo"), reverse=bool(turn % 2)):
            turns[key].append(_train({"gipo": ours, "ppo": theirs}[key], case.iterations))
        with _components(ours) as seconds:
            _train(ours, case.iterations)
        components.append(seconds)
        turns["matrices"].append(floors.seconds_of_products(products))
        turns["simulation"].append(floors.seconds_of_simulation(theirs.env.envs[0], ours.n_steps) or 0.0)
    return _row(case, turns, components)


def _row(case: Case, turns: dict[str, list[float]], components: list[Counter[str]]) -> dict[str, Any]:
    gipo, ppo, matrices, simulation = (np.array(turns[key]) for key in ("gipo", "ppo", "matrices", "simulation"))
    iteration = gipo / case.iterations
    update = np.array([sum(each[name] for name in _UPDATE) for each in components]) / case.iterations
    return {
        "case": case.name,
        "iteration_seconds": spread(iteration),
        "component_seconds": {
            name: spread(np.array([each[name] for each in components]) / case.iterations) for name in COMPONENTS
        },
        "floor_seconds": {"matrices": spread(matrices), "simulation": spread(simulation)},
        # Without a simulator the floor would be the matrices alone, and the environment's Python would count as waste.
        "ratio_to_floor": spread(iteration / (matrices + simulation)) if simulation.any() else None,
        "update_ratio_to_matrices": spread(update / matrices) if matrices.all() else None,
        "ratio_to_ppo": spread(gipo / ppo),
    }


def _line(row: dict[str, Any]) -> str:
    def text(name: str) -> str:
        return f"{row[name]['median']:.2f} ({row[name]['low']:.2f} to {row[name]['high']:.2f})"

    floor = f", {text('ratio_to_floor')} times its floor" if row["ratio_to_floor"] else ""
    return f"{row['case']}: {text('ratio_to_ppo')} times PPO's CPU time{floor}"


def _fill(model: GIPO) -> BaseCallback:
    """Collect as many rollouts as the window holds, without training on them. Returns the callback to go on with."""
    _, callback = model._setup_learn(model.replay_window * model.n_steps * model.n_envs)
    for _ in range(model.replay_window):
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model.policy_version += 1
    return callback


def _train(model: OnPolicyAlgorithm, iterations: int) -> float:
    """CPU seconds of so many iterations."""
    start = time.process_time()
    model.learn(iterations * model.n_steps * model.n_envs, reset_num_timesteps=False)
    return time.process_time() - start
