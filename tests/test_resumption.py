"""Training N, saving, and training N more in a new process equals training 2N, bit by bit."""

import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_gipo import GIPO

OPTIONS = {
    "n_steps": 32,
    "batch_size": 16,
    "n_epochs": 2,
    "replay_window": 3,
    "kl_coef": 0.1,
    "seed": 5,
    "device": "cpu",
}

CONTINUE = """
import sys, cloudpickle, torch
from sb3_gipo import GIPO
torch.set_num_threads(1)
folder = sys.argv[1]
with open(f"{folder}/env.pkl", "rb") as file:
    env = cloudpickle.load(file)
model = GIPO.load(f"{folder}/model", env=env, device="cpu", force_reset=False)
model.load_rollout_buffer(f"{folder}/buffer")
model.learn(5 * 64, reset_num_timesteps=False)
model.save(f"{folder}/resumed")
model.save_rollout_buffer(f"{folder}/resumed_buffer")
"""


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "special",
    [
        {},
        {"ratio_level": "dimension"},
        {"advantage": "recomputed", "value_learning_rate": 1e-3, "critic_updates": 2},
    ],
    ids=["joint", "dimension", "recomputed, two learning rates"],
)
def test_resumption_is_exact(tmp_path, env_id, special):
    options = {**OPTIONS, **special}
    whole = GIPO("MlpPolicy", make_vec_env(env_id, 2, seed=1), **options).learn(10 * 64)

    env = make_vec_env(env_id, 2, seed=1)
    half = GIPO("MlpPolicy", env, **options).learn(5 * 64)
    half.save(tmp_path / "model")
    half.save_rollout_buffer(tmp_path / "buffer")
    (tmp_path / "env.pkl").write_bytes(cloudpickle.dumps(env))
    subprocess.run([sys.executable, "-c", CONTINUE, str(tmp_path)], check=True)

    resumed = GIPO.load(tmp_path / "resumed", env=make_vec_env(env_id, 2, seed=1))
    resumed.load_rollout_buffer(tmp_path / "resumed_buffer")
    assert resumed.policy_version == whole.policy_version == 10
    assert resumed.num_timesteps == whole.num_timesteps
    for name, parameter in whole.policy.state_dict().items():
        assert th.equal(resumed.policy.state_dict()[name], parameter), name
    np.testing.assert_array_equal(resumed.rollout_buffer._versions, whole.rollout_buffer._versions)
    for name, ring in whole.rollout_buffer._storage.items():
        np.testing.assert_array_equal(resumed.rollout_buffer._storage[name], ring, err_msg=name)


def test_a_loaded_buffer_is_still_one_ring(tmp_path):
    model = GIPO("MlpPolicy", "CartPole-v1", **OPTIONS).learn(32)
    model.save_rollout_buffer(tmp_path / "buffer")
    model.load_rollout_buffer(tmp_path / "buffer")
    buffer = model.rollout_buffer
    assert np.shares_memory(buffer.rewards, buffer._storage["rewards"])
    np.testing.assert_array_equal(buffer.rewards, np.ones((32, 1)))


def test_a_saved_buffer_is_not_larger_than_its_ring(tmp_path):
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=2048).learn(2048)
    model.save_rollout_buffer(tmp_path / "buffer.pkl")
    assert (tmp_path / "buffer.pkl").stat().st_size < 1.2 * model.rollout_buffer.nbytes


@pytest.mark.parametrize(
    "other",
    [{"replay_window": 4}, {"n_steps": 64}, {"kl_coef": 0.0}, {"ratio_level": "dimension"}, {"min_lag": 1}],
    ids=str,
)
def test_a_buffer_that_does_not_fit_is_refused_with_both_shapes(tmp_path, other):
    model = GIPO("MlpPolicy", "Pendulum-v1", **OPTIONS)
    model.save_rollout_buffer(tmp_path / "buffer")
    different = GIPO("MlpPolicy", "Pendulum-v1", **{**OPTIONS, **other})
    with pytest.raises(ValueError, match="does not fit this model") as error:
        different.load_rollout_buffer(tmp_path / "buffer")
    assert str(model.rollout_buffer.layout) in str(error.value)
    assert str(different.rollout_buffer.layout) in str(error.value)


def test_a_loaded_buffer_discounts_as_its_model_does(tmp_path):
    GIPO("MlpPolicy", "Pendulum-v1", **OPTIONS).save_rollout_buffer(tmp_path / "buffer")
    other = GIPO("MlpPolicy", "Pendulum-v1", **{**OPTIONS, "gamma": 0.5, "gae_lambda": 0.25})
    other.load_rollout_buffer(tmp_path / "buffer")
    assert (other.rollout_buffer.gamma, other.rollout_buffer.gae_lambda) == (0.5, 0.25)


def test_another_file_is_no_buffer(tmp_path):
    (tmp_path / "other.pkl").write_bytes(cloudpickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"was not made by save_rollout_buffer"):
        GIPO("MlpPolicy", "CartPole-v1", **OPTIONS).load_rollout_buffer(tmp_path / "other")
