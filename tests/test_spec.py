import itertools
import math

import pytest
from suites import TINY, write_suite

from benchmarks.spec import SUITES, BenchmarkError, load_suite, plan, suite_names


def test_every_committed_suite_loads():
    assert {"demo", "metaworld8"} <= set(suite_names())
    for name in suite_names():
        assert load_suite(name).name == name


def test_metaworld8_is_what_the_protocol_says():
    suite = load_suite("metaworld8")
    assert (len(suite.tasks), suite.seeds, suite.repeats) == (8, 10, 5)
    assert {name: regime.replay_window for name, regime in suite.regimes.items()} == {"fresh": 1, "stale": 40}
    gipo = {f"gipo({sigma},{ratio})" for sigma in (0.2, 0.5, 1.0) for ratio in (0.5, 1.0)}
    assert set(suite.algorithms) == {"ppo", "sapo", "no-clip", "sb3-ppo", "trpo"} | gipo
    assert len(plan(suite)) == 400 * (9 * 2 + 2)
    published = load_suite("published")
    assert set(suite.tasks) < set(published.tasks) and suite.environment == published.environment
    others = {"bootstrap_time_limit": True, "advantage": "recomputed"}
    assert suite.learner == published.learner.model_copy(update=others)
    assert (suite.algorithms["sapo"].tau_pos, suite.algorithms["sapo"].tau_neg) == (1.0, 1.05)


def test_tasks_are_chosen_with_the_learner_that_they_are_for():
    chosen, choice = load_suite("metaworld8"), load_suite("task-choice")
    assert choice.tasks == load_suite("published").tasks and set(chosen.tasks) < set(choice.tasks)
    assert (choice.learner, choice.environment) == (chosen.learner, chosen.environment)
    for name in ("ppo", "no-clip"):
        assert choice.algorithms[name] == chosen.algorithms[name]


def test_published_is_what_the_study_did():
    suite = load_suite("published")
    assert (len(suite.tasks), len(suite.algorithms), suite.seeds, suite.repeats) == (10, 8, 5, 1)
    assert len(plan(suite, regimes=["stale"])) == 400
    runs = {run.regime: run for run in plan(suite, seeds=[0], tasks=["button-press-v3"], algorithms=["gipo(1.0,1.0)"])}
    stale, stalest = runs["stale"], runs["stalest"]
    # 1000 iterations of 500 steps, 10 minibatches of 512 each; 50 000 iterations of 10 steps, one minibatch each.
    for run, window, iterations, minibatches in ((stale, 40, 1000, 10), (stalest, 2000, 50_000, 1)):
        learner = run.learner
        assert run.staleness.replay_window * learner.n_steps == 20_000 and run.staleness.replay_window == window
        assert suite.budget / learner.n_steps == iterations
        assert learner.n_epochs * math.ceil(learner.n_steps / learner.batch_size) == minibatches
        assert learner.critic_updates == 9 and learner.ratio_level == "dimension" and not learner.bootstrap_time_limit
    assert (stale.learner.learning_rate.peak, stale.learner.value_learning_rate.peak) == (3e-4, 3e-3)
    assert (stalest.learner.learning_rate.peak, stalest.learner.value_learning_rate.peak) == (1e-4, 1e-3)


def test_run_ids_and_order(tmp_path):
    runs = plan(load_suite(write_suite(tmp_path)))
    assert runs[0].id == "tiny/fresh/ppo/CartPole-v1/seed0/repeat0"
    assert [run.id for run in runs] == list(dict.fromkeys(run.id for run in runs))
    order = [(run.repeat, run.seed, run.task, run.regime, run.algorithm) for run in runs]
    expected = itertools.product((0, 1), (0, 1), ["CartPole-v1"], ["fresh", "stale"], ["ppo", "gipo(1.0,0.5)"])
    assert order == list(expected)


