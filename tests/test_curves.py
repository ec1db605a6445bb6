import numpy as np
import pytest

from benchmarks.curves import POINTS, grid, on_grid


def test_the_grid_is_even_and_ends_at_the_budget():
    points = grid(20_000)
    assert len(points) == POINTS and points[-1] == 20_000
    np.testing.assert_allclose(np.diff(points, prepend=0), 500)


def test_a_point_is_the_mean_over_the_last_tenth_of_the_budget():
    steps = np.arange(1, 1001) * 10
    values = np.random.default_rng(0).normal(size=1000)
    found = on_grid(steps, values, 10_000)
    assert found[-1] == pytest.approx(values[-100:].mean())
    assert found[0] == pytest.approx(values[:25].mean()), "at the beginning there is less to look back on"
    assert found[19] == pytest.approx(values[400:500].mean())


def test_iterations_without_episodes_are_not_counted_and_gaps_are_filled():
    steps = [2000, 4000, 6000, 8000, 10_000]
    found = on_grid(steps, [None, 1.0, None, 5.0, 7.0], 10_000)
    assert not np.isnan(found).any()
    at = {int(step): value for step, value in zip(grid(10_000), found, strict=True)}
    assert at[250] == at[2000] == 1.0, "before the first episode the first one"
    assert at[7750] == 1.0, "where there was none the last one"
    assert at[8000] == at[9750] == 5.0 and at[10_000] == 7.0


def test_iterations_longer_than_the_window():
    assert on_grid([5000, 10_000], [1.0, 3.0], 10_000).tolist() == [1.0] * (POINTS - 1) + [3.0]


def test_a_quantity_that_is_never_logged_is_nowhere():
    assert np.isnan(on_grid([10, 20], [None, None], 20)).all()
