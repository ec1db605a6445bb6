"""GIPO for Stable-Baselines3: policy-gradient learning from stale data (arXiv 2603.03955)."""

from sb3_gipo.buffers import DictStaleRolloutBuffer, StaleRolloutBuffer, StaleRolloutBufferSamples
from sb3_gipo.callbacks import UtilizationRecorder
from sb3_gipo.gipo import GIPO, UpdateSamples
from sb3_gipo.sigma import suggest_sigma
from sb3_gipo.surrogates import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip, Surrogate

__all__ = [
    "GIPO",
    "SAPO",
    "CauchyTrust",
    "DictStaleRolloutBuffer",
    "GaussianTrust",
    "LaplaceTrust",
    "NoClip",
    "PPOClip",
    "StaleRolloutBuffer",
    "StaleRolloutBufferSamples",
    "Surrogate",
    "UpdateSamples",
    "UtilizationRecorder",
    "suggest_sigma",
]
