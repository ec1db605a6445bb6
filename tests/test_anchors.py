import json

import numpy as np
import pytest

from benchmarks import anchors, envs
from benchmarks.spec import BenchmarkError, load_suite, suite_names


def test_a_random_policy_is_zero_and_a_solved_task_one():
    measured = anchors.measure(["CartPole-v1", "Pendulum-v1"], [0, 1], 5, "command")
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    random, expert = (measured["tasks"]["CartPole-v1"][name] for name in ("random", "expert"))
    assert random["episodes"] == 10 and 15 < random["mean"] < 35 and random["success"] is None
    assert expert["mean"] == 475.0 and "not measured" in expert["source"]
    assert measured["tasks"]["Pendulum-v1"]["expert"]["mean"] == -150.0
    assert (
        anchors.measure(["CartPole-v1"], [0], 5, "")["tasks"] == anchors.measure(["CartPole-v1"], [0], 5, "")["tasks"]
    )
    with pytest.raises(BenchmarkError, match="'Blackjack-v1' has neither"):
        anchors.measure(["Blackjack-v1"], [0], 1, "")


@pytest.mark.parametrize("task", load_suite("metaworld8").tasks)
def test_the_scripted_experts_succeed_and_random_actions_do_not(task):
    """A task made wrongly (goals, observation, time limit) would show here: experts read the observation alone."""
    measured = anchors.measure([task], [3], 2, "")["tasks"][task]
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
