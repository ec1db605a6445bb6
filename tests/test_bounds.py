"""The theory's numbers against enumerated MDPs and simulation."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mdp import FiniteMDP
from sb3_gipo import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, PPOClip
from sb3_gipo.bounds import (
    hoeffding_radius,
    lower_bound_radius,
    multiplier_bound,
    multiplier_peak,
    performance_lower_bound,
    samples_for_radius,
    sigma_for_radius,
)

WIDTHS = st.floats(0.05, 4.0)


def random_mdp(rng, states, actions, gamma):
    """Dense or sparse transitions, rewards of any sign, and a policy that may be close to deterministic."""
    transitions = rng.dirichlet(np.full(states, rng.choice([0.1, 1.0])), size=(states, actions))
    rewards = rng.normal(size=(states, actions)) * rng.choice([0.1, 1.0, 10.0])
    mdp = FiniteMDP(transitions, rewards, gamma, rng.dirichlet(np.ones(states)))
    return mdp, softmax(rng.normal(size=(states, actions)) * rng.choice([0.1, 1.0, 3.0]))


def softmax(logits):
    unnormalised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return unnormalised / unnormalised.sum(axis=1, keepdims=True)


def enumerated_bound(mdp, policy, behavior, surrogate, exact_epsilon=False):
    """The bound from all pairs (s, a) that the behavior takes; x = −inf where the policy never acts."""
    advantages = mdp.advantages(behavior)
    pairs = behavior > 0
    with np.errstate(divide="ignore"):
        log_ratios = th.tensor(np.log(policy[pairs]) - np.log(behavior[pairs]))
    multipliers = surrogate.multiplier(log_ratios, th.tensor(advantages[pairs]))
    return performance_lower_bound(
        advantages[pairs].tolist(),
        log_ratios.tolist(),
        multipliers.tolist(),
        mdp.gamma,
        advantage_bound=np.abs(advantages).max(),
        expected_advantage_bound=np.abs((policy * advantages).sum(axis=1)).max() if exact_epsilon else None,
        probabilities=(mdp.visitation(behavior)[:, None] * behavior)[pairs].tolist(),
    )


@settings(max_examples=1000, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    states=st.integers(1, 6),
    actions=st.integers(2, 5),
    gamma=st.floats(0, 0.99),
    step=st.sampled_from([0.001, 0.1, 1.0, 4.0]),
    support=st.sampled_from(["full", "policy", "behavior"]),
    sigma=WIDTHS,
    ratio=st.floats(0.2, 2.0),
    clip_range=st.floats(0.01, 1.5),
)
def test_improvement_is_never_below_the_lower_bound(
    seed, states, actions, gamma, step, support, sigma, ratio, clip_range
):
    rng = np.random.default_rng(seed)
    mdp, behavior = random_mdp(rng, states, actions, gamma)
    if support == "behavior":  # the behavior never takes action 0, the policy does
        behavior = behavior * (np.arange(actions) > 0)
        behavior /= behavior.sum(axis=1, keepdims=True)
    # Along the advantages (improving), against them (worsening) or anywhere.
    direction = (
        rng.choice([1, -1]) * mdp.advantages(behavior) if rng.random() < 0.5 else rng.normal(size=behavior.shape)
    )
    policy = softmax(np.log(np.maximum(behavior, 1e-3)) + step * direction / np.abs(direction).max())
    if support == "policy":
        policy = np.eye(actions)[policy.argmax(axis=1)]
    improvement = mdp.performance(policy) - mdp.performance(behavior)
    scale = np.abs(mdp.rewards).max() / (1 - gamma) ** 2
    for surrogate in (GaussianTrust(sigma, ratio), PPOClip(clip_range), SAPO(sigma, ratio), CauchyTrust(sigma)):
        for exact_epsilon in (False, True):
            bound = enumerated_bound(mdp, policy, behavior, surrogate, exact_epsilon)
            assert min(bound.truncation, bound.policy_shift) >= -1e-12 * scale
            assert improvement >= bound.total - 1e-9 * scale, (surrogate, bound)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(0, 0.99), sigma=WIDTHS, clip_range=st.floats(0.01, 1.5))
def test_lower_bound_is_tight_at_equal_policies(seed, gamma, sigma, clip_range):
    mdp, behavior = random_mdp(np.random.default_rng(seed), 4, 3, gamma)
    scale = np.abs(mdp.rewards).max() / (1 - gamma) ** 2
    for surrogate in (GaussianTrust(sigma), PPOClip(clip_range), SAPO()):
        bound = enumerated_bound(mdp, behavior, behavior, surrogate)
        assert bound == pytest.approx((0, 0, 0), abs=1e-12 * scale)


def test_lower_bound_can_promise_improvement():
    """Not vacuous: for a small enough exact gradient step the bound is positive, for the weight and for the clip."""
    mdp, behavior = random_mdp(np.random.default_rng(0), 4, 3, gamma=0.5)
    policy = softmax(np.log(behavior) + 0.01 * mdp.policy_gradient(behavior))
    for surrogate in (GaussianTrust(0.5), PPOClip(0.2)):
        improvement = mdp.performance(policy) - mdp.performance(behavior)
        assert 0 < enumerated_bound(mdp, policy, behavior, surrogate, exact_epsilon=True).total <= improvement


@pytest.mark.parametrize("seed", range(20))
def test_clipped_objective_alone_is_a_lower_bound(seed):
    """The remark of docs/theory.md: PPO's pessimistic objective needs no truncation term."""
    rng = np.random.default_rng(seed)
    mdp, behavior = random_mdp(rng, 4, 3, gamma=0.8)
    policy = softmax(np.log(behavior) + rng.normal(size=behavior.shape))
    advantages = mdp.advantages(behavior)
    weights = mdp.visitation(behavior)[:, None] * behavior
    clipped = PPOClip(0.2).objective(th.tensor(np.log(policy / behavior)), th.tensor(advantages)).numpy()
    shift = enumerated_bound(mdp, policy, behavior, PPOClip(0.2)).policy_shift
    improvement = mdp.performance(policy) - mdp.performance(behavior)
    assert improvement >= (weights * clipped).sum() / (1 - mdp.gamma) - shift


