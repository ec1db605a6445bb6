from pathlib import Path

import pytest
import torch as th

from sb3_gipo import GIPO, SAPO, GaussianTrust, NoClip, PPOClip, UtilizationRecorder, bounds, utilization


def test_dead_fraction_counts_exact_zeros():
    assert utilization.dead_fraction(th.tensor([0.0, 1e-38, 1.0, 0.0])) == 0.5


def test_underflow_is_dead():
    x = th.tensor([0.0, -14.5, 17.5])  # beyond x − x²/2 ≈ −103 float32 has no smaller number
    assert utilization.dead_fraction(GaussianTrust().multiplier(x, th.ones(3))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e30])
def test_effective_sample_size(scale):
    assert utilization.effective_sample_size(th.ones(7) * scale) == pytest.approx(1.0)
    one_of_four = th.tensor([scale, 0.0, 0.0, 0.0])
    assert utilization.effective_sample_size(one_of_four) == pytest.approx(0.25)
    assert utilization.effective_sample_size(th.tensor([[1.0, 3.0]]) * scale) == pytest.approx(16 / 20)


def test_nothing_used_has_no_effective_sample():
    assert utilization.effective_sample_size(th.zeros(5)) == 0


def test_suppressed_is_a_small_trust_weight_whatever_the_ratio():
    x = th.tensor([0.0, 3.0, 4.0, -4.0, 200.0])  # ω = exp(−x²/2) falls below 1e-3 at |x| ≈ 3.7
    assert utilization.suppressed_fraction(GaussianTrust().log_trust_weight(x, th.ones(5))) == pytest.approx(3 / 5)
    assert utilization.suppressed_fraction(NoClip().log_trust_weight(x, th.ones(5))) == 0


@pytest.mark.parametrize("dimensions", [None, 2])
def test_contribution_is_shared_out_by_lag(dimensions):
    lags = th.tensor([0, 1, 4, 5, 19, 20, 40, 1000])
    multiplier, advantages = th.ones(8), th.tensor([1.0, -2.0, 1.0, 1.0, -1.0, 0.0, 1.0, 3.0])
    if dimensions:
        multiplier, advantages = multiplier.unsqueeze(1).repeat(1, dimensions), advantages.unsqueeze(1)
    shares = utilization.contribution_by_lag(multiplier, advantages, lags)
    assert shares.tolist() == pytest.approx([0.1, 0.3, 0.2, 0.0, 0.4])
    assert utilization.contribution_by_lag(multiplier * 0, advantages, lags).tolist() == [0.0] * 5


def test_truncation_is_the_hidden_share():
    log_ratios = th.tensor([0.4, -0.7, 0.0, 1.1])
    advantages = th.tensor([1.0, -1.0, 1.0, 1.0])
    for surrogate in (GaussianTrust(0.3), PPOClip(0.2)):
        weight = surrogate.log_trust_weight(log_ratios, advantages)
        expected = (log_ratios.exp() * (1 - weight.exp())).mean()
        hidden = utilization.truncation(log_ratios, weight)
        th.testing.assert_close(hidden, expected)
    assert utilization.truncation(th.tensor([300.0]), NoClip().log_trust_weight(th.tensor([300.0]), advantages)) == 0


def test_summary_has_the_quantiles():
    x = th.linspace(-100, 0, 101)
    ones, lags = th.ones(101), th.arange(101)
    found = utilization.summary(x, ones, ones, ones, lags)
    expected = {"log_ratio_p05": -95, "log_ratio_p50": -50, "log_ratio_p95": -5, "log_ratio_abs_p95": 95}
    expected |= {"log_ratio_abs_max": 100, "lag_mean": 50, "lag_p95": 95, "lag_max": 100, "ess": 1, "dead_fraction": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_quantiles_are_torchs_and_know_no_limit():
    x = th.randn(999, generator=th.Generator().manual_seed(0))
    levels = [0.05, 0.5, 0.95]
    assert utilization._quantiles(x, *levels) == pytest.approx(th.quantile(x, th.tensor(levels)).tolist(), abs=1e-6)
    assert utilization._quantiles(th.arange(2**24 + 1, dtype=th.int32), 0.5) == [2**23]


def test_every_logged_name_is_defined_in_the_docs():
    documented = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    model = GIPO("MlpPolicy", "Pendulum-v1", n_steps=64, kl_coef=0.1, clip_range_vf=0.2).learn(64)
    logged = [name for name in model.logger.name_to_value if name.startswith("train/")]
    assert len(logged) > 20
    assert [name for name in logged if f"`{name}`" not in documented] == []


@pytest.mark.parametrize("ratio_level", ["joint", "dimension"])
def test_recorder_counts_every_sample_at_its_lag(ratio_level):
    recorder = UtilizationRecorder()
    options = {"n_steps": 64, "batch_size": 32, "n_epochs": 4, "learning_rate": 3e-3, "replay_window": 3, "seed": 0}
    model = GIPO("MlpPolicy", "Pendulum-v1", surrogate=PPOClip(0.05), ratio_level=ratio_level, **options)
    model.learn(64 * 2, callback=recorder)
    model.learn(64 * 3, callback=recorder, reset_num_timesteps=False)
    assert recorder.histogram.shape[0] == 3
    assert recorder.counts.sum() == 5 * 4 * 64
    assert recorder.dead_fraction[2] > 0 and recorder.mean_multiplier[0] > 0.5
    last = model.last_update
    dead_now = int((last.multiplier == 0).sum())
    assert 0 < dead_now <= recorder.histogram[:, 0].sum()


def test_recorder_wants_ascending_edges():
    with pytest.raises(ValueError, match="edges must be positive and ascending"):
        UtilizationRecorder(edges=[1.0, 0.5])


def test_a_rounded_weight_hides_nothing():
    """SAPO's weight at equal policies is 4·½·½, which in float32 may come out above 1."""
    x = th.linspace(-1e-3, 1e-3, 2001)
    hidden = utilization.truncation(x, SAPO().log_trust_weight(x, th.ones(2001)))
    assert 0 <= hidden < 1e-6


def test_what_the_weight_hides_and_the_radius_are_logged():
    options = {"n_steps": 64, "batch_size": 32, "learning_rate": 3e-3, "replay_window": 4, "seed": 0}
    narrow = GIPO("MlpPolicy", "Pendulum-v1", sigma=0.1, sigma_neg_ratio=0.5, **options).learn(64 * 4)
    logged, update = narrow.logger.name_to_value, narrow.last_update
    hidden = (update.log_ratio.exp() - update.multiplier).mean().item()
    assert logged["train/truncation"] == pytest.approx(hidden, rel=1e-4) and hidden > 0.05
    largest = update.advantages.abs().max().item()
    assert logged["train/hoeffding_radius"] == pytest.approx(bounds.hoeffding_radius(largest, 0.1, 32, 0.05, 0.5))
    wide = GIPO("MlpPolicy", "Pendulum-v1", sigma=3.0, **options).learn(64 * 4).logger.name_to_value
    assert wide["train/truncation"] < logged["train/truncation"]
    assert wide["train/hoeffding_radius"] > logged["train/hoeffding_radius"]
    clipped = GIPO("MlpPolicy", "Pendulum-v1", surrogate=PPOClip(), **options).learn(64).logger.name_to_value
    assert "train/truncation" in clipped and "train/hoeffding_radius" not in clipped
