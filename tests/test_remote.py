"""
AsyncGIPO on a local Ray cluster, which takes some seconds to start, as each actor does: one for all, and few runs.
"""

import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
from gymnasium import spaces
from helpers import RandomEnv, parameters
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env

from sb3_gipo import GIPO, FixedLatency

ray = pytest.importorskip("ray")
from sb3_gipo import AsyncGIPO  # noqa: E402
from sb3_gipo.remote import crew  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
# Actors that all want to share the test machine.
MANY = {"cpus_per_actor": 0.1}


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Where actors find the environments of tests.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def actors():
    """The processes of actors that this process has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::Actor" in " ".join(child.cmdline()):
                found.append(child)
    return found


def no_actor_left():
    deadline = time.monotonic() + 30
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not actors()


class Numbered(gym.Env):
    """
    Observes which environment this is, in which life, and how many steps it has made; the reward is its number. Every
    seventh step ends an episode at its time limit.
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({"life": spaces.Box(0, np.inf, (2,)), "step": spaces.Box(0, np.inf, (1,))})

    def __init__(self, number):
        self.number, self.life, self.steps = number, random.SystemRandom().random(), 0

    def _observe(self):
        return {
            "life": np.array([self.number, self.life], np.float32),
            "step": np.array([self.steps], np.float32),
        }

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), float(self.number), False, self.steps % 7 == 0, {"life": self.life}


class Breaking(gym.Wrapper):
    def step(self, action):
        raise ValueError("the gripper is stuck")


class Observed(AsyncGIPO):
    """Keeps what each update was given and what it logged, and what entered the buffer."""

    def learn(self, *args, **kwargs):
        self.updates, self.ingested = [], []
        ingest = self.rollout_buffer.ingest

        def spy(rollout):
            self.ingested.append(rollout)
            ingest(rollout)

        self.rollout_buffer.ingest = spy
        try:
            return super().learn(*args, **kwargs)
        finally:
            del self.rollout_buffer.ingest

    def train(self):
        version, versions = self.policy_version, self.rollout_buffer._versions.copy()
        super().train()
        logged = {name: self.logger.name_to_value[f"train/lag_{name}"] for name in ("mean", "p95", "max")}
        self.updates.append((version, versions[versions >= 0], logged, self.last_update.lags.numpy().copy()))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_lock_step_is_gipo_bit_by_bit(cluster, env_id, window):
    options = {**SMALL, "n_epochs": 3, "replay_window": window, "learning_rate": lambda progress: 1e-3 * progress}
    synchronous = GIPO("MlpPolicy", make_vec_env(env_id, 2), **options).learn(32 * 5)
    remote = AsyncGIPO("MlpPolicy", env_id, envs_per_actor=2, lock_step=True, **options).learn(32 * 5)
    assert th.equal(parameters(remote), parameters(synchronous))
    assert remote.num_timesteps == synchronous.num_timesteps and remote.policy_version == synchronous.policy_version
    assert [episode["r"] for episode in remote.ep_info_buffer] == [e["r"] for e in synchronous.ep_info_buffer]
    np.testing.assert_array_equal(remote.rollout_buffer._versions, synchronous.rollout_buffer._versions)
    for name, ring in synchronous.rollout_buffer._storage.items():
        np.testing.assert_array_equal(remote.rollout_buffer._storage[name], ring, err_msg=name)


class Watch(BaseCallback):
    """Notes what SB3 promises callbacks, and how far the learner is ahead of its ratio."""

    def __init__(self):
        super().__init__()
        self.events, self.rewards, self.ahead = [], [], []

    def _on_rollout_start(self):
        self.events.append("start")
        self.ahead.append(self.model._limiter.ahead)

    def _on_step(self):
        self.events.append((self.num_timesteps, self.locals["n_steps"]))
        self.rewards.append(self.locals["rewards"])
        assert len(self.locals["infos"]) == len(self.locals["dones"]) == self.training_env.num_envs
        return True

    def _on_rollout_end(self):
        self.events.append("end")
        self.ahead.append(self.model._limiter.ahead)


