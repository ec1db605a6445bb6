"""
What the processor must do at the very least: step the bare simulation, and multiply the bare matrices of a network's layers.

A floor is measured beside what it is the floor of, in the same process, in CPU seconds.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import torch as th
from gymnasium.envs.mujoco import MujocoEnv
from torch import nn

__all__ = ["Product", "products_of", "seconds_of_products", "seconds_of_simulation"]


class Product(NamedTuple):
    """
    A linear layer in a gradient step.

    :param batch: rows of its input
    :param n_in: columns of its input
    :param n_out: columns of its output
    :param input_gradient: whether the gradient goes on through it; the first layer's does not
    """

    batch: int
    n_in: int
    n_out: int
    input_gradient: bool


@contextmanager
def products_of(network: nn.Module) -> Iterator[Counter[Product]]:
    """
    Within it, every pass through a linear layer that is going to be differentiated is counted.

    :param network: the network
    :return: how often each product occurs
    """
    seen: Counter[Product] = Counter()

    def note(layer: nn.Linear, arguments: tuple[th.Tensor], output: th.Tensor) -> None:
        if output.requires_grad:
            (rows,) = arguments
            batch = rows.numel() // layer.in_features
            seen[Product(batch, layer.in_features, layer.out_features, rows.requires_grad)] += 1

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, nn.Linear)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def seconds_of_products(products: Counter[Product]) -> float:
    """
    :param products: from :func:`products_of`
    :return: CPU seconds of the matrix products of all of them, forward and backward, and of nothing else
    """
    seconds = 0.0
    for product, count in products.items():
        rows = th.rand(product.batch, product.n_in)
        weights = th.rand(product.n_out, product.n_in)
        gradient = th.rand(product.batch, product.n_out)
        start = time.process_time()
        for _ in range(count):
            rows @ weights.T
            gradient.T @ rows
            if product.input_gradient:
                gradient @ weights
        seconds += time.process_time() - start
    return seconds


def seconds_of_simulation(environment: gym.Env[Any, Any], steps: int) -> float | None:
    """
    :param environment: it is left in another state
    :param steps: environment steps
    :return: CPU seconds of as much simulated time by MuJoCo alone; None for an environment without MuJoCo
    """
    simulation = environment.unwrapped
    if not isinstance(simulation, MujocoEnv):
        return None
    start = time.process_time()
    for _ in range(steps):
        mujoco.mj_step(simulation.model, simulation.data, nstep=simulation.frame_skip)
    return time.process_time() - start
