"""GIPO for Stable-Baselines3: policy-gradient learning from stale data (arXiv 2603.03955)."""

from sb3_gipo.buffers import DictStaleRolloutBuffer, StaleRolloutBuffer, StaleRolloutBufferSamples
from sb3_gipo.callbacks import UtilizationRecorder
from sb3_gipo.gipo import GIPO, UpdateSamples
from sb3_gipo.policies import LayerNormActorCriticPolicy
from sb3_gipo.schedules import WarmupCosineSchedule
from sb3_gipo.sigma import suggest_sigma
from sb3_gipo.surrogates import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip, Surrogate
from sb3_gipo.wrappers import TokenizeAction

__all__ = [
    "GIPO",
    "SAPO",
    "CauchyTrust",
    "DictStaleRolloutBuffer",
    "GaussianTrust",
    "LaplaceTrust",
    "LayerNormActorCriticPolicy",
    "NoClip",
    "PPOClip",
    "StaleRolloutBuffer",
    "StaleRolloutBufferSamples",
    "Surrogate",
    "TokenizeAction",
    "UpdateSamples",
    "UtilizationRecorder",
    "WarmupCosineSchedule",
    "suggest_sigma",
]
