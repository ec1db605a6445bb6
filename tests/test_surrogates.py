import math

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip

ALL = [
    GaussianTrust(),
    GaussianTrust(0.2, 0.5),
    GaussianTrust(2.0, 1.5),
    LaplaceTrust(0.7, 0.5),
    LaplaceTrust(2.0),
    CauchyTrust(0.5, 2.0),
    PPOClip(0.2),
    PPOClip(1.5),
    SAPO(),
    SAPO(1.0, 2.0),
    NoClip(),
]
LOG_RATIOS = th.cat([th.linspace(-50, 50, 2001), th.linspace(-2, 2, 801)])


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_multiplier_is_the_gradient_of_the_objective(surrogate, advantage):
    log_ratio = LOG_RATIOS.clone().requires_grad_()
    advantages = th.full_like(LOG_RATIOS, advantage)
    (gradient,) = th.autograd.grad(surrogate.objective(log_ratio, advantages).sum(), log_ratio)
    multiplier = surrogate.multiplier(LOG_RATIOS, advantages)
    assert multiplier.isfinite().all() and (multiplier >= 0).all()
    th.testing.assert_close(multiplier, gradient / advantage, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("surrogate", ALL, ids=repr)
@pytest.mark.parametrize("advantage", [1.5, -0.5])
def test_objective_is_advantage_at_equal_policies(surrogate, advantage):
    at_zero = th.zeros(1, requires_grad=True)
    advantages = th.tensor([advantage])
    (gradient,) = th.autograd.grad(surrogate.objective(at_zero, advantages), at_zero)
    th.testing.assert_close(gradient, advantages)
    th.testing.assert_close(surrogate.multiplier(th.zeros(1), advantages), th.ones(1))


@pytest.mark.parametrize("extreme", [-1e4, -200.0, 100.0, 1e4])
@pytest.mark.parametrize("surrogate", [GaussianTrust(), GaussianTrust(0.05), PPOClip(), SAPO(0.01, 2.0)], ids=repr)
def test_no_overflow_where_the_surrogate_is_bounded(surrogate, extreme):
    log_ratio = th.tensor([extreme], requires_grad=True)
    objective = surrogate.objective(log_ratio, th.ones(1))
    (gradient,) = th.autograd.grad(objective, log_ratio)
    assert objective.isfinite() and gradient.isfinite()


@given(sigma=st.floats(0.05, 6.0), ratio=st.floats(0.2, 1.0), x=st.floats(-80, 80))
def test_gaussian_multiplier_has_its_bound(sigma, ratio, x):
    surrogate = GaussianTrust(sigma, ratio)
    for advantage, width in ((1.0, sigma), (-1.0, sigma * ratio)):
        a = th.tensor([advantage], dtype=th.float64)
        bound = math.exp(width**2 / 2)
        reached = surrogate.multiplier(th.tensor([width**2], dtype=th.float64), a).item()
        assert reached == pytest.approx(bound, rel=1e-9)
        assert surrogate.multiplier(th.tensor([x], dtype=th.float64), a).item() <= bound * (1 + 1e-12)


def test_infinite_width_is_no_clip():
    advantages = th.randn(200)
    x = th.linspace(-10, 10, 200)
    for kernel in (GaussianTrust(1e6), LaplaceTrust(1e6), CauchyTrust(1e6)):
        th.testing.assert_close(kernel.objective(x, advantages), NoClip().objective(x, advantages), rtol=1e-4, atol=0)


def test_ppo_clip_is_the_published_minimum():
    x = th.linspace(-3, 3, 601)
    for advantage in (2.0, -2.0, 0.0):
        a = th.full_like(x, advantage)
        ratio = x.exp()
        expected = th.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        th.testing.assert_close(PPOClip(0.2).objective(x, a), expected)
        dead = (advantage > 0) & (ratio > 1.2) | (advantage < 0) & (ratio < 0.8)
        th.testing.assert_close(PPOClip(0.2).multiplier(x, a), th.where(dead, 0.0, ratio))


def test_closed_forms():
    x, a = th.tensor([0.7, -1.3, 0.4]), th.tensor([1.0, -2.0, 0.0])
    width = th.tensor([0.5, 0.25, 0.25])
    forms = {
        GaussianTrust(0.5, 0.5): th.exp(-(x**2) / (2 * width**2)),
        LaplaceTrust(0.5, 0.5): th.exp(-x.abs() / width),
        CauchyTrust(0.5, 0.5): 1 / (1 + (x / width) ** 2),
    }
    for surrogate, weight in forms.items():
        th.testing.assert_close(surrogate.multiplier(x, a), x.exp() * weight)
    tau = th.tensor([1.0, 2.0, 2.0])
    th.testing.assert_close(SAPO(1.0, 2.0).objective(x, a), 4 / tau * th.sigmoid(tau * (x.exp() - 1)) * a)


def test_one_ratio_per_dimension_shares_the_advantage():
    x, a = th.randn(5, 3), th.randn(5, 1)
    for surrogate in ALL:
        by_dimension = th.stack([surrogate.objective(x[:, d], a[:, 0]) for d in range(3)], dim=1)
        th.testing.assert_close(surrogate.objective(x, a), by_dimension)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: GaussianTrust(v), "sigma"),
        (lambda v: LaplaceTrust(1.0, v), "sigma_neg_ratio"),
        (lambda v: PPOClip(v), "clip_range"),
        (lambda v: SAPO(v), "tau_pos"),
        (lambda v: SAPO(1.0, v), "tau_neg"),
    ],
)
def test_bad_widths_are_named(make, name, bad):
    with pytest.raises(ValueError, match=rf"{name} must be a positive finite number, got {bad!r}"):
        make(bad)
