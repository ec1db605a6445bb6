"""A suite small enough for tests, as the TOML a user would write, and the command line that runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

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
advantage = "stored"
kl_anchor = "behavior"

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


def start(*arguments, cwd, stdout=subprocess.PIPE, limit=lambda: None):
    """The command line in a process group of its own, to be killed; ``limit`` is called in the new process."""

    def prepare():
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        limit()

    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=prepare,
    )
