import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_gipo.targets import gae, vtrace


def given(*strategies):
    """Hypothesis without its clock: torch's first call is slow."""
    return lambda test: settings(deadline=None)(hypothesis_given(*strategies)(test))


@st.composite
def rollouts(draw):
    """float64 arrays (time, env), with ends anywhere, and terminal values."""
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    generator = th.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return th.randn(*shape, generator=generator, dtype=th.float64)

    return {
        "rewards": normal(*shape),
        "values": normal(*shape),
        "last_values": normal(shape[1]),
        "dones": th.rand(*shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.6])),
        "terminal_values": normal(*shape),
        "log_ratio": 2 * normal(*shape),
    }


def without_ratio(rollout):
    return {name: array for name, array in rollout.items() if name != "log_ratio"}


discounts = st.floats(0, 1)


def successors(data, env):
    """By definition: V of what follows each step of one environment."""
    n = len(data["rewards"])
    following = [*data["values"][1:, env], data["last_values"][env]]
    return [data["terminal_values"][t, env] if data["dones"][t, env] else following[t] for t in range(n)]


def sums_by_definition(data, gamma, rho, c):
    """Σ_k γ^k (Π c) ρ_{t+k} δ_{t+k} up to the end of the episode, term by term."""
    sums = th.zeros_like(data["rewards"])
    n, n_envs = sums.shape
    for env, start in itertools.product(range(n_envs), range(n)):
        next_values, weight = successors(data, env), 1.0
        for t in range(start, n):
            delta = data["rewards"][t, env] + gamma * next_values[t] - data["values"][t, env]
            sums[start, env] += weight * rho[t, env] * delta
            if data["dones"][t, env]:
                break
            weight *= gamma * c[t, env]
    return sums


@given(rollouts(), discounts, discounts)
def test_gae_is_the_discounted_sum_of_td_errors(rollout, gamma, gae_lambda):
    advantages, value_targets = gae(**without_ratio(rollout), gamma=gamma, gae_lambda=gae_lambda)
    ones = th.ones_like(rollout["rewards"])
    th.testing.assert_close(advantages, sums_by_definition(rollout, gamma, ones, gae_lambda * ones))
    th.testing.assert_close(value_targets, advantages + rollout["values"])


@given(rollouts(), discounts, discounts, st.sampled_from([0.5, 1.0, 3.0, math.inf]), st.floats(0.1, 1))
def test_vtrace_is_equation_1_of_impala(rollout, gamma, vtrace_lambda, rho_bar, c_share):
    c_bar = c_share * rho_bar
    ratio = rollout["log_ratio"].exp()
    expected = sums_by_definition(rollout, gamma, ratio.clamp(max=rho_bar), vtrace_lambda * ratio.clamp(max=c_bar))
    options = {"gamma": gamma, "vtrace_lambda": vtrace_lambda, "rho_bar": rho_bar, "c_bar": c_bar}
    _, value_targets = vtrace(**rollout, **options)
    th.testing.assert_close(value_targets, rollout["values"] + expected)


@given(rollouts(), discounts, discounts, st.floats(1, 5), st.floats(1, 5))
def test_vtrace_on_fresh_data_is_gae(rollout, gamma, lambda_, rho_bar, c_bar):
    rollout["log_ratio"] = th.zeros_like(rollout["rewards"])
    found = vtrace(**rollout, gamma=gamma, vtrace_lambda=lambda_, rho_bar=max(rho_bar, c_bar), c_bar=c_bar)
    expected = gae(**without_ratio(rollout), gamma=gamma, gae_lambda=lambda_)
    for one, other in zip(found, expected, strict=True):
        assert th.equal(one, other)


