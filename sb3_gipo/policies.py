"""
Actor-critic networks that Stable-Baselines3 lacks, and what it takes to train an actor-critic's two halves apart: which
parameters the value loss alone moves, an optimizer with a group for each half, and values from features computed once.
Also Adam's step in one kernel.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

__all__ = ["LayerNormActorCriticPolicy", "fuse_optimizer", "split_optimizer", "value_parameters", "value_predictor"]


class LayerNormActorCriticPolicy(ActorCriticPolicy):
    """
    The actor-critic of GIPO's published MetaWorld study: a trunk shared by policy and critic, then a head for each, every
    hidden layer a Linear-ReLU-LayerNorm. The critic sees the trunk's features detached: its loss moves its own head
    alone, and the trunk serves the policy. With the defaults, for o observation entries and d action parameters:

    - trunk: Linear(o, 512)-ReLU-LayerNorm
    - policy: Linear(512, 512)-ReLU-LayerNorm-Linear(512, d)
    - value: Linear(512, 256)-ReLU-LayerNorm-Linear(256, 1)

    It takes the arguments of SB3's ``ActorCriticPolicy``, with other defaults for those named here, and serves any SB3
    algorithm that takes one: ``PPO(LayerNormActorCriticPolicy, env, policy_kwargs={"net_arch": {...}})``. The trunk
    comes after the features extractor: with images, give ``features_extractor_class=NatureCNN``, with Dict
    observations ``CombinedExtractor``. With ``share_features_extractor=False`` policy and critic have a trunk each, and
    nothing is detached.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: sizes of the hidden layers, as ``{"shared": [...], "pi": [...], "vf": [...]}``; a missing key means
        no layers. None: ``{"shared": [512], "pi": [512], "vf": [256]}``
    :param activation_fn: Activation function
    :param ortho_init: Whether to use orthogonal initialization. The published networks keep PyTorch's own
    :param optimizer_class: The optimizer to use
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer. None:
        no weight decay and torch's fused implementation for AdamW, SB3's choice for others
    :param kwargs: the other arguments of ``ActorCriticPolicy``
    :raises ValueError: if ``net_arch`` is not a dictionary with keys among ``shared``, ``pi`` and ``vf``
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        ortho_init: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if net_arch is None:
            net_arch = {"shared": [512], "pi": [512], "vf": [256]}
        if not isinstance(net_arch, dict) or not net_arch.keys() <= {"shared", "pi", "vf"}:
            raise ValueError(
                f"net_arch must be a dictionary of layer sizes with keys among 'shared', 'pi' and 'vf', got {net_arch!r}"
            )
        if optimizer_kwargs is None and optimizer_class is th.optim.AdamW:
            # Fused: one pass through memory instead of one for each operation, a fifth of the time.
            optimizer_kwargs = {"weight_decay": 0.0, "fused": True}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """The features extractor with the trunk on top: what SB3 shares between policy and critic, or makes twice."""
        assert isinstance(self.net_arch, dict)
        return _Trunk(super().make_features_extractor(), self.net_arch.get("shared", []), self.activation_fn)

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.net_arch, dict)
        self.mlp_extractor = _LayerNormHeads(
            self.features_dim,
            self.net_arch,
            self.activation_fn,
            detach_critic=self.share_features_extractor,
            device=self.device,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 leaves this one out; without it a saved critic would come back with the policy's trunk.
        return {
            **super()._get_constructor_parameters(),
            "share_features_extractor": self.share_features_extractor,
        }


class _Trunk(BaseFeaturesExtractor):
    def __init__(self, features_extractor: BaseFeaturesExtractor, sizes: list[int], activation_fn: type[nn.Module]):
        n_features = [features_extractor.features_dim, *sizes]
        super().__init__(features_extractor._observation_space, n_features[-1])
        self.features_extractor = features_extractor
        self.layers = _layer_normed(n_features, activation_fn)

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        return self.layers(self.features_extractor(observations))


class _LayerNormHeads(MlpExtractor):
    """The hidden layers of both heads, in the place and under the names of SB3's own."""

    def __init__(
        self,
        features_dim: int,
        net_arch: dict[str, list[int]],
        activation_fn: type[nn.Module],
        detach_critic: bool,
        device: th.device | str,
    ):
        super().__init__(features_dim, [], activation_fn, device)
        pi, vf = ([features_dim, *net_arch.get(head, [])] for head in ("pi", "vf"))
        self.policy_net = _layer_normed(pi, activation_fn).to(device)
        self.value_net = _layer_normed(vf, activation_fn).to(device)
        self.latent_dim_pi, self.latent_dim_vf = pi[-1], vf[-1]
        self.detach_critic = detach_critic

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return super().forward_critic(features.detach() if self.detach_critic else features)


def _layer_normed(sizes: list[int], activation_fn: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation_fn(), nn.LayerNorm(n_out)]
    return nn.Sequential(*layers)


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


def split_optimizer(policy: ActorCriticPolicy) -> None:
    """
    Replace the policy's optimizer, which must not have made a step yet, by one of the same class and arguments with two
    parameter groups: ``policy.optimizer.param_groups[0]`` for the policy, ``[1]`` for :func:`value_parameters`. Each
    can then be given its own learning rate, and SB3 saves and loads the state of both.

    :param policy: the policy whose optimizer is to be split, in place
    :raises TypeError: if its value parameters are not known, see :func:`value_parameters`
    """
    assert not policy.optimizer.state, "the optimizer has made steps: splitting it would lose its state"
    value = value_parameters(policy)
    ids = {id(parameter) for parameter in value}
    policy.optimizer = policy.optimizer_class(
        [{"params": [parameter for parameter in policy.parameters() if id(parameter) not in ids]}, {"params": value}],
        lr=policy.optimizer.param_groups[0]["lr"],
        **policy.optimizer_kwargs,
    )  # type: ignore[call-arg]


def fuse_optimizer(policy: ActorCriticPolicy) -> None:
    """
    Let Adam step all parameters in one kernel, rather than in a dozen operations for each: a quarter of the time for
    SB3's MlpPolicy. One step differs from the other way's by float32 rounding (2e-8 after 16 steps from the same
    start): two trainings drift apart as they do when sums are taken in another order. An optimizer of another class, or one
    for which the user has chosen (``optimizer_kwargs={"fused": False}``, ``foreach``), is left as it is.

    :param policy: whose optimizer has not made a step yet; changed in place
    """
    if type(policy.optimizer) not in (th.optim.Adam, th.optim.AdamW) or policy.device.type not in ("cpu", "cuda"):
        return
    for group in policy.optimizer.param_groups:
        if not any(group[choice] for choice in ("foreach", "capturable", "differentiable")) and group["fused"] is None:
            group["fused"] = True


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
