from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import make_suite, realistic, record_of, write_store

from benchmarks import curves, figures, report, scores, statistics
from benchmarks.measurements import measure
from benchmarks.spec import plan
from benchmarks.store import Store

ANCHORS = {"reach-v3": (0.0, 100.0), "button-press-v3": (0.0, 100.0)}


def measured(suite, record=realistic, only=lambda run: True):
    return [measure(run, record(run)) for run in plan(suite) if only(run)]


def constant(value):
    """Records of runs whose return never changes."""
    return lambda run: record_of(run, [float(value(run))] * 40)


def entries(scored, regime):
    (found,) = (each for each in scored if each.regime == regime)
    return {entry.algorithm: entry for entry in found.algorithms}


def normalised(matrices):
    ends = scores.extremes(matrices)
    return [scores.normalise(matrix, ends).tolist() for matrix in matrices]


def test_min_max_by_hand():
    found = normalised([np.array([[0.0, 10.0], [5.0, 20.0]]), np.array([[10.0, 10.0]])])
    assert found == [[[0.0, 0.0], [0.5, 1.0]], [[1.0, 0.0]]]


def test_ties_are_one_half_and_one_algorithm_is_its_own_measure():
    assert normalised([np.full((2, 1), 7.0), np.full((1, 1), 7.0)]) == [[[0.5], [0.5]], [[0.5]]]
    assert normalised([np.array([[1.0], [3.0], [2.0]])]) == [[[0.0], [1.0], [0.5]]]


def test_absolute_by_hand():
    ends = np.array([[10.0, 110.0], [0.0, 4000.0]])
    matrix = np.array([[10.0, 4000.0], [60.0, 5000.0]])
    np.testing.assert_allclose(scores.normalise(matrix, ends), [[0, 1], [0.5, 1.25]])
    curve = scores.normalise(np.stack([matrix, matrix + 100], axis=-1), ends)
    np.testing.assert_allclose(curve[0], [[0, 1], [1, 1.025]])


def test_a_small_store_by_hand(tmp_path):
    """Every number of a store whose runs have constant returns: 2 seeds, one task."""
    suite = make_suite(seeds=2, tasks=["reach-v3"])
    returns = {"ppo": (20.0, 40.0), "gipo(1.0,1.0)": (60.0, 120.0), "sb3-ppo": (20.0, 40.0)}
    write_store(tmp_path, suite, constant(lambda run: returns[run.algorithm][run.seed]))
    store = Store(tmp_path)
    done = [measure(run, store.read(run)) for run in plan(suite)]
    found = entries(scores.score(suite, done, ANCHORS, "ppo"), "fresh")
    ppo, gipo, sb3 = found["ppo"], found["gipo(1.0,1.0)"], found["sb3-ppo"]
    assert (gipo.rank, ppo.rank, sb3.rank) == (1, 2, 2)
    # With two scores nothing is cut: the IQM is the mean. Resamples are (low, low), (low, high) or (high, high).
    assert ppo.min_max.iqm == statistics.Estimate(pytest.approx(0.1), pytest.approx(0.0), pytest.approx(0.2))
    assert gipo.min_max.iqm == statistics.Estimate(pytest.approx(0.7), pytest.approx(0.4), pytest.approx(1.0))
    assert ppo.absolute.iqm.value == pytest.approx(0.3) and gipo.absolute.iqm.value == pytest.approx(0.9)
    assert gipo.absolute.optimality_gap.value == pytest.approx(1 - (0.6 + 1.0) / 2)
    assert gipo.absolute.median.value == gipo.absolute.mean.value == pytest.approx(0.9)
    assert gipo.absolute.area.value == pytest.approx(0.9), "a constant return has a constant curve"
    assert gipo.raw.value == pytest.approx(90.0)
    assert gipo.absolute.profile.value[[0, 59, 60, 100]].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert gipo.improvement.value == 1.0 and sb3.improvement.value == 0.5
    # Paired seeds: whenever the good seed is drawn it is drawn for all.
    assert gipo.ranks == [1.0, 0.0, 0.0] and ppo.ranks == sb3.ranks == [0.0, 0.5, 0.5]
    assert gipo.utilization.multiplier.value.tolist() == [1.0]


