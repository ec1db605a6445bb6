"""Against direct computations, rliable's own functions, and cases that are solved by hand."""

import numpy as np
import pytest
from rliable import library, metrics
from scipy.stats import norm

from benchmarks import statistics
from benchmarks.statistics import BOOTSTRAPS, first_reach, steps_ratio

AGGREGATES = {
    statistics.iqm: metrics.aggregate_iqm,
    statistics.mean: metrics.aggregate_mean,
    statistics.median: metrics.aggregate_median,
    statistics.optimality_gap: metrics.aggregate_optimality_gap,
}


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(0.5, 0.5, size=(6, 4))


def draws(matrix, aggregate):
    """The bootstrap by hand: numpy's global stream, one resample after the other."""
    state = np.random.get_state()
    np.random.seed(statistics._SEED)
    columns = np.arange(matrix.shape[1])
    found = [aggregate(matrix[np.random.choice(len(matrix), matrix.shape), columns]) for _ in range(BOOTSTRAPS)]
    np.random.set_state(state)
    return np.array(found)


def test_iqm_is_the_mean_of_the_middle_half():
    matrix = np.arange(8.0).reshape(4, 2) ** 2  # 0 1 4 9 16 25 36 49
    assert statistics.iqm(matrix) == pytest.approx((4 + 9 + 16 + 25) / 4)


def test_aggregates_by_hand():
    matrix = np.array([[0.0, 1.0, 0.4], [0.2, 3.0, 0.6]])
    assert statistics.mean(matrix) == pytest.approx(5.2 / 6)
    assert statistics.median(matrix) == pytest.approx(0.5)
    assert statistics.optimality_gap(matrix) == pytest.approx(1 - (0 + 1 + 0.4 + 0.2 + 1 + 0.6) / 6)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("shape", [(6, 4), (3, 3), (5, 1), (1, 7)])
def test_aggregates_are_rliables(aggregate, shape):
    many = np.random.default_rng(1).normal(0.5, 1.0, size=(10, *shape))
    expected = [AGGREGATES[aggregate](matrix) for matrix in many]
    np.testing.assert_allclose(aggregate(many), expected, rtol=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_intervals_are_the_direct_bootstraps_and_rliables(matrix, aggregate):
    found = statistics.interval(matrix, aggregate)
    direct = np.percentile(draws(matrix, AGGREGATES[aggregate]), [2.5, 97.5])
    np.testing.assert_allclose((found.low, found.high), direct, rtol=1e-12)
    np.random.seed(statistics._SEED)
    points, intervals = library.get_interval_estimates(
        {"": matrix}, lambda scores: np.array([AGGREGATES[aggregate](scores)]), reps=BOOTSTRAPS
    )
    np.testing.assert_allclose((found.value, found.low, found.high), (points[""][0], *intervals[""][:, 0]), rtol=1e-12)


def test_intervals_are_the_same_whatever_the_global_stream(matrix):
    statistics._drawn.cache_clear()
    np.random.seed(1)
    first = statistics.interval(matrix, statistics.iqm)
    after_first = np.random.random()
    statistics._drawn.cache_clear()
    second = statistics.interval(matrix, statistics.iqm)
    assert first == second and first.low < first.value < first.high
    np.random.seed(1)
    assert np.random.random() == after_first, "the global stream is left as it was"


def test_one_seed_has_no_interval():
    matrix = np.array([[1.0, 2.0, 3.0]])
    estimate = statistics.interval(matrix, statistics.mean)
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)
    curve, drawn = statistics.band(matrix[..., None], statistics.mean)
    assert (curve.value.tolist(), curve.low, drawn) == ([2.0], None, None)
    assert statistics.area(curve, None).low is None
    assert statistics.profile(matrix, np.array([2.0])).low is None
    assert statistics.probability_of_improvement(matrix, matrix - 1).low is None
    ratio = steps_ratio(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([0.0, 1.0]), None, None)
    assert (ratio.ratio.value, ratio.ratio.low, ratio.reached) == (2.0, None, None)


def test_a_band_resamples_whole_runs(matrix):
    curve, drawn = statistics.band(np.stack([matrix, 2 * matrix], axis=-1), statistics.iqm)
    at_first = statistics.interval(matrix, statistics.iqm)
    assert (curve.value[0], curve.low[0], curve.high[0]) == (at_first.value, at_first.low, at_first.high)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0])
    found = statistics.area(curve, drawn)
    assert (found.value, found.low) == pytest.approx((1.5 * at_first.value, 1.5 * at_first.low))


