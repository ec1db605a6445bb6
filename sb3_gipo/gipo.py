"""GIPO, Gaussian Importance sampling Policy Optimization (arXiv 2603.03955), as a Stable-Baselines3 algorithm."""

import itertools
import math
import warnings
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from sb3_gipo import behavior, resumption, utilization
from sb3_gipo.bounds import hoeffding_radius
from sb3_gipo.buffers import DictStaleRolloutBuffer, StaleRolloutBuffer, StaleRolloutBufferSamples
from sb3_gipo.critic import value_parameters, value_predictor
from sb3_gipo.losses import ActorCriticLosses, actor_critic_losses
from sb3_gipo.optimizers import fuse_optimizer, split_optimizer
from sb3_gipo.revaluation import recompute_targets, revaluate
from sb3_gipo.surrogates import GaussianTrust, Surrogate

__all__ = ["GIPO", "UpdateSamples"]

SelfGIPO = TypeVar("SelfGIPO", bound="GIPO")


class UpdateSamples(NamedTuple):
    """
    Every sample of an iteration's update, as the surrogate saw it, without gradients. N samples were drawn.

    ``log_ratio``, ``multiplier``: (N,), or (N, dimensions) with ``ratio_level="dimension"``. ``advantages``: normalized
    as in the update, broadcasting against them. ``lags``: (N,).
    """

    log_ratio: th.Tensor
    multiplier: th.Tensor
    advantages: th.Tensor
    lags: th.Tensor


