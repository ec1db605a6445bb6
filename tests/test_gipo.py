import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import RandomEnv, parameters
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_gipo import GIPO, SAPO, DictStaleRolloutBuffer, GaussianTrust, NoClip, PPOClip, StaleRolloutBuffer, Surrogate


class SpyBuffer(StaleRolloutBuffer):
    """Keeps the lags and the log-probabilities of every minibatch it gave."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drawn = []

    def _get_samples(self, batch_inds, env=None):
        samples = super()._get_samples(batch_inds, env)
        self.drawn.append((self.policy_version, samples.lags, samples.old_log_prob))
        return samples


class SpySurrogate(Surrogate):
    """A Gaussian that keeps the log-ratios it was asked for."""

    def __init__(self, sigma=1.0):
        self.inner = GaussianTrust(sigma)
        self.log_ratios = []

    def log_trust_weight(self, log_ratio, advantage):
        return self.inner.log_trust_weight(log_ratio, advantage)

    def objective(self, log_ratio, advantage):
        self.log_ratios.append(log_ratio.detach().clone())
        return super().objective(log_ratio, advantage)


class LogKeeper(BaseCallback):
    """Keeps what each iteration's update logged."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.logs.append({k: v for k, v in self.model.logger.name_to_value.items() if k.startswith("train/")})

    def _on_training_end(self):
        self._on_rollout_start()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ent_coef": 0.01, "clip_range_vf": 0.2, "normalize_advantage": False},
        {"target_kl": 0.002, "learning_rate": lambda progress: 1e-3 * progress},
    ],
    ids=["plain", "coefficients", "target_kl"],
)
def test_window_of_one_with_ppos_clip_is_sb3s_ppo(env_id, options):
    common = {"n_steps": 128, "batch_size": 48, "n_epochs": 4, "seed": 3, "device": "cpu", **options}
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        ppo = PPO("MlpPolicy", make_vec_env(env_id, 2, seed=3), clip_range=0.2, **common).learn(5 * 256)
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        gipo = GIPO("MlpPolicy", make_vec_env(env_id, 2, seed=3), surrogate=PPOClip(0.2), **common).learn(5 * 256)
    assert ppo._n_updates == gipo._n_updates > 5
    th.testing.assert_close(parameters(gipo), parameters(ppo), rtol=0, atol=1e-6)


def test_gsde_with_a_window_of_one_is_sb3s_ppo():
    common = {"n_steps": 64, "n_epochs": 2, "use_sde": True, "sde_sample_freq": 4, "seed": 0, "device": "cpu"}
    ppo = PPO("MlpPolicy", "Pendulum-v1", **common).learn(256)
    gipo = GIPO("MlpPolicy", "Pendulum-v1", surrogate=PPOClip(0.2), **common).learn(256)
    th.testing.assert_close(parameters(gipo), parameters(ppo), rtol=0, atol=1e-6)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_staleness_is_real(env_id):
    spy = SpySurrogate()
    model = GIPO(
        "MlpPolicy",
        env_id,
        n_steps=64,
        batch_size=64,
        n_epochs=6,
        learning_rate=1e-2,
        surrogate=spy,
        replay_window=3,
        rollout_buffer_class=SpyBuffer,
        seed=0,
    ).learn(64 * 6)
    drawn = model.rollout_buffer.drawn
    assert len(drawn) == len(spy.log_ratios) == 6 * 6
    th.testing.assert_close(spy.log_ratios[0], th.zeros(64), rtol=0, atol=1e-5)  # before the first update
    for version in range(6):
        lags = th.cat([lag for policy_version, lag, _ in drawn if policy_version == version])
        assert set(lags.tolist()) == set(range(min(version, 2) + 1))
    for (_, lags, _), log_ratio in list(zip(drawn, spy.log_ratios, strict=True))[6::6]:
        # The first minibatch of an iteration: only what an older policy collected has a ratio other than 1.
        assert log_ratio[lags == 0].abs().max() < 1e-5
        assert log_ratio[lags > 0].abs().mean() > 1e-3