def test_profiles_are_the_share_above_each_threshold(matrix):
    thresholds = np.array([-10.0, 0.3, matrix[0, 0], 10.0])
    found = statistics.profile(matrix, thresholds)
    assert found.value[[0, 3]].tolist() == [1.0, 0.0]
    for point, threshold in enumerate(thresholds):
        direct = draws(matrix, lambda scores, threshold=threshold: np.mean(scores > threshold))
        expected = [np.mean(matrix > threshold), *np.percentile(direct, [2.5, 97.5])]
        np.testing.assert_allclose([found.value[point], found.low[point], found.high[point]], expected, atol=1e-12)


def test_probability_of_improvement_by_hand():
    # 2.0 beats 1.0 and ties with 2.0; 0.0 loses to both: 1.5 of 4 pairs. The second task is won throughout.
    ours, theirs = np.array([[2.0, 5.0], [0.0, 6.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
    assert statistics.probability_of_improvement(ours, theirs).value == pytest.approx((1.5 / 4 + 1.0) / 2)


def test_probability_of_improvement_is_rliables_and_its_interval_the_direct_one(matrix):
    theirs = np.random.default_rng(2).normal(0.3, 0.5, size=matrix.shape)
    found = statistics.probability_of_improvement(matrix, theirs)
    assert found.value == pytest.approx(metrics.probability_of_improvement(matrix, theirs), rel=1e-12)

    def of_resample(both):
        ours, baseline = both.real, both.imag
        wins = [[a > b for b in np.delete(baseline, i, axis=0)] for i, a in enumerate(ours)]
        return np.mean(wins)

    direct = draws(matrix + 1j * theirs, of_resample)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(direct, [2.5, 97.5])), rel=1e-9)
    assert direct.mean() == pytest.approx(found.value, abs=0.01), "resamples count all pairs as often as the data does"


def test_two_probabilities_of_improvement_are_one(matrix):
    theirs = matrix[::-1] + 0.1
    one, other = (statistics.probability_of_improvement(*pair) for pair in ((matrix, theirs), (theirs, matrix)))
    assert one.value + other.value == pytest.approx(1) and one.low + other.high == pytest.approx(1)
    same = statistics.probability_of_improvement(matrix, matrix)
    assert (same.value, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ranks_are_shares_of_resamples(matrix):
    rng = np.random.default_rng(3)
    matrices = {name: matrix + rng.normal(0, 0.3, size=matrix.shape) for name in "abcd"}
    shares = np.array(list(statistics.rank_distribution(matrices).values()))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-12)
    assert ((shares > 0).sum(axis=1) > 1).any()
    direct = np.array([draws(each, metrics.aggregate_iqm) for each in matrices.values()])
    assert shares[:, 0] == pytest.approx([(direct.argmax(axis=0) == place).mean() for place in range(4)])


def test_seeds_are_resampled_together(matrix):
    """Whatever is drawn, the one that is ahead on every run stays ahead: independent resamples would not see that."""
    shares = statistics.rank_distribution({"behind": matrix, "ahead": matrix + 1e-6})
    assert shares == {"behind": [0.0, 1.0], "ahead": [1.0, 0.0]}


def test_equals_share_their_ranks(matrix):
    shares = statistics.rank_distribution({"a": matrix, "b": matrix, "c": matrix - 1})
    assert shares == {"a": [0.5, 0.5, 0.0], "b": [0.5, 0.5, 0.0], "c": [0.0, 0.0, 1.0]}


STEPS = np.arange(1.0, 41.0) * 1000


@pytest.mark.parametrize("speed", [7.5, 1.0, 3.2])
def test_the_ratio_of_two_straight_curves_is_that_of_their_slopes(speed):
    found = steps_ratio(STEPS, speed * STEPS, STEPS, None, None)
    assert found.ratio.value == pytest.approx(speed) and found.bound == 1.0


def test_never_reached_is_zero_with_a_bound():
    # The baseline is at its final score after a quarter of the budget.
    baseline = np.minimum(STEPS, 10_000)
    assert steps_ratio(STEPS, baseline, baseline, None, None).ratio.value == 1.0
    slow = steps_ratio(STEPS, 0.2 * STEPS, baseline, None, None)
    assert (slow.ratio.value, slow.bound) == (0.0, 0.25)
    assert steps_ratio(STEPS, 0.3 * STEPS, baseline, None, None).ratio.value == pytest.approx(0.3)


def test_the_first_arrival_counts_and_the_first_point_is_the_earliest():
    curves = np.array([[0.0, 2.0, 0.0, 4.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.9], [1.0, 1.0, 1.0, 1.0]])
    found = first_reach(np.array([10.0, 20.0, 30.0, 40.0]), curves, np.array([1.0, 1.0, 1.0, 1.0]))
    assert found.tolist() == [15.0, 10.0, np.inf, 10.0]


def test_the_ratios_interval_compares_curves_of_the_same_resample():
    slopes = np.array([[1.0], [2.0], [4.0]])
    baseline, drawn = statistics.band(slopes[..., None] * STEPS, statistics.mean)
    twice, twice_drawn = statistics.band(2 * slopes[..., None] * STEPS, statistics.mean)
    found = steps_ratio(STEPS, twice.value, baseline.value, twice_drawn, drawn)
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.reached == 1.0


def test_resamples_without_arrival_count_as_zero():
    ours = np.array([[0.5], [0.5], [4.0]])[..., None] * STEPS
    theirs = np.ones((3, 1, 1)) * STEPS
    (own, drawn), (baseline, baseline_drawn) = (statistics.band(each, statistics.mean) for each in (ours, theirs))
    found = steps_ratio(STEPS, own.value, baseline.value, drawn, baseline_drawn)
    # Without the fast seed, which (2/3)³ of the resamples lack, the mean slope is 0.5; with it at least 5/3.
    assert found.reached == pytest.approx(1 - (2 / 3) ** 3, abs=0.03)
    assert found.ratio.value == pytest.approx(5 / 3) and (found.ratio.low, found.ratio.high) == pytest.approx((0, 4))


def coverage(draw, truth, aggregate, simulations):
    hits = 0
    for _ in range(simulations):
        found = aggregate(*draw())
        hits += found.low <= truth <= found.high
    return hits / simulations


def entropy_part(share):
    return share - share * np.log(share)


#: The IQM of an exponential distribution: twice the integral of −ln(u) over the middle half.
EXPONENTIAL = 2 * (entropy_part(0.75) - entropy_part(0.25))
OFFSETS = np.linspace(-0.3, 0.3, 8)


def settings(rng, seeds):
    """Name to (what to draw, the known truth, the statistic)."""

    def iqm(matrix):
        return statistics.interval(matrix, statistics.iqm)

    def shared_goals():
        goals = rng.normal(size=(seeds, 8))
        return goals + rng.normal(1, 1, size=(seeds, 8)), goals + rng.normal(size=(seeds, 8))

    better = norm.cdf(1 / 2)  # the difference of two runs, of whatever seeds, has mean 1 and variance 4
    return {
        "normal": (lambda: (rng.normal(0.5, 0.2, size=(seeds, 8)),), 0.5, iqm),
        "tasks differ": (lambda: (rng.normal(0.5 + OFFSETS, 0.15, size=(seeds, 8)),), 0.5, iqm),
        "skewed": (lambda: (rng.exponential(size=(seeds, 8)),), EXPONENTIAL, iqm),
        "improvement": (shared_goals, better, statistics.probability_of_improvement),
    }


def test_intervals_cover_the_truth():
    found = coverage(*settings(np.random.default_rng(0), 20)["skewed"], simulations=200)
    assert 0.92 <= found <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(10, 0.91), (20, 0.92)])
@pytest.mark.parametrize("case", ["normal", "tasks differ", "skewed", "improvement"])
def test_intervals_cover_the_truth_in_many_simulations(case, seeds, least):
    """With 10 seeds the percentile bootstrap covers a little less than it says; the docs say how much."""
    found = coverage(*settings(np.random.default_rng(1), seeds)[case], simulations=2000)
    assert least <= found <= 0.98


def test_the_same_scores_in_another_order_have_the_same_iqm():
    rng = np.random.default_rng(0)
    for scores in rng.random((300, 5, 3)):
        assert statistics.iqm(rng.permuted(scores, axis=0)) == statistics.iqm(scores)