def test_steps_to_the_baselines_final_score_by_hand():
    """Straight learning curves: an algorithm whose return rises k times as fast needs k times fewer steps."""
    suite = make_suite(seeds=3, budget=200_000)
    slopes = {"ppo": 1.0, "gipo(1.0,1.0)": 4.0, "sb3-ppo": 0.5}

    def record(run):
        return record_of(run, [slopes[run.algorithm] * (10 + run.seed) * step for step in range(1, 401)])

    found = entries(scores.score(suite, measured(suite, record), ANCHORS, "ppo"), "fresh")
    for kind in ("min_max", "absolute"):
        ratios = {name: getattr(entry, kind).steps for name, entry in found.items()}
        assert ratios["ppo"].ratio == statistics.Estimate(1.0, 1.0, 1.0)
        # Each point looks back over a tenth of the budget, 20 % of which passes before there is as much to look back on.
        target = np.mean(np.arange(361, 401))
        expected = 400 / (target / 4 + (40 - 1) / 2)
        assert ratios["gipo(1.0,1.0)"].ratio.value == pytest.approx(expected, rel=1e-9)
        assert ratios["sb3-ppo"].ratio == statistics.Estimate(0.0, 0.0, 0.0)
        assert ratios["sb3-ppo"].bound == 1.0 and ratios["sb3-ppo"].reached == 0.0


def test_a_run_whose_budget_ends_before_its_first_episode_has_a_score_and_no_curve():
    suite = make_suite(seeds=3)

    def record(run):
        made = record_of(run, [30.0 + 20 * run.seed] * 40)
        if (run.algorithm, run.task, run.seed) == ("ppo", "reach-v3", 1):
            made["curve"]["return"] = [None] * 40
        return made

    regimes = scores.score(suite, measured(suite, record), ANCHORS, "ppo")
    found = entries(regimes, "fresh")
    assert found["ppo"].absolute.iqm.value == pytest.approx(0.5)
    for kind in ("min_max", "absolute"):
        ppo, gipo = (getattr(found[name], kind) for name in ("ppo", "gipo(1.0,1.0)"))
        assert (ppo.curve, ppo.area, ppo.steps) == (None, None, None)
        # There is nothing to compare its curve with.
        assert gipo.curve is not None and gipo.area is not None and gipo.steps is None
    shown = {
        row[0]: row for table in report.tables(suite, regimes[0]) for row in table.rows if "median" in table.header
    }
    assert shown["ppo"][4] == "–" != shown["gipo(1.0,1.0)"][4]
    assert any("before its first episode" in line for line in report.legend(suite, regimes))
    drawn = figures.write(suite, regimes, "made by `x` at commit y", ["efficiency"])["efficiency.svg"].decode()
    assert "ppo  –" in drawn and "gipo(1.0,1.0)  –" not in drawn


def test_repeats_are_averaged_before_seeds_are_resampled():
    suite = make_suite(seeds=2, repeats=2)
    scored = scores.score(suite, measured(suite, constant(lambda run: 10.0 * run.seed + run.repeat)), {})
    found = entries(scored, "stale")["ppo"]
    assert found.seeds == 2 and found.raw.value == pytest.approx(np.mean([0.5, 10.5]))
    assert (found.raw.low, found.raw.high) == pytest.approx((0.5, 10.5))


def test_algorithms_without_planned_runs_are_not_in_a_regime():
    scored = scores.score(make_suite(), [], {})
    assert list(entries(scored, "fresh")) == ["ppo", "gipo(1.0,1.0)", "sb3-ppo"]
    assert list(entries(scored, "stale")) == ["ppo", "gipo(1.0,1.0)"]
    assert entries(scored, "stale")["ppo"].planned == 8


