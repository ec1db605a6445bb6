"""Two learning rates and value-only steps, through learn()."""

import gymnasium as gym
import pytest
import torch as th
from gymnasium import spaces
from helpers import RandomEnv, parameters
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo import GIPO, LayerNormActorCriticPolicy, TokenizeAction, WarmupCosineSchedule
from sb3_gipo.critic import value_parameters

OPTIONS = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", "max_grad_norm": 1e9}


def train(policy="MlpPolicy", n_iterations=1, **options):
    return GIPO(policy, "Pendulum-v1", **{**OPTIONS, **options}).learn(32 * n_iterations)


def halves(model):
    value = {id(parameter) for parameter in value_parameters(model.policy)}
    of_value = [parameter for parameter in model.policy.parameters() if id(parameter) in value]
    of_policy = [parameter for parameter in model.policy.parameters() if id(parameter) not in value]
    return th.nn.utils.parameters_to_vector(of_policy), th.nn.utils.parameters_to_vector(of_value)


@pytest.mark.parametrize("policy", ["MlpPolicy", LayerNormActorCriticPolicy])
def test_critic_updates_move_the_critic_alone(policy):
    plain, more = train(policy), train(policy, critic_updates=3)
    (policy_before, value_before), (policy_after, value_after) = halves(plain), halves(more)
    assert th.equal(policy_before, policy_after)
    assert not th.allclose(value_before, value_after)
    value = {id(parameter) for parameter in value_parameters(more.policy)}
    for parameter, state in more.policy.optimizer.state.items():
        assert state["step"] == (4 * (1 + 3) if id(parameter) in value else 4)


def test_value_only_steps_need_a_critic_that_is_known():
    class Opaque(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            super()._build_mlp_extractor()
            self.mlp_extractor = AnyExtractor(self.mlp_extractor)

    class AnyExtractor(th.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.latent_dim_pi, self.latent_dim_vf = inner, inner.latent_dim_pi, inner.latent_dim_vf
            self.forward, self.forward_actor, self.forward_critic = (
                inner.forward,
                inner.forward_actor,
                inner.forward_critic,
            )

    assert train(Opaque).num_timesteps == 32
    with pytest.raises(TypeError, match=r"AnyExtractor.*MlpExtractor"):
        train(Opaque, critic_updates=1)


def test_more_critic_steps_fit_the_targets_better():
    def error(model):
        return model.logger.name_to_value["train/value_loss"]

    options = {"value_learning_rate": 1e-2}  # the same rollout, the same policy steps
    assert error(train(critic_updates=20, **options)) < 0.9 * error(train(**options))


def test_value_learning_rate():
    reference = train(learning_rate=1e-3, n_iterations=3)
    same = train(learning_rate=1e-3, value_learning_rate=1e-3, n_iterations=3)
    th.testing.assert_close(parameters(same), parameters(reference), rtol=0, atol=1e-6)
    frozen = train(learning_rate=1e-3, value_learning_rate=0.0, critic_updates=2)
    untrained = GIPO("MlpPolicy", "Pendulum-v1", **OPTIONS)
    assert th.equal(halves(frozen)[1], halves(untrained)[1])
    assert not th.equal(halves(frozen)[0], halves(untrained)[0])


def test_value_learning_rate_may_be_a_schedule_and_is_logged():
    model = train(value_learning_rate=lambda progress: 1e-2 * progress, learning_rate=1e-3, n_iterations=1)
    assert model.logger.name_to_value["train/value_learning_rate"] == 0.0
    assert model.logger.name_to_value["train/learning_rate"] == 1e-3
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == [1e-3, 0.0]


def test_the_published_learner_trains(tmp_path):
    """DESIGN's recipe in small: tokens, layer-normed networks, ratios by dimension, and nine value-only steps."""
    schedule = WarmupCosineSchedule(3e-4, warmup_iterations=1, n_iterations=4)
    env = TokenizeAction(gym.make("Pendulum-v1"), bins=16)
    model = GIPO(
        LayerNormActorCriticPolicy,
        env,
        n_steps=200,
        batch_size=100,
        n_epochs=1,
        learning_rate=schedule,
        value_learning_rate=WarmupCosineSchedule(3e-3, warmup_iterations=1, n_iterations=4),
        critic_updates=9,
        ratio_level="dimension",
        replay_window=3,
        kl_coef=0.1,
        bootstrap_time_limit=False,
        max_grad_norm=1.0,
        seed=0,
    )
    model.learn(800)
    assert {float(state["step"]) for state in model.policy.optimizer.state.values()} == {8.0, 80.0}
    model.save(tmp_path / "model")
    loaded = GIPO.load(tmp_path / "model", env=env)
    assert th.equal(parameters(loaded), parameters(model))
    assert loaded.policy.optimizer.state_dict()["state"].keys() == model.policy.optimizer.state_dict()["state"].keys()
    loaded.learn(200, reset_num_timesteps=False)


def test_dict_observations_have_value_only_steps():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    env = RandomEnv(spaces.Discrete(2), space)
    model = GIPO("MultiInputPolicy", env, critic_updates=2, value_learning_rate=1e-3, **OPTIONS).learn(32)
    assert parameters(model).isfinite().all()
