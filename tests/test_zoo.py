"""
rl-zoo3 only ever runs in subprocesses here: importing it replaces gymnasium's TimeLimit for the whole process, which would
be the other tests' process.
"""

import csv
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.spec import load_suite
from sb3_gipo import GIPO
from sb3_gipo.zoo import HYPERPARAMS, ZooGIPO, convert_gipo_params, sample_gipo_params

ROOT = Path(__file__).resolve().parents[1]
needs_zoo = pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl-zoo3 is not installed")
# What an entry of a settings file may hold for rl-zoo3 itself.
ZOO_KEYS = {"n_timesteps", "n_envs", "normalize"}


def python(*arguments, cwd):
    """Run Python, with this checkout's package, in another folder; returns the finished process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def zoo(*arguments, cwd):
    process = python("-m", "sb3_gipo.zoo", *arguments, cwd=cwd)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@needs_zoo
def test_train_then_enjoy(tmp_path):
    options = ["--env", "CartPole-v1", "--seed", "0"]
    # One evaluation, of rl-zoo3's own making; the agent goes to logs, where enjoy looks for it.
    zoo("train", "--algo", "gipo", *options, "-n", "1000", "--eval-freq", "500", "-params", "sigma:0.3", cwd=tmp_path)
    model = python(
        "-c",
        "from sb3_gipo import GIPO\n"
        "model = GIPO.load('logs/gipo/CartPole-v1_1/CartPole-v1.zip')\n"
        "print(model.num_timesteps, model.gae_lambda, model.sigma(1.0))",
        cwd=tmp_path,
    )
    # λ comes from our settings file, sigma from the command line.
    assert model.stdout.split() == ["1024", "0.8", "0.3"], model.stderr
    assert (tmp_path / "logs/gipo/CartPole-v1_1/best_model.zip").exists()
    watched = zoo("enjoy", "--algo", "gipo", *options, "--no-render", "-n", "600", cwd=tmp_path)
    assert "Mean reward" in watched


@needs_zoo
def test_optimize(tmp_path):
    search = ["-optimize", "--n-trials", "2", "--pruner", "none", "--eval-episodes", "1", "--no-optim-plots"]
    zoo("train", "--env", "CartPole-v1", "-n", "200", "--seed", "0", *search, cwd=tmp_path)
    (report,) = tmp_path.glob("logs/gipo/report_*.csv")
    trials = list(csv.DictReader(report.open()))
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert trials[0]["params_sigma"] != trials[1]["params_sigma"]


@needs_zoo
def test_defaults_give_way_to_the_user(tmp_path):
    """Ours hold where the user says nothing, and for GIPO alone."""
    script = """
import json, sys
import rl_zoo3.enjoy, rl_zoo3.train
from sb3_gipo import zoo

class Stop(Exception):
    pass

seen = []
def experiment(args, algo, *_, config, **__):
    seen.append([algo, config])
    raise Stop
def model_path(exp_id, folder, algo, *_):
    seen.append([algo, folder])
    raise Stop
rl_zoo3.train.ExperimentManager = experiment
rl_zoo3.enjoy.get_model_path = model_path
for arguments in json.loads(sys.argv[1]):
    try:
        zoo.main(arguments)
    except Stop:
        pass