def test_ranks_are_by_the_min_max_iqm_of_each_regime():
    suite = make_suite()

    def value(run):
        better = "ppo" if run.regime == "fresh" else "gipo(1.0,1.0)"
        return run.seed + (100.0 if run.algorithm == better else 0.0)

    scored = scores.score(suite, measured(suite, constant(value)), ANCHORS)
    order = [[(each.algorithm, each.rank) for each in regime.algorithms] for regime in scored]
    assert order == [
        [("ppo", 1), ("gipo(1.0,1.0)", 2), ("sb3-ppo", 2)],
        [("gipo(1.0,1.0)", 1), ("ppo", 2)],
    ]


def test_missing_runs_are_marked_and_the_rest_is_scored():
    suite = make_suite(repeats=2)

    def only(run):
        if run.algorithm == "ppo":
            return not (run.seed > 0 and run.task == "reach-v3")
        return run.regime == "stale" and run.task == "reach-v3"

    scored = scores.score(suite, measured(suite, constant(lambda run: run.seed), only), {}, "ppo")
    found = entries(scored, "stale")
    partial, without_a_seed = found["ppo"], found["gipo(1.0,1.0)"]
    assert (partial.finished, partial.planned, partial.seeds) == (10, 16, 1)
    assert partial.raw.value == 0.0 and partial.raw.low is None and partial.ranks is None
    assert without_a_seed.rank is None and without_a_seed.min_max is None and without_a_seed.finished == 8
    assert without_a_seed.improvement is None and without_a_seed.utilization is None
    assert without_a_seed.tasks["reach-v3"].mean_return.value == 1.5
    assert entries(scored, "fresh")["gipo(1.0,1.0)"].tasks["button-press-v3"].mean_return is None


def test_comparisons_rest_on_the_seeds_that_both_have_finished():
    suite = make_suite()

    def value(run):
        return {"ppo": 50.0, "gipo(1.0,1.0)": 100.0 if run.seed >= 2 else 0.0}[run.algorithm]

    def only(run):
        return run.algorithm in ("ppo", "gipo(1.0,1.0)") and not (run.algorithm == "ppo" and run.seed < 2)

    found = entries(scores.score(suite, measured(suite, constant(value), only), ANCHORS, "ppo"), "stale")[
        "gipo(1.0,1.0)"
    ]
    assert found.seeds == 4 and found.improvement.value == 1.0 and found.absolute.iqm.value == pytest.approx(0.5)
    assert found.ranks == [1.0, 0.0] and found.absolute.steps.reached == 1.0


def test_without_a_baseline_there_is_nothing_to_compare_with():
    suite = make_suite()
    scored = scores.score(suite, measured(suite), ANCHORS, None)
    assert scored[0].baseline is None and scored[0].algorithms[0].min_max.steps is None
    # The outside algorithm has no runs on stale data.
    assert [each.baseline for each in scores.score(suite, measured(suite), ANCHORS, "sb3-ppo")] == ["sb3-ppo", None]


def test_absolute_scores_need_every_anchor():
    suite = make_suite()
    scored = scores.score(suite, measured(suite), {"reach-v3": (0.0, 1.0)})
    assert scored[0].anchors["button-press-v3"] is None
    assert entries(scored, "fresh")["ppo"].absolute is None


def test_utilization_is_a_mean_over_runs_and_missing_where_an_algorithm_does_not_tell():
    suite = make_suite()
    found = entries(scores.score(suite, measured(suite), ANCHORS), "fresh")
    assert found["sb3-ppo"].utilization is None
    stale = entries(scores.score(suite, measured(suite), ANCHORS), "stale")["ppo"].utilization
    assert len(stale.dead_fraction.value) == curves.POINTS and stale.ess.value[0] > stale.ess.value[-1]
    assert stale.lags.tolist() == list(range(8))
    assert stale.multiplier.value.tolist() == pytest.approx([0.9**lag for lag in range(8)])


