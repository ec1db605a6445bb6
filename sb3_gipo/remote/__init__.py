"""
Asynchronous actors and their learner: GIPO on data whose age is real. Needs Ray (extra ``[ray]``).

``learner.py`` is the algorithm as SB3 knows algorithms, ``crew.py`` keeps the actors working and alone imports ray,
``actor.py`` is what runs in an actor's process, ``limiter.py`` says who has to wait for whom, and ``tally.py`` counts. No
objective, no target and no buffer logic is here: the learner is GIPO, and so is what collects in an actor.
"""

from sb3_gipo.remote.crew import cluster
from sb3_gipo.remote.learner import AsyncGIPO
from sb3_gipo.remote.tally import Tally

__all__ = ["AsyncGIPO", "Tally", "cluster"]
