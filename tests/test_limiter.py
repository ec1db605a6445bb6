"""Promises about who waits for whom, without any actor."""

import numpy as np
import pytest

pytest.importorskip("ray")
from sb3_gipo.remote.limiter import LockStepLimiter, RateLimiter, SampleRatioLimiter

ROLLOUT, UPDATE = 10, 40


def ratio(samples_per_insert, n_actors=3, most_pending=100):
    return SampleRatioLimiter(most_pending, samples_per_insert, ROLLOUT, UPDATE, n_actors)


def test_free_actors_wait_only_for_a_learner_that_does_not_read():
    limiter = RateLimiter(2)
    assert limiter.may_update()
    assert [limiter.admit() for _ in range(3)] == [True, True, False]
    limiter.insert()
    assert limiter.admit() and not limiter.admit()
    limiter.lose()
    assert limiter.admit()


def test_lock_step_takes_turns():
    limiter = LockStepLimiter(9)
    for _ in range(3):
        assert not limiter.may_update()
        assert limiter.admit() and not limiter.admit() and not limiter.may_update()
        limiter.lose()
        assert limiter.admit(), "what was lost is collected again"
        limiter.insert()
        assert not limiter.admit() and limiter.may_update()
        limiter.update(UPDATE)


@pytest.mark.parametrize("samples_per_insert", [0.5, 4, 30])
@pytest.mark.parametrize("seed", range(5))
def test_the_ratio_is_kept_whatever_happens(samples_per_insert, seed):
    """Actors and learner act in random order, some rollouts are lost, some updates draw fewer samples."""
    limiter, rng = ratio(samples_per_insert), np.random.default_rng(seed)
    inserted, sampled, in_flight = 0, 0, 0
    assert limiter.tolerance == UPDATE + 3 * samples_per_insert * ROLLOUT
    for _ in range(3000):
        deed = rng.integers(4)
        if deed == 0 and limiter.admit():
            in_flight += 1
        elif deed == 1 and in_flight and rng.random() < 0.2:
            in_flight -= 1
            limiter.lose()
        elif deed == 2 and in_flight:
            in_flight, inserted = in_flight - 1, inserted + 1
            limiter.insert()
        elif deed == 3 and limiter.may_update():
            drawn = UPDATE if rng.random() < 0.9 else int(rng.integers(1, UPDATE))
            sampled += drawn
            limiter.update(drawn)
        assert limiter.ahead == sampled - samples_per_insert * ROLLOUT * inserted
        assert abs(limiter.ahead) <= limiter.tolerance
    assert min(inserted, sampled / UPDATE) > 10, "neither has stopped the other for good"


def test_all_actors_and_the_learner_can_work_at_the_same_time():
    limiter = ratio(4)
    assert all(limiter.admit() for _ in range(3)) and limiter.may_update()


def test_a_starving_learner_is_fed_whatever_was_promised():
    limiter = ratio(4)
    while limiter.admit():
        limiter.insert()
    assert not limiter.admit()
    limiter.starving = True
    assert limiter.admit()
    limiter.insert()
    assert not limiter.admit(), "it is no longer starving"


def test_feeding_a_starving_learner_breaks_no_promise_before_it_has_read():
    """The first rollouts have arrived and lie unread: with one more of each actor the balance would be lost."""
    limiter = ratio(30)
    limiter.starving = True
    assert [limiter.admit() for _ in range(4)] == [True, True, True, False]
    for _ in range(3):
        limiter.insert()
    assert limiter.ahead >= -limiter.tolerance