@pytest.fixture(scope="module")
def observed(cluster):
    """Two actors with two numbered environments each, and a ratio to keep."""
    makers = [functools.partial(Numbered, number) for number in range(4)]
    # An update draws everything in the window a whole number of times, whether it holds one rollout or two.
    options = {**SMALL, "batch_size": 32, "replay_window": 2, "samples_per_insert": 6.0, **MANY}
    model = Observed("MultiInputPolicy", makers, n_actors=2, envs_per_actor=2, **options)
    watch = Watch()
    return model.learn(32 * 30, callback=watch), watch


def test_each_environment_has_its_own_function(observed):
    _, watch = observed
    pairs = {tuple(reward.tolist()) for reward in watch.rewards}
    assert pairs == {(0.0, 1.0), (2.0, 3.0)}


def test_callbacks_see_every_step_once_and_in_order(observed):
    model, watch = observed
    assert model.num_timesteps == 32 * 30
    numbers = itertools.count(2, 2)
    expected = [["start", *((next(numbers), step) for step in range(16)), "end"] for _ in range(30)]
    assert watch.events == list(itertools.chain(*expected))
    assert len(model.ep_info_buffer) > 0


def test_rollouts_arrive_whole(observed):
    """Steps follow each other, episodes end at their time limits, and the terminal observations are the right ones."""
    model, _ = observed
    for rollout in model.ingested:
        observations, starts = rollout.arrays["observations"], rollout.arrays["episode_starts"]
        steps = observations["step"][..., 0]
        assert (np.diff(steps, axis=1) == 1).all()
        np.testing.assert_array_equal(starts[:, 1:], (steps % 7 == 0)[:, 1:])
        np.testing.assert_array_equal(rollout.end.observations["step"][:, 0], steps[:, -1] + 1)
        ends = {(time, env): seen["step"].item() for time, env, seen in rollout.end.time_limits}
        assert ends == {(t, e): steps[e, t] + 1 for e, t in np.argwhere((steps + 1) % 7 == 0)}


def test_the_logged_lag_is_that_of_the_versions_in_the_buffer(observed):
    model, _ = observed
    assert len(model.updates) > 5
    for version, versions, logged, _ in model.updates:
        lags = th.as_tensor(np.repeat(version - versions, 32), dtype=th.float32)
        assert logged["mean"] == pytest.approx(lags.mean().item())
        assert logged["p95"] == pytest.approx(lags.quantile(0.95).item())
        assert logged["max"] == lags.max()
    assert max(logged["max"] for *_, logged, _ in model.updates) > 0


def test_samples_per_insert_is_met_within_its_tolerance(observed):
    model, watch = observed
    sampled = sum(len(lags) for *_, lags in model.updates)
    assert sampled == model._limiter.sampled
    assert model._limiter.tolerance == 64 + 2 * 6 * 32
    assert np.abs(watch.ahead).max() <= model._limiter.tolerance
    assert abs(sampled / model.num_timesteps - 6.0) <= model._limiter.tolerance / model.num_timesteps


def test_weights_are_published_to_all_and_versions_are_those_they_had(observed):
    model, _ = observed
    versions = [rollout.version for rollout in model.ingested]
    assert versions[0] == 0 and len(set(versions)) > 3 and max(versions) <= model.policy_version


def test_max_lag_drops_what_comes_late_and_what_has_become_old(cluster):
    """A rollout takes many updates' time: without the limit most of the data would be older."""
    slow = functools.partial(FixedLatency, RandomEnv(spaces.Discrete(2)), 0.005)
    options = {**SMALL, "n_epochs": 1, "replay_window": 4, "max_lag": 2}
    model = Observed("MlpPolicy", slow, n_actors=2, **options, **MANY).learn(16 * 12)
    assert model.n_dropped > 0
    assert {int(lag) for *_, lags in model.updates for lag in lags} == {0, 1, 2}
    assert model.num_timesteps == 16 * len(model.ingested)


