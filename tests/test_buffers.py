import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_gipo import DictStaleRolloutBuffer, StaleRolloutBuffer

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)
DICT = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(4)})
SPACES = [
    (VECTOR, spaces.Box(-1, 1, (2,))),
    (VECTOR, spaces.Discrete(3)),
    (spaces.Discrete(5), spaces.MultiDiscrete([3, 2])),
    (spaces.Box(0, 255, (1, 8, 8), np.uint8), spaces.MultiBinary(4)),
    (DICT, spaces.Box(-1, 1, (2,))),
]


def batched_sample(space, n):
    if isinstance(space, spaces.Dict):
        return {key: np.stack([space[key].sample() for _ in range(n)]) for key in space}
    return np.stack([space.sample() for _ in range(n)])


def add_rollout(buffers, rng, observation_space, action_space, n_steps, n_envs):
    """The same random rollout into every buffer."""
    for buffer in buffers:
        buffer.reset()
    for _ in range(n_steps):
        step = (
            batched_sample(observation_space, n_envs),
            batched_sample(action_space, n_envs),
            rng.normal(size=n_envs).astype(np.float32),
            rng.random(n_envs) < 0.3,
            th.as_tensor(rng.normal(size=(n_envs, 1)).astype(np.float32)),
            th.as_tensor(rng.normal(size=n_envs).astype(np.float32)),
        )
        for buffer in buffers:
            buffer.add(*step)
    last_values, dones = th.as_tensor(rng.normal(size=(n_envs, 1)).astype(np.float32)), rng.random(n_envs) < 0.5
    for buffer in buffers:
        buffer.compute_returns_and_advantage(last_values, dones)


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES, ids=str)
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("batch_size", [4, 7, None])
def test_window_of_one_is_sb3s_buffer(observation_space, action_space, n_envs, batch_size):
    is_dict = isinstance(observation_space, spaces.Dict)
    arguments = (6, observation_space, action_space, "cpu", 0.9, 0.95, n_envs)
    ours = (DictStaleRolloutBuffer if is_dict else StaleRolloutBuffer)(*arguments)
    theirs = (DictRolloutBuffer if is_dict else RolloutBuffer)(*arguments)
    rng = np.random.default_rng(0)
    for version in range(3):
        ours.policy_version = version
        add_rollout([ours, theirs], rng, observation_space, action_space, 6, n_envs)
        for name in ("actions", "rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
        for _ in range(2):
            np.random.seed(version)
            passes = [list(ours.get(batch_size))]
            np.random.seed(version)
            passes.append(list(theirs.get(batch_size)))
            for mine, sb3s in zip(*passes, strict=True):
                assert mine._fields[: len(sb3s)] == sb3s._fields
                for name in sb3s._fields:
                    th.testing.assert_close(getattr(mine, name), getattr(sb3s, name), rtol=0, atol=0)
                assert (mine.lags == 0).all()


def identified_rollout(buffer, version, n_steps, n_envs):
    """A rollout whose observations are (version, step, environment)."""
    buffer.policy_version = version
    buffer.reset()
    for step in range(n_steps):
        observation = np.array([[version, step, env] for env in range(n_envs)])
        zeros = th.zeros(n_envs)
        buffer.add(observation, np.zeros((n_envs, 2)), np.zeros(n_envs), np.zeros(n_envs), zeros, zeros)
    buffer.compute_returns_and_advantage(th.zeros(n_envs), np.zeros(n_envs))


def drawn(buffer, batch_size=5):
    """The transitions of one pass, as {(version, step, environment): lag}."""
    samples = [
        (*map(int, observation), int(lag))
        for batch in buffer.get(batch_size)
        for observation, lag in zip(batch.observations, batch.lags, strict=True)
    ]
    transitions = {sample[:3]: sample[3] for sample in samples}
    assert len(transitions) == len(samples), "a transition was drawn twice"
    return transitions


@pytest.mark.parametrize("min_lag", [0, 1, 2])
def test_a_pass_draws_every_trainable_transition_once_with_its_lag(min_lag):
    n_steps, n_envs, window = 4, 2, 3
    buffer = StaleRolloutBuffer(
        n_steps, VECTOR, spaces.Box(-1, 1, (2,)), n_envs=n_envs, replay_window=window, min_lag=min_lag
    )
    for version in range(8):
        identified_rollout(buffer, version, n_steps, n_envs)
        kept = range(max(0, version - window + 1), version - min_lag + 1)
        expected = {(v, s, e): version - v for v in kept for s in range(n_steps) for e in range(n_envs)}
        assert buffer.n_trainable == len(expected)
        if expected:
            assert drawn(buffer) == expected
        else:
            with pytest.raises(AssertionError, match="nothing to train on"):
                next(buffer.get(5))


def test_an_interrupted_rollout_costs_the_oldest_and_is_never_drawn():
    buffer = StaleRolloutBuffer(2, VECTOR, spaces.Box(-1, 1, (2,)), replay_window=3)
    for version in range(3):
        identified_rollout(buffer, version, 2, 1)
    for _ in range(2):  # interrupted twice: the same place is used again
        buffer.policy_version = 3
        buffer.reset()
        buffer.add(np.array([[9, 9, 9]]), np.zeros((1, 2)), np.zeros(1), np.zeros(1), th.zeros(1), th.zeros(1))
        assert {version for version, _, _ in drawn(buffer)} == {1, 2}
    identified_rollout(buffer, 3, 2, 1)
    assert {version for version, _, _ in drawn(buffer)} == {1, 2, 3}


@pytest.mark.parametrize("max_lag", [0, 1])
def test_what_is_older_than_max_lag_is_not_drawn(max_lag):
    buffer = StaleRolloutBuffer(4, VECTOR, spaces.Box(-1, 1, (2,)), n_envs=2, replay_window=5, max_lag=max_lag)
    for version in range(4):
        identified_rollout(buffer, version, 4, 2)
    assert {version: lag for (version, _, _), lag in drawn(buffer).items()} == {
        3 - lag: lag for lag in range(max_lag + 1)
    }
    buffer.policy_version = 3 + max_lag + 1
    assert buffer.n_trainable == 0
    with pytest.raises(AssertionError, match="nothing to train on"):
        next(buffer.get(5))


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES, ids=str)
def test_a_rollout_travels_from_buffer_to_buffer(observation_space, action_space):
    """Pickled, as between processes, with time limits and terminal observations."""
    cls = DictStaleRolloutBuffer if isinstance(observation_space, spaces.Dict) else StaleRolloutBuffer
    options = {"n_envs": 2, "n_anchor_parameters": 3, "n_log_probs": 1, "keep_trajectories": True}
    actor, here, there = (cls(4, observation_space, action_space, replay_window=w, **options) for w in (1, 3, 3))
    rng = np.random.default_rng(0)
    for version in range(5):
        for buffer in (actor, here, there):
            buffer.policy_version = version
            buffer.reset()
        for step in range(4):
            arguments = (
                batched_sample(observation_space, 2),
                batched_sample(action_space, 2),
                *rng.normal(size=(2, 2)),
                *th.as_tensor(rng.normal(size=(2, 2, 1))),
            )
            anchor = th.as_tensor(rng.normal(size=(2, 3)))
            terminal = observation_space.sample()
            for buffer in (actor, here):
                if step == version % 4:
                    buffer.remember_time_limit(1, terminal)
                buffer.add(*arguments, anchor_parameters=anchor)
        last = batched_sample(observation_space, 2)
        for buffer in (actor, here):
            buffer.remember_last(last, np.array([True, False]))
            buffer.compute_returns_and_advantage(th.ones(2), np.array([True, False]))
        rollout = pickle.loads(pickle.dumps(actor.newest()))
        there.ingest(rollout)
        assert there._ends[there._slot].observations is not rollout.end.observations
        np.testing.assert_array_equal(there._versions, here._versions)
        np.testing.assert_equal(there._storage, here._storage)
        for mine, theirs in zip(there.trajectories(), here.trajectories(), strict=True):
            th.testing.assert_close(mine, theirs, rtol=0, atol=0)
        np.testing.assert_array_equal(there.rewards, actor.rewards)


