import pytest

pytest.importorskip("ray")
from sb3_gipo.remote.tally import Tally


def test_shares_and_rates_are_those_of_the_stretch():
    earlier = Tally(at=10.0, learner_waited=3.0, actors_waited=5.0, actors_collected=5.0, transitions=100, updates=7)
    later = Tally(at=14.0, learner_waited=4.0, actors_waited=6.0, actors_collected=8.0, transitions=180, updates=9)
    assert later.since(earlier) == pytest.approx(
        {"learner_waiting": 0.25, "actors_waiting": 0.25, "transitions_per_second": 20.0, "updates_per_second": 0.5}
    )


def test_a_share_of_nothing_is_left_out():
    earlier = Tally(at=10.0, actors_waited=5.0)
    assert Tally(at=12.0, actors_waited=5.0).since(earlier).keys() == {
        "learner_waiting",
        "transitions_per_second",
        "updates_per_second",
    }


def test_a_copy_does_not_change():
    tally = Tally()
    copy = tally.now()
    tally.updates += 1
    assert copy.updates == 0 and copy.at >= tally.at