def test_filters(tmp_path):
    suite = load_suite(write_suite(tmp_path))
    runs = plan(suite, seeds=[1], repeats=[0], regimes=["stale"], algorithms=["ppo"])
    assert [run.id for run in runs] == ["tiny/stale/ppo/CartPole-v1/seed1/repeat0"]
    with pytest.raises(BenchmarkError, match="seed 2 is not in the suite: it has seeds 0 to 1"):
        plan(suite, seeds=[2])


def test_the_budget_is_part_of_the_identity(tmp_path):
    path = write_suite(tmp_path)
    own, other = load_suite(path), load_suite(path, budget=128)
    assert own.identity == load_suite(path, budget=192).identity == "tiny"
    assert other.identity == "tiny@128"
    assert plan(own)[0].digest != plan(other)[0].digest


@pytest.mark.parametrize(("budget", "episodes"), [(64, 2), (128, 3), (192, 5), (384, 10), (1920, 50)])
def test_a_score_is_of_the_same_share_of_a_run_whatever_the_budget(tmp_path, budget, episodes):
    assert load_suite(write_suite(tmp_path), budget=budget).score_episodes == episodes


def test_actors_change_the_digest_and_what_has_none_is_what_it_was(tmp_path):
    synchronous = plan(load_suite(write_suite(tmp_path)))[0]
    assert synchronous.configuration["regime"] == {"replay_window": 1, "min_lag": 0}
    text = TINY.replace("replay_window = 1", "replay_window = 1\nactors = {n_actors = 1}")
    asynchronous = plan(load_suite(write_suite(tmp_path, text)))[0]
    assert asynchronous.digest != synchronous.digest
    assert asynchronous.configuration["regime"]["actors"]["n_actors"] == 1


