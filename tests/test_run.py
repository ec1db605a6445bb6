import inspect
import json

import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from suites import TINY, write_suite

from benchmarks import envs, recording
from benchmarks.recording import DIAGNOSTICS
from benchmarks.run import _by_lag, execute, make_model
from benchmarks.spec import BenchmarkError, Learner, load_suite, plan
from sb3_gipo import GIPO, GaussianTrust, PPOClip, UtilizationRecorder
from sb3_gipo.policies import LayerNormActorCriticPolicy


@pytest.fixture
def runs(tmp_path):
    suite = load_suite(write_suite(tmp_path))
    return {run.id.removeprefix("tiny/"): run for run in plan(suite)}


def timeless(record):
    return {key: value for key, value in record.items() if key not in ("wall_seconds", "cpu_seconds")}


def test_a_record_says_what_was_done(runs):
    run = runs["stale/gipo(1.0,0.5)/CartPole-v1/seed1/repeat0"]
    progress = []
    record = json.loads(json.dumps(execute(run, progress.append), allow_nan=False))
    assert record["run"] == run.id and record["digest"] == run.digest
    assert record["configuration"]["algorithm"] == {"surrogate": "gaussian", "sigma": 1.0, "sigma_neg_ratio": 0.5}
    assert record["seeds"] == {
        "environment": envs.environment_seed(1),
        "evaluation": envs.evaluation_seed(1),
        "learner": envs.learner_seed(1, 0),
    }
    assert record["evaluation"] is None
    assert record["versions"]["torch"] == th.__version__ or record["versions"]["torch"] in th.__version__
    curve = record["curve"]
    assert curve["steps"] == progress == [64, 128, 192]
    assert set(curve) == {"steps", "return", "success", "success_last", *DIAGNOSTICS}
    assert curve["lag_max"] == [0, 1, 2] and all(0 < ess <= 1 for ess in curve["ess"])
    assert all(len(values) == 3 for values in curve.values())
    assert record["scored_episodes"] == 5 <= record["episodes"]
    assert record["cpu_seconds"] > 0 and record["wall_seconds"] > 0


def test_long_curves_share_rows(runs, monkeypatch):
    """Three iterations in two rows: the first has two, the second what is left."""
    run = runs["stale/gipo(1.0,0.5)/CartPole-v1/seed1/repeat0"]
    every, progress = execute(run), []
    monkeypatch.setattr(recording, "MAX_ROWS", 2)
    shared = execute(run, progress.append)
    assert progress == [64, 128, 192] and shared["curve"]["steps"] == [128, 192]
    assert shared["score"] == every["score"] and shared["by_lag"] == every["by_lag"]
    for name in ("ess", "loss", "lag_mean", "lag_max"):
        first, second, last = every["curve"][name]
        assert shared["curve"][name] == [pytest.approx((first + second) / 2, rel=1e-5), last]


