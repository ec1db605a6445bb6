"""Callbacks that watch GIPO learn."""

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

__all__ = ["UtilizationRecorder"]


class UtilizationRecorder(BaseCallback):
    """
    Keeps, over a whole training run, the histogram of multipliers at each lag, so that "multiplier against lag" can be
    plotted afterwards.

    ``histogram`` (lags, bins) counts the samples of each lag whose multiplier fell between two of ``edges``. The first
    bin holds exact zeros alone: the dead samples. The last is open: everything from its lower edge on. ``multiplier_sum``
    (lags,) adds up the multipliers themselves.

    :param edges: (bins,) ascending lower edges of the bins after the one for zero, > 0
    """

    def __init__(self, edges: np.ndarray | None = None):
        super().__init__()
        self.edges = (
            np.concatenate([[0.0], np.logspace(-6, 2, 33)]) if edges is None else np.concatenate([[0.0], edges])
        )
        if not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges must be positive and ascending, got {edges}")
        self.histogram: np.ndarray = np.zeros((0, len(self.edges)), dtype=np.int64)
        self.multiplier_sum: np.ndarray = np.zeros(0)
        self._seen_version = 0

    @property
    def counts(self) -> np.ndarray:
        """(lags,) how many multipliers were seen at each lag."""
        return self.histogram.sum(axis=1)

    @property
    def mean_multiplier(self) -> np.ndarray:
        """(lags,) mean multiplier at each lag, NaN where none was seen."""
        return np.divide(self.multiplier_sum, self.counts, out=np.full(len(self.counts), np.nan), where=self.counts > 0)

    @property
    def dead_fraction(self) -> np.ndarray:
        """(lags,) share of exact zeros at each lag, NaN where none was seen."""
        return np.divide(
            self.histogram[:, 0], self.counts, out=np.full(len(self.counts), np.nan), where=self.counts > 0
        )

    def _init_callback(self) -> None:
        self._seen_version = self.model.policy_version  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._take_in()

    def _on_training_end(self) -> None:
        self._take_in()

    def _take_in(self) -> None:
        """Once for each update: callbacks are not called right after ``train()``."""
        samples = self.model.last_update  # type: ignore[attr-defined]
        if samples is None or self._seen_version == self.model.policy_version:  # type: ignore[attr-defined]
            return
        self._seen_version = self.model.policy_version  # type: ignore[attr-defined]
        multiplier = samples.multiplier.reshape(len(samples.lags), -1).double().cpu().numpy()
        lags = np.broadcast_to(samples.lags.cpu().numpy()[:, None], multiplier.shape).ravel()
        # The lower edge of the bin after zero is open downwards: the smallest positive multiplier belongs to it.
        bins = np.clip(np.searchsorted(self.edges, multiplier.ravel(), side="right") - 1, 1, None)
        bins[multiplier.ravel() == 0] = 0
        n_lags = max(len(self.histogram), int(lags.max()) + 1)
        grown = np.zeros((n_lags, len(self.edges)), dtype=np.int64)
        grown[: len(self.histogram)] = self.histogram
        np.add.at(grown, (lags, bins), 1)
        self.histogram = grown
        earlier_sums = np.pad(self.multiplier_sum, (0, n_lags - len(self.multiplier_sum)))
        self.multiplier_sum = earlier_sums + np.bincount(lags, weights=multiplier.ravel(), minlength=n_lags)
