import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTIONS, RandomEnv
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import nn

from sb3_gipo import GIPO
from sb3_gipo.critic import value_parameters, value_predictor
from sb3_gipo.optimizers import split_optimizer
from sb3_gipo.policies import LayerNormActorCriticPolicy

BOX = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
SMALL = {"net_arch": {"shared": [8, 7], "pi": [6], "vf": [5, 4]}}
LAYOUTS = {
    "mlp": (ActorCriticPolicy, BOX, {}),
    "mlp_own_features": (ActorCriticPolicy, BOX, {"share_features_extractor": False}),
    "cnn": (ActorCriticCnnPolicy, IMAGE, {}),
    "cnn_own_features": (ActorCriticCnnPolicy, IMAGE, {"share_features_extractor": False, "net_arch": [8]}),
    "layer_norm": (LayerNormActorCriticPolicy, BOX, SMALL),
    "layer_norm_own_features": (LayerNormActorCriticPolicy, BOX, {**SMALL, "share_features_extractor": False}),
    "layer_norm_cnn": (LayerNormActorCriticPolicy, IMAGE, {**SMALL, "features_extractor_class": NatureCNN}),
}


def build(layout, action_space=None, **options):
    policy_class, observation_space, kwargs = LAYOUTS[layout]
    th.manual_seed(0)
    return policy_class(observation_space, action_space or spaces.Discrete(4), lambda _: 1e-2, **kwargs, **options)


def observations(policy, n=5):
    policy.observation_space.seed(1)
    return policy.obs_to_tensor(np.stack([policy.observation_space.sample() for _ in range(n)]))[0]


def names(policy, parameters):
    ids = {id(parameter) for parameter in parameters}
    return {name for name, parameter in policy.named_parameters(remove_duplicate=False) if id(parameter) in ids}


def snapshot(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def all_equal(parameters, before):
    return [th.equal(*pair) for pair in zip(parameters, before, strict=True)]


def test_the_published_network():
    policy = LayerNormActorCriticPolicy(spaces.Box(-1, 1, (39,)), spaces.MultiDiscrete([256] * 4), lambda _: 3e-4)
    found = [
        str(module).split(", bias")[0]
        for module in policy.modules()
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.ReLU)
    ]
    relu, norms = "ReLU()", "LayerNorm(({},), eps=1e-05, elementwise_affine=True"
    assert found == [
        *("Linear(in_features=39, out_features=512", relu, norms.format(512)),
        *("Linear(in_features=512, out_features=512", relu, norms.format(512)),
        *("Linear(in_features=512, out_features=256", relu, norms.format(256)),
        "Linear(in_features=512, out_features=1024",
        "Linear(in_features=256, out_features=1",
    ]
    assert type(policy.optimizer) is th.optim.AdamW and policy.optimizer.defaults["weight_decay"] == 0
    assert policy.optimizer.defaults["fused"]
    weight = policy.action_net.weight
    assert weight.abs().max() <= 512**-0.5 and weight.std() > 0.5 * 512**-0.5, "PyTorch's own initialization is uniform"


def test_the_layers_are_connected_as_published():
    policy = build("layer_norm")
    obs = observations(policy)
    trunk = policy.features_extractor.layers(obs)
    expected = policy.value_net(policy.mlp_extractor.value_net(trunk))
    logits = policy.action_net(policy.mlp_extractor.policy_net(trunk))
    _, values, _ = policy(obs)
    th.testing.assert_close(values, expected)
    th.testing.assert_close(policy.predict_values(obs), expected)
    th.testing.assert_close(policy.get_distribution(obs).distribution.logits, logits.log_softmax(dim=1))
    hidden = policy.mlp_extractor.policy_net(trunk)
    assert trunk.shape == (5, 7) and hidden.shape == (5, 6)
    th.testing.assert_close(hidden.mean(dim=1), th.zeros(5), rtol=0, atol=1e-5)  # the normalization comes last


@pytest.mark.parametrize("name", ACTIONS)
def test_forward_and_evaluate_actions_agree(name):
    action_space, options = ACTIONS[name]
    policy = build("layer_norm", action_space, **options)
    obs = observations(policy)
    if "sde" in name:
        policy.reset_noise(len(obs))
    with th.no_grad():
        actions, values, log_prob = policy(obs)
        assert actions.shape == (5, *action_space.shape) and values.shape == (5, 1)
        again, log_prob_again, entropy = policy.evaluate_actions(obs, actions)
        th.testing.assert_close(again, values)
        th.testing.assert_close(log_prob_again, log_prob)
        assert entropy is None if name == "squashed_sde" else entropy.shape == (5,)
        th.testing.assert_close(policy.get_distribution(obs).log_prob(actions), log_prob)


