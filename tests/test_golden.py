"""The project's formulas against numbers computed outside it (shared/golden/README.md defines them)."""

import json

import numpy as np
import pytest
import torch as th
from torch.distributions import Categorical, kl_divergence

from sb3_gipo import SAPO, CauchyTrust, GaussianTrust, LaplaceTrust, PPOClip

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

    policy_loss = -surrogate_of(case).objective(log_ratio, advantages.unsqueeze(1)).mean()
    value_loss = case["vf_coef"] * th.nn.functional.mse_loss(values, data["returns"])
    kl_loss = case["kl_coef"] * kl_divergence(behavior, policy).mean()
    entropy = policy.entropy().mean()
    loss = policy_loss + value_loss - case["ent_coef"] * entropy + kl_loss
    loss.backward()

    found = {"policy_loss": policy_loss, "value_loss": value_loss, "kl_loss": kl_loss, "entropy": entropy, "loss": loss}
    for name, value in found.items():
        assert value.item() == pytest.approx(case[name], rel=TOLERANCE["rtol"], abs=TOLERANCE["atol"]), name
    th.testing.assert_close(logits.grad, data["grad_logits"], **TOLERANCE)
    th.testing.assert_close(values.grad, data["grad_values"], **TOLERANCE)
