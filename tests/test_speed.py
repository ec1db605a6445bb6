import json
import time

from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.speed import measure


def test_both_do_the_same_work(monkeypatch):
    """With a clock that counts gradient steps, the ratio is exactly 1."""
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    monkeypatch.setattr(time, "process_time", lambda: float(len(steps)))
    lines = []
    try:
        measured = measure(["CartPole-v1"], [1, 3], iterations=2, repetitions=2, progress=lines.append)
    finally:
        hook.remove()
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    fresh, window = measured["against_ppo"]
    assert fresh["ratios"] == window["ratios"] == [1.0, 1.0] and window["replay_window"] == 3
    assert fresh["median_ratio"] == 1.0 and fresh["cpu_seconds"] == {"ppo": [160.0, 160.0], "gipo": [160.0, 160.0]}
    assert lines[1] == "CartPole-v1, window 3: GIPO takes 1.00 times PPO's CPU time (1.00 to 1.00 in 2 turns)"