def rollout_of(version):
    buffer = StaleRolloutBuffer(4, VECTOR, spaces.Box(-1, 1, (2,)))
    identified_rollout(buffer, version, 4, 1)
    return buffer.newest()


def test_rollouts_come_in_any_order_and_the_lowest_version_leaves_first():
    buffer = StaleRolloutBuffer(4, VECTOR, spaces.Box(-1, 1, (2,)), replay_window=3)
    buffer.policy_version = 9
    for version, expected in [(5, [5]), (3, [3, 5]), (5, [3, 5, 5]), (4, [4, 5, 5]), (6, [5, 5, 6]), (5, [5, 5, 6])]:
        buffer.ingest(rollout_of(version))
        kept = sorted(buffer._versions[buffer._versions >= 0])
        assert kept == expected
        lags = np.concatenate([batch.lags for batch in buffer.get(5)])
        np.testing.assert_array_equal(np.sort(lags), np.sort(np.repeat(9 - np.array(expected), 4)))
        assert (buffer.observations[..., 0] == version).all(), "the inherited attributes are the newest"


def test_a_rollout_taken_out_is_a_copy():
    buffer = StaleRolloutBuffer(4, VECTOR, spaces.Box(-1, 1, (2,)))
    identified_rollout(buffer, 1, 4, 1)
    rollout = buffer.newest()
    identified_rollout(buffer, 2, 4, 1)
    assert rollout.version == 1 and (rollout.arrays["observations"][..., 0] == 1).all()
    buffer.reset()
    with pytest.raises(AssertionError, match="not complete"):
        buffer.newest()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_envs": 2}, r"observations are \(1, 4, 3\), not \(2, 4, 3\)"),
        ({"n_log_probs": 2}, r"log_probs are \(1, 4\), not \(1, 4, 2\)"),
        ({"keep_trajectories": True}, "without how it ended"),
    ],
)
def test_a_rollout_that_does_not_fit_is_refused(options, message):
    buffer = StaleRolloutBuffer(4, VECTOR, spaces.Box(-1, 1, (2,)), **options)
    with pytest.raises(ValueError, match=message):
        buffer.ingest(rollout_of(0))
    assert buffer.n_trainable == 0


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES, ids=str)
def test_memory_is_allocated_once_and_as_documented(observation_space, action_space):
    cls = DictStaleRolloutBuffer if isinstance(observation_space, spaces.Dict) else StaleRolloutBuffer
    buffer = cls(10, observation_space, action_space, n_envs=2, replay_window=5, n_anchor_parameters=3)
    before, rewards = buffer.nbytes, buffer.rewards
    rng = np.random.default_rng(0)
    for version in range(11):
        buffer.policy_version = version
        add_rollout([buffer], rng, observation_space, action_space, 10, 2)
    # Two whole turns of the ring: the newest rollout is again where the first was.
    assert np.shares_memory(buffer.rewards, rewards)
    observation = {
        spaces.Dict: lambda: 2 * 4 + 8,
        spaces.Discrete: lambda: 8,
        spaces.Box: lambda: int(np.prod(observation_space.shape)) * observation_space.dtype.itemsize,
    }[type(observation_space)]()
    action = int(np.prod(action_space.shape or (1,))) * action_space.dtype.itemsize
    assert buffer.nbytes == before == 5 * 10 * 2 * (observation + action + 24 + 4 * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay_window": 0}, "replay_window must be at least 1 .*got 0"),
        ({"replay_window": -3}, "replay_window must be at least 1 .*got -3"),
        ({"replay_window": 3, "min_lag": 3}, r"min_lag must be in .*\[0, 2\], got 3"),
        ({"replay_window": 3, "min_lag": -1}, r"min_lag must be in .*\[0, 2\], got -1"),
        ({"replay_window": 3, "min_lag": 2, "max_lag": 1}, r"max_lag must be at least min_lag=2, .* got 1"),
        ({"max_lag": -1}, r"max_lag must be at least min_lag=0, .* got -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        StaleRolloutBuffer(4, VECTOR, spaces.Discrete(2), **options)


def test_dict_buffer_wants_dict_observations():
    with pytest.raises(AssertionError, match="Dict obs space"):
        DictStaleRolloutBuffer(4, VECTOR, spaces.Discrete(2))