class Reaper(BaseCallback):
    """
    Kills a random actor after every third rollout, until so many were killed. Stops, at the first step of a rollout, when
    all were replaced and one more has worked.
    """

    def __init__(self, kills):
        super().__init__()
        self.kills, self.killed, self.rollouts, self.lives, self.rng = kills, 0, 0, set(), random.Random(0)

    def _on_rollout_end(self):
        self.rollouts += 1
        alive = actors()
        if self.rollouts % 3 == 0 and self.killed < self.kills and alive:
            self.rng.choice(alive).kill()
            self.killed += 1

    def _on_step(self):
        self.lives.add(self.locals["infos"][0]["life"])
        done = self.model.n_restarts == self.kills and len(self.lives) > 2
        return not done or self.locals["n_steps"] > 0


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_actors_cost_at_most_their_unfinished_rollouts(cluster, kills):
    makers = functools.partial(_slow_numbered, 0.002)
    options = {**SMALL, "replay_window": 4, "samples_per_insert": 2.0, "max_restarts": 20}
    model, reaper = Observed("MultiInputPolicy", makers, n_actors=2, **options, **MANY), Reaper(kills)
    with pytest.warns(RuntimeWarning, match=r"the process of actor \d was lost: (.|\n)*actor is dead"):
        model.learn(16 * 1000 * kills, callback=reaper)
    assert reaper.killed == model.n_restarts == kills
    # The step at which the callback stopped was counted by SB3's rules, and its rollout left out.
    assert model.num_timesteps == 16 * len(model.ingested) + 1
    assert model._limiter.inserted == len(model.ingested) == reaper.rollouts
    seen = [
        (float(life), float(step))
        for rollout in model.ingested
        for life, step in zip(
            rollout.arrays["observations"]["life"][0, :, 1],
            rollout.arrays["observations"]["step"][0, :, 0],
            strict=True,
        )
    ]
    assert len(set(seen)) == len(seen), "a transition came twice"
    assert no_actor_left()


def _slow_numbered(seconds):
    return FixedLatency(Numbered(0), seconds)


def _late(number, seconds):
    time.sleep(seconds)
    return FixedLatency(Numbered(number), 0.005)


def test_an_actor_that_was_long_in_the_making_begins_with_the_newest_weights(cluster):
    """The second actor's environment takes seconds to make, in which the learner has gone on with the first one's data."""
    makers = [functools.partial(_late, 0, 0.0), functools.partial(_late, 1, 3.0)]
    options = {**SMALL, "n_epochs": 1, "replay_window": 2}
    model = Observed("MultiInputPolicy", makers, n_actors=2, **options, **MANY)

    def until_both_have_come(*_):
        return len({rollout.arrays["observations"]["life"][0, 0, 0] for rollout in model.ingested}) < 2

    model.learn(100_000, callback=until_both_have_come)
    assert model.ingested[-1].version > 10


def test_an_environment_that_raises_is_shown_and_stops_the_run_in_the_end(cluster):
    model = AsyncGIPO("MlpPolicy", lambda: Breaking(gym.make("CartPole-v1")), max_restarts=1, **SMALL)
    told = "raised:(.|\n)*in step(.|\n)*raise ValueError(.|\n)*ValueError: the gripper is stuck"
    with (
        pytest.warns(RuntimeWarning, match=f"an environment or the policy of actor 0 {told}"),
        pytest.raises(RuntimeError, match=f"gave up after 1 restarts: .*{told}"),
    ):
        model.learn(64)
    assert model.n_restarts == 1 and model.num_timesteps == 0
    assert no_actor_left()


