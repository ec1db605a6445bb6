"""A suite small enough for tests, as the TOML a user would write."""

TINY = """
name = "tiny"
budget = 192
seeds = 2
repeats = 2
score_episodes = 5
tasks = ["CartPole-v1"]

[learner]
n_steps = 64
batch_size = 32
n_epochs = 2
learning_rate = 0.01

[regimes.fresh]
replay_window = 1

[regimes.stale]
replay_window = 3

[algorithms.ppo]
surrogate = "ppo_clip"

[algorithms."gipo(1.0,0.5)"]
surrogate = "gaussian"
sigma_neg_ratio = 0.5
"""


def write_suite(folder, text=TINY, **replacements):
    for old, new in replacements.items():
        text = text.replace(f"{old} = ", f"{old} = {new}  # ", 1)
    path = folder / "tiny.toml"
    path.write_text(text)
    return str(path)