print(json.dumps(seen))
"""
    expected = {
        "train": ["gipo", str(HYPERPARAMS)],
        "train --algo gipo": ["gipo", str(HYPERPARAMS)],
        "train -conf mine.yml": ["gipo", "mine.yml"],
        "train --conf-file=mine.yml": ["gipo", "mine.yml"],
        "train --algo ppo": ["ppo", None],
        "train --algo=ppo -conf mine.yml": ["ppo", "mine.yml"],
        "enjoy": ["gipo", "logs"],
        "enjoy -f elsewhere": ["gipo", "elsewhere"],
        "enjoy --algo ppo": ["ppo", "rl-trained-agents"],
    }
    process = python("-c", script, json.dumps([line.split() for line in expected]), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == list(expected.values())


@pytest.mark.parametrize("command", ["train", "enjoy"])
def test_missing_rl_zoo3_is_explained(command, tmp_path):
    script = f"import sys; sys.modules['rl_zoo3'] = None; from sb3_gipo import zoo; zoo.main(['{command}'])"
    process = python("-c", script, cwd=tmp_path)
    assert process.returncode == 1
    assert "pip install 'sb3-gipo[zoo]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_help_teaches_without_rl_zoo3(tmp_path):
    script = "import sys; sys.modules['rl_zoo3'] = None; from sb3_gipo import zoo; zoo.main([])"
    process = python("-c", script, cwd=tmp_path)
    assert process.returncode == 0
    assert "python -m sb3_gipo.zoo train --algo gipo --env CartPole-v1" in process.stdout


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_settings_are_arguments_of_gipo():
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load(HYPERPARAMS.read_text())
    assert settings.keys() == {"default", *load_suite("zoo-search").tasks}
    for env_id, entry in settings.items():
        assert entry["n_timesteps"] > 0
        arguments = {key: value for key, value in entry.items() if key not in ZOO_KEYS}
        assert arguments.keys() <= inspect.signature(GIPO).parameters.keys(), env_id
        if isinstance(arguments.get("learning_rate"), str):
            kind, start = arguments["learning_rate"].split("_")
            assert kind == "lin"
            arguments["learning_rate"] = float(start)
        # GIPO checks the ranges itself. CartPole stands in for the environments: some need packages of their own.
        GIPO(env="CartPole-v1", **arguments, _init_setup_model=False)


@pytest.mark.parametrize("task", load_suite("zoo-search").tasks)
def test_settings_are_those_that_did_best_in_the_search(task):
    """For each task the row of the suite with the highest mean return, and nothing that the suite does not have."""
    yaml = pytest.importorskip("yaml")
    suite = load_suite("zoo-search")
    with open(ROOT / "results" / suite.identity / "tasks.csv") as file:
        rows = [row for row in csv.DictReader(filter(lambda line: line[0] != "#", file)) if row["task"] == task]
    highest = max(float(row["mean_return"]) for row in rows)
    entry = yaml.safe_load(HYPERPARAMS.read_text())[task]
    assert entry.pop("n_timesteps") == suite.budget and entry.pop("n_envs") == suite.environment.n_envs
    defaults = inspect.signature(GIPO).parameters

    def settings(algorithm):
        found = {
            "sigma": suite.algorithms[algorithm].sigma,
            "replay_window": suite.regime_of(algorithm, "default").replay_window,
            **suite.learner_of(algorithm, "default").model_dump(exclude={"policy_kwargs"}),
        }
        return {name: value for name, value in found.items() if value != defaults[name].default}

    # Some tasks are solved by several rows.
    assert entry in [settings(row["algorithm"]) for row in rows if float(row["mean_return"]) == highest]


class Trial:
    """Optuna's trial in small: draws at random and remembers what it drew."""

    def __init__(self, rng):
        self.rng = rng
        self.params = {}

    def suggest_float(self, name, low, high, *, log=False):
        ends = np.log([low, high]) if log else [low, high]
        drawn = self.rng.uniform(*ends)
        self.params[name] = float(np.exp(drawn) if log else drawn)
        return self.params[name]

    def suggest_categorical(self, name, choices):
        self.params[name] = choices[self.rng.integers(len(choices))]
        return self.params[name]


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_sampler_draws_arguments_of_gipo():
    rng = np.random.default_rng(0)
    windows = set()
    for _ in range(50):
        trial = Trial(rng)
        arguments = sample_gipo_params(trial, 0, 1, {})
        assert arguments == convert_gipo_params(trial.params), "a stored trial must mean what it meant when it ran"
        assert 0.1 <= arguments["sigma"] <= 2
        windows.add(arguments["replay_window"])
        model = GIPO("MlpPolicy", "CartPole-v1", **arguments)
    assert windows == {1, 2, 4, 8, 16}
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net[::2]] == arguments["policy_kwargs"][
        "net_arch"
    ]["pi"]


class Overflow(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        return np.zeros(1, dtype=np.float32), np.inf, False, False, {}


def test_an_overflowing_trial_is_one_that_rl_zoo3_prunes():
    with pytest.raises(FloatingPointError):
        GIPO("MlpPolicy", Overflow(), n_steps=8, batch_size=8).learn(8)
    # rl-zoo3 prunes upon AssertionError and ValueError.
    with pytest.raises(ValueError, match="reward"):
        ZooGIPO("MlpPolicy", Overflow(), n_steps=8, batch_size=8).learn(8)