def test_behavior_log_probabilities_are_never_recomputed():
    model = GIPO(
        "MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, replay_window=4, seed=0, rollout_buffer_class=SpyBuffer
    )
    model.learn(32)
    collected = set(model.rollout_buffer.log_probs.flatten().tolist())
    model.learn(64, reset_num_timesteps=False)
    version, lags, log_probs = model.rollout_buffer.drawn[-1]
    assert version == 2 and set(log_probs[lags == 2].tolist()) <= collected


def test_seeds_and_widths_decide_the_parameters():
    def train(seed=0, sigma=1.0):
        options = {"n_steps": 64, "n_epochs": 3, "learning_rate": 3e-3, "replay_window": 3, "device": "cpu"}
        return parameters(GIPO("MlpPolicy", "Pendulum-v1", sigma=sigma, seed=seed, **options).learn(64 * 5))

    reference = train()
    assert th.equal(train(), reference)
    assert not th.allclose(train(seed=1), reference)
    assert not th.equal(train(sigma=0.1), reference)


def test_both_widths_are_used():
    def train(**options):
        common = {"n_steps": 64, "n_epochs": 3, "learning_rate": 3e-3, "replay_window": 3, "seed": 0, "device": "cpu"}
        return parameters(GIPO("MlpPolicy", "CartPole-v1", **options, **common).learn(64 * 4))

    assert th.equal(train(sigma=0.2, sigma_neg_ratio=0.5), train(surrogate=GaussianTrust(0.2, 0.5)))
    assert not th.equal(train(sigma=0.2, sigma_neg_ratio=0.5), train(sigma=0.2))


def test_sigma_may_be_a_schedule():
    log = LogKeeper()
    GIPO("MlpPolicy", "CartPole-v1", n_steps=64, sigma=lambda progress: 0.5 + progress).learn(256, callback=log)
    assert [entry["train/sigma"] for entry in log.logs[1:]] == pytest.approx([1.25, 1.0, 0.75, 0.5])
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=64, sigma=lambda progress: progress - 0.75)
    with pytest.raises(ValueError, match="sigma must be a positive finite number"):
        model.learn(64)


@pytest.mark.parametrize("window", [1, 5])
def test_gradient_steps_follow_the_new_data_not_the_window(window):
    model = GIPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 2), n_steps=32, batch_size=16, n_epochs=3, replay_window=window
    )
    model.learn(64 * 6)
    (state,) = {int(state["step"]) for state in model.policy.optimizer.state.values()}
    assert state == 6 * 3 * 4


def test_min_lag_delays_the_first_update_and_says_so():
    log, spied = LogKeeper(), {"rollout_buffer_class": SpyBuffer}
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, replay_window=4, min_lag=2, seed=0, **spied)
    before = parameters(model)
    model.learn(64, callback=log)
    assert th.equal(parameters(model), before) and not model.rollout_buffer.drawn
    assert [entry["train/trainable_transitions"] for entry in log.logs[1:]] == [0, 0]
    assert model.policy_version == 2
    model.learn(32 * 4, callback=log, reset_num_timesteps=False)
    assert not th.equal(parameters(model), before) and model.last_update is not None
    lags = {version: set() for version in range(2, 6)}
    for version, lag, _ in model.rollout_buffer.drawn:
        lags[version] |= set(lag.tolist())
    assert lags == {2: {2}, 3: {2, 3}, 4: {2, 3}, 5: {2, 3}}
    model.rollout_buffer.min_lag = 9
    model.train()
    assert model.last_update is None


def test_an_iteration_without_an_update_is_printed(capsys):
    GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, replay_window=2, min_lag=1, verbose=1).learn(32)
    assert "No update: no rollout is min_lag=1 versions old yet" in capsys.readouterr().out


