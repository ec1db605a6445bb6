"""Actor-critic networks that Stable-Baselines3 lacks."""

from itertools import pairwise
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

__all__ = ["LayerNormActorCriticPolicy"]


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
