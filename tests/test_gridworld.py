"""The exact bias–variance study: golden numbers, simulation, and what its command writes."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch as th
from conftest import REPOSITORY

from benchmarks.gridworld import (
    BEHAVIORS,
    ESTIMATORS,
    LAGS,
    TARGETS,
    bias_variance_table,
    dead_fraction,
    gradient_moments,
    lagged_policies,
    logit_moments,
    pareto_front,
    policies,
    sample_gradients,
    sampled_states,
)
from benchmarks.gridworld_report import findings
from benchmarks.mdp import DOWN, RIGHT, FiniteMDP, gridworld
from sb3_gipo import GaussianTrust, NoClip, PPOClip

BETTER = ["PI-2 (Better)", "PI-3 (Near-Optimal)"]
KEYS = ["target_policy", "behavior_case", "estimator"]


@pytest.fixture(scope="module")
def table():
    return bias_variance_table().set_index(KEYS)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """What `python -m benchmarks gridworld` writes and prints."""
    folder = tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gridworld", "--results", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    return folder / "gridworld", done.stdout


def random_case(seed, states=4, actions=3):
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(states), size=(states, actions))
    mdp = FiniteMDP(transitions, rng.normal(size=(states, actions)), 0.8, rng.dirichlet(np.ones(states)))
    return mdp, *(rng.dirichlet(np.ones(actions), size=states) for _ in range(2))


def test_golden_rows(golden, table):
    expected = pd.read_csv(golden / "gridworld.csv").set_index(KEYS)
    found = table.loc[expected.index]
    for column in ("expectation", "bias", "variance", "mse"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-8, atol=1e-15, err_msg=column)
    assert (found["all_gradients_zero"] == expected["all_gradients_zero"]).all()
    assert set(ESTIMATORS) >= set(expected.index.unique("estimator"))


def test_all_pairs_are_there(table):
    assert len(table) == len(TARGETS) * len(BEHAVIORS) * len(ESTIMATORS) == 3 * 7 * 10


@pytest.mark.parametrize("case", ["A", "B"])
@pytest.mark.parametrize("target", BETTER)
def test_severe_lag_silences_the_clip_and_not_the_weight(table, target, case):
    learned, behavior = policies(target, case)
    mdp = gridworld()
    assert (sample_gradients(mdp, learned, behavior, PPOClip(0.2))[0] == 0).all()  # every action, every logit of S0
    assert table.loc[(target, case, "PPO"), ["all_gradients_zero", "dead_fraction"]].tolist() == [1, 1]
    gipo = [name for name in ESTIMATORS if name.startswith("GIPO")]
    assert len(gipo) == 5
    for name in gipo:
        assert (sample_gradients(mdp, learned, behavior, ESTIMATORS[name])[0] != 0).all()
        assert table.loc[(target, case, name), ["all_gradients_zero", "dead_fraction"]].tolist() == [0, 0]
    # What the claim does not say: beyond S0, PI-2 has an action within the clip in both other states.
    assert table.loc[(target, case, "PPO"), "gradient_dead_fraction"] == 1 or target == "PI-2 (Better)"
    assert (dead_fraction(mdp, *policies("PI-2 (Better)", case), PPOClip(0.2))[1:3] < 1).all()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("pair", [("PI-1 (Mild)", "E"), ("PI-3 (Near-Optimal)", "B")])
def test_simulation_agrees(name, pair):
    """10⁶ samples: mean and variance within 4 standard errors, for S0's logit and for the whole gradient."""
    mdp, surrogate, rng, samples = gridworld(), ESTIMATORS[name], np.random.default_rng(0), 10**6
    target, behavior = policies(*pair)
    # The estimates come from the surrogate's objective by autograd, not from the multiplier that the study uses.
    advantages = th.tensor(mdp.advantages(target))
    logits = th.tensor(np.log(target), requires_grad=True)
    gradients = np.zeros((*target.shape, target.size))
    for s, a in np.ndindex(target.shape):
        log_ratio = logits.log_softmax(1)[s, a] - np.log(behavior[s, a])
        objective = surrogate.objective(log_ratio, advantages[s, a])
        gradients[s, a] = th.autograd.grad(objective, logits)[0].flatten().numpy()

    drawn = gradients[0, rng.choice(4, p=behavior[0], size=samples), RIGHT]
    exact = logit_moments(mdp, target, behavior, surrogate)
    assert_moments(drawn, exact.expectation[0, RIGHT], exact.variance[0, RIGHT])

    pairs = (sampled_states(mdp, behavior)[:, None] * behavior).ravel()
    counts = np.bincount(rng.choice(pairs.size, p=pairs / pairs.sum(), size=samples), minlength=pairs.size)
    vectors = gradients.reshape(pairs.size, -1)
    mean = counts @ vectors / samples
    whole = gradient_moments(mdp, target, behavior, surrogate)
    # Every component of the mean, and the trace of the covariance as the mean of a squared distance.
    expectation = pairs @ vectors
    spread = np.sqrt(pairs @ (vectors - expectation) ** 2 / samples)
    assert (np.abs(mean - expectation) <= 4 * spread + 1e-12).all()
    assert np.linalg.norm(expectation) == pytest.approx(whole.expectation, rel=1e-9, abs=1e-15)
    distances = ((vectors - expectation) ** 2).sum(axis=1)
    error = np.sqrt(max(pairs @ distances**2 - (pairs @ distances) ** 2, 0) / samples)
    assert abs(counts @ distances / samples - whole.variance) <= 4 * error + 1e-12


