import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTIONS
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo import behavior

OBSERVATIONS = spaces.Box(-1, 1, (3,))


def two_policies(name):
    space, options = ACTIONS[name]
    policies = []
    for seed in (0, 1):
        th.manual_seed(seed)
        policy = ActorCriticPolicy(OBSERVATIONS, space, lambda _: 1e-3, ortho_init=False, **options)
        # Far enough apart, and lopsided enough, for a sampled KL to tell KL(μ‖π) from KL(π‖μ).
        policy.action_net.weight.data *= 5
        policy.action_net.bias.data[0] += 2 * seed
        if hasattr(policy, "log_std"):
            policy.log_std.data += 0.3 * seed
        policies.append(policy)
    return space, *policies


@pytest.mark.parametrize("name", ACTIONS)
def test_kl_equals_its_sampled_estimate(name):
    space, mu, pi = two_policies(name)
    states = th.rand(3, 3) * 2 - 1
    th.manual_seed(2)
    with th.no_grad():
        remembered = behavior.parameters(mu.get_distribution(states))
        exact = behavior.kl_divergence(remembered, pi.get_distribution(states)).sum(dim=1)
        n = 20_000
        many = states.repeat_interleave(n, dim=0)
        acting = mu.get_distribution(many)
        # gSDE's own samples share one noise matrix; its density is that of the marginal, drawn from here.
        actions = acting.distribution.sample() if "sde" in name else acting.sample()
        if name == "squashed_sde":
            actions = th.tanh(actions)
        log_ratio = (acting.log_prob(actions) - pi.get_distribution(many).log_prob(actions)).reshape(3, n)
    assert remembered.shape == (3, behavior.n_parameters(space))
    standard_error = log_ratio.std(dim=1) / np.sqrt(n)
    assert ((log_ratio.mean(dim=1) - exact).abs() < 5 * standard_error).all()
    assert (exact > 20 * standard_error).all(), "the policies are too close for this test to fail"


@pytest.mark.parametrize("name", ACTIONS)
def test_kl_of_a_policy_with_itself_is_a_minimum_at_zero(name):
    _, mu, _ = two_policies(name)
    states = th.rand(5, 3)
    with th.no_grad():
        remembered = behavior.parameters(mu.get_distribution(states))
    kl = behavior.kl_divergence(remembered, mu.get_distribution(states))
    th.testing.assert_close(kl, th.zeros_like(kl), rtol=0, atol=1e-6)
    gradients = th.autograd.grad(kl.sum(), [p for p in mu.parameters() if p.requires_grad], allow_unused=True)
    assert max(g.abs().max().item() for g in gradients if g is not None) < 1e-5


@pytest.mark.parametrize("name", ACTIONS)
def test_dimensions_add_up_to_sb3s_log_probability(name):
    space, mu, pi = two_policies(name)
    states = th.rand(50, 3)
    with th.no_grad():
        actions = mu(states)[0]
        distribution = pi.get_distribution(states)
        by_dimension = behavior.log_prob(distribution, actions)
        assert by_dimension.shape == (50, behavior.n_dimensions(space))
        th.testing.assert_close(by_dimension.sum(dim=1), distribution.log_prob(actions))


def test_unknown_spaces_and_distributions_are_named():
    with pytest.raises(TypeError, match="Text"):
        behavior.n_parameters(spaces.Text(3))
    with pytest.raises(TypeError, match="object is not one of SB3's action distributions"):
        behavior.parameters(object())
    with pytest.raises(TypeError, match="kl_coef=0"):
        behavior.kl_divergence(th.zeros(1, 2), object())
    with pytest.raises(TypeError, match='ratio_level="joint"'):
        behavior.log_prob(object(), th.zeros(1, 2))


def test_arguments_are_checked_again_outside_unvalidated():
    def invalid():
        return th.distributions.Normal(0.0, -1.0)

    with behavior.unvalidated():
        invalid()
    with pytest.raises(ValueError, match="scale"):
        invalid()
    with pytest.raises(RuntimeError), behavior.unvalidated():
        raise RuntimeError
    with pytest.raises(ValueError, match="scale"):
        invalid()


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("values", [[7, 7, 7], [256] * 4])
def test_stacked_categoricals_are_sb3s(batch, values):
    space = spaces.MultiDiscrete(values)
    plain, stacked = (ActorCriticPolicy(spaces.Box(-1, 1, (3,)), space, lambda _: 0.0) for _ in range(2))
    stacked.load_state_dict(plain.state_dict())
    behavior.stack_categoricals(stacked)
    assert type(stacked.action_dist) is behavior.StackedCategoricalDistribution
    obs = th.randn(batch, 3)
    mu = th.log_softmax(0.3 * th.randn(batch, *values[:1], len(values)), dim=1).transpose(1, 2).flatten(1)

    def everything(policy):
        th.manual_seed(0)
        actions, values, log_prob = policy(obs)
        distribution = policy.get_distribution(obs)
        return [
            actions,
            policy(obs, deterministic=True)[0],
            values,
            log_prob,
            *policy.evaluate_actions(obs, actions)[1:],
            behavior.log_prob(distribution, actions),
            behavior.parameters(distribution),
            behavior.kl_divergence(mu, distribution),
        ]

    for ours, theirs in zip(everything(stacked), everything(plain), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_kl_to_a_policy_that_all_but_excludes_an_action_is_finite():
    excluding = behavior.StackedCategoricalDistribution([2, 2])
    logits = th.tensor([[0.0, -200.0, 0.0, 0.0]], requires_grad=True)
    kl = behavior.kl_divergence(th.full((1, 4), 0.5).log(), excluding.proba_distribution(logits))
    th.testing.assert_close(kl, th.tensor([[100 - np.log(2), 0.0]], dtype=th.float32))
    # The derivative of KL(μ‖π) by a logit is π − μ.
    th.testing.assert_close(th.autograd.grad(kl.sum(), logits)[0], th.tensor([[0.5, -0.5, 0.0, 0.0]]))


def test_unequal_dimensions_are_not_stacked():
    policy = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([3, 2]), lambda _: 0.0)
    behavior.stack_categoricals(policy)
    assert type(policy.action_dist) is MultiCategoricalDistribution
