import numpy as np
import pytest
from synthetic import make_suite, realistic, record_of

from benchmarks import curves, measurements
from benchmarks.measurements import RegimeRuns, measure
from benchmarks.spec import plan


def test_what_is_taken_from_a_record():
    run = plan(make_suite(), regimes=["stale"])[0]
    found = measure(run, record_of(run, [10.0] * 20 + [30.0] * 20, success=0.5))
    assert found.score == 30.0 and found.success == 0.5
    assert found.curve[0] == 10.0 and found.curve[-1] == 30.0 and len(found.curve) == curves.POINTS
    assert found.dead_fraction[0] == 0 and found.ess[-1] < 0.6
    assert found.lags.tolist() == list(range(8)) and found.multiplier[1] == 0.9


def test_the_clock_runs_evenly_between_two_iterations():
    run = plan(make_suite(), regimes=["stale"])[0]
    record = record_of(run, [10.0] * 2)
    assert np.isnan(measure(run, record).seconds).all()
    record["curve"] |= {"steps": [5000, 20_000], "seconds": [100.0, 130.0]}
    found = measure(run, record).seconds
    assert found[[0, 9, 19, 39]].tolist() == [10.0, 100.0, 110.0, 130.0]


def test_records_that_tell_nothing_of_utilization_are_read():
    run = plan(make_suite())[0]
    for by_lag in (None, "absent"):
        record = record_of(run, [1.0] * 40, utilization=False) | {"by_lag": by_lag}
        if by_lag:
            del record["by_lag"]
        found = measure(run, record)
        assert np.isnan(found.dead_fraction).all() and found.lags.size == found.multiplier.size == 0


def test_buckets_are_drawn_at_their_middle_and_empty_ones_are_nan():
    run = plan(make_suite())[0]
    by_lag = {"first": [0, 1, 4], "last": [0, 3, 9], "multiplier": [1.0, None, 0.5]}
    found = measure(run, record_of(run, [1.0] * 40) | {"by_lag": by_lag})
    assert found.lags.tolist() == [0.0, 2.0, 6.5] and np.isnan(found.multiplier[1])


def test_matrices_are_means_over_repeats_of_seeds_finished_on_all_tasks():
    suite = make_suite(repeats=2)
    done = [
        measure(run, record_of(run, [100.0 * run.seed + 10 * run.repeat + len(run.task)] * 40))
        for run in plan(suite)
        if not (run.algorithm == "ppo" and run.seed == 1 and run.task == "reach-v3")
        and not (run.algorithm == "ppo" and run.seed == 2 and run.repeat == 1)
    ]
    runs = RegimeRuns(suite, "stale", done)
    assert runs.algorithms == ["ppo", "gipo(1.0,1.0)"], "the outside algorithm has no runs here"
    assert runs.seeds == {"ppo": (0, 2, 3), "gipo(1.0,1.0)": (0, 1, 2, 3)}
    assert runs.planned["ppo", "reach-v3"] == 8
    assert runs.matrix("ppo", lambda each: each.score).tolist() == [[13.0, 20.0], [208.0, 215.0], [313.0, 320.0]]
    assert runs.matrix("ppo", lambda each: each.curve).shape == (3, 2, curves.POINTS)
    assert runs.common_seeds(["ppo", "gipo(1.0,1.0)"]) == (0, 2, 3)
    assert runs.rows("gipo(1.0,1.0)", (0, 2, 3)).tolist() == [True, False, True, True]
    assert len(runs.of_task("ppo", "reach-v3")) == 5
    assert RegimeRuns(suite, "fresh", done).algorithms == ["ppo", "gipo(1.0,1.0)", "sb3-ppo"]


def test_a_run_without_a_success_rate_leaves_a_hole():
    suite = make_suite()
    done = [measure(run, record_of(run, [1.0] * 40, success=None if run.seed == 1 else 0.5)) for run in plan(suite)]
    found = RegimeRuns(suite, "fresh", done).matrix("ppo", lambda each: each.success)
    assert np.isnan(found[1]).all() and found[0] == pytest.approx([0.5, 0.5])


def test_the_invented_records_are_what_a_run_would_write():
    run = plan(make_suite())[0]
    record = realistic(run)
    lengths = {len(column) for column in record["curve"].values()}
    assert lengths == {40} and record["curve"]["steps"][-1] == run.suite.budget


@pytest.mark.parametrize("repeats", [1, 2, 3, 7])
def test_equal_repeats_have_their_own_value_as_their_mean(repeats):
    """numpy's mean of three times 0.1 is more than 0.1, and would win a tie."""
    assert measurements._mean([0.1] * repeats) == 0.1
    found = measurements._mean([np.array([0.1, np.nan])] * repeats)
    assert found[0] == 0.1 and np.isnan(found[1])