def assert_moments(drawn, expectation, variance):
    count, centred = len(drawn), drawn - drawn.mean()
    assert abs(drawn.mean() - expectation) <= 4 * np.sqrt(variance / count) + 1e-15
    # The standard error of a sample variance comes from the fourth central moment.
    error = np.sqrt(max((centred**4).mean() - (centred**2).mean() ** 2, 0) / count)
    assert abs(drawn.var(ddof=1) - variance) <= 4 * error + 1e-15


@pytest.mark.parametrize("seed", range(5))
def test_moments_of_any_mdp_by_hand(seed):
    mdp, target, behavior = random_case(seed)
    surrogate = GaussianTrust(0.7, 0.5)
    found = logit_moments(mdp, target, behavior, surrogate)
    advantages = mdp.advantages(target)
    for s, b in np.ndindex(target.shape):
        log_ratios = np.log(target[s] / behavior[s])
        width = np.where(advantages[s] > 0, 0.7, 0.35)
        score = (np.arange(3) == b) - target[s, b]
        values = np.exp(log_ratios - log_ratios**2 / (2 * width**2)) * advantages[s] * score
        mean = (behavior[s] * values).sum()
        wanted = (target[s] * advantages[s] * score).sum()
        variance = (behavior[s] * values**2).sum() - mean**2
        assert found.expectation[s, b] == pytest.approx(mean, rel=1e-9)
        assert found.bias[s, b] == pytest.approx(abs(mean - wanted), rel=1e-7, abs=1e-12)
        assert found.variance[s, b] == pytest.approx(variance, rel=1e-7, abs=1e-12)
        assert found.mse(10)[s, b] == pytest.approx((mean - wanted) ** 2 + variance / 10, rel=1e-7, abs=1e-12)
    # On-policy the whole gradient of no-clip is the policy gradient, up to the normalisation of d.
    on_policy = gradient_moments(mdp, target, target, NoClip())
    assert on_policy.expectation == pytest.approx((1 - mdp.gamma) * np.linalg.norm(mdp.policy_gradient(target)))


def test_policies_without_full_support():
    mdp, target, _ = random_case(0)
    deterministic = np.eye(3)[[0, 1, 2, 0]]
    found = logit_moments(mdp, deterministic, target, NoClip())
    assert np.isfinite(found.variance).all()
    dead = dead_fraction(mdp, deterministic, target, NoClip())
    np.testing.assert_allclose(dead, 1 - target[range(4), [0, 1, 2, 0]])  # π never takes these: ρ = 0


@pytest.mark.parametrize("size", [2, 3, 5])
def test_gridworld_values(size):
    mdp = gridworld(size)
    best = np.zeros((size * size, 4))
    best[:, DOWN] = 1
    best[size * (size - 1) :] = np.eye(4)[RIGHT]
    distance = np.add.outer(np.arange(size)[::-1], np.arange(size)[::-1]).ravel()
    np.testing.assert_allclose(mdp.values(best), -(1 - 0.9**distance) / 0.1, atol=1e-12)
    assert mdp.terminal.tolist() == [False] * (size * size - 1) + [True]
    assert mdp.advantages(best).max() == pytest.approx(0, abs=1e-12)
    # Value by value against the return of the recursion, for a policy that bumps into walls.
    target, _ = policies("PI-1 (Mild)", "A", size)
    values = np.zeros(size * size)
    for _ in range(2000):
        values = (target * (mdp.rewards + 0.9 * mdp.transitions @ values)).sum(axis=1)
    np.testing.assert_allclose(mdp.values(target), values, atol=1e-9)
    assert mdp.visitation(target).sum() == pytest.approx(1)


