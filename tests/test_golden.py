"""The project's formulas against numbers computed outside it (shared/golden/README.md defines them)."""

import json

import numpy as np
import pytest
import torch as th
from torch.distributions import Categorical, kl_divergence

from sb3_gipo import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, PPOClip
from sb3_gipo.losses import actor_critic_losses

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
KERNELS = {"gaussian": GaussianTrust, "laplacian": LaplaceTrust, "cauchy": CauchyTrust}


def surrogate_of(case):
    if case["mode"] == "ppo":
        return PPOClip(case["clip_eps"])
    if case["mode"] == "sapo":
        return SAPO(1.0, 2.0)
    return KERNELS[case["kernel"]](case["sigma_pos"], case["sigma_neg"] / case["sigma_pos"])


@pytest.mark.parametrize("index", range(11))
def test_surrogates(golden, index):
    archive = np.load(golden / "surrogates.npz")
    case = json.loads(str(archive["meta"]))[index]
    data = {
        name: th.as_tensor(archive[f"{index}/{name}"])
        for name in ("logits", "old_logits", "actions", "advantages", "returns", "values", "grad_logits", "grad_values")
    }
    logits, values = data["logits"].requires_grad_(), data["values"].requires_grad_()
    policy, behavior = Categorical(logits=logits), Categorical(logits=data["old_logits"])
    log_ratio = policy.log_prob(data["actions"]) - behavior.log_prob(data["actions"])
    advantages = data["advantages"]
    advantages = (advantages - advantages.mean()) / advantages.std(correction=0).clamp(min=1e-8)

    losses = actor_critic_losses(
        surrogate_of(case),
        log_ratio,
        advantages,
        values,
        data["returns"],
        policy.entropy(),
        kl_divergence(behavior, policy),
        ent_coef=case["ent_coef"],
        vf_coef=case["vf_coef"],
        kl_coef=case["kl_coef"],
    )
    losses.total.backward()

    found = {
        "loss": losses.total,
        "policy_loss": losses.policy,
        "value_loss": case["vf_coef"] * losses.value,
        "entropy": -losses.entropy,
        "kl_loss": case["kl_coef"] * losses.kl,
    }
    for name, value in found.items():
        assert value.item() == pytest.approx(case[name], rel=TOLERANCE["rtol"], abs=TOLERANCE["atol"]), name
    th.testing.assert_close(logits.grad, data["grad_logits"], **TOLERANCE)
    th.testing.assert_close(values.grad, data["grad_values"], **TOLERANCE)