def test_epochs_and_kl_penalty_follow_the_surrogate():
    def options(**given):
        model = GIPO("MlpPolicy", "CartPole-v1", _init_setup_model=False, **given)
        return model.n_epochs, model.kl_coef

    assert options() == options(surrogate=GaussianTrust(0.2)) == (20, 0.1)
    assert options(surrogate=PPOClip()) == options(surrogate=NoClip()) == (10, 0.0)
    assert options(kl_coef=0.0, n_epochs=1) == (1, 0.0)
    assert options(surrogate=PPOClip(), kl_coef=0.3, n_epochs=1) == (1, 0.3)


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(-2, 2, (2,)), spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)],
    ids=["box", "discrete", "multi_discrete", "multi_binary"],
)
@pytest.mark.parametrize("dict_observations", [False, True])
def test_spaces(action_space, dict_observations, kl_coef):
    observation_space = (
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}) if dict_observations else None
    )
    env = RandomEnv(action_space, observation_space)
    policy = "MultiInputPolicy" if dict_observations else "MlpPolicy"
    log = LogKeeper()
    model = GIPO(policy, env, n_steps=16, batch_size=8, replay_window=3, kl_coef=kl_coef, seed=0)
    before = parameters(model)
    model.learn(16 * 4, callback=log)
    assert isinstance(model.rollout_buffer, DictStaleRolloutBuffer if dict_observations else StaleRolloutBuffer)
    assert not th.equal(parameters(model), before)
    assert log.logs[-1]["train/lag_max"] == 2
    assert ("train/kl_loss" in log.logs[-1]) == (kl_coef > 0)
    assert (model.rollout_buffer.n_anchor_parameters > 0) == (kl_coef > 0)


def test_kl_keeps_the_policy_near_its_anchor():
    def distance(**options):
        log = LogKeeper()
        common = {"n_steps": 128, "learning_rate": 3e-3, "replay_window": 8, "seed": 0}
        GIPO("MlpPolicy", "Pendulum-v1", **common, **options).learn(128 * 8, callback=log)
        return log.logs[-1]["train/log_ratio_abs_p95"]

    free = distance(kl_coef=0.0)
    near_its_data = distance(kl_coef=10.0, kl_anchor="behavior")
    near_the_last_policy = distance(kl_coef=10.0, kl_anchor="proximal")
    assert near_its_data < 0.5 * free
    assert near_its_data < near_the_last_policy < free


def test_evaluation_during_collection_does_not_disturb_what_is_remembered():
    def train(callback):
        env = RandomEnv(spaces.Box(-1, 1, (2,)))
        options = {"n_steps": 16, "batch_size": 8, "replay_window": 2, "kl_coef": 1.0, "kl_anchor": "behavior"}
        model = GIPO("MlpPolicy", env, seed=0, **options)
        return model.learn(64, callback=callback)

    evaluated = train(EvalCallback(RandomEnv(spaces.Box(-1, 1, (2,))), eval_freq=1, n_eval_episodes=1, warn=False))
    alone = train(None)
    np.testing.assert_array_equal(evaluated.rollout_buffer.anchor_parameters, alone.rollout_buffer.anchor_parameters)
    assert th.equal(parameters(evaluated), parameters(alone))


@pytest.mark.parametrize("surrogate", [PPOClip(0.2), SAPO(), NoClip(), GaussianTrust(0.5)], ids=repr)
def test_diagnostics_are_those_of_all_samples_of_the_update(surrogate):
    log = LogKeeper()
    options = {"n_steps": 128, "batch_size": 32, "learning_rate": 3e-3, "replay_window": 6, "seed": 0}
    GIPO("MlpPolicy", "Pendulum-v1", surrogate=surrogate, **options).learn(128 * 6, callback=log)
    last = log.logs[-1]
    assert last["train/lag_max"] == 5 and 2 < last["train/lag_mean"] < 3
    assert 0 < last["train/ess"] < 1
    assert last["train/log_ratio_abs_p95"] > 0.1 and last["train/approx_kl"] > 0
    assert (last["train/dead_fraction"] > 0) == isinstance(surrogate, PPOClip)
    assert np.isfinite(list(last.values())).all()


