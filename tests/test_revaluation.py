import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import RandomEnv, parameters
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_gipo import GIPO, behavior
from sb3_gipo.buffers import map_observation
from sb3_gipo.revaluation import revaluate

DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
SPACES = [
    (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))),
    (spaces.Discrete(5), spaces.Discrete(3)),
    (DICT, spaces.MultiDiscrete([3, 2])),
]


def train(n_iterations=1, observation_space=None, action_space=None, learning_rate=3e-3, callback=None, **options):
    """Rollouts of 16 steps in two environments whose episodes are cut by a time limit after 7."""
    action_space = action_space or spaces.Box(-1, 1, (2,))
    env = make_vec_env(lambda: RandomEnv(action_space, observation_space), n_envs=2, seed=0)
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    common = {
        "n_steps": 16,
        "batch_size": 16,
        "n_epochs": 2,
        "replay_window": 3,
        "advantage": "stored",
        "gamma": 0.9,
        "seed": 0,
        "device": "cpu",
    }
    return GIPO(policy, env, learning_rate=learning_rate, **{**common, **options}).learn(32 * n_iterations, callback)


def assert_same_targets(model, other):
    for name in ("advantages", "returns"):
        ours, theirs = model.rollout_buffer._storage[name], other.rollout_buffer._storage[name]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES, ids=str)
@pytest.mark.parametrize("advantage", ["recomputed", "vtrace"])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_equal_to_stored_while_nothing_has_changed(observation_space, action_space, advantage, bootstrap):
    """With a learning rate of 0 critic and policy stay, so every rollout of the window keeps its first targets."""
    options = {"observation_space": observation_space, "action_space": action_space, "learning_rate": 0.0}
    options |= {"n_iterations": 4, "bootstrap_time_limit": bootstrap}
    assert_same_targets(train(advantage=advantage, **options), train(**options))


@pytest.mark.parametrize(
    "options", [{"advantage": "recomputed"}, {"advantage": "vtrace"}, {"kl_anchor": "behavior"}], ids=str
)
def test_the_newest_rollout_alone_is_never_looked_at_again(options, monkeypatch):
    stored = train(3, replay_window=1, kl_anchor="proximal")
    monkeypatch.delattr("sb3_gipo.gipo.revaluate")
    other = train(3, replay_window=1, **options)
    assert th.equal(parameters(stored), parameters(other))
    assert other.rollout_buffer.nbytes == stored.rollout_buffer.nbytes


def test_traces_cut_below_1_cut_the_newest_rollouts_too():
    options = {"replay_window": 1, "learning_rate": 0.0}
    cut = train(advantage="vtrace", vtrace_c_bar=0.5, **options).rollout_buffer.returns
    assert np.abs(cut - train(**options).rollout_buffer.returns).max() > 1e-3


