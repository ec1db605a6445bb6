import warnings

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks import envs
from benchmarks.spec import BenchmarkError

TASK = "button-press-topdown-v3"


def first_observations(seed, episodes=3):
    env = envs.make_env(TASK, envs.environment_seed(seed))
    observations = [env.reset()[0] for _ in range(episodes)]
    env.close()
    return np.array(observations)


def test_goals_follow_the_seed_alone():
    np.random.seed(0)
    reference = first_observations(0)
    np.random.seed(1)  # seeds must not come from the global stream
    np.testing.assert_array_equal(first_observations(0), reference)
    assert not np.allclose(first_observations(1), reference)
    assert not np.allclose(reference[0], reference[1]), "every reset draws a goal"


def test_streams():
    learners = [envs.learner_seed(seed, repeat) for seed in range(10) for repeat in range(5)]
    environments = [envs.environment_seed(seed) for seed in range(10)]
    assert len({*learners, *environments}) == 60
    assert learners[0] == envs.learner_seed(0, 0)


def test_a_metaworld_episode_is_as_sb3_needs_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the space is repaired, so the checker has nothing to warn of
        env = envs.make_env(TASK, envs.environment_seed(0), reward_scale=0.001)
        vector = DummyVecEnv([lambda: env])
        observation = vector.reset()
        space = vector.observation_space
        rewards = []
        for step in range(500):
            assert space.contains(observation[0])
            observation, reward, done, infos = vector.step([vector.action_space.low * (step % 2)])
            rewards.append(reward[0])
            assert done[0] == (step == 499)
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"].shape == (39,)
    episode = infos[0]["episode"]
    assert episode["l"] == 500
    assert episode["r"] == pytest.approx(1000 * sum(rewards), rel=1e-3), "returns are unscaled"
    assert {episode["is_success"], episode["is_success_last"]} <= {True, False}


def test_success_at_any_step_is_kept_apart_from_the_last():
    expert = envs.expert(TASK)
    env = envs.make_env(TASK, envs.environment_seed(0))
    observation, _ = env.reset()
    info = {"is_success": False}
    for _ in range(500):
        # Once it has succeeded the arm goes away.
        action = np.array([0.0, -1.0, 1.0, -1.0], dtype=np.float32) if info["is_success"] else expert(observation)
        observation, _, _, truncated, info = env.step(action)
    assert truncated and info["episode"]["is_success"]
    assert not info["episode"]["is_success_last"]


def test_unknown_tasks_offer_the_nearest():
    with pytest.raises(BenchmarkError, match="unknown task 'buton-press-v3': did you mean 'button-press-v3'"):
        envs.make_env("buton-press-v3", 0)
    assert envs.expert("CartPole-v1") is None