@pytest.mark.parametrize("algorithm", [GIPO, PPO])
@pytest.mark.parametrize("name", ACTIONS)
def test_training_and_save_load(tmp_path, algorithm, name):
    action_space, options = ACTIONS[name]
    options = dict(options)
    use_sde = options.pop("use_sde", False)
    model = algorithm(
        LayerNormActorCriticPolicy,
        RandomEnv(action_space),
        policy_kwargs={**SMALL, **options},
        use_sde=use_sde,
        n_steps=16,
        batch_size=16,
        n_epochs=2,
        device="cpu",
    )
    before = snapshot(model.policy.parameters())
    model.learn(32)
    assert not any(all_equal(model.policy.parameters(), before)), "every parameter is trained"
    obs = np.stack([BOX.sample() for _ in range(4)])
    expected = model.predict(obs, deterministic=True)[0]
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(algorithm.load(tmp_path / "model").predict(obs, deterministic=True)[0], expected)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("layer_norm")])
def test_a_policy_saved_alone_comes_back(tmp_path, layout):
    policy = build(layout, activation_fn=nn.Tanh, ortho_init=True)
    obs = observations(policy)
    policy.save(tmp_path / "policy")
    loaded = LayerNormActorCriticPolicy.load(tmp_path / "policy")
    assert str(loaded) == str(policy)
    assert th.equal(loaded.predict_values(obs), policy.predict_values(obs))
    assert th.equal(loaded.get_distribution(obs).distribution.logits, policy.get_distribution(obs).distribution.logits)


def test_dict_observations():
    space = spaces.Dict({"position": BOX, "velocity": spaces.Box(-1, 1, (2,))})
    kwargs = {**SMALL, "features_extractor_class": CombinedExtractor}
    model = GIPO(
        LayerNormActorCriticPolicy,
        RandomEnv(spaces.Discrete(2), space),
        policy_kwargs=kwargs,
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        device="cpu",
    ).learn(16)
    assert model.policy.features_extractor.layers[0].in_features == 5


def test_layers_may_be_left_out():
    policy = LayerNormActorCriticPolicy(BOX, spaces.Discrete(2), lambda _: 1e-3, net_arch={"vf": [4]})
    assert policy.action_net.in_features == 3 and policy.mlp_extractor.value_net[0].in_features == 3


@pytest.mark.parametrize("net_arch", [[64], {"pi": [4], "critic": [4]}])
def test_a_net_arch_that_is_not_understood_is_named(net_arch):
    with pytest.raises(ValueError, match="'shared', 'pi' and 'vf', got"):
        LayerNormActorCriticPolicy(BOX, spaces.Discrete(2), lambda _: 1e-3, net_arch=net_arch)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_parameters_are_those_the_policy_does_not_use(layout):
    policy = build(layout)
    obs = observations(policy)
    everything = list(policy.parameters())
    logits = policy.get_distribution(obs).distribution.logits
    by_policy = th.autograd.grad(logits.square().sum(), everything, allow_unused=True)
    by_value = th.autograd.grad(policy.predict_values(obs).sum(), everything, allow_unused=True)
    expected = [p for p, used in zip(everything, by_policy, strict=True) if used is None]
    assert names(policy, value_parameters(policy)) == names(policy, expected) != set()
    assert all(used is not None for p, used in zip(everything, by_value, strict=True) if any(p is q for q in expected))
    if layout.startswith("layer_norm") and "own" not in layout:
        reached = [p for p, used in zip(everything, by_value, strict=True) if used is not None]
        assert names(policy, reached) == names(policy, expected), "the critic's loss moves its own head alone"


def test_an_unknown_layout_is_named():
    policy = build("mlp")
    policy.mlp_extractor = nn.Sequential()
    with pytest.raises(TypeError, match=r"Sequential.*MlpExtractor"):
        value_parameters(policy)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_optimizer_has_two_groups_of_the_same_optimizer(layout):
    options = {"optimizer_class": th.optim.RAdam, "optimizer_kwargs": {"betas": (0.5, 0.6)}}
    policy = build(layout, **options)
    split_optimizer(policy)
    assert type(policy.optimizer) is th.optim.RAdam
    for group in policy.optimizer.param_groups:
        assert group["lr"] == 1e-2 and group["betas"] == (0.5, 0.6)
    of_policy, of_value = (group["params"] for group in policy.optimizer.param_groups)
    assert names(policy, of_value) == names(policy, value_parameters(policy))
    assert names(policy, of_policy) | names(policy, of_value) == names(policy, policy.parameters())
    assert not names(policy, of_policy) & names(policy, of_value)


