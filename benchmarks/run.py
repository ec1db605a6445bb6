"""One run in, one record out. Never compares runs."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_gipo
from benchmarks import envs, provenance
from benchmarks.checkpoints import Checkpointer, Checkpoints, Stopwatch
from benchmarks.recording import Recorder, short, success
from benchmarks.spec import Algorithm, BenchmarkError, OutsideAlgorithm, Run, WarmupCosine, choose
from sb3_gipo import (
    GIPO,
    SAPO,
    CauchyTrust,
    FixedLatency,
    GaussianTrust,
    LaplaceTrust,
    NoClip,
    PPOClip,
    Surrogate,
    UtilizationRecorder,
)
from sb3_gipo.policies import LayerNormActorCriticPolicy
from sb3_gipo.schedules import WarmupCosineSchedule

__all__ = ["execute", "make_model"]

_SURROGATES: dict[str, type[Surrogate]] = {
    "gaussian": GaussianTrust,
    "laplace": LaplaceTrust,
    "cauchy": CauchyTrust,
    "ppo_clip": PPOClip,
    "sapo": SAPO,
    "no_clip": NoClip,
}
_OUTSIDE: dict[str, type[OnPolicyAlgorithm]] = {"PPO": PPO, "TRPO": TRPO}


def execute(
    run: Run, progress: Callable[[int], None] = lambda steps: None, checkpoints: Checkpoints | None = None
) -> dict[str, Any]:
    """
    Train once.

    :param run: what to run
    :param progress: called after each iteration with the environment steps made so far
    :param checkpoints: where to go on from, and where checkpoints go. Outside algorithms, which have no means to save all
        of their state, are never checkpointed. None: no checkpoints
    :return: the record, JSON data: the run's id, configuration and digest; its score and success, of the last training
        episodes, or, where none ended within the budget (``episodes`` is 0 then), of those under way, played out by the
        final policy; the learning curve, one list for each quantity, null where there is none
        (:class:`~benchmarks.recording.Recorder`); the multipliers at each lag; where it came from and what it cost
    :raises BenchmarkError: if the learner refuses its settings, or if no episode ends within the budget, nor within as many
        steps after it
    """
    th.set_num_threads(1)
    stopwatch = Stopwatch()
    try:
        model = make_model(run)
    except (AssertionError, ImportError, NotImplementedError, TypeError, ValueError, gym.error.Error) as error:
        raise BenchmarkError(f"{run.id}: its learner cannot be made: {error}") from error
    recorder = Recorder(_iterations(run), progress, timed=run.staleness.actors is not None)
    callbacks: list[BaseCallback] = [recorder]
    utilization = None
    if isinstance(model, GIPO):
        utilization = UtilizationRecorder()
        callbacks.append(utilization)
        # What actors are in the middle of cannot be kept, and their runs are measured by the clock.
        if checkpoints is not None and run.staleness.actors is None:
            checkpointer = Checkpointer(run, checkpoints, recorder, utilization, stopwatch)
            model = checkpointer.resume(model, lambda: make_model(run))
            callbacks.append(checkpointer)
    try:
        model.learn(
            run.suite.budget - model.num_timesteps,
            callback=callbacks,
            log_interval=None,
            reset_num_timesteps=False,
        )
        episodes = recorder.recording.episodes
        last = episodes[-run.suite.score_episodes :] or _play_out(model, run)
        evaluation = _evaluate(model, run)
    finally:
        model.get_env().close()
    return {
        "run": run.id,
        "digest": run.digest,
        "configuration": run.configuration,
        "score": float(np.mean([episode["r"] for episode in last])),
        "success": success(last, "is_success"),
        "success_last": success(last, "is_success_last"),
        "evaluation": evaluation,
        "episodes": len(episodes),
        "scored_episodes": len(last),
        "seeds": {
            "environment": envs.environment_seed(run.seed),
            "evaluation": envs.evaluation_seed(run.seed),
            "learner": envs.learner_seed(run.seed, run.repeat),
        },
        "curve": recorder.recording.curve,
        "by_lag": _by_lag(utilization, run.staleness.replay_window) if utilization else None,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        **stopwatch.read(),
    }


def make_model(run: Run) -> OnPolicyAlgorithm:
    """
    The learner of a run with its environment, seeded and not yet trained.

    :param run: what to run
    :return: the model: a GIPO, or the outside algorithm's own class
    """
    model = _make_asynchronous(run) if run.staleness.actors else _make_synchronous(run)
    # Only the recorder reads what is logged.
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _make_synchronous(run: Run) -> OnPolicyAlgorithm:
    environment = _make_envs(run, envs.environment_seed, run.suite.environment.n_envs)
    algorithm = run.suite.algorithms[run.algorithm]
    arguments = _arguments(run) | {"env": environment}
    model: OnPolicyAlgorithm
    if isinstance(algorithm, OutsideAlgorithm):
        model = _make_outside(_OUTSIDE[algorithm.outside], arguments)
    else:
        model = GIPO(surrogate=_surrogate(algorithm), **_window(run), **arguments)
    # The model has seeded its environment with the learner's seed; the environment depends on its own alone.
    environment.seed(envs.environment_seed(run.seed))
    return model


def _make_asynchronous(run: Run) -> OnPolicyAlgorithm:
    actors, n_envs = run.staleness.actors, run.suite.environment.n_envs
    assert actors is not None
    return sb3_gipo.AsyncGIPO(
        env=[partial(_make_env_of_actor, run, copy) for copy in range(actors.n_actors * n_envs)],
        envs_per_actor=n_envs,
        # They wait for their environments, and share the processor.
        cpus_per_actor=0,
        surrogate=_surrogate(run.suite.algorithms[run.algorithm]),
        **actors.model_dump(exclude={"step_latency"}),
        **_window(run),
        **_arguments(run),
    )


def _window(run: Run) -> dict[str, Any]:
    return run.staleness.model_dump(include={"replay_window", "min_lag"})


def _make_env(run: Run, seed_of: Callable[[int, int], int], copy: int) -> gym.Env:
    environment = run.suite.environment
    return envs.make_env(run.task, seed_of(run.seed, copy), environment.reward_scale, environment.action_bins)


def _make_env_of_actor(run: Run, copy: int) -> gym.Env:
    seed = envs.environment_seed(run.seed, copy)
    return FixedLatency(
        envs.OwnSeed(_make_env(run, envs.environment_seed, copy), seed), run.staleness.actors.step_latency
    )


def _make_envs(run: Run, seed_of: Callable[[int, int], int], copies: int) -> DummyVecEnv:
    environments = DummyVecEnv([partial(_make_env, run, seed_of, copy) for copy in range(copies)])
    environments.seed(seed_of(run.seed, 0))
    return environments


def _surrogate(algorithm: Algorithm) -> Surrogate:
    numbers = algorithm.model_dump(exclude={"settings", "regimes"})
    return _SURROGATES[numbers.pop("surrogate")](**numbers)


def _arguments(run: Run) -> dict[str, Any]:
    learner = run.learner
    arguments = learner.model_dump() | {"seed": envs.learner_seed(run.seed, run.repeat), "device": "cpu"}
    for name in ("learning_rate", "value_learning_rate"):
        rate = getattr(learner, name)
        if isinstance(rate, WarmupCosine):
            arguments[name] = WarmupCosineSchedule(rate.peak, rate.warmup_iterations, _iterations(run))
    if learner.policy == LayerNormActorCriticPolicy.__name__:
        arguments["policy"] = LayerNormActorCriticPolicy
    policy = arguments["policy_kwargs"]
    if "activation_fn" in policy:
        name = choose("activation_fn", policy["activation_fn"], th.nn.modules.activation.__all__)
        policy["activation_fn"] = getattr(th.nn, name)
    return arguments


def _iterations(run: Run) -> int:
    return run.suite.budget // (run.learner.n_steps * run.suite.environment.n_envs)


def _make_outside(algorithm: type[OnPolicyAlgorithm], arguments: dict[str, Any]) -> OnPolicyAlgorithm:
    known = inspect.signature(algorithm).parameters
    taken = {name: value for name, value in arguments.items() if name in known and value is not None}
    return algorithm(**taken | {"normalize_advantage": bool(taken["normalize_advantage"])})


def _play_out(model: OnPolicyAlgorithm, run: Run) -> list[dict[str, Any]]:
    """
    The episodes under way when training ended, one for each environment: all of them, for the last to end are the longest,
    which says much about their returns.
    """
    environment, observations = model.get_env(), model._last_obs
    episodes: dict[int, dict[str, Any]] = {}
    # Those of asynchronous actors ended with them.
    for _ in range(0 if run.staleness.actors else run.suite.budget // environment.num_envs):
        observations, _, dones, infos = environment.step(model.predict(observations, deterministic=False)[0])
        for copy in np.flatnonzero(dones):
            episodes.setdefault(int(copy), infos[copy]["episode"])
        if len(episodes) == environment.num_envs:
            return list(episodes.values())
    after = "" if run.staleness.actors else ", nor within as many after it"
    raise BenchmarkError(f"{run.id}: no episode ended within the budget of {run.suite.budget} steps{after}")


def _evaluate(model: OnPolicyAlgorithm, run: Run) -> dict[str, Any] | None:
    """Mean return of the deterministic policy on goals that no training episode chose, the same for all algorithms."""
    if run.suite.evaluation_episodes == 0:
        return None
    copies = min(run.suite.environment.n_envs, run.suite.evaluation_episodes)
    environment = _make_envs(run, envs.evaluation_seed, copies)
    episodes: list[dict[str, Any]] = []

    def take_in(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            episodes.append(local["info"]["episode"])

    try:
        evaluate_policy(model, environment, run.suite.evaluation_episodes, callback=take_in)
    finally:
        environment.close()
    return {
        "episodes": len(episodes),
        "return": float(np.mean([episode["r"] for episode in episodes])),
        "success": success(episodes, "is_success"),
        "success_last": success(episodes, "is_success_last"),
    }


def _by_lag(seen: UtilizationRecorder, window: int) -> dict[str, list[Any]]:
    """Multipliers of the whole run in buckets of lags: one for each lag, or at most 40 that grow geometrically."""
    # Actors' rollouts age by the learner's updates, however few there are in the window.
    window = max(window, len(seen.counts))
    first = np.arange(window)
    if window > 40:
        first = np.unique(np.geomspace(1, window + 1, 41).astype(int)[:-1]) - 1

    def per_bucket(of_lag: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.pad(of_lag, (0, window - len(of_lag))), first)

    def mean(of_lag: np.ndarray) -> list[float | None]:
        sums = per_bucket(np.nan_to_num(of_lag) * seen.counts)
        return [short(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

    counts = per_bucket(seen.counts)
    return {
        "first": first.tolist(),
        "last": [*(first[1:] - 1).tolist(), window - 1],
        "count": counts.tolist(),
        "multiplier": mean(seen.mean_multiplier),
        "dead_fraction": mean(seen.dead_fraction),
    }