def test_too_few_cpus_are_named_at_once(cluster):
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", n_actors=10, cpus_per_actor=0.5, replay_window=10, **SMALL)
    with pytest.raises(ValueError, match=r"10 actors with cpus_per_actor=0.5 ask for 5 CPUs, .* has 2: .*RAY_ADDRESS"):
        model.learn(64)


def test_an_actor_must_fit_on_one_machine(cluster, monkeypatch):
    machines = [{"Alive": alive, "Resources": {"CPU": 2.0}} for alive in (True, True, False)]
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0})
    crew._check_room(2, 2.0)
    with pytest.raises(ValueError, match=r"1 actors with cpus_per_actor=3 ask for 3 CPUs, .* has 2 \+ 2: "):
        crew._check_room(1, 3.0)


def test_it_is_said_when_others_have_the_cpus(cluster):
    other = ray.remote(num_cpus=1.5)(Numbered).remote(0)
    ray.get(other.step.remote(0))
    with pytest.warns(RuntimeWarning, match=r"2 actors ask for 1 CPUs, of which the Ray cluster has 0.5 free"):
        crew._check_room(2, 0.5)
    ray.kill(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crew._check_room(2, 0.5)


def test_callbacks_work_as_with_gipo(cluster, tmp_path):
    evaluation = EvalCallback(gym.make("CartPole-v1"), eval_freq=20, n_eval_episodes=1, warn=False, verbose=0)
    checkpoints = CheckpointCallback(16, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    stop = StopTrainingOnMaxEpisodes(3)
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", replay_window=2, **SMALL)
    model.learn(1_000_000, callback=[evaluation, checkpoints, stop])
    assert stop.n_episodes == 3 and model.num_timesteps < 10_000
    assert np.isfinite(evaluation.last_mean_reward)
    assert AsyncGIPO.load(tmp_path / "rl_model_16_steps").num_timesteps == 16
    assert no_actor_left()


def test_a_saved_model_goes_on_with_its_counters(cluster, tmp_path):
    options = {**SMALL, "replay_window": 3, "max_lag": 100, "n_actors": 2}
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", **options, **MANY).learn(64)
    model.n_dropped, model.n_restarts = 4, 5
    model.save(tmp_path / "model")
    model.save_rollout_buffer(tmp_path / "buffer")
    loaded = AsyncGIPO.load(tmp_path / "model", env="CartPole-v1")
    loaded.load_rollout_buffer(tmp_path / "buffer")
    assert th.equal(parameters(loaded), parameters(model))
    counters = ("policy_version", "num_timesteps", "n_dropped", "n_restarts", "n_actors", "_n_started")
    assert [getattr(loaded, name) for name in counters] == [getattr(model, name) for name in counters]
    np.testing.assert_array_equal(loaded.rollout_buffer._versions, model.rollout_buffer._versions)
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96 and loaded.policy_version > model.policy_version
    assert loaded.rollout_buffer.max_lag == 100 and loaded._next_seed() == 4


def test_nothing_but_learning_needs_ray_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "ray", None)
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", **SMALL)
    model.save(tmp_path / "model")
    observation = np.zeros(4, np.float32)
    expected = model.predict(observation, deterministic=True)[0]
    for cls in (AsyncGIPO, GIPO):
        assert cls.load(tmp_path / "model").predict(observation, deterministic=True)[0] == expected
    with pytest.raises(ValueError, match="no environments to learn from: load the model with env"):
        AsyncGIPO.load(tmp_path / "model").learn(16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_actors": 0}, "n_actors must be at least 1, got 0"),
        ({"envs_per_actor": 0}, "envs_per_actor must be at least 1, got 0"),
        ({"sync_every": 0}, "sync_every must be at least 1, got 0"),
        ({"cpus_per_actor": -1}, "cpus_per_actor must be at least 0, got -1"),
        ({"max_restarts": -1}, "max_restarts must be at least 0, got -1"),
        ({"samples_per_insert": 0.0}, "samples_per_insert must be a positive finite number, or None, got 0.0"),
        ({"max_lag": -1}, "max_lag must be at least min_lag=0"),
        ({"max_lag": 2, "sync_every": 4}, r"sync_every must be at most max_lag \+ 1 = 3, got 4"),
        ({"lock_step": True, "n_actors": 2}, "lock_step is .* got 2, 1 and None"),
        ({"lock_step": True, "samples_per_insert": 2.0}, "lock_step is .* got 1, 1 and 2.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AsyncGIPO("MlpPolicy", "CartPole-v1", **SMALL, **options)


def test_as_many_functions_as_environments():
    makers = [functools.partial(Numbered, number) for number in range(3)]
    with pytest.raises(ValueError, match=r"n_actors \* envs_per_actor = 4 of them, got 3"):
        AsyncGIPO("MultiInputPolicy", makers, n_actors=2, envs_per_actor=2, **SMALL)


def test_an_environment_is_not_what_makes_one():
    with pytest.raises(TypeError, match=r"env must be what makes environments.* got <.*CartPole"):
        AsyncGIPO("MlpPolicy", gym.make("CartPole-v1"), **SMALL)


def test_several_environments_at_once_are_not_one():
    with pytest.raises(TypeError, match=r"must make one gymnasium.Env at each call, got <.*DummyVecEnv"):
        AsyncGIPO("MlpPolicy", functools.partial(make_vec_env, "CartPole-v1", 2), **SMALL)


def test_a_window_too_small_for_all_actors_is_pointed_out():
    with pytest.warns(UserWarning, match=r"replay_window=2 .* n_actors=3 .*take replay_window >= n_actors"):
        AsyncGIPO("MlpPolicy", "CartPole-v1", n_actors=3, replay_window=2, **SMALL)


def test_options_given_to_load_are_checked(tmp_path):
    AsyncGIPO("MlpPolicy", "CartPole-v1", max_lag=2, **SMALL).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"sync_every must be at most max_lag \+ 1 = 3, got 5"):
        AsyncGIPO.load(tmp_path / "model", env="CartPole-v1", sync_every=5)


def test_data_that_may_be_stale_is_seen_again_also_with_a_window_of_one():
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", **SMALL)
    assert model.replay_window == 1 and model._revalues_targets and model._moves_anchor
    lock_step = AsyncGIPO("MlpPolicy", "CartPole-v1", lock_step=True, **SMALL)
    assert not lock_step._revalues_targets and not lock_step._moves_anchor


LONG = """
import gymnasium, torch
from sb3_gipo import AsyncGIPO

def told(locals_, globals_):
    if locals_["self"].num_timesteps == 17:
        print("LEARNING", flush=True)
    return True

AsyncGIPO("MlpPolicy", "CartPole-v1", n_actors=2, n_steps=16, batch_size=16).learn(10_000_000, callback=told)
"""


ELSEWHERE = """
import ray
from sb3_gipo import AsyncGIPO

def told(locals_, globals_):
    print(ray.get_runtime_context().gcs_address)
    return True

AsyncGIPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, cpus_per_actor=0.1).learn(16, callback=told)
print(ray.is_initialized())
"""


def test_the_cluster_of_ray_address_is_used_and_goes_on(cluster, monkeypatch):
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)
    run = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [address] * 16 + ["False"]
    assert ray.cluster_resources()["CPU"] == 2


def test_an_interrupt_leaves_no_process_behind():
    """Ray is the run's own here, and ends with it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    run = subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert run.stdout.readline() == "LEARNING\n"
        children = psutil.Process(run.pid).children(recursive=True)
        assert sum("ray::Actor" in " ".join(child.cmdline()) for child in children) == 2
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=300) == -signal.SIGINT
        _, left = psutil.wait_procs(children, timeout=120)
        assert not left
    finally:
        run.kill()