@pytest.mark.parametrize("delta", [0.05, 0.3])
@pytest.mark.parametrize(("sigma", "ratio"), [(0.5, 1.0), (1.5, 0.5)])
def test_radius_is_exceeded_by_at_most_delta(delta, sigma, ratio):
    """On the surrogate that concentrates worst, which takes only the two ends of its range, and on Gaussian x."""
    rng, batches, samples = np.random.default_rng(1), 20_000, 50
    trust = GaussianTrust(sigma, ratio)
    signs = rng.choice([-1.0, 1.0], size=(batches, samples))
    extreme = np.where(signs > 0, sigma**2, (sigma * ratio) ** 2)
    for log_ratios in (extreme, rng.normal(size=signs.shape)):
        surrogates = trust.objective(th.tensor(log_ratios), th.tensor(signs)).numpy()
        means = surrogates.mean(axis=1)
        if log_ratios is extreme:
            expectation = (multiplier_bound(sigma) - multiplier_bound(sigma * ratio)) / 2
            # Not loose: the radius of a wrong range (twice as wide) would fail this.
            assert hoeffding_radius(1.0, sigma, samples, delta, ratio) < 4 * means.std()
        else:
            expectation = surrogates.mean()
        exceeded = np.mean(np.abs(means - expectation) > hoeffding_radius(1.0, sigma, samples, delta, ratio))
        assert exceeded <= delta


def test_finite_sample_lower_bound_fails_at_most_delta_of_the_time():
    rng, batches, samples, delta, trust = np.random.default_rng(2), 400, 64, 0.1, GaussianTrust(0.7)
    mdp, behavior = random_mdp(rng, 3, 3, gamma=0.3)
    policy = softmax(np.log(behavior) + 0.5 * rng.normal(size=behavior.shape))
    advantages = mdp.advantages(behavior)
    a_max = np.abs(advantages).max()
    log_ratios = np.log(policy / behavior)
    multipliers = trust.multiplier(th.tensor(log_ratios), th.tensor(advantages)).numpy()
    pairs = rng.choice(
        advantages.size, p=(mdp.visitation(behavior)[:, None] * behavior).ravel(), size=(batches, samples)
    )
    totals = [
        performance_lower_bound(
            *(values.ravel()[drawn].tolist() for values in (advantages, log_ratios, multipliers)),
            mdp.gamma,
            advantage_bound=a_max,
        ).total
        for drawn in pairs
    ]
    exact = enumerated_bound(mdp, policy, behavior, trust).total
    assert np.mean(totals) == pytest.approx(exact, abs=4 * np.std(totals) / math.sqrt(batches))  # unbiased
    radius = lower_bound_radius(a_max, 0.7, mdp.gamma, samples, delta)
    # Against the expectation of the estimate, which is what the radius is about: the improvement is larger still.
    assert np.mean(np.array(totals) - radius > exact) <= delta
    ends = [  # the largest and the smallest share that one sample can have
        performance_lower_bound([a], [x], [g], mdp.gamma, advantage_bound=a_max).total
        for a, x, g in ((a_max, 0.49, multiplier_bound(0.7)), (0.0, -math.inf, 0.0))
    ]
    assert ends[0] - ends[1] == pytest.approx(radius / math.sqrt(-math.log(delta) / (2 * samples)))


