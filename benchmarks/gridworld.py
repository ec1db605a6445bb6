"""
The exact bias–variance study: what clipping, gates and trust weights do to the policy gradient, by enumeration.

One sample is a pair (s, a) with a ~ μ(·|s) of the behavior policy. Its estimate of the policy gradient with respect to
the softmax logit θ[s, b] is g(ρ, A)·A·∂ln π(a|s)/∂θ[s, b] = g·A·(1[a = b] − π(b|s)), with A the exact advantage of the
target policy π and g the multiplier of a surrogate in ``sb3_gipo.surrogates``, in float64. Plain importance sampling
(no-clip) has the expectation that is wanted; bias is the distance of an estimator's expectation from it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch as th

from benchmarks.mdp import RIGHT, FiniteMDP, gridworld
from sb3_gipo.surrogates import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip, Surrogate

#: Name → surrogate. SAPO at the temperatures of the GIPO experiments.
ESTIMATORS: dict[str, Surrogate] = {
    "No-Clip": NoClip(),
    **{f"GIPO sigma={sigma}": GaussianTrust(sigma) for sigma in (0.1, 0.3, 0.5, 1.0, 2.0)},
    "Laplace sigma=1.0": LaplaceTrust(1.0),
    "Cauchy sigma=1.0": CauchyTrust(1.0),
    "PPO": PPOClip(0.2),
    "SAPO": SAPO(1.0, 2.0),
}

#: Rows: S0 (down and right lead to the goal), S1 (last column: down), S2 (last row: right). Columns: up, down, left,
#: right.
TARGETS = {
    "PI-1 (Mild)": [[0.20, 0.30, 0.20, 0.30], [0.15, 0.45, 0.25, 0.15], [0.15, 0.15, 0.25, 0.45]],
    "PI-2 (Better)": [[0.10, 0.40, 0.10, 0.40], [0.10, 0.60, 0.20, 0.10], [0.10, 0.10, 0.20, 0.60]],
    "PI-3 (Near-Optimal)": [[0.05, 0.45, 0.05, 0.45], [0.05, 0.75, 0.10, 0.10], [0.05, 0.10, 0.10, 0.75]],
}
_TOWARDS = np.full((4, 4), 1 / (np.e + 3)) + np.eye(4) * (np.e - 1) / (
    np.e + 3
)  # row a: softmax of logit 1 for action a
_COMPONENTS = {
    "uniform": np.full((3, 4), 0.25),
    "down": np.tile(_TOWARDS[1], (3, 1)),
    "right": np.tile(_TOWARDS[3], (3, 1)),
    "n1": [[0.30, 0.20, 0.30, 0.20], [0.40, 0.15, 0.10, 0.35], [0.20, 0.35, 0.30, 0.15]],
    "n2": [[0.25, 0.30, 0.20, 0.25], [0.20, 0.45, 0.15, 0.20], [0.15, 0.25, 0.15, 0.45]],
    "n3": [[0.20, 0.35, 0.20, 0.25], [0.15, 0.40, 0.20, 0.25], [0.25, 0.15, 0.15, 0.45]],
    "n4": [[0.32, 0.18, 0.28, 0.22], [0.28, 0.24, 0.28, 0.20], [0.24, 0.20, 0.30, 0.26]],
    "n5": [[0.12, 0.38, 0.12, 0.38], [0.12, 0.52, 0.21, 0.15], [0.10, 0.16, 0.22, 0.52]],
}
#: Behavior policies as mixtures; D is the target policy itself.
BEHAVIORS: dict[str, dict[str, float]] = {
    "A": {"uniform": 1.0},
    "B": {"uniform": 0.4, "right": 0.3, "down": 0.3},
    "C": {"uniform": 0.2, "right": 0.4, "down": 0.4},
    "D": {},
    "E": {"n1": 0.45, "n4": 0.35, "uniform": 0.2},
    "F": {"n2": 0.45, "n5": 0.35, "uniform": 0.2},
    "G": {"n3": 0.4, "n4": 0.3, "n5": 0.3},
}

#: The lag sweep: step size and lags (numbers of exact gradient steps), batch sizes and widths searched for the best σ.
STEP_SIZE = 0.1
LAGS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
BATCHES = (1, 64, 4096)
WIDTHS = np.logspace(-2, 2, 161)


@dataclass(frozen=True)
class Moments:
    """
    Exact moments of a one-sample estimator: floats, or arrays (S, A) with one entry for each logit. The mean of N
    independent samples has the same bias and 1/N of the variance.
    """

    expectation: np.ndarray | float
    bias: np.ndarray | float
    variance: np.ndarray | float

    def mse(self, samples: int = 1) -> np.ndarray | float:
        """
        :param samples: N ≥ 1
        :return: mean squared error of the mean of N samples, bias² + variance/N
        """
        return self.bias**2 + self.variance / samples


def policies(target: str, behavior: str, size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """
    A pair of the study on a grid of any size: cells of the last column act like S1 of the 2×2 grid, those of the last
    row like S2, all others like S0. At the goal every policy is uniform.

    :param target: a name of ``TARGETS``
    :param behavior: a letter of ``BEHAVIORS``
    :param size: cells a side, ≥ 2
    :return: target policy and behavior policy, each (size², 4)
    """
    rows, columns = np.divmod(np.arange(size * size), size)
    kind = np.where(columns == size - 1, 1, np.where(rows == size - 1, 2, 0))
    table = np.array(TARGETS[target])
    mixture = BEHAVIORS[behavior]
    mixed = sum(share * np.asarray(_COMPONENTS[name]) for name, share in mixture.items()) if mixture else table
    learned, acting = table[kind], mixed[kind]
    learned[-1] = acting[-1] = 0.25
    return learned, acting


def multipliers(target: np.ndarray, behavior: np.ndarray, advantages: np.ndarray, surrogate: Surrogate) -> np.ndarray:
    """
    :param target: π, (S, A)
    :param behavior: μ, (S, A)
    :param advantages: A, (S, A)
    :param surrogate: of ``sb3_gipo.surrogates``
    :return: g of each pair (s, a), (S, A); 0 where π(a|s) = 0 and where μ(a|s) = 0, which is never sampled
    """
    possible = (target > 0) & (behavior > 0)
    g = np.zeros_like(target)
    log_ratios = th.tensor(np.log(target[possible]) - np.log(behavior[possible]))
    g[possible] = surrogate.multiplier(log_ratios, th.tensor(advantages[possible])).numpy()
    return g


def sample_gradients(mdp: FiniteMDP, target: np.ndarray, behavior: np.ndarray, surrogate: Surrogate) -> np.ndarray:
    """
    What every possible sample contributes.

    :param mdp: any finite MDP
    :param target: π, (S, A)
    :param behavior: μ, (S, A)
    :param surrogate: of ``sb3_gipo.surrogates``
    :return: (S, A, A): entry (s, a, b) is the estimate for the logit (s, b) from the sample (s, a)
    """
    target, behavior = mdp.check_policy(target), mdp.check_policy(behavior)
    advantages = mdp.advantages(target)
    scores = np.eye(target.shape[1]) - target[:, None, :]
    return (multipliers(target, behavior, advantages, surrogate) * advantages)[:, :, None] * scores


def logit_moments(mdp: FiniteMDP, target: np.ndarray, behavior: np.ndarray, surrogate: Surrogate) -> Moments:
    """
    Each logit by itself, in its own state: a ~ μ(·|s) with s given. The golden numbers are entry (0, right).

    :param mdp: any finite MDP
    :param target: π, (S, A)
    :param behavior: μ, (S, A)
    :param surrogate: of ``sb3_gipo.surrogates``
    :return: arrays (S, A); bias is the absolute distance from the expectation of no-clip
    """
    gradients = sample_gradients(mdp, target, behavior, surrogate)
    expectation = np.einsum("sa,sab->sb", behavior, gradients)
    wanted = np.einsum("sa,sab->sb", behavior, sample_gradients(mdp, target, behavior, NoClip()))
    variance = np.einsum("sa,sab->sb", behavior, (gradients - expectation[:, None, :]) ** 2)
    return Moments(expectation, np.abs(expectation - wanted), variance)


def sampled_states(mdp: FiniteMDP, behavior: np.ndarray) -> np.ndarray:
    """
    :param mdp: any finite MDP whose start is not terminal
    :param behavior: μ, (S, A)
    :return: (S,): the discounted distribution of the states in which μ acts, d^μ without the terminal states
    """
    visited = np.where(mdp.terminal, 0.0, mdp.visitation(behavior))
    return visited / visited.sum()


def gradient_moments(mdp: FiniteMDP, target: np.ndarray, behavior: np.ndarray, surrogate: Surrogate) -> Moments:
    """
    The gradient of all states and logits at once, as one vector: s ~ :func:`sampled_states`, a ~ μ(·|s), and zero for
    the logits of every other state.

    :param mdp: any finite MDP
    :param target: π, (S, A)
    :param behavior: μ, (S, A)
    :param surrogate: of ``sb3_gipo.surrogates``
    :return: floats: norm of the expectation, norm of the bias, and trace of the covariance matrix
    """
    states = sampled_states(mdp, behavior)
    gradients = sample_gradients(mdp, target, behavior, surrogate)
    pairs = states[:, None] * behavior
    expectation = np.einsum("sa,sab->sb", pairs, gradients)
    wanted = np.einsum("sa,sab->sb", pairs, sample_gradients(mdp, target, behavior, NoClip()))
    second = np.einsum("sa,sab->", pairs, gradients**2)
    return Moments(
        float(np.linalg.norm(expectation)),
        float(np.linalg.norm(expectation - wanted)),
        max(float(second - (expectation**2).sum()), 0.0),
    )


def dead_fraction(mdp: FiniteMDP, target: np.ndarray, behavior: np.ndarray, surrogate: Surrogate) -> np.ndarray:
    """
    :param mdp: any finite MDP
    :param target: π, (S, A)
    :param behavior: μ, (S, A)
    :param surrogate: of ``sb3_gipo.surrogates``
    :return: (S,): the probability, in each state, that a ~ μ(·|s) has a multiplier of exactly 0
    """
    g = multipliers(target, behavior, mdp.advantages(target), surrogate)
    some_alive = (behavior * (g > 0)).any(axis=1)
    # Rounded probabilities may not sum to 1, but "all of them" is exactly 1.
    return np.where(some_alive, (behavior * (g == 0)).sum(axis=1), 1.0)


def bias_variance_table(size: int = 2) -> pd.DataFrame:
    """
    Every estimator at all 21 pairs. ``expectation`` to ``all_gradients_zero`` are of the logit of `right` in the start
    state S0, as in the golden numbers; ``gradient_*`` are of all states and logits (:func:`gradient_moments`).

    ``all_gradients_zero`` is 1 if no action that μ may take in S0 has a gradient other than exactly 0;
    ``gradient_dead_fraction`` is 1 if that holds in every state. ``pareto`` is True if no estimator of the pair
    has at most the bias and at most the variance, and one of them smaller.

    :param size: cells a side, ≥ 2
    :return: one row for each target policy, behavior case and estimator
    """
    mdp, rows = gridworld(size), []
    for target_name in TARGETS:
        for case in BEHAVIORS:
            target, behavior = policies(target_name, case, size)
            states = sampled_states(mdp, behavior)
            for name, surrogate in ESTIMATORS.items():
                logit = logit_moments(mdp, target, behavior, surrogate)
                whole = gradient_moments(mdp, target, behavior, surrogate)
                samples = sample_gradients(mdp, target, behavior, surrogate)[0, behavior[0] > 0, RIGHT]
                dead = dead_fraction(mdp, target, behavior, surrogate)
                rows.append(
                    {
                        "target_policy": target_name,
                        "behavior_case": case,
                        "estimator": name,
                        "expectation": logit.expectation[0, RIGHT],
                        "bias": logit.bias[0, RIGHT],
                        "variance": logit.variance[0, RIGHT],
                        "mse": logit.mse()[0, RIGHT],
                        "all_gradients_zero": int((samples == 0).all()),
                        "dead_fraction": dead[0],
                        "gradient_norm": whole.expectation,
                        "gradient_bias": whole.bias,
                        "gradient_variance": whole.variance,
                        "gradient_mse": whole.mse(),
                        "gradient_dead_fraction": _average(states, dead),
                    }
                )
    table = pd.DataFrame(rows)
    pairs = table.groupby(["target_policy", "behavior_case"], sort=False, group_keys=False)
    table["pareto"] = pairs[["bias", "variance"]].apply(pareto_front).astype(bool)
    return table


def _average(states: np.ndarray, shares: np.ndarray) -> float:
    """Weighted mean that is exactly 1 or 0 if all shares with weight are: their rounded weights may sum to 1 ± 1e-16."""
    return float(shares[states > 0].min() + states @ (shares - shares[states > 0].min()))


def pareto_front(points: pd.DataFrame) -> pd.Series:
    """
    :param points: columns ``bias`` and ``variance``, smaller is better
    :return: True where no other row is at most as large in both and smaller in one; differences below 1e-12 are none
    """
    values = points[["bias", "variance"]].to_numpy()
    less = values[:, None] < values[None] - 1e-12
    beaten = (less.any(axis=2) & ~less.transpose(1, 0, 2).any(axis=2)).any(axis=0)
    return pd.Series(~beaten, index=points.index)


def logit_table(size: int = 2) -> pd.DataFrame:
    """
    Every logit of every state at all 21 pairs.

    :param size: cells a side, ≥ 2
    :return: one row for each target policy, behavior case, estimator, state (not the goal) and action
    """
    mdp, frames = gridworld(size), []
    states, actions = np.divmod(np.arange((size * size - 1) * 4), 4)
    for target_name in TARGETS:
        for case in BEHAVIORS:
            pair = policies(target_name, case, size)
            for name, surrogate in ESTIMATORS.items():
                found = logit_moments(mdp, *pair, surrogate)
                columns = {"expectation": found.expectation, "bias": found.bias, "variance": found.variance}
                columns["mse"] = found.mse()
                frames.append(
                    pd.DataFrame(
                        {"target_policy": target_name, "behavior_case": case, "estimator": name, "state": states}
                        | {"action": np.array(["up", "down", "left", "right"])[actions]}
                        | {column: values[:-1].ravel() for column, values in columns.items()}
                    )
                )
    return pd.concat(frames, ignore_index=True)


def lagged_policies(mdp: FiniteMDP, start: np.ndarray) -> dict[int, np.ndarray]:
    """
    :param mdp: any finite MDP
    :param start: the policy that collected the data, (S, A), positive
    :return: lag k of ``LAGS`` → the policy after k steps of exact gradient ascent on J from ``start``, logits moved by
        ``STEP_SIZE``·∂J/∂θ a step
    """
    logits, found = np.log(mdp.check_policy(start)), {}
    for lag in range(max(LAGS) + 1):
        policy = np.exp(logits - logits.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        if lag in LAGS:
            found[lag] = policy
        logits = logits + STEP_SIZE * mdp.policy_gradient(policy)
    return found


def lag_sweep(size: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    Estimators on data that is k exact gradient steps old: a target policy of the study collects, the policy k steps
    later learns. All moments are of the whole gradient (:func:`gradient_moments`).

    :param size: cells a side, ≥ 2
    :return: (estimators, widths). ``estimators``: bias, variance, MSE of one sample and dead fraction for each start
        policy, lag and estimator, with the largest ρ of any pair (s, a). ``widths``: for each start policy, lag and
        batch size N the σ of the Gaussian kernel with the least MSE of a mean of N samples, searched over ``WIDTHS``
        (NaN at lag 0, where σ has no effect; the ends of the range stand for "narrower" and "wider"), that MSE, and the
        MSE of no-clip, PPO and a zero gradient
    """
    mdp, rows, best = gridworld(size), [], []
    for start_name in TARGETS:
        behavior, _ = policies(start_name, "D", size)
        states = sampled_states(mdp, behavior)
        for lag, target in lagged_policies(mdp, behavior).items():
            # At lag 0 both are the same up to the rounding of a softmax: make every ρ exactly 1.
            target = behavior if lag == 0 else target
            found = {name: gradient_moments(mdp, target, behavior, s) for name, s in ESTIMATORS.items()}
            key = {"start_policy": start_name, "lag": lag, "largest_ratio": (target / behavior).max()}
            for name, moments in found.items():
                dead = _average(states, dead_fraction(mdp, target, behavior, ESTIMATORS[name]))
                values = {"bias": moments.bias, "variance": moments.variance, "mse": moments.mse()}
                rows.append(key | {"estimator": name} | values | {"dead_fraction": dead})
            by_width = [gradient_moments(mdp, target, behavior, GaussianTrust(sigma)) for sigma in WIDTHS]
            for batch in BATCHES:
                errors = np.array([moments.mse(batch) for moments in by_width])
                # The narrowest of those that rounding cannot tell apart: very narrow widths all give a zero gradient.
                narrowest = np.argmax(errors <= errors.min() * (1 + 1e-9))
                best.append(
                    key
                    | {"batch": batch, "sigma": WIDTHS[narrowest] if lag else np.nan, "mse": errors.min()}
                    | {"mse_no_clip": found["No-Clip"].mse(batch), "mse_ppo": found["PPO"].mse(batch)}
                    | {"mse_zero": found["No-Clip"].expectation ** 2}
                )
    return pd.DataFrame(rows), pd.DataFrame(best)