def test_diagnostics_describe_the_end_of_the_finished_runs():
    suite = make_suite()
    last = {0: 0.5, 1: 3.0, 2: 1.0, 3: 1.5}
    seconds = {0: 10.0, 1: 90.0, 2: 30.0, 3: 20.0}

    def record(run):
        made = realistic(run) | {"cpu_seconds": seconds[run.seed], "wall_seconds": 2 * seconds[run.seed]}
        if run.algorithm != "sb3-ppo":
            made["curve"]["log_ratio_abs_p95"] = [100.0] * 30 + [last[run.seed]] * 10
        return made

    found = entries(scores.score(suite, measured(suite, record), ANCHORS), "stale")["ppo"].diagnostics
    assert (found.lag, found.log_ratio_p95, found.largest_log_ratio_p95) == (3.5, 1.5, 3.0)
    # The synthetic records' ramps, over the last tenth of 40 iterations.
    assert found.dead_fraction == pytest.approx(1 - found.ess) and 0.45 < found.dead_fraction < 0.525
    assert (found.cpu_seconds, found.wall_seconds) == (25.0, 50.0)
    outside = entries(scores.score(suite, measured(suite, record), ANCHORS), "fresh")["sb3-ppo"].diagnostics
    assert outside.lag is outside.log_ratio_p95 is outside.largest_log_ratio_p95 is outside.ess is None
    assert outside.cpu_seconds == 25.0


def test_lags_that_some_run_never_saw_are_left_out():
    suite = make_suite()

    def record(run):
        made = realistic(run)
        if "by_lag" in made and run.seed == 1:
            made["by_lag"]["multiplier"][-1] = None
        return made

    found = entries(scores.score(suite, measured(suite, record), ANCHORS), "stale")["ppo"].utilization
    assert found.lags.tolist() == list(range(7)) and len(found.multiplier.low) == 7


def test_runs_with_lag_ranges_of_their_own_meet_where_all_have_been():
    """As of asynchronous actors, whose lags go as far as they do. Multipliers on a line are met exactly between ranges."""
    suite = make_suite()

    def record(run):
        made = realistic(run)
        if "by_lag" in made:
            first = [0, 2, 6, 20] if run.seed else [0, 4, 10]
            last = [1, 5, 19, 21] if run.seed else [3, 9, 13]
            made["by_lag"] |= {"first": first, "last": last, "count": [10] * len(first)}
            made["by_lag"]["multiplier"] = [1 - (begin + end) / 100 for begin, end in zip(first, last, strict=True)]
        return made

    found = entries(scores.score(suite, measured(suite, record), ANCHORS), "stale")["ppo"].utilization
    assert found.lags.tolist() == [1.5, 6.5, 11.5]
    assert found.multiplier.value.tolist() == pytest.approx([0.97, 0.87, 0.77])


def test_old_records_have_no_multipliers_and_all_else():
    suite = make_suite()

    def record(run):
        return {key: value for key, value in realistic(run).items() if key != "by_lag" or run.seed}

    found = entries(scores.score(suite, measured(suite, record), ANCHORS), "stale")["ppo"].utilization
    assert found.multiplier is None and found.dead_fraction.low is not None


def numbers(value):
    """Every number in nested dataclasses, lists and arrays."""
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = [getattr(value, name) for name in value.__dataclass_fields__]
    if isinstance(value, list | np.ndarray):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, float | np.floating) else []


STORES = {
    "whole": SimpleNamespace(suite={}, only=lambda run: True),
    "one seed": SimpleNamespace(suite={"seeds": 1}, only=lambda run: True),
    "one algorithm": SimpleNamespace(suite={}, only=lambda run: run.algorithm == "ppo"),
    "one run": SimpleNamespace(suite={}, only=lambda run: run == plan(run.suite)[0]),
    "holes": SimpleNamespace(suite={}, only=lambda run: (run.seed, run.task, run.algorithm) != (1, "reach-v3", "ppo")),
    "one regime": SimpleNamespace(suite={}, only=lambda run: run.regime == "stale"),
}


@pytest.mark.parametrize("name", STORES)
def test_there_is_never_a_nan(name):
    store = STORES[name]
    suite = make_suite(**store.suite)
    for anchors in (ANCHORS, {}):
        found = numbers(scores.score(suite, measured(suite, only=store.only), anchors, "ppo"))
        assert found and np.isfinite(found).all()