def test_an_outside_algorithm_has_no_actors(tmp_path):
    text = TINY.replace("[algorithms.ppo]", '[algorithms.sb3]\noutside = "PPO"\n[algorithms.ppo]')
    assert load_suite(write_suite(tmp_path, text)).runs_in("sb3", "fresh")
    text = text.replace("replay_window = 1", "replay_window = 1\nactors = {n_actors = 1}")
    with pytest.raises(BenchmarkError, match="sb3 runs in no regime"):
        load_suite(write_suite(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("score_episodes = 5", "score_episodes = 6"),
        ("n_epochs = 2", "n_epochs = 3"),
        ("replay_window = 1", "replay_window = 2"),
        ('surrogate = "ppo_clip"', 'surrogate = "sapo"'),
        ("[learner]", "[environment]\nreward_scale = 0.1\n[learner]"),
        ('tasks = ["CartPole-v1"]', 'tasks = ["Acrobot-v1"]'),
    ],
)
def test_whatever_changes_the_numbers_changes_the_digest(tmp_path, old, new):
    before = plan(load_suite(write_suite(tmp_path)))[0]
    assert old in TINY
    after = plan(load_suite(write_suite(tmp_path, TINY.replace(old, new, 1))))[0]
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_epochs = 2", "n_epoch = 2", "learner: unknown key 'n_epoch': did you mean 'n_epochs'?"),
        ("seeds = 2", "seed = 2", "unknown key 'seed': did you mean 'seeds'?"),
        ('"ppo_clip"', '"ppo_klip"', "algorithms.ppo: unknown surrogate 'ppo_klip': did you mean 'ppo_clip'?"),
        ("sigma_neg_ratio = 0.5", "sigma_neg_ratio = 0.0", "sigma_neg_ratio: .*greater than 0, got 0.0"),
        ("sigma_neg_ratio = 0.5", "sigma = -1.0", "sigma: .*greater than 0, got -1.0"),
        ("replay_window = 3", "replay_window = 0", "replay_window: .*greater than or equal to 1, got 0"),
        ("replay_window = 3", "replay_window = 3\nmin_lag = 3", "min_lag 3 must be below replay_window 3"),
        ("replay_window = 3", "replay_window = 3\nmin_lag = -1", "min_lag: .*greater than or equal to 0, got -1"),
        ("budget = 192", "budget = 200", "budget 200 is not a multiple of 64 = n_steps \\* n_envs: take 192 or 256"),
        ("gipo(1.0,0.5)", "gipo(1.0,1.0)", "does not agree with its settings"),
        ("[learner]", "[learner", "is not valid TOML"),
        ('name = "tiny"', 'name = "../tiny"', "must be letters, digits"),
        ('name = "tiny"', f'name = "{"a" * 101}"', "must be letters, digits .* 100 at most"),
        ("gipo(1.0,0.5)", "gipo(1,0.5)", r"the label 'gipo\(1,0.5\)' .* those of 'gipo\(1.0,0.5\)'"),
        ('tasks = ["CartPole-v1"]', 'tasks = "CartPole-v1"', r'tasks: it must be a list, such as \["CartPole-v1"\]$'),
        ('tasks = ["CartPole-v1"]', "tasks = [1]", "tasks.0: [^;]*, got 1$"),
        ("learning_rate = 0.01", 'learning_rate = "fast"', "learner.learning_rate: [^;]*, got 'fast'$"),
        (
            "learning_rate = 0.01",
            "learning_rate = 0.01\nvtrace_c_bar = 3.0",
            "vtrace_c_bar 3.0 must be at most vtrace",
        ),
        ("budget = 192", f"budget = {'9' * 5000}", "is not valid TOML"),
        ("budget = 192", "budget = 64000000000000000000", "budget: .*less than or equal to"),
        (
            '"ppo_clip"',
            '"ppo_clip"\nsettings = {n_epoch = 3}',
            "algorithms.ppo.settings: unknown key .* mean 'n_epochs'",
        ),
        ('"ppo_clip"', '"ppo_clip"\nsettings = {n_epochs = 0}', "algorithms.ppo: settings: n_epochs: .* got 0"),
        (
            "replay_window = 3",
            "replay_window = 3\nsettings = {n_step = 8}",
            "regimes.stale.settings: .* mean 'n_steps'",
        ),
        ('"ppo_clip"', '"ppo_clip"\nsettings = {n_steps = 65}', "budget 192 is not a multiple of 4160 = "),
        ("learning_rate = 0.01", "learning_rate = -1.0", "learning_rate.*: .*greater than 0, got -1.0"),
        ("learning_rate = 0.01", "learning_rate = {peak = 1.0, warmup_iterations = 3}", "of 3 iterations does not end"),
        ('surrogate = "ppo_clip"', 'outside = "DQN"', "algorithms.ppo.*outside: .*'PPO' or 'TRPO', got 'DQN'"),
        (
            'surrogate = "ppo_clip"',
            'outside = "PPO"\nsettings = {replay_window = 2}',
            "it needs one of fresh data",
        ),
        ("seeds = 2", "seeds = true", "seeds: Input should be a valid integer, got True"),
        ("learning_rate = 0.01", 'learning_rate = "3e-4"', "learning_rate.*valid number, got '3e-4'"),
        ('surrogate = "ppo_clip"', "", "algorithms.ppo: it needs a `surrogate`"),
        (
            "[algorithms.ppo]",
            '[algorithms]\nx = "ppo"\n[algorithms.ppo]',
            "algorithms.x.*it must be a table of settings",
        ),
        ('"ppo_clip"', '"ppo_clip"\nregimes = []', "algorithms.ppo.*regimes: .*at least 1 item"),
        ("[learner]", '[learner]\npolicy = "FooPolicy"', "learner.policy: .*'MlpPolicy'.*got 'FooPolicy'"),
        ("seeds = 2", 'seeds = 2\nnote = "one\\ntwo"', r"note: it must be one line.*got 'one\\ntwo'"),
        (
            "replay_window = 3",
            "replay_window = 4\nmin_lag = 3",
            r"regimes.stale: nothing becomes 3 versions old \(min_lag\) within the 3 iterations of the budget 192",
        ),
    ],
)
def test_bad_suites_are_named(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(BenchmarkError, match=f"tiny.toml.*{message}"):
        load_suite(write_suite(tmp_path, TINY.replace(old, new, 1)))


def test_a_regime_needs_an_algorithm(tmp_path):
    text = TINY.replace('surrogate = "ppo_clip"', 'surrogate = "ppo_clip"\nregimes = ["fresh"]')
    text = text.replace("sigma_neg_ratio = 0.5", 'sigma_neg_ratio = 0.5\nregimes = ["fresh"]')
    with pytest.raises(BenchmarkError, match=r"regimes.stale: no algorithm runs under it"):
        load_suite(write_suite(tmp_path, text))


def test_a_name_of_ours_is_not_for_another_suite(tmp_path):
    """Their records would share a folder, and each would set the other's aside."""
    text = (SUITES / "demo.toml").read_text()
    path = tmp_path / "copy.toml"
    path.write_text(text)
    assert load_suite(str(path)) == load_suite("demo")
    path.write_text(text.replace("learning_rate = 3e-4", "learning_rate = 1e-3"))
    with pytest.raises(
        BenchmarkError, match=r"copy.toml: the name 'demo' is that of a suite that comes with the benchmark"
    ):
        load_suite(str(path))


def test_nothing_to_run_is_an_error(tmp_path):
    suite = load_suite(write_suite(tmp_path, TINY + '\n[algorithms.sb3-ppo]\noutside = "PPO"\n'))
    with pytest.raises(BenchmarkError, match="sb3-ppo runs under none of stale"):
        plan(suite, algorithms=["sb3-ppo"], regimes=["stale"])


def test_unknown_suites_and_files():
    with pytest.raises(BenchmarkError, match="unknown suite 'metaworld': did you mean 'metaworld8'"):
        load_suite("metaworld")
    with pytest.raises(BenchmarkError, match=r"cannot read the suite 'none.toml': No such file"):
        load_suite("none.toml")


def test_outside_algorithms_run_on_fresh_data_alone(tmp_path):
    suite = load_suite(write_suite(tmp_path, TINY + '\n[algorithms.sb3-ppo]\noutside = "PPO"\n'))
    assert {run.regime for run in plan(suite, algorithms=["sb3-ppo"])} == {"fresh"}
    assert {run.regime for run in plan(suite, algorithms=["ppo"])} == {"fresh", "stale"}


def test_an_algorithm_may_name_its_regimes(tmp_path):
    suite = load_suite(write_suite(tmp_path, TINY.replace('"ppo_clip"', '"ppo_clip"\nregimes = ["stale"]')))
    assert {run.regime for run in plan(suite, algorithms=["ppo"])} == {"stale"}
    assert (
        plan(suite, algorithms=["ppo"])[0].digest
        == plan(load_suite(write_suite(tmp_path)), regimes=["stale"])[0].digest
    )


def test_settings_of_one_algorithm_change_its_runs_alone(tmp_path):
    text = TINY.replace('"ppo_clip"', '"ppo_clip"\nsettings = {n_epochs = 5, replay_window = 2}')
    before, after = (plan(load_suite(write_suite(tmp_path, each)), regimes=["stale"])[:2] for each in (TINY, text))
    assert before[0].digest != after[0].digest and before[1].digest == after[1].digest
    assert after[0].learner.n_epochs == 5 and after[0].staleness.replay_window == 2
    assert after[0].configuration["regime"]["replay_window"] == 2


def test_settings_of_a_regime_come_before_the_learners_and_after_the_algorithms(tmp_path):
    text = TINY.replace("replay_window = 3", "replay_window = 3\nsettings = {n_steps = 32, n_epochs = 7}")
    text = text.replace('"ppo_clip"', '"ppo_clip"\nsettings = {n_epochs = 5}')
    fresh, stale = (plan(load_suite(write_suite(tmp_path, text)), regimes=[name])[:2] for name in ("fresh", "stale"))
    assert [(run.learner.n_steps, run.learner.n_epochs) for run in fresh] == [(64, 5), (64, 2)]
    assert [(run.learner.n_steps, run.learner.n_epochs) for run in stale] == [(32, 5), (32, 7)]
    assert stale[1].configuration["learner"]["n_steps"] == 32
