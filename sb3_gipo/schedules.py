"""Schedules that Stable-Baselines3 lacks."""

import math
from dataclasses import dataclass

__all__ = ["WarmupCosineSchedule"]


@dataclass(frozen=True)
class WarmupCosineSchedule:
    """
    Linear warm-up from 0 over the first iterations, then a half cosine down to 0: iteration k of n, with w of warm-up,
    gets ``peak``·k/w while k < w, then ``peak``·(1 + cos(π(k − w)/(n − w)))/2. GIPO's published MetaWorld study uses
    it with 10 iterations of warm-up out of 1000.

    Use it wherever SB3 takes a schedule, as in ``GIPO(..., learning_rate=WarmupCosineSchedule(3e-4, 10, 1000))``. SB3
    knows the progress only after it has counted a rollout, so that the k-th ``train()``, k = 0, 1, ..., sees
    1 − (k + 1)/n remaining; from this k is recovered exactly. It needs ``learn()`` to be called with
    ``n_iterations`` whole rollouts, ``total_timesteps = n_iterations * n_steps * n_envs``. Note that the first
    iteration's value is then 0: with a warm-up it makes no change.

    :param peak: the largest value, reached when the warm-up ends
    :param warmup_iterations: iterations before the peak, ≥ 0
    :param n_iterations: iterations in all, > ``warmup_iterations``
    :raises ValueError: if not 0 ≤ ``warmup_iterations`` < ``n_iterations``
    """

    peak: float
    warmup_iterations: int
    n_iterations: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_iterations < self.n_iterations:
            raise ValueError(
                "the warm-up must end before the training does: need 0 <= warmup_iterations < n_iterations, "
                f"got warmup_iterations={self.warmup_iterations}, n_iterations={self.n_iterations}"
            )

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: from 1 (start) to 0 (end), as SB3 counts it at ``train()``
        :return: the value of that iteration, in [0, ``peak``]
        """
        # At construction SB3 asks for progress 1, which no iteration has; beyond the end it can become negative.
        iteration = min(max(round((1 - progress_remaining) * self.n_iterations) - 1, 0), self.n_iterations)
        if iteration < self.warmup_iterations:
            return self.peak * (iteration / self.warmup_iterations)
        decay = (iteration - self.warmup_iterations) / (self.n_iterations - self.warmup_iterations)
        return self.peak * 0.5 * (1 + math.cos(math.pi * decay))
