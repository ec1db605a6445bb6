"""What a run has done so far, and the shares and rates that follow for any stretch of it."""

import time
from dataclasses import dataclass, field, replace

__all__ = ["Tally"]


@dataclass
class Tally:
    """
    Counts since the run began; times in seconds.

    ``at``: when these counts were right. ``learner_waited``: time in which the learner waited for a rollout.
    ``actors_waited``, ``actors_collected``: of all rollouts that have arrived, how long their actors had waited before
    and how long they collected. ``transitions``: taken in. ``updates``: calls of ``train()``.
    """

    at: float = field(default_factory=time.monotonic)
    learner_waited: float = 0.0
    actors_waited: float = 0.0
    actors_collected: float = 0.0
    transitions: int = 0
    updates: int = 0

    def now(self) -> "Tally":
        """
        :return: a copy that later counts do not change
        """
        return replace(self, at=time.monotonic())

    def since(self, earlier: "Tally") -> dict[str, float]:
        """
        :param earlier: an earlier copy
        :return: shares and rates of the stretch between, by the names that are logged; a share of nothing is left out
        """
        seconds = self.at - earlier.at
        waited, collected = self.actors_waited - earlier.actors_waited, self.actors_collected - earlier.actors_collected
        rates = {
            "learner_waiting": (self.learner_waited - earlier.learner_waited, seconds),
            "actors_waiting": (waited, waited + collected),
            "transitions_per_second": (self.transitions - earlier.transitions, seconds),
            "updates_per_second": (self.updates - earlier.updates, seconds),
        }
        return {name: part / whole for name, (part, whole) in rates.items() if whole > 0}