def test_an_optimizer_that_has_made_steps_is_not_split():
    policy = build("mlp")
    policy.predict_values(observations(policy)).sum().backward()
    policy.optimizer.step()
    with pytest.raises(AssertionError, match="lose its state"):
        split_optimizer(policy)


def loss_of_both(policy, obs):
    values, log_prob, _ = policy.evaluate_actions(obs, th.zeros(len(obs)))
    return values.square().mean() - log_prob.mean()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_only_steps(layout):
    """A step of both halves, then value-only steps: the policy stands still in spite of its optimizer's momentum."""
    policy = build(layout)
    split_optimizer(policy)
    obs = observations(policy)
    of_policy, of_value = (group["params"] for group in policy.optimizer.param_groups)
    loss_of_both(policy, obs).backward()
    policy.optimizer.step()

    predict = value_predictor(policy, obs)
    before_policy, before_value = snapshot(of_policy), snapshot(of_value)
    for _ in range(3):
        values = predict()
        th.testing.assert_close(values, policy.predict_values(obs))
        policy.optimizer.zero_grad()
        values.square().mean().backward()
        policy.optimizer.step()
    assert all(all_equal(of_policy, before_policy)) and not any(all_equal(of_value, before_value))


@pytest.mark.parametrize("layout", ["mlp", "cnn", "layer_norm", "layer_norm_cnn"])
def test_shared_features_are_computed_once(layout):
    policy = build(layout)
    calls = []
    policy.features_extractor.register_forward_hook(lambda *_: calls.append(1))
    predict = value_predictor(policy, observations(policy))
    predict()
    predict()
    assert len(calls) == 1


class TwoLearningRates(PPO):
    """What an algorithm does with the pieces."""

    def _setup_model(self):
        super()._setup_model()
        split_optimizer(self.policy)

    def _update_learning_rate(self, optimizers):
        super()._update_learning_rate(optimizers)
        self.policy.optimizer.param_groups[1]["lr"] = 0.0


def test_each_group_has_its_own_learning_rate_and_its_state_survives(tmp_path):
    model = TwoLearningRates("MlpPolicy", RandomEnv(spaces.Discrete(2)), n_steps=16, batch_size=16, device="cpu")
    of_policy, of_value = (group["params"] for group in model.policy.optimizer.param_groups)
    before_policy, before_value = snapshot(of_policy), snapshot(of_value)
    model.learn(32)
    assert not any(all_equal(of_policy, before_policy)) and all(all_equal(of_value, before_value))
    model.save(tmp_path / "model")
    loaded = TwoLearningRates.load(tmp_path / "model")
    saved, found = model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert saved["param_groups"] == found["param_groups"] and saved["param_groups"][1]["lr"] == 0
    for index, state in saved["state"].items():
        assert all(th.equal(state[key], found["state"][index][key]) for key in state)
    assert len(found["state"]) == len(list(model.policy.parameters()))


@pytest.mark.parametrize(
    ("policy_kwargs", "fused"),
    [
        ({}, True),
        ({"optimizer_class": th.optim.AdamW}, True),
        ({"optimizer_kwargs": {"fused": False}}, False),
        ({"optimizer_kwargs": {"foreach": True}}, None),
        ({"optimizer_class": th.optim.RMSprop}, None),
    ],
)
def test_adam_is_fused_unless_the_user_chose(policy_kwargs, fused):
    model = GIPO("MlpPolicy", "Pendulum-v1", n_steps=64, policy_kwargs=policy_kwargs, value_learning_rate=1e-3)
    assert [group.get("fused") for group in model.policy.optimizer.param_groups] == [fused] * 2
    model.learn(64)


def test_a_fused_step_is_adams_step():
    """Two trainings from the same start and on the same rollout: 16 steps, which differ by rounding alone."""

    def train(**policy_kwargs):
        model = GIPO("MlpPolicy", "Pendulum-v1", n_steps=256, n_epochs=4, seed=0, policy_kwargs=policy_kwargs)
        model.learn(256)
        return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])

    th.testing.assert_close(train(), train(optimizer_kwargs={"fused": False, "eps": 1e-5}), rtol=0, atol=1e-7)