class GIPO(OnPolicyAlgorithm):
    """
    Gaussian Importance sampling Policy Optimization: PPO's loop with a replay window of past rollouts, and a smooth trust
    weight in place of PPO's clip, so that stale data still carries gradient.

    Each iteration collects a rollout, remembers it with the log-probabilities of the policy that acted, and makes
    ``n_epochs * ceil(n_steps * n_envs / batch_size)`` gradient steps on minibatches drawn without replacement from all
    trainable rollouts of the window: their cost does not depend on the window, unlike that of the forward pass over it
    that comes before them (see ``advantage`` and ``kl_anchor``). One ``train()`` call is one policy version, whether or
    not it found anything to train on.

    Paper: https://arxiv.org/abs/2603.03955

    The arguments up to ``_init_setup_model`` are those of SB3's PPO in its order, with ``sigma`` in the place of
    ``clip_range``; the rest is keyword only.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, ...)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param n_steps: The number of steps to run for each environment per update; ``n_steps * n_envs`` must be greater than
        1 when advantages are normalized
    :param batch_size: Minibatch size
    :param n_epochs: gradient steps per iteration, in passes over as much data as was newly collected. With
        ``replay_window=1`` these are PPO's epochs. None: 20 for the Gaussian trust weight, and PPO's 10 for
        any other ``surrogate``
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param sigma: width σ of the Gaussian trust weight exp(−x²/2σ²) where the advantage is positive, in units of the
        log-ratio x, > 0. It can be a function of the current progress remaining (from 1 to 0). Not used when
        ``surrogate`` is given. The multiplier of a sample's gradient is at most e^{σ²/2}
    :param clip_range_vf: Clipping parameter for the value function, > 0, or a function of the current progress remaining.
        It is measured from the value at collection and depends on the reward scaling. None: no clipping
    :param normalize_advantage: True or ``"minibatch"``: normalize the advantage to mean 0 and standard deviation 1 over
        each minibatch; ``"window"``: over all trainable transitions; False: leave it as it is
    :param ent_coef: Entropy coefficient for the loss calculation
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
    :param sde_sample_freq: Sample a new noise matrix every n steps when using gSDE; -1: only at the start of a rollout
    :param rollout_buffer_class: a subclass of :class:`~sb3_gipo.buffers.StaleRolloutBuffer`. None: chosen by the
        observation space
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param target_kl: stop the iteration's gradient steps once the approximate KL between the behavior policies of a
        minibatch and the current policy exceeds 1.5 times this. None: no limit
    :param stats_window_size: Window size for the rollout logging: the number of episodes to average over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run; auto: the GPU if possible
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param sigma_neg_ratio: r > 0; where the advantage is not positive the width is σ·r
    :param surrogate: any objective of :mod:`sb3_gipo.surrogates`, to be run in the same loop (PPO's clip, SAPO, ...).
        None: the Gaussian from ``sigma`` and ``sigma_neg_ratio``
    :param ratio_level: ``"joint"``: one importance ratio per step, from the summed log-probability of the action's
        dimensions (SB3's habit). ``"dimension"``: one ratio for each action dimension, the advantage shared, and policy
        loss and KL averaged over dimensions (the published MetaWorld experiments). A sigma tuned for one does not transfer
        to the other
    :param advantage: where advantages and value targets come from. ``"vtrace"``: before each update the current policy
        re-evaluates the whole window, then V-trace along each rollout (arXiv 1802.01561, equation 1), its traces decayed
        by ``gae_lambda``; with a window of one rollout it is GAE, and nothing is re-evaluated. ``"recomputed"``:
        re-evaluated, but GAE, as if the current policy had acted (AcceRL's value recomputation, arXiv 2603.18464).
        ``"stored"``: GAE, once, with the critic that collected the rollout (the published experiments)
    :param vtrace_rho_bar: V-trace's truncation ρ̄ > 0 of the ratio at each step, which sets the policy whose value is
        learned
    :param vtrace_c_bar: V-trace's truncation c̄ of the traces, 0 < c̄ ≤ ρ̄
    :param bootstrap_time_limit: whether an episode that its time limit ended is worth the value of its terminal
        observation from there on, as in SB3. False: it counts as terminal (a quirk of the published experiments)
    :param value_learning_rate: learning rate of the parameters that serve the value alone (``value_parameters`` in
        :mod:`sb3_gipo.critic`); it can be a function of the current progress remaining. None: ``learning_rate``
    :param critic_updates: value-only optimizer steps, ≥ 0, that follow each step on the same minibatch. They move the
        parameters that serve the value alone
    :param replay_window: how many past rollouts are kept and trained on, the newest included, ≥ 1; 1 is on-policy
    :param min_lag: a rollout becomes trainable only once it is this many policy versions old (it injects a fixed delay),
        0 ≤ ``min_lag < replay_window``. The first ``min_lag`` iterations make no update
    :param kl_coef: coefficient, ≥ 0, of the exact KL from the anchor to the current policy. The parameters of the anchor's
        action distributions are stored only when it is > 0. None: 0.1, the published value, for the Gaussian trust
        weight, and 0 for any other ``surrogate``
    :param kl_anchor: what the KL is measured from; with a window of one rollout both are the same. ``"proximal"``: the
        policy as it was before the iteration's first gradient step, at all replayed states (the proximal policy of
        arXiv 2110.00641): a trust region for each iteration, which lets the policy leave its oldest data behind.
        ``"behavior"``: the policies that collected the data, KL(μ‖π), which holds the policy near all of it, the more
        the longer the window (the published experiments)
    :raises ValueError: if an option is out of its range
    :raises AssertionError: as in PPO, for ``batch_size``, ``n_steps * n_envs`` and ``clip_range_vf``
    :raises FloatingPointError: during training, at the first observation, reward, loss or gradient that is not finite
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = PPO.policy_aliases
    rollout_buffer: StaleRolloutBuffer

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        sigma: float | Schedule = 0.5,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool | Literal["minibatch", "window"] = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[StaleRolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        sigma_neg_ratio: float = 1.0,
        surrogate: Surrogate | None = None,
        ratio_level: Literal["joint", "dimension"] = "joint",
        advantage: Literal["stored", "recomputed", "vtrace"] = "vtrace",
        vtrace_rho_bar: float = 1.0,
        vtrace_c_bar: float = 1.0,
        bootstrap_time_limit: bool = True,
        value_learning_rate: float | Schedule | None = None,
        critic_updates: int = 0,
        replay_window: int = 1,
        min_lag: int = 0,
        kl_coef: float | None = None,
        kl_anchor: Literal["proximal", "behavior"] = "proximal",
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.batch_size = batch_size
        # With another surrogate in the Gaussian's place it is another algorithm, which has its own habits.
        is_gipo = surrogate is None or isinstance(surrogate, GaussianTrust)
        self.n_epochs = (20 if is_gipo else 10) if n_epochs is None else n_epochs
        self.kl_coef = (0.1 if is_gipo else 0.0) if kl_coef is None else kl_coef
        self.kl_anchor = kl_anchor
        self.sigma = sigma
        self.sigma_neg_ratio = sigma_neg_ratio
        self.surrogate = surrogate
        self.ratio_level = ratio_level
        self.advantage = advantage
        self.vtrace_rho_bar = vtrace_rho_bar
        self.vtrace_c_bar = vtrace_c_bar
        self.bootstrap_time_limit = bootstrap_time_limit
        self.value_learning_rate = value_learning_rate
        self.critic_updates = critic_updates
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.replay_window = replay_window
        self.min_lag = min_lag
        self.policy_version = 0
        #: What the last ``train()`` call drew; None if it found nothing to train on.
        self.last_update: UpdateSamples | None = None
        if _init_setup_model:
            self._setup_model()

    def _check_options(self) -> None:
        # Raises for a bad width; a schedule's widths are checked as they come.
        GaussianTrust(1.0 if callable(self.sigma) else self.sigma, self.sigma_neg_ratio)
        if self.ratio_level not in ("joint", "dimension"):
            raise ValueError(f'ratio_level must be "joint" or "dimension", got {self.ratio_level!r}')
        if self.advantage not in ("stored", "recomputed", "vtrace"):
            raise ValueError(f'advantage must be "stored", "recomputed" or "vtrace", got {self.advantage!r}')
        if not 0 < self.vtrace_c_bar <= self.vtrace_rho_bar:
            raise ValueError(
                "V-trace needs 0 < vtrace_c_bar <= vtrace_rho_bar, "
                f"got vtrace_c_bar={self.vtrace_c_bar!r}, vtrace_rho_bar={self.vtrace_rho_bar!r}"
            )
        if self.n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, got {self.n_epochs!r}")
        if self.critic_updates < 0:
            raise ValueError(f"critic_updates must be at least 0 (no value-only steps), got {self.critic_updates!r}")
        if self.normalize_advantage not in (True, False, "minibatch", "window"):
            raise ValueError(
                f'normalize_advantage must be True, False, "minibatch" or "window", got {self.normalize_advantage!r}'
            )
        if not (math.isfinite(self.kl_coef) and self.kl_coef >= 0):
            raise ValueError(f"kl_coef must be a finite number ≥ 0, got {self.kl_coef!r}")
        if self.kl_anchor not in ("proximal", "behavior"):
            raise ValueError(f'kl_anchor must be "proximal" or "behavior", got {self.kl_anchor!r}')
        if self.rollout_buffer_class is not None and not issubclass(self.rollout_buffer_class, StaleRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class must be a subclass of StaleRolloutBuffer, got {self.rollout_buffer_class.__name__}: "
                "other buffers forget their rollouts' policy versions"
            )
        if self.normalize_advantage:
            assert self.batch_size > 1, "`batch_size` must be greater than 1: one advantage cannot be normalized"
        if self.env is None:
            return
        rollout_size = self.n_steps * self.n_envs
        if self.normalize_advantage:
            assert rollout_size > 1, (
                "`n_steps * n_envs` must be greater than 1: one advantage cannot be normalized. "
                f"Currently n_steps={self.n_steps} and n_envs={self.n_envs}"
            )
        n_rollouts = self.replay_window - self.min_lag
        window_size = n_rollouts * rollout_size
        drawn = self.n_epochs * math.ceil(rollout_size / self.batch_size)
        if window_size % self.batch_size > 0 and drawn >= math.ceil(window_size / self.batch_size):
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size}, but a pass is over rollouts * n_steps * n_envs "
                f"= {n_rollouts} * {self.n_steps} * {self.n_envs} = {window_size} transitions: there will be a truncated "
                f"mini-batch of size {window_size % self.batch_size}. A factor of {rollout_size} avoids that.",
                stacklevel=4,
            )

    def _setup_model(self) -> None:
        # Here rather than in the constructor: load() changes options after it.
        self._check_options()
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = DictStaleRolloutBuffer if is_dict else StaleRolloutBuffer
        self.rollout_buffer_kwargs = {
            **self.rollout_buffer_kwargs,
            "replay_window": self.replay_window,
            "min_lag": self.min_lag,
            "n_anchor_parameters": behavior.n_parameters(self.action_space) if self.kl_coef > 0 else 0,
            "n_log_probs": behavior.n_dimensions(self.action_space) if self.ratio_level == "dimension" else None,
            "keep_trajectories": self._revalues_targets,
        }
        super()._setup_model()
        self.sigma = FloatSchedule(self.sigma)
        if self.value_learning_rate is not None:
            self.value_learning_rate = FloatSchedule(self.value_learning_rate)
            split_optimizer(self.policy)
        if self.critic_updates > 0:
            value_parameters(self.policy)  # raises where value-only steps would move the policy
        fuse_optimizer(self.policy)
        behavior.stack_categoricals(self.policy)
        if self.clip_range_vf is not None:
            if isinstance(self.clip_range_vf, float | int):
                assert self.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    @property
    def _always_fresh(self) -> bool:
        """Whether, until an update's first gradient step, the current policy is the one that collected all there is."""
        return self.replay_window == 1

    @property
    def _revalues_targets(self) -> bool:
        """Whether targets are computed again before each update."""
        if self._always_fresh:
            return self.advantage == "vtrace" and self.vtrace_c_bar < 1
        return self.advantage != "stored"

    @property
    def _moves_anchor(self) -> bool:
        """Whether the KL penalty is measured from another policy than the one that collected the data."""
        return self.kl_coef > 0 and self.kl_anchor == "proximal" and not self._always_fresh

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Collect one rollout under the current policy version, with what must be remembered of the policy that acts.

        :param env: The training environment
        :param callback: Callback that will be called at each step (and at the beginning and end of the rollout)
        :param rollout_buffer: Buffer to fill
        :param n_rollout_steps: Number of steps to collect per environment
        :return: False if the callback stopped the training
        """
        assert self._last_obs is not None, "No previous observation was provided"
        assert isinstance(rollout_buffer, StaleRolloutBuffer)
        self.policy.set_training_mode(False)
        rollout_buffer.policy_version = self.policy_version
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        self._require_finite(self._last_obs, "observation")
        callback.on_rollout_start()

        remembers = self.kl_coef > 0 and not self._moves_anchor
        # Callbacks read these local variables by the names that SB3 gave them.
        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
            with th.no_grad(), behavior.unvalidated():
                actions, values, log_probs = self.policy(obs_tensor)
                # The policy keeps the distribution it has just sampled from; a callback may replace it later.
                remembered = behavior.parameters(self.policy.action_dist) if remembers else None
                if self.ratio_level == "dimension":
                    log_probs = behavior.log_prob(self.policy.action_dist, actions)
            actions = actions.cpu().numpy()
            clipped_actions = self._to_environment(actions)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self._require_finite(rewards, "reward")
            self._require_finite(new_obs, "observation")
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)

            if self.bootstrap_time_limit:
                self._bootstrap_time_limits(rollout_buffer, rewards, dones, infos)
            rollout_buffer.add(
                self._last_obs,
                actions,
                rewards,
                self._last_episode_starts,
                values,
                log_probs,
                anchor_parameters=remembered,
            )
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones

        with th.no_grad():
            values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))  # type: ignore[arg-type]
        if rollout_buffer.keep_trajectories:
            rollout_buffer.remember_last(new_obs, dones)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _to_environment(self, actions: np.ndarray) -> np.ndarray:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _bootstrap_time_limits(
        self, rollout_buffer: StaleRolloutBuffer, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """
        An episode cut by its time limit had a future. Its discounted value joins the last reward, in place; when targets
        are computed later, with the critic of then, the terminal observation is remembered instead.
        """
        for index in np.flatnonzero(dones):
            terminal_observation = infos[index].get("terminal_observation")
            if terminal_observation is None or not infos[index].get("TimeLimit.truncated", False):
                continue
            if rollout_buffer.keep_trajectories:
                rollout_buffer.remember_time_limit(int(index), terminal_observation)
                continue
            with th.no_grad():
                value = self.policy.predict_values(self.policy.obs_to_tensor(terminal_observation)[0])
            rewards[index] += self.gamma * value.item()

    def _require_finite(self, numbers: Any, quantity: str) -> None:
        if isinstance(numbers, dict):
            for key, part in numbers.items():
                self._require_finite(part, f"{quantity} {key!r}")
        elif numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            environments = np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1))
            raise FloatingPointError(
                f"non-finite {quantity} after {self.num_timesteps} steps, in environment {environments.tolist()}: "
                f"{numbers[environments[0]]}. The model has not been updated with it"
            )

    @property
    def current_surrogate(self) -> Surrogate:
        """The surrogate of the next update: ``surrogate``, or the Gaussian of the current ``sigma``."""
        if self.surrogate is not None:
            return self.surrogate
        return GaussianTrust(self.sigma(self._current_progress_remaining), self.sigma_neg_ratio)  # type: ignore[operator]

    @behavior.unvalidated()
    def train(self) -> None:
        """Make one iteration's gradient steps on the trainable rollouts, and advance the policy version."""
        self.rollout_buffer.policy_version = self.policy_version
        self.policy_version += 1
        self.last_update = None
        self._update_learning_rate(self.policy.optimizer)
        n_trainable = self.rollout_buffer.n_trainable
        self.logger.record("train/trainable_transitions", n_trainable)
        if n_trainable == 0:
            self.logger.info(f"No update: no rollout is min_lag={self.min_lag} versions old yet")
            return

        self._revaluate()
        self.policy.set_training_mode(True)
        surrogate = self.current_surrogate
        parameters = list(self.policy.parameters())
        window_moments = self.rollout_buffer.advantage_moments() if self.normalize_advantage == "window" else None
        minibatches = itertools.chain.from_iterable(self.rollout_buffer.get(self.batch_size) for _ in itertools.count())
        steps_per_epoch = math.ceil(self.n_steps * self.n_envs / self.batch_size)
        evaluations: list[_Evaluation] = []
        for _ in range(self.n_epochs):
            too_far = False
            for batch in itertools.islice(minibatches, steps_per_epoch):
                evaluation = self._evaluate(batch, surrogate, window_moments)
                evaluations.append(evaluation.detach())
                too_far = self.target_kl is not None and _approx_kl(evaluations[-1].log_ratio) > 1.5 * self.target_kl
                if too_far:
                    break
                self._descend(parameters, evaluation.losses.total, evaluation.losses._asdict())
                self._update_critic(parameters, batch)
            self._n_updates += 1
            if too_far:
                self.logger.info(f"Early stopping: the approximate KL exceeds 1.5 * target_kl ({self.target_kl})")
                break
        self._record(evaluations, surrogate)

    def _evaluate(
        self, batch: StaleRolloutBufferSamples, surrogate: Surrogate, window_moments: tuple[float, float] | None
    ) -> "_Evaluation":
        """The loss of a minibatch and its parts, under the current policy."""
        actions = behavior.as_emitted(batch.actions, self.action_space)
        values, log_prob, entropy = self.policy.evaluate_actions(batch.observations, actions)  # type: ignore[arg-type]
        # Without a closed form, −log π of the sampled actions estimates the entropy.
        entropy = -log_prob if entropy is None else entropy
        if self.ent_coef == 0:
            entropy = entropy.detach()
        if self.ratio_level == "dimension":
            log_prob = behavior.log_prob(self.policy.action_dist, actions)
        log_ratio = log_prob - batch.old_log_prob
        values = values.flatten()
        advantages = self._normalize(batch.advantages, window_moments)
        losses = actor_critic_losses(
            surrogate,
            log_ratio,
            advantages,
            self._clip_values(values, batch.old_values),
            batch.returns,
            entropy,
            self._kl(batch),
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            kl_coef=self.kl_coef,
        )
        return _Evaluation(losses, log_ratio, advantages, batch.lags, values, batch.returns)

    def _normalize(self, advantages: th.Tensor, window_moments: tuple[float, float] | None) -> th.Tensor:
        if window_moments is not None:
            mean, std = window_moments
            return (advantages - mean) / (std + 1e-8)
        if self.normalize_advantage and len(advantages) > 1:
            return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages

    def _kl(self, batch: StaleRolloutBufferSamples) -> th.Tensor:
        """Exact KL from the anchor: (batch,) for a joint ratio, else (batch, dimensions); zero where not asked for."""
        if batch.anchor_parameters is None:
            return batch.advantages.new_zeros(1)
        by_dimension = behavior.kl_divergence(batch.anchor_parameters, self.policy.action_dist)
        return by_dimension.sum(dim=1) if self.ratio_level == "joint" else by_dimension

    def _clip_values(self, values: th.Tensor, old_values: th.Tensor) -> th.Tensor:
        if self.clip_range_vf is None:
            return values
        clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        return old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)

    def _update_critic(self, parameters: list[th.nn.Parameter], batch: StaleRolloutBufferSamples) -> None:
        """The value-only steps on a minibatch; what they cannot move is computed once."""
        if self.critic_updates == 0:
            return
        predict = value_predictor(self.policy, batch.observations)
        for _ in range(self.critic_updates):
            values = self._clip_values(predict().flatten(), batch.old_values)
            value_loss = F.mse_loss(batch.returns, values)
            self._descend(parameters, self.vf_coef * value_loss, {"value": value_loss})

    def _descend(self, parameters: list[th.nn.Parameter], loss: th.Tensor, terms: dict[str, th.Tensor]) -> None:
        """One optimizer step, refused before it can write a number that is not finite into the policy."""
        self.policy.optimizer.zero_grad()
        loss.backward()
        norm = th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
        if not math.isfinite((norm + loss.detach()).item()):
            quantities = [f"{name} loss {term.item()}" for name, term in terms.items()]
            raise FloatingPointError(
                f"non-finite loss or gradient after {self.num_timesteps} steps, in the update of policy version "
                f"{self.rollout_buffer.policy_version}: {', '.join(quantities)}, gradient norm {norm.item()}. "
                "The step was not made: the policy is as it was before"
            )
        self.policy.optimizer.step()

    def _update_learning_rate(self, optimizers: th.optim.Optimizer | list[th.optim.Optimizer]) -> None:
        super()._update_learning_rate(optimizers)
        if self.value_learning_rate is not None:
            value_learning_rate = self.value_learning_rate(self._current_progress_remaining)  # type: ignore[operator]
            self.policy.optimizer.param_groups[1]["lr"] = value_learning_rate
            self.logger.record("train/value_learning_rate", value_learning_rate)

    def _revaluate(self) -> None:
        """Let the policy of now look at the window again: targets, and the anchor of the KL penalty."""
        if not (self._revalues_targets or self._moves_anchor):
            return
        self.policy.set_training_mode(False)
        corrects = self._revalues_targets and self.advantage == "vtrace"
        seen = revaluate(self.policy, self.rollout_buffer, log_ratio=corrects, parameters=self._moves_anchor)
        if seen.parameters is not None:
            self.rollout_buffer.set_anchor(seen.parameters)
        if self._revalues_targets:
            truncations = self.vtrace_rho_bar, self.vtrace_c_bar
            recompute_targets(self.policy, self.rollout_buffer, seen, self.gamma, self.gae_lambda, *truncations)

    def _record(self, evaluations: list["_Evaluation"], surrogate: Surrogate) -> None:
        """Log one iteration. One scope for all: every sample of every minibatch that was evaluated."""
        log_ratio, advantages, lags, values, returns = (
            th.cat(parts) for parts in list(zip(*evaluations, strict=True))[1:]
        )
        losses = th.stack([th.stack(evaluation.losses) for evaluation in evaluations]).mean(dim=0)
        means = ActorCriticLosses(*losses.tolist())
        self.logger.record("train/loss", means.total)
        self.logger.record("train/policy_gradient_loss", means.policy)
        self.logger.record("train/value_loss", means.value)
        self.logger.record("train/entropy_loss", means.entropy)
        if self.kl_coef > 0:
            self.logger.record("train/kl_loss", means.kl)
        self.logger.record("train/approx_kl", _approx_kl(log_ratio))
        self.logger.record("train/explained_variance", explained_variance(values.cpu().numpy(), returns.cpu().numpy()))

        if log_ratio.ndim > 1:
            advantages = advantages.unsqueeze(1)
        log_trust_weight = surrogate.log_trust_weight(log_ratio, advantages)
        multiplier = surrogate.multiplier(log_ratio, advantages)
        self.last_update = UpdateSamples(log_ratio, multiplier, advantages, lags)
        for name, value in utilization.summary(log_ratio, log_trust_weight, multiplier, advantages, lags).items():
            self.logger.record(f"train/{name}", value)
        if isinstance(surrogate, GaussianTrust):
            self.logger.record("train/hoeffding_radius", self._hoeffding_radius(surrogate, advantages))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        if self.surrogate is None:
            self.logger.record("train/sigma", surrogate.sigma)  # type: ignore[attr-defined]
        if self.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", self.clip_range_vf(self._current_progress_remaining))  # type: ignore[operator]
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/policy_version", self.policy_version, exclude="tensorboard")

    def _hoeffding_radius(self, surrogate: GaussianTrust, advantages: th.Tensor) -> float:
        """How far a minibatch's mean objective may be off at 95 % confidence, were its samples independent."""
        largest = advantages.abs().max().item()
        if largest == 0:
            return 0.0
        samples = min(self.batch_size, len(advantages))
        return hoeffding_radius(largest, surrogate.sigma, samples, 0.05, surrogate.sigma_neg_ratio)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "last_update"]

    def save_rollout_buffer(self, path: resumption.Path) -> None:
        """
        Save what ``save()`` leaves out and training needs to go on exactly as if it had not stopped: the replay window,
        and the states of the random streams of torch, numpy and Python. The state of the environment is the user's to
        keep: load the model with ``force_reset=False`` when it is restored, else a new episode begins.

        :param path: where to save, between two calls of ``learn()``; ``.pkl`` is appended where there is no suffix
        """
        resumption.save(path, self.rollout_buffer, self.verbose)

    def load_rollout_buffer(self, path: resumption.Path) -> None:
        """
        Load what :meth:`save_rollout_buffer` saved, into a model with the same spaces and window.

        :param path: the file; only open files that you trust, it is a pickle
        :raises ValueError: if it is no such file, or its buffer does not fit the model: both shapes are named
        """
        self.rollout_buffer = resumption.load(path, self.rollout_buffer, self.verbose)

    def learn(
        self: SelfGIPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "GIPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGIPO:
        """
        Train for ``total_timesteps`` environment steps, rounded up to whole rollouts.

        :param total_timesteps: The total number of steps over all environments
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: how many iterations between two lines of the log
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        """
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )


class _Evaluation(NamedTuple):
    """A minibatch under the current policy. ``log_ratio`` is (batch,) or (batch, dimensions), the others (batch,)."""

    losses: ActorCriticLosses
    log_ratio: th.Tensor
    advantages: th.Tensor
    lags: th.Tensor
    values: th.Tensor
    returns: th.Tensor

    def detach(self) -> "_Evaluation":
        losses = ActorCriticLosses(*(loss.detach() for loss in self.losses))
        return _Evaluation(losses, *(part.detach() for part in self[1:]))


def _approx_kl(log_ratio: th.Tensor) -> float:
    """Schulman's estimator of KL(μ‖π) from samples of μ, E[ρ − 1 − x] (http://joschu.net/blog/kl-approx.html)."""
    return (th.exp(log_ratio) - 1 - log_ratio).mean().item()
