import numpy as np
import pytest
from rliable import metrics
from suites import TINY, write_suite

from benchmarks import scores
from benchmarks.spec import load_suite, plan

TWO_TASKS = TINY.replace('["CartPole-v1"]', '["CartPole-v1", "Acrobot-v1"]')


@pytest.fixture
def suite(tmp_path):
    return load_suite(write_suite(tmp_path, TWO_TASKS))


def results_of(suite, value, only=lambda run: True):
    return [(run, value(run), None) for run in plan(suite) if only(run)]


def entry(scored, regime, algorithm):
    (of_regime,) = (entry for entry in scored if entry.regime == regime)
    (found,) = (entry for entry in of_regime.algorithms if entry.algorithm == algorithm)
    return found


def test_min_max_by_hand():
    matrices = {"a": np.array([[0.0, 10.0], [5.0, 20.0]]), "b": np.array([[10.0, 10.0]])}
    normalised = scores.min_max(matrices)
    np.testing.assert_allclose(normalised["a"], [[0.0, 0.0], [0.5, 1.0]])
    np.testing.assert_allclose(normalised["b"], [[1.0, 0.0]])


def test_ties_are_one_half_and_one_algorithm_is_its_own_measure():
    assert scores.min_max({"a": np.full((2, 1), 7.0), "b": np.full((1, 1), 7.0)})["a"].tolist() == [[0.5], [0.5]]
    assert scores.min_max({"a": np.array([[1.0], [3.0], [2.0]])})["a"].tolist() == [[0.0], [1.0], [0.5]]
    assert scores.min_max({}) == {}


def test_absolute_by_hand():
    ends = np.array([[10.0, 110.0], [0.0, 4000.0]])
    np.testing.assert_allclose(scores.absolute(np.array([[10.0, 4000.0], [60.0, 5000.0]]), ends), [[0, 1], [0.5, 1.25]])


def test_iqm_is_the_mean_of_the_middle_half():
    matrix = np.arange(8.0).reshape(4, 2) ** 2  # 0 1 4 9 16 25 36 49
    assert scores.interval(matrix, metrics.aggregate_iqm).value == pytest.approx((4 + 9 + 16 + 25) / 4)


def test_intervals_are_the_same_whatever_the_global_stream():
    matrix = np.random.default_rng(0).normal(size=(6, 4))
    np.random.seed(1)
    first = scores.interval(matrix, metrics.aggregate_iqm)
    after_first = np.random.random()
    second = scores.interval(matrix, metrics.aggregate_iqm)
    assert first == second and first.low < first.value < first.high
    np.random.seed(1)
    assert np.random.random() == after_first, "the global stream is left as it was"


def test_one_seed_has_no_interval():
    estimate = scores.interval(np.ones((1, 3)), metrics.aggregate_iqm)
    assert (estimate.value, estimate.low, estimate.high) == (1.0, None, None)


def test_repeats_are_averaged_before_seeds_are_resampled(suite):
    scored = scores.score(suite, results_of(suite, lambda run: 10.0 * run.seed + run.repeat), {})
    found = entry(scored, "stale", "ppo")
    assert found.seeds == 2 and found.raw.value == pytest.approx(np.mean([0.5, 10.5]))
    assert (found.raw.low, found.raw.high) == pytest.approx((0.5, 10.5))


def test_ranks_are_by_the_min_max_iqm_of_each_regime(suite):
    def value(run):
        better = "ppo" if run.regime == "fresh" else "gipo(1.0,0.5)"
        return run.seed + (100.0 if run.algorithm == better else 0.0)

    scored = scores.score(suite, results_of(suite, value), {"CartPole-v1": (0.0, 100.0), "Acrobot-v1": (0.0, 100.0)})
    assert [[(e.algorithm, e.rank) for e in regime.algorithms] for regime in scored] == [
        [("ppo", 1), ("gipo(1.0,0.5)", 2)],
        [("gipo(1.0,0.5)", 1), ("ppo", 2)],
    ]
    assert entry(scored, "fresh", "ppo").absolute.value == pytest.approx(1.005)
    assert entry(scored, "fresh", "ppo").min_max.value > 0.98


def test_missing_runs_are_marked_and_the_rest_is_scored(suite):
    def only(run):
        if run.algorithm == "ppo":
            return not (run.seed == 1 and run.task == "Acrobot-v1")
        return run.regime == "stale" and run.task == "CartPole-v1"

    scored = scores.score(suite, results_of(suite, lambda run: float(run.seed), only), {})
    partial = entry(scored, "stale", "ppo")
    assert (partial.finished, partial.planned, partial.seeds) == (6, 8, 1)
    assert partial.raw.value == 0.0 and partial.raw.low is None
    without_a_seed = entry(scored, "stale", "gipo(1.0,0.5)")
    assert without_a_seed.rank is None and without_a_seed.min_max is None and without_a_seed.finished == 4
    assert without_a_seed.tasks["CartPole-v1"].mean_return == 0.5
    assert entry(scored, "fresh", "gipo(1.0,0.5)").tasks["Acrobot-v1"].mean_return is None


def test_absolute_scores_need_every_anchor(suite):
    scored = scores.score(suite, results_of(suite, lambda run: 1.0), {"CartPole-v1": (0.0, 1.0)})
    assert scored[0].without_anchors == ["Acrobot-v1"]
    assert entry(scored, "fresh", "ppo").absolute is None


def test_equals_share_a_rank(suite):
    scored = scores.score(suite, results_of(suite, lambda run: float(run.seed)), {})
    assert [entry.rank for entry in scored[0].algorithms] == [1, 1]
