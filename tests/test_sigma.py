import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_gipo import GaussianTrust
from sb3_gipo.sigma import suggest_sigma


def effective_sample_size(log_ratios, sigma):
    g = GaussianTrust(sigma).multiplier(log_ratios.double(), th.ones_like(log_ratios, dtype=th.float64))
    return (g.sum() ** 2 / (len(g) * (g**2).sum())).item()


def reachable(log_ratios):
    return [effective_sample_size(log_ratios, sigma) for sigma in th.logspace(-2, 2, 200).tolist()]


@pytest.mark.parametrize(
    ("spread", "target"), [(0.05, 0.1), (0.05, 0.9), (0.5, 0.1), (0.5, 0.8), (2.0, 0.05), (2.0, 0.25)]
)
def test_suggested_width_has_the_wanted_effective_sample_size(spread, target):
    log_ratios = spread * th.randn(4000, generator=th.Generator().manual_seed(0)) - spread**2 / 2
    sigma = suggest_sigma(log_ratios.reshape(40, 100), target_ess=target)
    assert effective_sample_size(log_ratios, sigma) == pytest.approx(target, rel=1e-9)
    # The smallest such width: every narrower one has less.
    assert all(
        effective_sample_size(log_ratios, sigma * factor) < target for factor in th.linspace(0.1, 0.99, 30).tolist()
    )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    spread=st.floats(0.01, 5),
    exact=st.integers(0, 10),
    targets=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4),
)
def test_suggested_width_never_falls_when_the_target_rises(seed, spread, exact, targets):
    """Few samples and heavy tails, where the effective sample size goes up and down with the width."""
    rng = np.random.default_rng(seed)
    log_ratios = th.tensor(spread * (rng.standard_t(2.0, size=30) if seed % 2 else rng.normal(size=30)))
    log_ratios[:exact] = 0.0
    found = []
    for target in sorted(targets):
        try:
            found.append(suggest_sigma(log_ratios, target))
        except ValueError:
            continue
        assert effective_sample_size(log_ratios, found[-1]) == pytest.approx(target, rel=1e-6)
    assert found == sorted(found)


def test_effective_sample_size_is_not_monotone_in_the_width():
    """Why "the smallest": the docstring's claim, on the sample that shows it."""
    log_ratios = th.tensor([2.0, 0.01, 0.0, -0.01])
    narrow, middle, wide = (effective_sample_size(log_ratios, sigma) for sigma in (0.1, 1.0, 100.0))
    assert narrow < middle > wide
    assert suggest_sigma(log_ratios, 0.9) < 1.0


def test_unreachable_targets_name_the_reachable_range():
    log_ratios = 0.5 * th.randn(1000, generator=th.Generator().manual_seed(0))
    with pytest.raises(
        ValueError, match=r"target_ess=0\.99 is unreachable.* reaches at most 0\.8\d+, at sigma="
    ) as error:
        suggest_sigma(log_ratios, 0.99)
    best = float(str(error.value).split("at most ")[1].split(",")[0])
    assert best == pytest.approx(max(reachable(log_ratios)), abs=1e-3)
    # Six of ten samples are exactly on-policy: no width has an effective sample size below 0.6.
    with pytest.raises(ValueError, match=r"target_ess=0\.5 is unreachable.* lies above 0\.6 "):
        suggest_sigma(th.cat([th.zeros(600), log_ratios[:400]]), 0.5)


@pytest.mark.parametrize(
    ("log_ratios", "target", "message"),
    [
        (th.randn(5), 0.0, r"target_ess must be in \(0, 1\], got 0.0"),
        (th.randn(5), 1.1, r"target_ess must be in \(0, 1\], got 1.1"),
        (th.tensor([]), 0.5, "got 0 of which 0 finite"),
        (th.tensor([0.0, math.nan, 1.0]), 0.5, "got 3 of which 2 finite"),
        (th.zeros(7), 0.5, "all 7 log-ratios have the same size"),
    ],
)
def test_bad_arguments_are_named(log_ratios, target, message):
    with pytest.raises(ValueError, match=message):
        suggest_sigma(log_ratios, target)
