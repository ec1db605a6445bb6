"""Training the critic apart: which parameters serve the value alone, and values from features computed once."""

from collections.abc import Callable

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

__all__ = ["value_parameters", "value_predictor"]


def value_parameters(policy: ActorCriticPolicy) -> list[nn.Parameter]:
    """
    The parameters that serve the value alone: the critic's hidden and output layers, and its features extractor where it
    has its own. A features extractor shared with the policy is the policy's.

    :param policy: SB3's ``ActorCriticPolicy`` or a subclass with the same layout
    :return: in the order of ``policy.parameters()``
    :raises TypeError: if the policy's ``mlp_extractor`` is not of SB3's class, so that nobody knows which of its layers
        serve the value
    """
    if not isinstance(policy.mlp_extractor, MlpExtractor):
        raise TypeError(
            f"which parameters of {type(policy.mlp_extractor).__name__} serve the value alone is not known: derive the "
            "policy's mlp_extractor from stable_baselines3.common.torch_layers.MlpExtractor, with shared layers in the "
            "features extractor"
        )
    modules = [policy.mlp_extractor.value_net, policy.value_net]
    if not policy.share_features_extractor:
        modules.append(policy.vf_features_extractor)
    ids = {id(parameter) for module in modules for parameter in module.parameters()}
    return [parameter for parameter in policy.parameters() if id(parameter) in ids]


def value_predictor(policy: ActorCriticPolicy, obs: PyTorchObs) -> Callable[[], th.Tensor]:
    """
    For several value-only steps on one minibatch: whatever :func:`value_parameters` do not reach is computed here, once.

    :param policy: an actor-critic whose :func:`value_parameters` are known
    :param obs: (batch, ...)
    :return: a function without arguments: the values under the current value parameters, (batch, 1). Its gradient
        reaches them alone. It goes stale when other parameters change
    """
    if not policy.share_features_extractor:
        return lambda: policy.predict_values(obs)
    with th.no_grad():
        features = policy.extract_features(obs)
    assert isinstance(features, th.Tensor)
    return lambda: policy.value_net(policy.mlp_extractor.forward_critic(features))
