"""GIPO for Stable-Baselines3: policy-gradient learning from stale data (arXiv 2603.03955)."""

from typing import TYPE_CHECKING, Any

from sb3_gipo.buffers import DictStaleRolloutBuffer, StaleRolloutBuffer, StaleRolloutBufferSamples
from sb3_gipo.callbacks import UtilizationRecorder
from sb3_gipo.gipo import GIPO, UpdateSamples
from sb3_gipo.policies import LayerNormActorCriticPolicy
from sb3_gipo.schedules import WarmupCosineSchedule
from sb3_gipo.sigma import suggest_sigma
from sb3_gipo.surrogates import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip, Surrogate
from sb3_gipo.wrappers import FixedLatency, TokenizeAction

if TYPE_CHECKING:
    from sb3_gipo.remote import AsyncGIPO  # noqa: F401

__all__ = [
    "GIPO",
    "SAPO",
    "CauchyTrust",
    "DictStaleRolloutBuffer",
    "FixedLatency",
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


def __getattr__(name: str) -> Any:
    # Not among the names above: Ray is an extra, and importing it takes a second.
    if name != "AsyncGIPO":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from sb3_gipo.remote import AsyncGIPO
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ImportError("AsyncGIPO needs Ray: pip install 'sb3-gipo[ray]'") from error
    return AsyncGIPO
