import json
import time
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import REPOSITORY
from stable_baselines3 import PPO
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import floors, speed, speed_report
from benchmarks.speed import COMPONENTS, Case, measure
from benchmarks.turns import kind
from sb3_gipo import GIPO

COMMITTED = sorted((REPOSITORY / "results" / "speed").glob("*.json"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that counts gradient steps."""
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    monkeypatch.setattr(time, "process_time", lambda: float(len(steps)))
    yield
    hook.remove()


@pytest.fixture
def small(monkeypatch):
    def case():
        same = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
        return Case(
            "small",
            lambda: GIPO("MlpPolicy", gym.make("InvertedPendulum-v5"), replay_window=3, **same),
            lambda: PPO("MlpPolicy", gym.make("InvertedPendulum-v5"), **same),
            iterations=2,
        )

    monkeypatch.setitem(speed.CASES, "small", case)
    return "small"


def test_both_do_the_same_work(clock, small):
    """With a clock that counts gradient steps, the ratio is exactly 1, and all of it is the optimizer's."""
    (row,) = measure([small], {}, repetitions=2)["cases"]
    assert row["ratio_to_ppo"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert row["iteration_seconds"]["median"] == row["component_seconds"]["optimizer"]["median"] == 4.0
    assert row["ratio_to_floor"] is None, "the clock does not see the simulation"


def test_a_cost_is_compared_with_that_of_the_same_turn(monkeypatch):
    """A machine on which every measurement takes twice as long as the one before, and window 4 three times as long."""
    costs = iter(2.0**turn * factor for turn in range(5) for factor in (1, 3))
    monkeypatch.setattr(speed, "_collect_and_train", lambda model, callback: (1.0, next(costs)))
    scaling = measure([], {"replay_window": [1, 4]}, repetitions=1)["scaling"]
    assert scaling[0]["gradient_step_ratio_to_first"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert scaling[1]["gradient_step_ratio_to_first"] == {"median": 3.0, "low": 3.0, "high": 3.0}


@pytest.mark.parametrize("name", speed.CASES)
def test_every_case_compares_equal_numbers_of_steps(name):
    case = speed.CASES[name]()
    gipo, ppo = case.gipo(), case.ppo()
    assert gipo.n_steps * gipo.n_envs == ppo.n_steps * ppo.n_envs
    assert gipo.n_epochs * (1 + gipo.critic_updates) == ppo.n_epochs
    assert type(gipo.policy) is type(ppo.policy)


def test_the_parts_of_an_iteration_add_up(small):
    measured = measure([small], {"replay_window": [1, 2], "workers": [2]}, repetitions=1)
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    (row,) = measured["cases"]
    parts = {name: row["component_seconds"][name]["median"] for name in COMPONENTS}
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(row["iteration_seconds"]["median"], rel=1.0)
    assert row["floor_seconds"]["simulation"]["median"] > 0 and row["ratio_to_floor"]["median"] > 1
    assert [(each["axis"], each["size"]) for each in measured["scaling"]] == [
        ("replay_window", 1),
        ("replay_window", 2),
        ("workers", 2),
    ]
    assert all(each["microseconds_per_gradient_step"]["low"] > 0 for each in measured["scaling"])


def test_a_learner_is_itself_again_after_its_parts_were_timed(small):
    model = speed.CASES[small]().gipo()
    before = {owner: dict(vars(owner)) for owner in (model.policy.optimizer, model.rollout_buffer)}
    backward, clip = th.Tensor.backward, nn.utils.clip_grad_norm_
    with speed._components(model):
        assert th.Tensor.backward is not backward
    assert th.Tensor.backward is backward and nn.utils.clip_grad_norm_ is clip
    for owner, attributes in before.items():
        assert vars(owner).keys() == attributes.keys()


def test_the_floor_counts_what_is_differentiated():
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with floors.products_of(network) as products:
        network(th.zeros(7, 3)).sum().backward()
        with th.no_grad():
            network(th.zeros(7, 3))
    assert products == Counter({(7, 3, 5, False): 1, (7, 5, 2, True): 1})
    network(th.zeros(7, 3))
    assert sum(products.values()) == 2, "nothing is counted afterwards"


def test_the_floor_grows_with_the_work():
    seconds = [floors.seconds_of_products(Counter({floors.Product(256, 256, 256, True): n})) for n in (20, 2000)]
    assert seconds[1] > 10 * seconds[0]
    assert floors.seconds_of_simulation(gym.make("CartPole-v1"), 10) is None


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_tables_are_what_their_json_says(path):
    measured = json.loads(path.read_text())
    assert path.stem == kind(measured)
    text = path.with_suffix(".md").read_text()
    origin = text.rstrip().splitlines()[-1]
    assert speed_report.write(measured, origin)[f"{path.stem}.md"].decode() == text


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_nothing_has_become_twice_as_slow(path):
    """Ratios taken now, against those committed, on whichever machine: a collapse shows, noise does not."""
    committed = {row["case"]: row for row in json.loads(path.read_text())["cases"]}
    for row in measure(["CartPole-v1/1", "CartPole-v1/40"], {}, repetitions=3)["cases"]:
        ratio = row["ratio_to_ppo"]["median"] / committed[row["case"]]["ratio_to_ppo"]["median"]
        assert ratio < 2, row["case"]
        assert np.isfinite(ratio)
