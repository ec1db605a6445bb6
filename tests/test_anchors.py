import json

import gymnasium as gym
import numpy as np
import pytest

from benchmarks import anchors, envs
from benchmarks.spec import BenchmarkError, load_suite, suite_names


def test_a_random_policy_is_zero_and_a_solved_task_one():
    measured = anchors.measure(["CartPole-v1", "Pendulum-v1"], [0, 1], 5, "command")
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    random, expert = (measured["CartPole-v1"][name] for name in ("random", "expert"))
    assert random["episodes"] == 10 and 15 < random["mean"] < 35 and random["success"] is None
    assert expert["mean"] == 475.0 and "not measured" in expert["source"]
    assert measured["Pendulum-v1"]["expert"]["mean"] == -150.0
    assert measured["CartPole-v1"]["made"]["command"] == "command"
    assert anchors.measure(["CartPole-v1"], [0], 5, "") == anchors.measure(["CartPole-v1"], [0], 5, "")
    with pytest.raises(BenchmarkError, match="'Blackjack-v1' has neither"):
        anchors.measure(["Blackjack-v1"], [0], 1, "")


@pytest.mark.parametrize("task", load_suite("metaworld8").tasks)
def test_the_scripted_experts_succeed_and_random_actions_do_not(task):
    """A task made wrongly (goals, observation, time limit) would show here: experts read the observation alone."""
    measured = anchors.measure([task], [3], 2, "")[task]
    committed = anchors.load_anchors(anchors.COMMITTED.parent)[task]
    assert measured["expert"]["success"] >= 0.5 and measured["random"]["success"] == 0.0
    assert measured["expert"]["mean"] == pytest.approx(committed[1], rel=0.35)
    assert measured["random"]["mean"] < 0.5 * measured["expert"]["mean"]


def test_every_task_of_every_suite_has_anchors():
    committed = anchors.load_anchors(anchors.COMMITTED.parent)
    for name in suite_names():
        for task in load_suite(name).tasks:
            random, expert = committed[task]
            assert random < expert, task


def test_experts_give_what_an_environment_takes():
    env = envs.make_env("reach-v3", envs.environment_seed(0))
    observation, _ = env.reset()
    action = envs.expert("reach-v3")(observation)
    assert action.dtype == np.float32 and env.action_space.contains(action)


def test_a_stores_own_anchors_come_before_the_committed_ones_and_are_a_scale(tmp_path):
    path = tmp_path / "anchors.json"

    def write(random, expert):
        path.write_text(
            json.dumps({"tasks": {"CartPole-v1": {"random": {"mean": random}, "expert": {"mean": expert}}}})
        )

    committed = anchors.load_anchors(tmp_path)
    assert "Acrobot-v1" in committed
    write(1.0, 2.0)
    assert anchors.load_anchors(tmp_path) == committed | {"CartPole-v1": (1.0, 2.0)}
    for random, expert in ((500.0, 20.0), (3.0, 3.0), (0.0, float("nan")), (float("-inf"), 1.0)):
        write(random, expert)
        with pytest.raises(BenchmarkError, match=r"on CartPole-v1 the expert returns .* no scale"):
            anchors.load_anchors(tmp_path)
    for text in (json.dumps({"tasks": {"CartPole-v1": {"random": {"mean": None}, "expert": {"mean": 1}}}}), "[]", "{}"):
        path.write_text(text)
        with pytest.raises(BenchmarkError, match="not a file of anchors"):
            anchors.load_anchors(tmp_path)


def test_a_task_that_cannot_be_made_is_one_line(monkeypatch):
    def refuse(*args):
        raise gym.error.DependencyNotInstalled("pygame is missing")

    monkeypatch.setattr(envs, "make_env", refuse)
    with pytest.raises(BenchmarkError, match=r"'CartPole-v1' cannot be made: .*pygame is missing"):
        anchors.measure(["CartPole-v1"], [0], 1, "")