def test_policy_gradient_by_differences():
    mdp, target, _ = random_case(1)
    logits, step = np.log(target), 1e-6
    for s, a in np.ndindex(target.shape):
        performance = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[s, a] += sign * step
            moved = np.exp(moved)
            performance.append(mdp.performance(moved / moved.sum(axis=1, keepdims=True)))
        slope = (performance[0] - performance[1]) / (2 * step)
        assert mdp.policy_gradient(target)[s, a] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_lag_is_gradient_ascent_from_the_data():
    mdp = gridworld()
    start, _ = policies("PI-1 (Mild)", "D")
    found = lagged_policies(mdp, start)
    assert tuple(found) == LAGS
    np.testing.assert_allclose(found[0], start, rtol=1e-12)
    performance = [mdp.performance(policy) for policy in found.values()]
    assert performance == sorted(performance) and performance[-1] > performance[0]
    first = np.log(start) + 0.1 * mdp.policy_gradient(start)
    np.testing.assert_allclose(found[1], np.exp(first) / np.exp(first).sum(axis=1, keepdims=True))


def test_pareto_front():
    points = pd.DataFrame({"bias": [0, 1, 2, 1, 2, 0], "variance": [3, 1, 0, 2, 0, 3]})
    assert pareto_front(points).tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.0}, r"gamma must be in \[0, 1\), got 1.0"),
        ({"rewards": np.zeros((2, 3))}, r"got \(2, 2, 2\), \(2, 3\) and \(2,\)"),
        ({"rewards": np.full((2, 2), np.nan)}, "rewards must be finite"),
        ({"transitions": np.full((2, 2, 2), 0.4)}, "transitions must be probabilities .* a sum of .*0.8"),
        ({"start": np.array([1.5, -0.5])}, "start must be probabilities .* minimum of .*-0.5"),
    ],
)
def test_bad_mdps_are_named(changes, message):
    good = {"transitions": np.full((2, 2, 2), 0.5), "rewards": np.zeros((2, 2)), "gamma": 0.9, "start": [0.5, 0.5]}
    mdp = FiniteMDP(**good)
    with pytest.raises(ValueError, match=r"a policy of this MDP has shape \(2, 2\), got \(2, 3\)"):
        mdp.values(np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match=message):
        FiniteMDP(**good | changes)
    with pytest.raises(ValueError, match="size must be at least 2"):
        gridworld(1)


def test_command_writes_what_is_committed(command):
    """The committed tables are those that this code makes; only the commit that made them may differ."""
    folder, printed = command
    committed = REPOSITORY / "results" / "gridworld"
    assert {path.name for path in folder.iterdir()} == {path.name for path in committed.iterdir()}
    for path in folder.glob("*.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(committed / path.name), rtol=1e-8, atol=1e-14)
    text, before = ((where / "README.md").read_text(encoding="utf-8") for where in (folder, committed))
    assert re.sub(r"commit \S+,", "", text) == re.sub(r"commit \S+,", "", before)
    assert "python -m benchmarks gridworld --size 2" in text
    for path in folder.glob("*.png"):
        assert b"python -m benchmarks gridworld --size 2" in path.read_bytes()
    assert "PPO has lost 100 % of its gradients in S0 at 13 of 21 pairs" in " ".join(printed.split())
    assert str(REPOSITORY) not in text


def test_larger_grids_have_their_own_folder(tmp_path):
    from typer.testing import CliRunner

    from benchmarks.__main__ import app

    done = CliRunner().invoke(app, ["gridworld", "--size", "3", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    logits = pd.read_csv(tmp_path / "gridworld-3" / "logits.csv")
    assert logits["state"].max() == 7 and len(logits) == 3 * 7 * 10 * 8 * 4
    assert CliRunner().invoke(app, ["gridworld", "--size", "1"]).exit_code == 2


def test_findings_tell_the_unflattering_too(table):
    """The sentences follow the numbers: PPO's silence, its low MSE for nothing, GIPO's reversed components."""
    sweep, widths = (pd.read_csv(REPOSITORY / "results" / "gridworld" / f"lag_{n}.csv") for n in ("sweep", "sigma"))
    said = " ".join(findings(table.reset_index(), sweep, widths))
    stale = table[table.index.get_level_values("behavior_case") != "D"]
    wanted = stale.xs("No-Clip", level="estimator")["expectation"]
    for sigma in (0.1, 0.3, 0.5):
        reversed_pairs = (stale.xs(f"GIPO sigma={sigma}", level="estimator")["expectation"] * wanted < 0).sum()
        assert reversed_pairs > 0
        assert re.search(rf"\*\*GIPO sigma={sigma} points the wrong way\*\*[^.]*at {reversed_pairs} of 18 pairs", said)
    winners = stale["mse"].unstack("estimator").idxmin(axis=1).value_counts()
    assert f"PPO ({winners['PPO']})" in said
