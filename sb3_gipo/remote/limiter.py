"""
Who has to wait for whom: the actors for the learner, or the learner for the actors. Knows neither.

Rollouts are counted as *pending* from the moment an actor may collect them until they are inserted or lost, so that what is
still under way cannot break a promise.
"""

import threading

__all__ = ["LockStepLimiter", "RateLimiter", "SampleRatioLimiter"]


class RateLimiter:
    """
    Both run free, except that actors wait when the learner does not even take in what they collect.

    :param most_pending: rollouts that may be under way at a time, ≥ 1
    """

    def __init__(self, most_pending: int):
        self.most_pending = most_pending
        self.pending = 0
        self.inserted = 0
        self.updates = 0
        #: Set by a learner that has nothing to train on: each actor may then have one rollout under way, whatever else was
        #: promised.
        self.starving = False
        # The learner and the crew's thread both count.
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """
        :return: whether one more rollout may be collected now; it is then pending
        """
        with self._lock:
            admitted = self.pending < self.most_pending and self._may_collect()
            self.pending += admitted
            return admitted

    def lose(self) -> None:
        """A pending rollout was dropped, or will not come."""
        with self._lock:
            self.pending -= 1

    def insert(self) -> None:
        """A pending rollout is where the learner samples from."""
        with self._lock:
            self.pending -= 1
            self.inserted += 1
            self.starving = False

    def update(self, samples: int) -> None:
        """
        The learner has made an update.

        :param samples: transitions that it drew, each as often as it was drawn
        """
        self.updates += 1

    def may_update(self) -> bool:
        """
        :return: whether the learner may make an update now
        """
        return True

    def _may_collect(self) -> bool:
        return True


class LockStepLimiter(RateLimiter):
    """One rollout, one update, in turn."""

    def may_update(self) -> bool:
        return self.inserted > self.updates

    def _may_collect(self) -> bool:
        return self.inserted + self.pending == self.updates


class SampleRatioLimiter(RateLimiter):
    """
    Keeps |samples drawn − ``samples_per_insert`` · transitions inserted| ≤ ``tolerance`` at every moment, as the rate
    limiter of Reverb (arXiv 2102.04736) does with its error buffer.

    The tolerance leaves room for one update and for one rollout of every actor: with less they would take turns.

    :param most_pending: rollouts that may be under way at a time, ≥ 1
    :param samples_per_insert: how often a transition is to be drawn on average, > 0
    :param rollout_size: transitions of a rollout
    :param update_size: transitions that an update draws at most, each as often as it is drawn
    :param n_actors: how many collect at a time
    """

    def __init__(
        self, most_pending: int, samples_per_insert: float, rollout_size: int, update_size: int, n_actors: int
    ):
        super().__init__(most_pending)
        self._samples_per_rollout = samples_per_insert * rollout_size
        self._update_size = update_size
        self._n_actors = n_actors
        self.tolerance = update_size + n_actors * self._samples_per_rollout
        self.sampled = 0

    @property
    def ahead(self) -> float:
        """How many more samples the learner has drawn than the ratio says; negative when it is behind."""
        return self.sampled - self._samples_per_rollout * self.inserted

    def update(self, samples: int) -> None:
        super().update(samples)
        self.sampled += samples

    def may_update(self) -> bool:
        return self.ahead + self._update_size <= self.tolerance

    def _may_collect(self) -> bool:
        feeds = self.starving and self.pending < self._n_actors
        return feeds or self.ahead - self._samples_per_rollout * (self.pending + 1) >= -self.tolerance
