import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sb3_gipo import GIPO
from sb3_gipo.wrappers import FixedLatency, TokenizeAction


class Recorder(gym.Env):
    """Remembers the action it got."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.action = action
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_published_tokens():
    recorder = Recorder(spaces.Box(-1, 1, (4,)))
    env = TokenizeAction(recorder, bins=256)
    assert env.action_space == spaces.MultiDiscrete([256] * 4)
    for token in range(256):
        env.step(np.full(4, token))
        np.testing.assert_allclose(recorder.action, -1 + 2 * token / 255, rtol=0, atol=1e-7)
        assert recorder.action.dtype == np.float32


def test_each_dimension_has_its_own_bounds():
    recorder = Recorder(spaces.Box(np.array([[0.0], [-2.0]]), np.array([[1.0], [4.0]]), dtype=np.float64))
    env = TokenizeAction(recorder, bins=4)
    assert env.action_space == spaces.MultiDiscrete([4, 4])
    env.step(np.array([1, 2]))
    np.testing.assert_allclose(recorder.action, [[1 / 3], [2.0]])
    assert recorder.action.dtype == np.float64


@settings(deadline=None)
@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.integers(2, 300),
    st.sampled_from([np.float32, np.float64]),
)
@example(-0.6, 0.5, 3, np.float64)  # where low + (high − low) is above high
def test_the_bounds_are_reached_and_never_passed(one, other, bins, dtype):
    box = spaces.Box(min(one, other), max(one, other), (1,), dtype=dtype)
    env = TokenizeAction(Recorder(box), bins=bins)
    values = np.array([env.action([token]) for token in range(bins)])
    assert values[0] == box.low and values[-1] == box.high
    assert all(box.contains(value) for value in values)
    assert (np.diff(values, axis=0) >= 0).all()


def test_gipo_learns_through_it():
    recorder = Recorder(spaces.Box(-2, 2, (3,)))
    GIPO("MlpPolicy", TokenizeAction(recorder, 5), n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(16)
    assert recorder.action.shape == (3,) and np.isin(recorder.action, [-2, -1, 0, 1, 2]).all()


def test_a_wrapped_environment_can_be_made_again_from_its_spec():
    env = TokenizeAction(gym.make("Pendulum-v1"), bins=7)
    assert gym.make(env.spec).action_space == spaces.MultiDiscrete([7])


@pytest.mark.parametrize(
    ("action_space", "bins", "error", "message"),
    [
        (spaces.Discrete(3), 4, TypeError, r"Discrete\(3\)"),
        (spaces.Box(0, 255, (2,), np.uint8), 4, TypeError, "uint8"),
        (spaces.Box(-np.inf, 1, (2,)), 4, ValueError, "finite bounds.*-inf"),
        (spaces.Box(-1, np.inf, (2,)), 4, ValueError, "finite bounds.*inf"),
        (spaces.Box(-1, 1, (2,)), 1, ValueError, "at least 2.*got 1"),
    ],
)
def test_what_cannot_be_cut_is_named(action_space, bins, error, message):
    with pytest.raises(error, match=message):
        TokenizeAction(Recorder(action_space), bins)


def test_fixed_latency_waits_before_every_step_and_changes_nothing_else(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    plain, slow = gym.make("CartPole-v1"), FixedLatency(gym.make("CartPole-v1"), 0.25)
    np.testing.assert_array_equal(plain.reset(seed=3)[0], slow.reset(seed=3)[0])
    for action in (0, 1, 1):
        mine, theirs = slow.step(action), plain.step(action)
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]
    assert waits == [0.25] * 3
    with pytest.raises(ValueError, match=r"seconds must be at least 0, got -0.1"):
        FixedLatency(plain, -0.1)
