"""Stores of invented records: learning curves with a known shape, written through the Store as a run writes them."""

import numpy as np

from benchmarks.recording import DIAGNOSTICS
from benchmarks.spec import Suite, plan
from benchmarks.store import Store

ACTORS = {f"actors{n}": {"replay_window": 8, "actors": {"n_actors": n}} for n in (1, 4)}
SURROGATES = {"ppo": {"surrogate": "ppo_clip"}, "sapo": {"surrogate": "sapo"}, "no-clip": {"surrogate": "no_clip"}}


def make_suite(**changes):
    """Two tasks, two regimes, three algorithms, of which the outside one runs in the fresh regime alone."""
    settings = {
        "name": "synthetic",
        "description": "invented records",
        "budget": 20_000,
        "seeds": 4,
        "repeats": 1,
        "score_episodes": 10,
        "tasks": ["reach-v3", "button-press-v3"],
        "learner": {"n_steps": 500},
        "regimes": {"fresh": {"replay_window": 1}, "stale": {"replay_window": 8}},
        "algorithms": {
            "ppo": SURROGATES["ppo"],
            "gipo(1.0,1.0)": {"surrogate": "gaussian"},
            "sb3-ppo": {"outside": "PPO"},
        },
    }
    return Suite.model_validate(settings | changes)


def record_of(run, returns, success=None, utilization=True, cpu_seconds=60.0):
    """
    :param returns: mean return of each iteration, None where no episode ended
    :param utilization: whether the learner tells how it uses its data; outside algorithms don't
    """
    window = run.staleness.replay_window
    length = len(returns)
    known = [value for value in returns if value is not None]
    nothing = [None] * length
    curve = {"steps": [run.suite.rollout * (i + 1) for i in range(length)], "return": list(returns)}
    curve |= {"success": nothing, "success_last": nothing} | {name: nothing for name in DIAGNOSTICS}
    if run.staleness.actors is not None:
        # So many steps a second, each.
        curve["seconds"] = [steps / (100 * run.staleness.actors.n_actors) for steps in curve["steps"]]
    record = {
        "run": run.id,
        "digest": run.digest,
        "configuration": run.configuration,
        "score": float(np.mean(known[-run.suite.score_episodes :])),
        "success": success,
        "curve": curve,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "c0ffee" * 6 + "c0de",
        "machine": {"system": "Linux", "architecture": "x86_64", "cpus": 2},
        "wall_seconds": cpu_seconds,
        "cpu_seconds": cpu_seconds,
    }
    if utilization:
        ramp = np.linspace(0, 0.6 * (1 - 1 / window), length)
        curve |= {"lag_mean": [(window - 1) / 2] * length}
        curve |= {"dead_fraction": ramp.tolist(), "ess": (1 - ramp).tolist(), "log_ratio_abs_p95": (2 * ramp).tolist()}
        lags = list(range(window))
        record["by_lag"] = {
            "first": lags,
            "last": lags,
            "count": [100] * window,
            "multiplier": [0.9**lag for lag in lags],
            "dead_fraction": [0.0] * window,
        }
    return record


def rise(run, final, rate, rng, noise=0.05):
    """A curve that climbs to ``final`` as 1 − exp(−rate · share of the budget), with noise relative to it."""
    shares = np.arange(1, run.suite.budget // run.suite.rollout + 1) * run.suite.rollout / run.suite.budget
    returns = final * (1 - np.exp(-rate * shares)) * rng.normal(1, noise) + rng.normal(0, noise * final, len(shares))
    return [float(f"{value:.6g}") for value in returns]


def realistic(run):
    """The record of a run that might have been: PPO slower on stale data, tasks of different difficulty, paired seeds."""
    place = list(run.suite.algorithms).index(run.algorithm)
    task = run.suite.tasks.index(run.task)
    rng = np.random.default_rng([run.seed, run.repeat, task, place, run.staleness.replay_window])
    goals = np.random.default_rng([run.seed, task]).normal(1, 0.15)
    slow = 0.35 if run.algorithm == "ppo" and run.staleness.replay_window > 1 else 1.0
    final = 600 * (task + 2) * goals * (0.7 + 0.3 * slow) * (1 + 0.04 * (place % 5))
    returns = rise(run, final, (2 + 0.5 * (place % 4)) * slow, rng)
    outside = "outside" in type(run.suite.algorithms[run.algorithm]).model_fields
    return record_of(run, returns, success=float(rng.uniform(0.2, 0.9)), utilization=not outside)


def write_store(root, suite, record=realistic, only=lambda run: True):
    """Write the records of a suite's runs, and return the store's folder."""
    store = Store(root)
    for run in plan(suite):
        if only(run):
            store.write(run, record(run))
    return root
