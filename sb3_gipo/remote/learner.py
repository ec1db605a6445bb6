"""The asynchronous learner: GIPO whose rollouts come from actors in processes of their own."""

import io
import math
import pathlib
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.buffers import StaleRolloutBuffer
from sb3_gipo.gipo import GIPO
from sb3_gipo.remote.actor import Arrival, Environments, EnvMaker, env_makers, stand_ins
from sb3_gipo.remote.crew import Crew, LostActor, cluster
from sb3_gipo.remote.limiter import LockStepLimiter, RateLimiter, SampleRatioLimiter
from sb3_gipo.remote.tally import Tally

__all__ = ["AsyncGIPO"]

SelfAsyncGIPO = TypeVar("SelfAsyncGIPO", bound="AsyncGIPO")

#: GIPO's options that decide what an actor collects, and what it keeps of it.
_COLLECTING = (
    "n_steps",
    "gamma",
    "gae_lambda",
    "use_sde",
    "sde_sample_freq",
    "rollout_buffer_class",
    "rollout_buffer_kwargs",
    "policy_kwargs",
    "ratio_level",
    "advantage",
    "vtrace_rho_bar",
    "vtrace_c_bar",
    "bootstrap_time_limit",
    "kl_anchor",
)


class AsyncGIPO(GIPO):
    """
    GIPO with asynchronous actors, on Ray: actors that do not wait for gradient steps, and a learner that does not wait for
    episodes. Data is as old as it really is.

    Each actor has ``envs_per_actor`` environments and a copy of the policy in a process of its own, and collects rollouts of
    ``n_steps`` steps, each under one policy version. They enter the replay window as they arrive, in place of the lowest
    version, and ``train()`` is GIPO's. ``learn()`` starts the actors and ends them; without it nothing needs Ray to run.

    As data is never surely fresh, targets and anchor follow the current policy (``advantage``, ``kl_anchor``) also with
    ``replay_window=1``, unless in lock-step. Steps of rollouts that are dropped are not in ``num_timesteps``.

    Streams of random numbers: the n-th actor ever started, restarted ones included, is seeded like GIPO with
    ``seed + n * envs_per_actor``. What arrives when is up to the machine, so runs repeat exactly in lock-step only.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, ...)
    :param env: what makes environments: a Gymnasium id, a function without arguments, or a sequence of
        ``n_actors * envs_per_actor`` such functions (the first ``envs_per_actor`` for the first actor, ...), where
        environments must be seeded as they are made. One environment is made here, to read its spaces, and closed
    :param args: further arguments in the order of :class:`~sb3_gipo.gipo.GIPO`, from ``learning_rate`` on
    :param n_actors: how many actors collect, ≥ 1
    :param envs_per_actor: environments of each, ≥ 1; they step in turn, in one thread
    :param samples_per_insert: how often a transition is drawn on average, > 0. Samples drawn minus ``samples_per_insert``
        times transitions taken in stays within ± one update's samples plus ``samples_per_insert`` rollouts of every actor:
        the learner waits when it is ahead, actors wait when they are. Where ``max_lag`` or ``min_lag`` leaves nothing to
        train on, the actors work all the same. None: both run free, and the learner trains again and again on what there
        is; actors wait only once twice as many rollouts as there are actors lie unread, and as many as the window holds
    :param max_lag: a rollout that is more policy versions old when it arrives is dropped, and one that becomes older in the
        window is no longer trained on, ≥ 0. None: no limit
    :param sync_every: updates, ≥ 1, from one publication of the weights to the next, ≤ ``max_lag + 1``
    :param lock_step: collect under the newest weights, update, publish, in turn: with one actor, the first ``learn()`` gives
        the same parameters bit by bit as GIPO with the same seed and options; a later one begins with new episodes
    :param cpus_per_actor: CPUs that each actor asks Ray for, ≥ 0; less than 1 for those that mostly wait for their
        environments
    :param max_restarts: how many errors of environments or policies a run survives, ≥ 0: each is shown in a warning, and its
        actor replaced. An actor whose process dies is replaced too, without an end unless more than ``max_restarts``
        processes in its place have died without a rollout in between
    :param kwargs: GIPO's other options
    :raises ValueError: if an option is out of its range, or ``env`` is a sequence of another length
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Environments | None,
        *args: Any,
        n_actors: int = 1,
        envs_per_actor: int = 1,
        samples_per_insert: float | None = None,
        max_lag: int | None = None,
        sync_every: int = 1,
        lock_step: bool = False,
        cpus_per_actor: float = 1.0,
        max_restarts: int = 10,
        **kwargs: Any,
    ):
        self.n_actors = n_actors
        self.samples_per_insert = samples_per_insert
        self.max_lag = max_lag
        self.sync_every = sync_every
        self.lock_step = lock_step
        self.cpus_per_actor = cpus_per_actor
        self.max_restarts = max_restarts
        self.n_dropped = 0
        self.n_restarts = 0
        #: Counts of the current or last run.
        self.tally = Tally()
        self._n_started = 0
        self._crew: Crew | None = None
        self._makers: list[EnvMaker] | None = None
        self._check_actors(envs_per_actor)
        if env is not None:
            self._makers = env_makers(env, n_actors * envs_per_actor)
        places = None if self._makers is None else stand_ins(self._makers[0], envs_per_actor)
        super().__init__(policy, places, *args, **kwargs)  # type: ignore[arg-type]
        if self.replay_window < n_actors:
            warnings.warn(
                f"replay_window={self.replay_window} holds fewer rollouts than n_actors={n_actors} send during one update: "
                "those that do not fit are replaced before they were trained on; take replay_window >= n_actors",
                UserWarning,
                stacklevel=2,
            )

    def _check_actors(self, envs_per_actor: int) -> None:
        for name, number, least in (
            ("n_actors", self.n_actors, 1),
            ("envs_per_actor", envs_per_actor, 1),
            ("sync_every", self.sync_every, 1),
            ("cpus_per_actor", self.cpus_per_actor, 0),
            ("max_restarts", self.max_restarts, 0),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number!r}")
        if self.samples_per_insert is not None and not 0 < self.samples_per_insert < math.inf:
            raise ValueError(
                f"samples_per_insert must be a positive finite number, or None, got {self.samples_per_insert!r}"
            )
        if self.max_lag is not None and 0 <= self.max_lag < self.sync_every - 1:
            raise ValueError(
                f"sync_every must be at most max_lag + 1 = {self.max_lag + 1}, got {self.sync_every}: "
                "with older weights than that, actors would collect only what is dropped"
            )
        if self.lock_step and (self.n_actors, self.sync_every, self.samples_per_insert) != (1, 1, None):
            raise ValueError(
                "lock_step is one rollout, one update, in turn: it needs n_actors=1, sync_every=1 and "
                f"samples_per_insert=None, got {self.n_actors}, {self.sync_every} and {self.samples_per_insert}"
            )

    def _setup_model(self) -> None:
        self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, "max_lag": self.max_lag}
        super()._setup_model()

    @property
    def _always_fresh(self) -> bool:
        return self.lock_step and super()._always_fresh

    def learn(
        self: SelfAsyncGIPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "AsyncGIPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAsyncGIPO:
        """
        Start the actors, train on what they send until ``total_timesteps`` environment steps have been taken in, rounded
        up to whole rollouts, and end them, also when something raises.

        :param total_timesteps: The total number of steps over all actors
        :param callback: callback(s) called at every step with state of the algorithm, when its rollout has arrived
        :param log_interval: how many iterations between two lines of the log; an iteration is one update, with whatever
            has arrived before it
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        :raises ValueError: if the cluster has fewer CPUs than the actors ask for, or the model was loaded without ``env``
        :raises RuntimeError: if environments or policies raised more than ``max_restarts`` times, with the traceback of the
            last
        """
        with self._actors_at_work():
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )

    @contextmanager
    def _actors_at_work(self) -> Iterator[None]:
        if self._makers is None:
            raise ValueError("there are no environments to learn from: load the model with env, or call set_env")
        by_actor = [self._makers[start : start + self.n_envs] for start in range(0, len(self._makers), self.n_envs)]
        with cluster(self.n_actors, self.cpus_per_actor):
            self._limiter = self._make_limiter()
            self.tally = self._logged = Tally()
            self._crew = Crew(
                self._collecting_options(),
                by_actor,
                self._next_seed,
                self._limiter,
                self.cpus_per_actor,
                self.max_restarts,
            )
            try:
                self._crew.start(self.policy.state_dict(), self.policy_version)
                yield
            finally:
                self._crew.stop()
                self._crew = None

    def _make_limiter(self) -> RateLimiter:
        most_pending = self.n_actors + max(2 * self.n_actors, self.replay_window)
        if self.lock_step:
            return LockStepLimiter(most_pending)
        if self.samples_per_insert is None:
            return RateLimiter(most_pending)
        rollout_size = self.n_steps * self.n_envs
        update_size = self.n_epochs * math.ceil(rollout_size / self.batch_size) * self.batch_size
        return SampleRatioLimiter(most_pending, self.samples_per_insert, rollout_size, update_size, self.n_actors)

    def _collecting_options(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in _COLLECTING}
        # An anchor that moves is computed here: what the actors' distributions were need not travel.
        kl_coef = 0.0 if self._moves_anchor else self.kl_coef
        return {**options, "policy": self.policy_class, "kl_coef": kl_coef, "always_fresh": self._always_fresh}

    def _next_seed(self) -> int | None:
        seed = None if self.seed is None else self.seed + self._n_started * self.n_envs
        self._n_started += 1
        return seed

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Take in the rollouts that have arrived. Wait for one only if there is nothing to train on, or the learner is ahead.

        :param env: stands in for the actors' environments
        :param callback: Callback that is called at each step (and at the beginning and end of each rollout)
        :param rollout_buffer: Buffer to put them into
        :param n_rollout_steps: Number of steps in a rollout per environment
        :return: False if the callback stopped the training, or its end was reached before the next update was due
        """
        assert self._crew is not None and isinstance(rollout_buffer, StaleRolloutBuffer)
        self.policy.set_training_mode(False)
        rollout_buffer.policy_version = self.policy_version
        trainable = rollout_buffer.n_trainable > 0
        to_read = self._crew.unread
        while self.num_timesteps < self._total_timesteps:
            may_update = trainable and self._limiter.may_update()
            if may_update and to_read <= 0:
                break
            message = self._receive(starving=not trainable)
            to_read -= 1
            if isinstance(message, LostActor):
                self._survive(message)
                continue
            self.tally.actors_waited += message.waited
            self.tally.actors_collected += message.collected
            if self.max_lag is not None and self.policy_version - message.rollout.version > self.max_lag:
                self._limiter.lose()
                self.n_dropped += 1
            elif self._take_in(message, env, callback, rollout_buffer, n_rollout_steps):
                # With min_lag it may have to age first; versions pass all the same.
                trainable = True
            else:
                return False
        self._crew.wake()
        return self._limiter.may_update()

    def _receive(self, starving: bool) -> Arrival | LostActor:
        assert self._crew is not None
        started = time.monotonic()
        if not self._crew.unread:
            self._limiter.starving = starving
            self._crew.wake()
        message = self._crew.receive()
        self.tally.learner_waited += time.monotonic() - started
        return message

    def _survive(self, lost: LostActor) -> None:
        if lost.error is not None:
            raise RuntimeError(lost.text) from lost.error
        self.n_restarts += 1
        warnings.warn(lost.text, RuntimeWarning, stacklevel=2)

    def _take_in(
        self,
        arrival: Arrival,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: StaleRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Have a rollout's steps seen by callbacks as if they were made here, and put it into the buffer."""
        callback.on_rollout_start()
        # Callbacks read these local variables by the names that SB3 gave them.
        for n_steps in range(n_rollout_steps):
            rewards, dones, infos = arrival.rewards[n_steps], arrival.dones[n_steps], arrival.infos[n_steps]
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
        rollout_buffer.ingest(arrival.rollout)
        self._limiter.insert()
        self.tally.transitions += arrival.rewards.size
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Make one iteration's gradient steps on the trainable rollouts, and publish the weights every ``sync_every``."""
        assert self._crew is not None
        super().train()
        drawn = 0 if self.last_update is None else len(self.last_update.lags)
        self.tally.updates += 1
        if self.policy_version % self.sync_every == 0:
            self._crew.publish(self.policy.state_dict(), self.policy_version)
        # After the weights: in lock-step this is the actor's turn.
        self._limiter.update(drawn)
        self._crew.wake()

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write log. Shares and rates are those since the last time.

        :param iteration: Current logging iteration
        """
        now = self.tally.now()
        for name, value in now.since(self._logged).items():
            self.logger.record(f"async/{name}", value)
        self._logged = now
        self.logger.record("async/dropped_rollouts", self.n_dropped)
        self.logger.record("async/actor_restarts", self.n_restarts)
        super().dump_logs(iteration)

    def set_env(self, env: Environments, force_reset: bool = True) -> None:  # type: ignore[override]
        """
        :param env: what makes environments, as in the constructor
        :param force_reset: not used: actors always begin with a reset
        :raises ValueError: if the spaces are others, or ``env`` is a sequence of another length
        """
        makers = env_makers(env, self.n_actors * self.n_envs)
        super().set_env(stand_ins(makers[0], self.n_envs), force_reset)  # type: ignore[arg-type]
        self._makers = makers

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfAsyncGIPO],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: Environments | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAsyncGIPO:
        """
        Load a model. Ray need not run to predict with it.

        :param path: path to the file
        :param env: what makes environments, as in the constructor; None if the model is not to learn
        :param device: Device on which the code should run
        :param custom_objects: Dictionary of objects to replace upon loading
        :param print_system_info: Whether to print system info from the saved model and the current system info
        :param force_reset: not used: actors always begin with a reset
        :param kwargs: extra arguments to change the model when loading, such as ``n_actors``
        :return: new model instance with loaded parameters
        :raises ValueError: if an option is out of its range
        """
        model = super().load(path, None, device, custom_objects, print_system_info, force_reset, **kwargs)
        model._check_actors(model.n_envs)
        if env is not None:
            model.set_env(env)
        return model

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_crew", "_limiter", "_makers", "tally", "_logged"]