class PolicyBeforeUpdates(BaseCallback):
    """Keeps the weights that each update starts from."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.weights.append({name: value.clone() for name, value in self.model.policy.state_dict().items()})


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES, ids=str)
@pytest.mark.parametrize("advantage", ["stored", "recomputed", "vtrace"])
@pytest.mark.parametrize("anchor", ["proximal", "behavior"])
def test_whose_action_distributions_the_anchor_remembers(observation_space, action_space, advantage, anchor):
    before = PolicyBeforeUpdates()
    options = {"observation_space": observation_space, "action_space": action_space, "advantage": advantage}
    model = train(5, callback=before, kl_coef=0.1, kl_anchor=anchor, **options)
    buffer = model.rollout_buffer
    for version in (2, 3, 4):
        model.policy.load_state_dict(before.weights[4 if anchor == "proximal" else version])
        slot = list(buffer._versions).index(version)
        observations = map_observation(
            lambda ring, slot=slot: th.as_tensor(ring[slot]).flatten(0, 1), buffer._storage["observations"]
        )
        with th.no_grad():
            expected = behavior.parameters(model.policy.get_distribution(observations))
        found = buffer._storage["anchor_parameters"][slot].reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("advantage", ["stored", "recomputed"])
def test_time_limits_bootstrap_unless_told_otherwise(advantage):
    options = {"advantage": advantage, "learning_rate": 0.0}
    with_future, without = train(**options), train(bootstrap_time_limit=False, **options)
    differ = with_future.rollout_buffer.returns != without.rollout_buffer.returns
    # Steps 6 and 13 end an episode of 7; in their last step the target without a future is the reward alone.
    assert differ[6].all() and differ[13].all() and not differ[14:].any()
    rewards = without.rollout_buffer.rewards
    np.testing.assert_allclose(without.rollout_buffer.returns[6], rewards[6], atol=1e-6)


def test_old_rollouts_are_seen_with_the_current_critic():
    stored, recomputed = train(3), train(3, advantage="recomputed")
    newest = recomputed.rollout_buffer._slot
    oldest = (newest + 1) % 3
    first = train(1).rollout_buffer._storage["returns"][0]
    np.testing.assert_array_equal(stored.rollout_buffer._storage["returns"][oldest], first)
    assert np.abs(recomputed.rollout_buffer._storage["returns"][oldest] - first).max() > 1e-3


def test_vtrace_uses_the_current_policys_ratios():
    options = {"n_iterations": 3, "learning_rate": 3e-2}
    plain = train(advantage="recomputed", **options)
    corrected = train(advantage="vtrace", **options)
    by_dimension = train(advantage="vtrace", ratio_level="dimension", **options)
    returns = [model.rollout_buffer._storage["returns"] for model in (plain, corrected, by_dimension)]
    assert np.abs(returns[0] - returns[1]).max() > 1e-2
    joint = revaluate(by_dimension.policy, by_dimension.rollout_buffer, log_ratio=True, parameters=False).log_ratio
    assert joint.shape == (96,)
    wide = train(advantage="vtrace", vtrace_rho_bar=5.0, vtrace_c_bar=5.0, **options)
    assert np.abs(wide.rollout_buffer._storage["returns"] - returns[1]).max() > 1e-3


def test_the_ends_of_overwritten_rollouts_are_forgotten():
    window = train(8, advantage="recomputed").rollout_buffer.trajectories()
    # Every episode here ends by its time limit, so each end is remembered once.
    assert window.time_limits.shape[1] == len(window.terminal_observations) == int(window.dones.sum())
    assert (window.dones[tuple(window.time_limits)] == 1).all()


@pytest.mark.parametrize("advantage", ["stored", "recomputed", "vtrace"])
@pytest.mark.parametrize("ratio_level", ["joint", "dimension"])
def test_memory_beyond_sb3s_own(advantage, ratio_level):
    model = GIPO(
        "MlpPolicy",
        "Pendulum-v1",
        n_steps=500,
        batch_size=500,
        n_epochs=1,
        replay_window=40,
        advantage=advantage,
        ratio_level=ratio_level,
    ).learn(500 * 41)
    sb3s_own = 3 * 4 + 1 * 4 + 6 * 4  # observation, action, and its six float32 fields
    assert model.rollout_buffer.nbytes / (40 * 500) - sb3s_own < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "retrace"}, 'advantage must be "stored", "recomputed" or "vtrace", got \'retrace\''),
        ({"vtrace_rho_bar": 0.5}, "vtrace_c_bar=1.0, vtrace_rho_bar=0.5"),
        ({"vtrace_c_bar": 0.0}, "vtrace_c_bar=0.0"),
        ({"critic_updates": -1}, "critic_updates must be at least 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GIPO("MlpPolicy", "CartPole-v1", **options)


def test_evaluation_is_in_chunks_of_bounded_size(monkeypatch):
    monkeypatch.setattr("sb3_gipo.revaluation._CHUNK", 7)
    options = {"n_iterations": 3, "observation_space": DICT, "action_space": spaces.Discrete(3), "learning_rate": 0.0}
    assert_same_targets(train(advantage="vtrace", **options), train(**options))