@given(rollouts(), discounts)
def test_impalas_own_advantage_is_the_one_with_lambda_1(rollout, gamma):
    advantages, value_targets = vtrace(**rollout, gamma=gamma)
    for env in range(rollout["rewards"].shape[1]):
        following = [*value_targets[1:, env], rollout["last_values"][env]]
        for t, next_target in enumerate(following):
            if rollout["dones"][t, env]:
                next_target = rollout["terminal_values"][t, env]
            impalas = rollout["rewards"][t, env] + gamma * next_target - rollout["values"][t, env]
            th.testing.assert_close(advantages[t, env], impalas)


@pytest.mark.parametrize("rho_bar", [1.0, 1.3, math.inf])
@pytest.mark.parametrize("vtrace_lambda", [0.0, 0.7, 1.0])
def test_vtrace_in_expectation_over_every_trajectory(rho_bar, vtrace_lambda):
    """
    In a small MDP with V the value of π_ρ̄ ∝ min(ρ̄μ, π): the expected value target is V (its fixed point), and with
    ρ̄ = ∞ the expected advantage of every first action is π's advantage, whatever the traces.
    """
    gamma, n_steps = 0.8, 4
    mu = th.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=th.float64)
    pi = th.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=th.float64)
    rewards = th.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=th.float64)
    next_state = th.tensor([[0, 1], [1, 0]])
    truncated = th.minimum(rho_bar * mu, pi)
    truncated /= truncated.sum(dim=1, keepdim=True)
    transitions = th.zeros(2, 2, dtype=th.float64)
    for s, a in itertools.product(range(2), range(2)):
        transitions[s, next_state[s, a]] += truncated[s, a]
    value = th.linalg.solve(th.eye(2) - gamma * transitions, (truncated * rewards).sum(dim=1))

    actions = th.tensor(list(itertools.product(range(2), repeat=n_steps)))  # (trajectory, time)
    for start in range(2):
        states = [th.full((len(actions),), start)]
        for t in range(n_steps):
            states.append(next_state[states[-1], actions[:, t]])
        at = (th.stack(states[:-1]), actions.T)
        advantages, value_targets = vtrace(
            (pi[at] / mu[at]).log(),
            rewards[at],
            value[at[0]],
            value[states[-1]],
            th.zeros(actions.T.shape),
            gamma,
            vtrace_lambda,
            rho_bar,
            c_bar=0.9,
        )
        probability = mu[at].prod(dim=0)
        th.testing.assert_close((probability * value_targets[0]).sum(), value[start])
        for first in range(2) if rho_bar == math.inf else []:
            those = actions[:, 0] == first
            mean = (probability * advantages[0])[those].sum() / probability[those].sum()
            th.testing.assert_close(
                mean, rewards[start, first] + gamma * value[next_state[start, first]] - value[start]
            )


