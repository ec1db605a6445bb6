"""GIPO for Stable-Baselines3: policy-gradient learning from stale data (arXiv 2603.03955)."""

from sb3_gipo.surrogates import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, NoClip, PPOClip, Surrogate

__all__ = ["SAPO", "CauchyTrust", "GaussianTrust", "LaplaceTrust", "NoClip", "PPOClip", "Surrogate"]