class Poisoned(gym.Wrapper):
    def __init__(self, env, quantity):
        super().__init__(env)
        self.quantity, self.count = quantity, 0

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        self.count += 1
        if self.count == 40:
            if self.quantity == "observation":
                observation = np.full_like(observation, np.nan)
            else:
                reward = float("inf")
        return observation, reward, *rest


@pytest.mark.parametrize("quantity", ["observation", "reward"])
def test_a_poisoned_environment_is_named(quantity):
    model = GIPO("MlpPolicy", Poisoned(gym.make("CartPole-v1"), quantity), n_steps=32, batch_size=32, seed=0)
    with pytest.raises(
        FloatingPointError, match=rf"non-finite {quantity} after 39 steps, in environment \[0\]: .*(nan|inf)"
    ):
        model.learn(64)
    assert parameters(model).isfinite().all()


@pytest.mark.parametrize("bad", ["nan objective", "infinite objective", "nan gradient"])
def test_a_poisoned_update_is_refused(bad):
    class Bad(NoClip):
        def objective(self, log_ratio, advantage):
            poison = {
                "nan objective": log_ratio * float("nan"),
                "infinite objective": th.full_like(log_ratio, float("inf")),  # its gradient is finite
                "nan gradient": (log_ratio * 0).sqrt(),  # its value is finite
            }
            return super().objective(log_ratio, advantage) + poison[bad]

    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, surrogate=Bad(), seed=0)
    before = parameters(model)
    named = {"nan objective": "policy loss nan", "infinite objective": "policy loss -inf", "nan gradient": "norm nan"}[
        bad
    ]
    expected = rf"non-finite loss or gradient after 32 steps.*policy version 0: .*{named}"
    with pytest.raises(FloatingPointError, match=expected):
        model.learn(64)
    assert th.equal(parameters(model), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sigma": 0.0}, ValueError, "sigma must be a positive finite number, got 0.0"),
        ({"sigma": -1.0}, ValueError, "sigma must be a positive finite number, got -1.0"),
        ({"sigma": lambda _: 1.0, "sigma_neg_ratio": -1.0}, ValueError, "sigma_neg_ratio must be .* got -1.0"),
        ({"sigma_neg_ratio": 0.0}, ValueError, "sigma_neg_ratio must be a positive finite number, got 0.0"),
        ({"kl_anchor": "newest"}, ValueError, 'kl_anchor must be "proximal" or "behavior", got \'newest\''),
        ({"kl_coef": -0.1}, ValueError, "kl_coef must be a finite number ≥ 0, got -0.1"),
        ({"replay_window": 0}, ValueError, "replay_window must be at least 1"),
        ({"min_lag": 1}, ValueError, "min_lag must be in"),
        ({"replay_window": 4, "min_lag": -1}, ValueError, "min_lag must be in"),
        ({"n_epochs": 0}, ValueError, "n_epochs must be at least 1, got 0"),
        ({"batch_size": 1}, AssertionError, "batch_size"),
        ({"n_steps": 1}, AssertionError, "n_steps"),
        ({"clip_range_vf": -1.0}, AssertionError, "clip_range_vf"),
        (
            {"rollout_buffer_class": PPO("MlpPolicy", "CartPole-v1").rollout_buffer_class},
            ValueError,
            "StaleRolloutBuffer",
        ),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        GIPO("MlpPolicy", "CartPole-v1", **options)


def test_bad_options_are_named_when_a_model_is_loaded(tmp_path):
    GIPO("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"advantage must be .*got 'vtrce'"):
        GIPO.load(tmp_path / "model", advantage="vtrce")


@pytest.mark.parametrize(("replay_window", "min_lag", "n_epochs"), [(1, 0, 1), (3, 0, 3), (4, 1, 3)])
def test_passes_with_a_truncated_minibatch_are_told_beforehand(replay_window, min_lag, n_epochs):
    options = {"replay_window": replay_window, "min_lag": min_lag, "batch_size": 64, "n_epochs": n_epochs}
    trained_on = replay_window - min_lag
    told = rf"size of 64, .* {trained_on} \* 96 \* 1 = {96 * trained_on} transitions: .*truncated mini-batch of size 32"
    with pytest.warns(UserWarning, match=told) as warned:
        GIPO("MlpPolicy", "CartPole-v1", n_steps=96, **options)
    assert [each.filename for each in warned] == [__file__]


@pytest.mark.parametrize("options", [{"replay_window": 2}, {"replay_window": 7, "n_epochs": 2}])
def test_whole_minibatches_are_nothing_to_tell(options, recwarn):
    """Two rollouts are three minibatches; of eleven for seven rollouts four are drawn."""
    GIPO("MlpPolicy", "CartPole-v1", n_steps=96, batch_size=64, **options)
    assert not [each for each in recwarn if "mini-batch" in str(each.message)]


def test_a_saved_model_goes_on(tmp_path):
    options = {"sigma": 0.3, "surrogate": None, "replay_window": 3, "kl_coef": 0.1}
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, **options).learn(96)
    model.save(tmp_path / "model")
    loaded = GIPO.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert th.equal(parameters(loaded), parameters(model))
    assert loaded.policy_version == 3 and loaded.current_surrogate == GaussianTrust(0.3)
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.policy_version == 5 and loaded.rollout_buffer.replay_window == 3


@pytest.mark.parametrize("surrogate", [GaussianTrust(0.5), PPOClip(), SAPO()], ids=repr)
def test_one_dimension_has_the_joint_ratio(surrogate):
    def train(ratio_level):
        options = {"n_steps": 64, "n_epochs": 3, "replay_window": 3, "kl_coef": 0.1, "seed": 0, "device": "cpu"}
        model = GIPO("MlpPolicy", "Pendulum-v1", surrogate=surrogate, ratio_level=ratio_level, **options)
        return parameters(model.learn(64 * 4))

    th.testing.assert_close(train("dimension"), train("joint"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "action_space", [spaces.Box(-2, 2, (2, 2)), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)]
)
def test_dimensions_have_ratios_of_their_own(action_space):
    spy = SpySurrogate()
    options = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "learning_rate": 1e-2, "replay_window": 2, "seed": 0}
    model = GIPO(
        "MlpPolicy",
        RandomEnv(action_space),
        surrogate=spy,
        ratio_level="dimension",
        kl_coef=0.1,
        rollout_buffer_class=SpyBuffer,
        **options,
    )
    model.learn(48)
    n_dimensions = int(np.prod(action_space.shape))
    assert spy.log_ratios[0].shape == (16, n_dimensions)
    th.testing.assert_close(spy.log_ratios[0], th.zeros(16, n_dimensions), rtol=0, atol=1e-5)
    assert (spy.log_ratios[-1].std(dim=1) > 1e-4).all()


def test_ratio_level_is_checked():
    with pytest.raises(ValueError, match='ratio_level must be "joint" or "dimension", got \'token\''):
        GIPO("MlpPolicy", "CartPole-v1", ratio_level="token")


def test_advantages_are_normalized_over_what_is_asked_for():
    def updates(normalize_advantage):
        options = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "replay_window": 2, "min_lag": 1, "seed": 0}
        env = RandomEnv(spaces.Discrete(3))
        model = GIPO("MlpPolicy", env, normalize_advantage=normalize_advantage, **options).learn(64)
        stored = model.rollout_buffer._storage["advantages"][0].reshape(-1)
        return model.last_update.advantages.reshape(-1, 16), stored

    raw, stored = updates(False)
    np.testing.assert_allclose(np.sort(raw[:2].flatten()), np.sort(stored))
    by_minibatch, _ = updates(True)
    th.testing.assert_close(by_minibatch, (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True))
    assert th.equal(by_minibatch, updates("minibatch")[0])
    by_window, _ = updates("window")
    th.testing.assert_close(by_window, (raw - float(stored.mean())) / float(stored.std()))
    with pytest.raises(ValueError, match=r"normalize_advantage must be .* got 'batch'"):
        updates("batch")