@given(sigma=WIDTHS)
def test_multiplier_bound_is_reached_at_its_peak_only(sigma):
    peak = multiplier_peak(sigma)
    x = th.tensor([peak, peak - 0.1, peak + 0.1], dtype=th.float64)
    at, left, right = GaussianTrust(sigma).multiplier(x, th.ones_like(x)).tolist()
    assert at == pytest.approx(multiplier_bound(sigma), rel=1e-12) and max(left, right) < at
    # The other kernels have no such bound: far out they exceed it.
    far = th.tensor([sigma**2 / 2 + 20.0], dtype=th.float64)
    assert CauchyTrust(sigma).multiplier(far, far).item() > multiplier_bound(sigma)
    assert LaplaceTrust(1 + sigma).multiplier(1e4 * far, far).item() > multiplier_bound(sigma)


@given(
    radius=st.floats(1e-3, 10),
    a_max=st.floats(0.01, 100),
    sigma=WIDTHS,
    delta=st.floats(1e-6, 0.99),
    ratio=st.floats(0.1, 2.0),
)
def test_fewest_samples_invert_the_radius(radius, a_max, sigma, delta, ratio):
    samples = samples_for_radius(radius, a_max, sigma, delta, ratio)
    assert hoeffding_radius(a_max, sigma, samples, delta, ratio) <= radius * (1 + 1e-12)
    if samples > 1:
        assert hoeffding_radius(a_max, sigma, samples - 1, delta, ratio) > radius * (1 - 1e-12)


@given(
    sigma=WIDTHS,
    a_max=st.floats(0.01, 100),
    samples=st.integers(1, 10**9),
    delta=st.floats(1e-6, 0.99),
    ratio=st.floats(0.1, 2.0),
)
def test_widest_sigma_inverts_the_radius(sigma, a_max, samples, delta, ratio):
    radius = hoeffding_radius(a_max, sigma, samples, delta, ratio)
    assert sigma_for_radius(radius, a_max, samples, delta, ratio) == pytest.approx(sigma, rel=1e-6)


def test_radius_in_closed_form():
    assert hoeffding_radius(2.0, 1.0, 800, 0.05) == pytest.approx(2 * math.exp(0.5) * math.sqrt(2 * math.log(40) / 800))
    # Two widths: half the sum of the two bounds replaces B.
    half = (math.exp(0.5) + math.exp(0.125)) / 2
    assert hoeffding_radius(1.0, 1.0, 50, 0.1, 0.5) == pytest.approx(half * math.sqrt(2 * math.log(20) / 50))
    assert hoeffding_radius(1.0, 50.0, 50) == math.inf


def test_unreachable_radius_says_what_is_needed():
    with pytest.raises(ValueError, match=r"radius=0\.1 is unreachable with 100 samples.* more than 737\.7\d+ samples"):
        sigma_for_radius(0.1, 1.0, 100)
    assert sigma_for_radius(0.1, 1.0, 738) < 0.05  # and with that many it is reachable
    with pytest.raises(ValueError, match="no practical number of samples"):
        samples_for_radius(0.1, 1.0, 40.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multiplier_bound(0.0), "sigma must be a positive finite number, got 0.0"),
        (lambda: multiplier_peak(math.nan), "sigma must be a positive finite number, got nan"),
        (lambda: hoeffding_radius(-1.0, 1.0, 10), "advantage_bound must be a positive finite number, got -1.0"),
        (lambda: hoeffding_radius(1.0, 1.0, 0), "samples must be at least 1, got 0"),
        (lambda: hoeffding_radius(1.0, 1.0, 10, 1.0), r"delta must be in \(0, 1\), got 1.0"),
        (lambda: samples_for_radius(0.0, 1.0, 1.0), "radius must be a positive finite number, got 0.0"),
        (lambda: sigma_for_radius(1.0, 1.0, 10, sigma_neg_ratio=0.0), "sigma_neg_ratio must be a positive"),
        (lambda: lower_bound_radius(1.0, 1.0, 1.0, 10), r"gamma must be in \[0, 1\), got 1.0"),
        (lambda: performance_lower_bound([], [], [], 0.9), "one common length ≥ 1, got 0, 0, 0 and 0"),
        (lambda: performance_lower_bound([1.0], [0.0, 0.0], [1.0], 0.9), "one common length ≥ 1, got 1, 2, 1 and 1"),
        (lambda: performance_lower_bound([1.0], [0.0], [1.5], 0.9), "0 ≤ g ≤ ρ, got A=1.0, x=0.0, g=1.5"),
        (lambda: performance_lower_bound([math.nan], [0.0], [1.0], 0.9), "advantages must be finite"),
        (lambda: performance_lower_bound([1.0], [0.0], [1.0], 1.0), "gamma must be in"),
        (lambda: performance_lower_bound([1.0], [0.0], [1.0], 0.9, probabilities=[0.5]), "a sum of 0.5"),
        (
            lambda: performance_lower_bound([2.0], [0.0], [1.0], 0.9, advantage_bound=1.0),
            "advantage_bound must be finite",
        ),
        (lambda: performance_lower_bound([2.0], [0.0], [1.0], 0.9, expected_advantage_bound=-1.0), "must be ≥ 0 and"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
