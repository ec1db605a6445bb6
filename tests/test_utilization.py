import pytest
import torch as th

from sb3_gipo import GaussianTrust, utilization


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


def test_log_ratio_quantile_is_of_the_absolute_value():
    x = th.cat([-th.arange(0, 101.0), th.zeros(0)])
    assert utilization.log_ratio_quantile(x, 0.95) == pytest.approx(95.0)
