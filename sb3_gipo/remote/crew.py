"""
Keeps the actors of a run at work on a Ray cluster. Alone imports ray.

The cluster is that of ``RAY_ADDRESS``, whose machines need this package and the environments' installed; or, if that is not
set, a local one, started for the run and shut down with it. A Ray that the user has started is used, and left as it is.
"""

import contextlib
import os
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import ray
import torch as th
from ray.exceptions import RayTaskError

from sb3_gipo.remote.actor import Actor, Arrival, EnvMaker
from sb3_gipo.remote.limiter import RateLimiter

__all__ = ["Crew", "LostActor", "cluster"]

_WAKE, _STOP = object(), object()


@contextlib.contextmanager
def cluster(n_actors: int, cpus_per_actor: float) -> Iterator[None]:
    """
    Within it, Ray runs.

    :param n_actors: how many actors there will be
    :param cpus_per_actor: CPUs that each of them asks for
    :raises ValueError: if the cluster has not so many
    """
    starts = not ray.is_initialized()
    try:
        if starts:
            _start_ray()
        _check_room(n_actors, cpus_per_actor)
        yield
    finally:
        if starts:
            ray.shutdown()


def _check_room(n_actors: int, cpus_per_actor: float) -> None:
    # Ray counts in ten-thousandths, and divides no actor between two machines.
    asked = round(n_actors * cpus_per_actor, 4)
    machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    if cpus_per_actor and sum(int(cpus / cpus_per_actor + 1e-4) for cpus in machines) < n_actors:
        raise ValueError(
            f"{n_actors} actors with cpus_per_actor={cpus_per_actor:g} ask for {asked:g} CPUs, and the Ray cluster has "
            f"{' + '.join(f'{cpus:g}' for cpus in machines)}: take fewer actors, or a larger cluster (RAY_ADDRESS), or "
            "lower cpus_per_actor; actors that mostly wait for their environments can share a CPU"
        )
    # What an earlier run held comes back a moment after its end.
    deadline = time.monotonic() + 3
    while asked > (free := ray.available_resources().get("CPU", 0.0)):
        if time.monotonic() > deadline:
            warnings.warn(
                f"{n_actors} actors ask for {asked:g} CPUs, of which the Ray cluster has {free:g} free: some actors begin "
                "only when others have given theirs back",
                RuntimeWarning,
                stacklevel=2,
            )
            break
        time.sleep(0.1)


def _start_ray() -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address, **quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", include_dashboard=False, **quiet)


class LostActor(NamedTuple):
    """
    An actor was lost. ``text``: what happened, with the traceback if something raised. ``error``: None if another actor has
    taken its place, else what the run ends with.
    """

    text: str
    error: BaseException | None


class Crew:
    """
    Actors that collect as long as the limiter lets them, always with the newest published weights.

    A thread of this process gives each actor its next rollout to collect as soon as its last one has arrived, whatever the
    learner is doing meanwhile, and puts a new actor in the place of a lost one. It sleeps until something happens.

    :param options: of :class:`~sb3_gipo.remote.actor.Collector`
    :param makers: for each actor, a function for each of its environments
    :param next_seed: gives a seed to each actor that is started
    :param limiter: says whether actors have to wait; call :meth:`wake` when it may have changed its mind
    :param cpus_per_actor: CPUs that each actor asks Ray for
    :param max_restarts: errors of environments and policies that the run survives, and deaths of an actor's processes
        without a rollout in between
    """

    def __init__(
        self,
        options: dict[str, Any],
        makers: list[list[EnvMaker]],
        next_seed: Callable[[], int | None],
        limiter: RateLimiter,
        cpus_per_actor: float,
        max_restarts: int,
    ):
        self._limiter = limiter
        self._max_restarts = max_restarts
        remote_class = ray.remote(num_cpus=cpus_per_actor)(Actor)
        # As bytes, which an actor can always receive: should it lack a module, it can say so.
        plans = [ray.cloudpickle.dumps((options, of_actor)) for of_actor in makers]
        self._start_actor = lambda place: remote_class.remote(plans[place], next_seed())
        self._actors: dict[int, Any] = {}
        self._idle: deque[int] = deque()
        self._errors = 0
        self._deaths = [0] * len(makers)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._mail: queue.SimpleQueue[Arrival | LostActor] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="gipo-crew", daemon=True)

    def start(self, weights: dict[str, th.Tensor], version: int) -> None:
        """
        Start all actors.

        :param weights: the policy's state
        :param version: the policy version that these weights are
        """
        self.publish(weights, version)
        for place in range(len(self._deaths)):
            self._fill(place)
        self._thread.start()

    def publish(self, weights: dict[str, th.Tensor], version: int) -> None:
        """
        Have every rollout that begins from now on collected with new weights. They go to the object store once, whatever
        the number of actors.

        :param weights: the policy's state
        :param version: the policy version that these weights are
        """
        self._published = ray.put({name: tensor.cpu() for name, tensor in weights.items()}), version

    def wake(self) -> None:
        """Ask the limiter again whether idle actors may work."""
        self._events.put(_WAKE)

    @property
    def unread(self) -> int:
        """How many messages there are for :meth:`receive`."""
        return self._mail.qsize()

    def receive(self) -> Arrival | LostActor:
        """
        :return: the next message, once there is one
        """
        return self._mail.get()

    def stop(self) -> None:
        """End all actors, wherever they are; environments are not closed."""
        try:
            if self._thread.is_alive():
                self._events.put(_STOP)
                self._thread.join()
        finally:
            for actor in self._actors.values():
                ray.kill(actor)

    def _serve(self) -> None:
        try:
            self._give_work()
            while (event := self._events.get()) is not _STOP:
                if event is not _WAKE:
                    self._take_back(*event)
                self._give_work()
        except BaseException as error:
            # The learner would wait for ever.
            self._mail.put(LostActor("the thread that serves the actors failed", error))

    def _give_work(self) -> None:
        while self._idle and self._limiter.admit():
            place = self._idle.popleft()
            self._await(place, self._actors[place].collect.remote(*self._published), admitted=True)

    def _fill(self, place: int) -> None:
        # It gets weights only when it is ready: by then there may be newer ones.
        self._actors[place] = self._start_actor(place)
        self._await(place, self._actors[place].prepare.remote(), admitted=False)

    def _await(self, place: int, answer: Any, admitted: bool) -> None:
        answer.future().add_done_callback(lambda future: self._events.put((place, future, admitted)))

    def _take_back(self, place: int, future: "Future[Arrival | None]", admitted: bool) -> None:
        error = future.exception()
        if error is None:
            if (arrival := future.result()) is not None:
                self._deaths[place] = 0
                self._mail.put(arrival)
            self._idle.append(place)
            return
        if admitted:
            self._limiter.lose()
        loss = self._loss(place, error)
        if loss.error is None:
            ray.kill(self._actors[place])
            self._fill(place)
        self._mail.put(loss)

    def _loss(self, place: int, error: BaseException) -> LostActor:
        if isinstance(error, RayTaskError):
            self._errors += 1
            losses, text = self._errors, f"an environment or the policy of actor {place} raised:\n{error}"
        else:
            self._deaths[place] += 1
            losses, text = self._deaths[place], f"the process of actor {place} was lost: {error}"
        if losses > self._max_restarts:
            return LostActor(f"gave up after {self._max_restarts} restarts: {text}", error)
        return LostActor(f"{text}\nAnother actor has taken its place", None)