@pytest.mark.parametrize(("rows", "ends"), [(1000, [64, 128, 192]), (2, [128, 192]), (1, [192])])
def test_a_row_has_the_mean_return_of_its_episodes(runs, monkeypatch, rows, ends):
    run, episodes = runs["fresh/ppo/CartPole-v1/seed0/repeat0"], []

    def see(local, _):
        steps = local["self"].num_timesteps
        episodes.extend((steps, info["episode"]["r"]) for info in local["infos"] if "episode" in info)
        return True

    make_model(run).learn(192, callback=see)
    monkeypatch.setattr(recording, "MAX_ROWS", rows)
    expected = [
        np.mean([value for steps, value in episodes if begin < steps <= end])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    assert execute(run)["curve"]["return"] == pytest.approx(expected, rel=1e-5)


def test_the_score_is_the_mean_of_the_last_episodes(runs, tmp_path):
    run = runs["fresh/ppo/CartPole-v1/seed0/repeat0"]
    everything = plan(load_suite(write_suite(tmp_path, TINY.replace("score_episodes = 5", "score_episodes = 1000"))))[0]
    record, all_scored = execute(run), execute(everything)
    returns = [value for value in record["curve"]["return"] if value is not None]
    assert all_scored["scored_episodes"] == all_scored["episodes"] == record["episodes"]
    assert min(returns) <= all_scored["score"] <= max(returns)
    assert record["score"] != all_scored["score"]


def test_runs_are_repeatable_and_paired(runs):
    one = timeless(execute(runs["stale/ppo/CartPole-v1/seed0/repeat0"]))
    assert timeless(execute(runs["stale/ppo/CartPole-v1/seed0/repeat0"])) == one
    # Until the first update nothing distinguishes algorithms; seeds and repeats do from the start.
    other = execute(runs["stale/gipo(1.0,0.5)/CartPole-v1/seed0/repeat0"])
    assert other["curve"]["return"][0] == one["curve"]["return"][0]
    assert other["curve"]["loss"] != one["curve"]["loss"]
    for changed in ("seed1/repeat0", "seed0/repeat1"):
        assert execute(runs[f"stale/ppo/CartPole-v1/{changed}"])["curve"]["loss"] != one["curve"]["loss"]


def test_the_repeat_changes_the_learner_and_the_seed_the_environment(runs):
    def start(key):
        model = make_model(runs[f"fresh/ppo/CartPole-v1/{key}"])
        return model.env.reset(), th.nn.utils.parameters_to_vector(model.policy.parameters())

    observation, weights = start("seed0/repeat0")
    same_environment, other_weights = start("seed0/repeat1")
    np.testing.assert_array_equal(same_environment, observation)
    assert not th.equal(other_weights, weights)
    other_environment, _ = start("seed1/repeat0")
    assert not np.array_equal(other_environment, observation)


def test_the_surrogate_and_regime_reach_the_learner(runs):
    stale = make_model(runs["stale/gipo(1.0,0.5)/CartPole-v1/seed0/repeat0"])
    assert stale.current_surrogate == GaussianTrust(1.0, 0.5) and stale.replay_window == 3
    fresh = make_model(runs["fresh/ppo/CartPole-v1/seed0/repeat0"])
    assert fresh.current_surrogate == PPOClip(0.2) and fresh.replay_window == 1


def test_a_record_holds_the_multipliers_of_each_lag(runs):
    run = runs["stale/gipo(1.0,0.5)/CartPole-v1/seed1/repeat0"]
    found = execute(run)["by_lag"]
    assert found["first"] == found["last"] == [0, 1, 2]
    # Three updates of as many passes over as many samples as were newly collected, from one, two and three rollouts.
    assert sum(found["count"]) == 3 * 2 * 64 and min(found["count"]) > 0
    assert found["multiplier"][0] != found["multiplier"][2] and found["dead_fraction"] == [0.0, 0.0, 0.0]
    recorder = UtilizationRecorder()
    make_model(run).learn(192, callback=recorder)
    assert found["count"] == recorder.counts.tolist()
    assert found["multiplier"] == pytest.approx(recorder.mean_multiplier.tolist(), rel=1e-5)


def test_long_windows_have_forty_buckets_at_most():
    seen = UtilizationRecorder()
    seen.histogram = np.zeros((90, 34), dtype=np.int64)
    seen.histogram[:80, 3], seen.histogram[:80, 0] = 3, 1
    seen.multiplier_sum = np.where(np.arange(90) < 80, 2.0 * np.arange(90), 0.0)
    found = _by_lag(seen, 2000)
    first, last = np.array(found["first"]), np.array(found["last"])
    assert 25 < len(first) <= 40 and first[0] == 0 and last[-1] == 1999 and (first[1:] == last[:-1] + 1).all()
    assert (np.diff(last - first) >= -1).all() and sum(found["count"]) == 320
    for begin, end, count, multiplier, dead in zip(*found.values(), strict=True):
        inside = np.arange(begin, min(end, 79) + 1)
        assert count == 4 * len(inside)
        assert (multiplier is None) == (count == 0) and (dead is None) == (count == 0)
        if count:
            assert multiplier == pytest.approx(inside.mean() / 2, rel=1e-5) and dead == 0.25
    assert _by_lag(seen, 90)["count"][-1] == 0


def test_an_iteration_without_an_update_has_no_diagnostics(tmp_path):
    text = TINY.replace("replay_window = 3", "replay_window = 3\nmin_lag = 2")
    curve = execute(plan(load_suite(write_suite(tmp_path, text)), regimes=["stale"])[0])["curve"]
    assert curve["lag_mean"] == [None, None, 2.0] and curve["loss"][:2] == [None, None]


@pytest.mark.parametrize("copies", [1, 2])
def test_episodes_that_outlast_the_budget_are_played_out(tmp_path, copies):
    text = TINY.replace("CartPole-v1", "Pendulum-v1").replace(
        "[learner]", f"[environment]\nn_envs = {copies}\n[learner]"
    )
    text = text.replace("budget = 192", f"budget = {128 * copies}").replace("score_episodes = 5", "score_episodes = 1")
    record = execute(plan(load_suite(write_suite(tmp_path, text)))[0])
    # Pendulum's episodes last 200 steps. All of them count: the last to end are not like the others.
    assert record["episodes"] == 0 and record["scored_episodes"] == copies
    assert record["curve"]["return"] == [None, None]
    assert -200 * 16.3 < record["score"] < 0


def test_a_task_without_an_end_is_an_error(tmp_path):
    text = TINY.replace("CartPole-v1", "Acrobot-v1")
    with pytest.raises(BenchmarkError, match="no episode ended within the budget of 192 steps, nor within as many"):
        execute(plan(load_suite(write_suite(tmp_path, text)))[0])


def test_settings_that_the_learner_refuses_are_an_error(tmp_path):
    text = TINY.replace("batch_size = 32", "batch_size = 1")
    with pytest.raises(
        BenchmarkError, match="repeat0: its learner cannot be made: `batch_size` must be greater than 1"
    ):
        execute(plan(load_suite(write_suite(tmp_path, text)))[0])


def test_actors_collect_in_processes_of_their_own(tmp_path):
    pytest.importorskip("ray")
    text = TINY.replace("replay_window = 3", "replay_window = 3\nactors = {n_actors = 2, samples_per_insert = 4.0}")
    run = plan(load_suite(write_suite(tmp_path, text)), regimes=["stale"])[0]
    record = execute(run)
    curve = record["curve"]
    # What actors have collected and the learner not yet taken in when the budget is reached is not in the record.
    assert curve["steps"] == [64, 128, 192] and len(curve["seconds"]) == 3
    assert 0 < curve["seconds"][0] <= curve["seconds"][1] <= curve["seconds"][2]
    assert max(lag for lag in curve["lag_max"] if lag is not None) > 0
    assert record["by_lag"]["last"][-1] >= 2 and sum(record["by_lag"]["count"]) > 0
    assert record["configuration"]["regime"]["actors"]["samples_per_insert"] == 4.0


def test_metaworld_trains(tmp_path):
    text = (
        TINY.replace("CartPole-v1", "button-press-v3").replace("n_steps = 64", "n_steps = 500").replace("192", "1000")
    )
    text = text.replace("batch_size = 32", "batch_size = 50")
    record = execute(plan(load_suite(write_suite(tmp_path, text)))[-1])
    assert record["curve"]["steps"] == [500, 1000] and None not in record["curve"]["return"]
    assert record["success"] is not None and 0 <= record["success_last"] <= record["success"] <= 1


def test_a_learner_says_every_argument_that_changes_numbers():
    """An argument that GIPO gains must be given to suites, or to those that the harness sets or leaves alone."""
    parameters = inspect.signature(GIPO.__init__).parameters
    set_by_the_harness = {"self", "env", "seed", "device", "sigma", "sigma_neg_ratio", "surrogate"}
    set_by_the_regime = {"replay_window", "min_lag"}
    left_alone = {"use_sde", "sde_sample_freq", "rollout_buffer_class", "rollout_buffer_kwargs", "_init_setup_model"}
    only_logged = {"stats_window_size", "tensorboard_log", "verbose"}
    others = set_by_the_harness | set_by_the_regime | left_alone | only_logged
    assert set(Learner.model_fields) == set(parameters) - others
    for name, field in Learner.model_fields.items():
        default = parameters[name].default
        assert name in ("policy", "policy_kwargs") or field.default == default, name


@pytest.mark.parametrize("task", ["CartPole-v1", "Reacher-v5"])
def test_the_study_of_defaults_runs_what_users_get(task):
    """Every option of the study's learners is that of the class called with nothing but a policy and an environment."""
    names = {"ppo": PPO, "gipo": GIPO}
    for run in plan(load_suite("defaults"), seeds=[0], tasks=[task], algorithms=names, regimes=["fresh"]):
        model = make_model(run)
        users = names[run.algorithm]("MlpPolicy", task, device="cpu")
        for name in set(inspect.signature(type(users)).parameters) - {
            "env",
            "policy",
            "seed",
            "device",
            "policy_kwargs",
        }:
            ours, theirs = getattr(model, name, None), getattr(users, name, None)
            if callable(ours) and not isinstance(ours, type):
                ours, theirs = ours(0.5), theirs(0.5)
            if name == "surrogate" and ours is not None:
                ours, theirs = model.current_surrogate, users.current_surrogate
            assert ours == theirs, name
        assert type(model.policy) is type(users.policy) and str(model.policy) == str(users.policy)
        model.env.close(), users.env.close()


def test_unknown_activations_offer_the_nearest(tmp_path):
    text = TINY.replace("n_epochs = 2", 'n_epochs = 2\npolicy_kwargs = {net_arch = [8], activation_fn = "Relu"}')
    with pytest.raises(BenchmarkError, match="unknown activation_fn 'Relu': did you mean 'ReLU'"):
        make_model(plan(load_suite(write_suite(tmp_path, text)))[0])
    known = make_model(plan(load_suite(write_suite(tmp_path, text.replace("Relu", "ReLU"))))[0])
    assert isinstance(known.policy.mlp_extractor.policy_net[1], th.nn.ReLU)


def outside(tmp_path, name, settings="", task="CartPole-v1", n_envs=1):
    text = TINY.replace("CartPole-v1", task).replace("[learner]", f"[environment]\nn_envs = {n_envs}\n\n[learner]")
    text = text.replace("score_episodes = 5", "score_episodes = 5\nevaluation_episodes = 3")
    text += f'\n[algorithms.outside]\noutside = "{name}"\n{settings}'
    return load_suite(write_suite(tmp_path, text))


def test_sb3_ppo_as_an_outside_baseline_equals_ppo_in_our_loop(tmp_path):
    """Same seeds, same numbers: two classes, one algorithm. What differs is what each logs."""
    suite = outside(tmp_path, "PPO")
    ours, theirs = (execute(run) for run in plan(suite, algorithms=["ppo", "outside"], regimes=["fresh"])[:2])
    for name in ("steps", "return", "value_loss", "policy_gradient_loss"):
        np.testing.assert_allclose(ours["curve"][name], theirs["curve"][name], rtol=1e-4)
    assert ours["score"] == theirs["score"] and ours["evaluation"] == theirs["evaluation"]
    assert theirs["curve"]["ess"] == [None] * 3


def test_an_outside_baseline_takes_its_own_defaults_and_settings(tmp_path):
    trpo = make_model(plan(outside(tmp_path, "TRPO"), algorithms=["outside"])[0])
    assert isinstance(trpo, TRPO) and trpo.target_kl == 0.01 and trpo.n_steps == 64
    settings = "settings = {n_epochs = 3, target_kl = 0.5, policy_kwargs = {net_arch = [8]}}"
    suite = outside(tmp_path, "PPO", settings)
    run = plan(suite, algorithms=["outside"])[0]
    ppo = make_model(run)
    assert type(ppo) is PPO and ppo.n_epochs == 3 and ppo.target_kl == 0.5 and ppo.policy.net_arch == [8]
    assert run.configuration["learner"]["n_epochs"] == 3
    assert plan(suite, algorithms=["ppo"])[0].configuration["learner"]["n_epochs"] == 2


def test_evaluation_episodes_have_goals_of_their_own(tmp_path):
    seeds = {
        seed_of(s, copy)
        for seed_of in (envs.evaluation_seed, envs.environment_seed)
        for s in range(9)
        for copy in range(3)
    }
    assert len(seeds) == 54
    first, second = (
        execute(run)["evaluation"]
        for run in plan(outside(tmp_path, "PPO"), regimes=["fresh"], seeds=[0], repeats=[0])[:2]
    )
    assert first["episodes"] == second["episodes"] == 3 and first["success"] is None
    assert first != second, "the algorithms differ, what they are evaluated on does not"
    (three_copies,) = plan(
        outside(tmp_path, "PPO", n_envs=3), algorithms=["ppo"], regimes=["fresh"], seeds=[0], repeats=[0]
    )
    assert execute(three_copies)["evaluation"]["episodes"] == 3


def test_copies_of_an_environment_have_seeds_of_their_own(tmp_path):
    suite = outside(tmp_path, "PPO", n_envs=3)
    model = make_model(plan(suite)[0])
    observations = model.env.reset()
    assert len(np.unique(observations, axis=0)) == 3
    assert execute(plan(suite)[0])["curve"]["steps"] == [192]
    metaworld = outside(tmp_path, "PPO", task="reach-v3", n_envs=3)
    goals = []
    for env in make_model(plan(metaworld)[0]).env.envs:
        env.reset()
        goals.append(tuple(env.unwrapped._target_pos))
    assert len(set(goals)) == 3


def test_actions_in_bins_and_the_published_network(tmp_path):
    text = TINY.replace("CartPole-v1", "Pendulum-v1").replace(
        "[learner]", "[environment]\naction_bins = 16\n\n[learner]"
    )
    text = text.replace("learning_rate = 0.01", "learning_rate = {peak = 0.01, warmup_iterations = 2}")
    text = text.replace("[learner]", '[learner]\npolicy = "LayerNormActorCriticPolicy"')
    model = make_model(plan(load_suite(write_suite(tmp_path, text)))[0])
    assert list(model.action_space.nvec) == [16]
    assert isinstance(model.policy, LayerNormActorCriticPolicy)
    # 3 iterations: 0 at the first, halfway at the second, the peak at the third.
    assert [model.lr_schedule(1 - k / 3) for k in (1, 2, 3)] == pytest.approx([0, 0.005, 0.01])
