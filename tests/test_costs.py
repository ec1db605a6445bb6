from suites import TINY, write_suite

from benchmarks.costs import Cost, estimate
from benchmarks.spec import load_suite, plan


def test_a_run_costs_what_the_likest_finished_runs_cost(tmp_path):
    suite = load_suite(write_suite(tmp_path, TINY.replace('"CartPole-v1"', '"CartPole-v1", "Acrobot-v1"')))
    runs = {(run.regime, run.algorithm, run.task): run for run in plan(suite, seeds=[0], repeats=[0])}
    ppo, gipo = ("fresh", "ppo", "CartPole-v1"), ("fresh", "gipo(1.0,0.5)", "CartPole-v1")
    finished = [(runs[ppo], 2.0), (runs[ppo], 4.0), (runs[gipo], 9.0)]

    def seconds(*key):
        return estimate([runs[key]], finished).cpu_seconds

    assert seconds(*ppo) == 3.0
    assert seconds("fresh", "gipo(1.0,0.5)", "Acrobot-v1") == 9.0, "the same algorithm on another task"
    assert seconds("stale", "ppo", "Acrobot-v1") == 5.0, "nothing alike: the mean of all"
    assert estimate(runs.values(), finished) == Cost(8 * 192, 3 + 3 + 9 + 9 + 4 * 5.0)
    assert estimate(runs.values(), []) == Cost(8 * 192, None)