@pytest.mark.parametrize("index", range(6))
def test_golden(golden, index):
    archive = np.load(golden / "gae.npz")
    data = {
        name: th.as_tensor(archive[f"{index}/{name}"])
        for name in ("rewards", "values", "dones", "last_value", "advantages", "returns")
    }
    advantages, value_targets = gae(
        data["rewards"], data["values"], data["last_value"].float(), data["dones"], gamma=0.99, gae_lambda=0.95
    )
    assert advantages.dtype == value_targets.dtype == th.float32
    th.testing.assert_close(advantages, data["advantages"], rtol=1e-4, atol=1e-5)
    th.testing.assert_close(value_targets, data["returns"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gae_is_sb3s_bit_by_bit(seed):
    n_steps, n_envs = 40, 3
    rng = np.random.default_rng(seed)
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(n_steps, box, box, "cpu", gae_lambda=0.95, gamma=0.99, n_envs=n_envs)
    ends = rng.random((n_steps + 1, n_envs)) < 0.1
    zeros = np.zeros((n_envs, 1))
    for t in range(n_steps):
        values = th.as_tensor(rng.normal(size=n_envs))
        buffer.add(zeros, zeros, 3 * rng.normal(size=n_envs), ends[t], values, th.zeros(n_envs))
    last_values = th.as_tensor(rng.normal(size=n_envs), dtype=th.float32)
    buffer.compute_returns_and_advantage(last_values, ends[-1])

    advantages, value_targets = gae(
        th.as_tensor(buffer.rewards), th.as_tensor(buffer.values), last_values, th.as_tensor(ends[1:]), 0.99, 0.95
    )
    np.testing.assert_array_equal(advantages, buffer.advantages)
    np.testing.assert_array_equal(value_targets, buffer.returns)


class OneIsEnough(gym.Env):
    """Reward 1 a step, for ever; a time limit of 4 steps cuts it unless told otherwise."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        end = self.steps == 4
        return np.full(1, 0.1 * self.steps, np.float32), 1.0, end and self.terminates, end and not self.terminates, {}


@pytest.mark.parametrize("terminates", [True, False])
def test_time_limits_bootstrap_as_in_sb3(terminates):
    """SB3 adds γV(terminal observation) to the last reward; here it is the value of what followed."""
    model = A2C("MlpPolicy", OneIsEnough(terminates), n_steps=11, gamma=0.9, gae_lambda=0.8, seed=0, device="cpu")
    model.learn(11)
    buffer = model.rollout_buffer
    # The buffer's values come from before the update of learn(), so what SB3 added must be read off its rewards.
    dones = th.zeros(11, 1, dtype=th.bool)
    dones[3::4] = True
    bootstrap = th.as_tensor(buffer.rewards.reshape(11, 1)) - 1
    assert (bootstrap[dones] != 0).all() != terminates and (bootstrap[~dones] == 0).all()
    advantages = th.as_tensor(buffer.advantages.reshape(11, 1))
    values = th.as_tensor(buffer.values.reshape(11, 1))
    last_value = (advantages[-1] + values[-1] - 1) / 0.9  # the rollout ends inside an episode
    terminal_values = None if terminates else bootstrap / 0.9
    found, _ = gae(th.ones(11, 1), values, last_value, dones, 0.9, 0.8, terminal_values)
    th.testing.assert_close(found, advantages, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_constant_reward_in_closed_form(lambda_):
    """With V = 0, reward r and no end, A_t = r(1 − (γλ)^{T−t})/(1 − γλ); with V = r/(1 − γ), A = 0."""
    gamma, reward, n = 0.9, 2.0, 7
    rewards, dones, zeros = th.full((n,), reward), th.zeros(n, dtype=th.bool), th.zeros(n)
    left = n - th.arange(n)
    expected = reward * (1 - (gamma * lambda_) ** left) / (1 - gamma * lambda_)
    for advantages, _ in (
        gae(rewards, zeros, zeros[0], dones, gamma, lambda_),
        vtrace(zeros, rewards, zeros, zeros[0], dones, gamma, lambda_),
    ):
        th.testing.assert_close(advantages, expected)
    fair = th.full((n,), reward / (1 - gamma))
    for advantages, value_targets in (
        gae(rewards, fair, fair[0], dones, gamma, lambda_),
        vtrace(th.randn(n), rewards, fair, fair[0], dones, gamma, lambda_),
    ):
        th.testing.assert_close(advantages, zeros, rtol=0, atol=1e-4)
        th.testing.assert_close(value_targets, fair)


@given(rollouts(), st.data())
def test_an_end_isolates_what_came_before_from_what_comes_after(rollout, data):
    end = data.draw(st.integers(0, len(rollout["rewards"]) - 1))
    rollout["dones"][end] = True
    after = {name: array.clone() for name, array in rollout.items()}
    for name in ("rewards", "values", "terminal_values", "log_ratio"):
        after[name][end + 1 :] += 100
    after["last_values"] += math.nan if end == len(rollout["rewards"]) - 1 else 100
    for function, choose in ((gae, without_ratio), (vtrace, dict)):
        for one, other in zip(
            function(**choose(rollout), **_lambda(function)),
            function(**choose(after), **_lambda(function)),
            strict=True,
        ):
            assert th.equal(one[: end + 1], other[: end + 1])


def _lambda(function):
    return {"gamma": 0.9, "gae_lambda" if function is gae else "vtrace_lambda": 0.8}


@given(rollouts())
def test_without_terminal_values_every_end_is_terminal(rollout):
    zero = {**rollout, "terminal_values": th.zeros_like(rollout["rewards"])}
    none = {**rollout, "terminal_values": None}
    for function, choose in ((gae, without_ratio), (vtrace, dict)):
        for one, other in zip(
            function(**choose(zero), **_lambda(function)), function(**choose(none), **_lambda(function)), strict=True
        ):
            assert th.equal(one, other)


def test_a_time_limit_is_worth_what_its_terminal_observation_is():
    rewards, values, dones = th.ones(2), th.tensor([5.0, 7.0]), th.tensor([True, True])
    terminal_values = th.tensor([10.0, 0.0])  # cut, then terminated
    advantages, _ = gae(rewards, values, th.tensor(99.0), dones, 0.9, 0.95, terminal_values)
    th.testing.assert_close(advantages, th.tensor([1 + 9 - 5.0, 1 - 7.0]))


@given(rollouts(), rollouts())
def test_a_window_is_its_rollouts_one_by_one(first, second):
    """Axes beyond time are independent, in a plain call and under vmap, and no input is written to."""
    n = min(len(first["rewards"]), len(second["rewards"]))
    window = {
        name: th.stack([(r[name] if name == "last_values" else r[name][:n])[..., 0] for r in (first, second)], dim=-1)
        for name in first
    }
    before = {name: array.clone() for name, array in window.items()}
    for function, choose in ((gae, without_ratio), (vtrace, dict)):
        options = _lambda(function)
        found = function(**choose(window), **options)
        alone = [function(**choose({k: v[..., i] for k, v in window.items()}), **options) for i in range(2)]
        mapped = th.func.vmap(lambda arrays, f=function, o=options: f(**arrays, **o), in_dims=-1, out_dims=-1)(
            choose(window)
        )
        for result, one, other, batched in zip(found, *alone, mapped, strict=True):
            assert th.equal(result, th.stack([one, other], dim=-1))
            assert th.equal(result, batched)
    assert all(th.equal(before[name], window[name]) for name in window)


def test_huge_ratios_are_truncated_before_they_overflow():
    zeros = th.zeros(3)
    for log_ratio in (1e4, -1e4):
        results = vtrace(th.full((3,), log_ratio), zeros + 1, zeros, zeros[0], zeros, 0.9)
        assert all(result.isfinite().all() for result in results)


def test_no_gradient_flows_through_targets():
    parameter = th.ones(3, requires_grad=True)
    zeros = th.zeros(3)
    for result in (
        *gae(zeros, parameter, zeros[0], zeros, 0.9, 0.9),
        *vtrace(parameter, zeros, parameter, zeros[0], zeros, 0.9),
    ):
        assert not result.requires_grad


def test_bad_arguments_are_named():
    zeros = th.zeros(4, 2)
    with pytest.raises(ValueError, match=r"values has shape \(4,\), rewards \(4, 2\)"):
        gae(zeros, zeros[:, 0], zeros[0], zeros, 0.9, 0.9)
    with pytest.raises(ValueError, match=r"last_values has shape \(1, 2\).*\(2,\)"):
        gae(zeros, zeros, zeros[:1], zeros, 0.9, 0.9)
    with pytest.raises(ValueError, match=r"log_ratio has shape \(4, 2, 3\)"):
        vtrace(th.zeros(4, 2, 3), zeros, zeros, zeros[0], zeros, 0.9)
    for rho_bar, c_bar in ((1.0, 2.0), (1.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 < c_bar <= rho_bar"):
            vtrace(zeros, zeros, zeros, zeros[0], zeros, 0.9, rho_bar=rho_bar, c_bar=c_bar)
