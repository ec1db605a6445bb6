"""
The door to rl-zoo3: `python -m sb3_gipo.zoo train` and `enjoy` are its commands of those names, with GIPO among its
algorithms, GIPO's hyper-parameter file and a sampler for `-optimize`. It needs the extra: `pip install 'sb3-gipo[zoo]'`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from torch import nn

from sb3_gipo.gipo import GIPO

__all__ = ["HYPERPARAMS", "convert_gipo_params", "main", "register", "sample_gipo_params"]

HYPERPARAMS = Path(__file__).parent / "hyperparams" / "gipo.yml"
PROGRAM = "python -m sb3_gipo.zoo"
NETWORKS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}

DESCRIPTION = "RL Baselines3 Zoo with GIPO: train agents, watch them, search their hyper-parameters."
EXAMPLES = f"""
Train; the agent, its settings and its evaluations go to logs/gipo/CartPole-v1_1:
  {PROGRAM} train --algo gipo --env CartPole-v1
With other options of GIPO, 20 000 steps, seed 0:
  {PROGRAM} train --env CartPole-v1 -n 20000 --seed 0 -params replay_window:8 sigma:0.5 kl_coef:0.1
With your own settings, in a file that looks like {HYPERPARAMS.name}:
  {PROGRAM} train --env CartPole-v1 -conf my-settings.yml
Watch the latest agent:
  {PROGRAM} enjoy --algo gipo --env CartPole-v1
Search 100 settings; -n is the length of one trial, --storage keeps the study for later:
  {PROGRAM} train --env CartPole-v1 -n 50000 -optimize --n-trials 100 --storage study.log --study-name a

All options, which are rl-zoo3's: {PROGRAM} train --help, and likewise enjoy --help.
Here --algo is gipo where it is not given; with it settings come from this package's {HYPERPARAMS.name}, and enjoy
looks into logs.
Linear schedules such as lin_0.001 are for learning_rate and clip_range_vf alone; sigma is a number.
A run continued with -i starts with an empty replay window.
A search leaves an empty run folder behind: to watch an older agent after it, name its number with --exp-id.
"""


class ZooGIPO(GIPO):
    """GIPO as rl-zoo3 wants it: a trial of a search whose numbers overflow ends that trial, not the search."""

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """
        :param args: as for :meth:`GIPO.learn`
        :param kwargs: as for :meth:`GIPO.learn`
        :return: the trained model
        :raises ValueError: at the first number that is not finite, since rl-zoo3 prunes a trial upon that and not upon
            GIPO's FloatingPointError
        """
        try:
            return super().learn(*args, **kwargs)
        except FloatingPointError as error:
            raise ValueError(str(error)) from error


def sample_gipo_params(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Draw one setting of a hyper-parameter search. What is not drawn here keeps its value from the hyper-parameter file.

    :param trial: the ``optuna.Trial`` that draws
    :param n_actions: not used; like the rest, it is what rl-zoo3 calls every sampler with
    :param n_envs: not used
    :param additional_args: not used
    :return: arguments of GIPO
    """
    # Named and valued as GIPO's arguments wherever possible, so that the best trial can be copied into a settings file.
    trial.suggest_float("sigma", 0.1, 2.0, log=True)
    trial.suggest_categorical("sigma_neg_ratio", [0.5, 1.0])
    trial.suggest_categorical("replay_window", [1, 2, 4, 8, 16])
    trial.suggest_categorical("kl_coef", [0.0, 0.01, 0.1, 1.0])
    trial.suggest_categorical("kl_anchor", ["proximal", "behavior"])
    trial.suggest_categorical("ratio_level", ["joint", "dimension"])
    trial.suggest_categorical("advantage", ["stored", "recomputed", "vtrace"])
    trial.suggest_categorical("critic_updates", [0, 1, 4])
    trial.suggest_categorical("n_steps", [32, 64, 128, 256, 512, 1024, 2048])
    trial.suggest_categorical("batch_size", [32, 64, 128, 256, 512])
    trial.suggest_categorical("n_epochs", [1, 5, 10, 20])
    trial.suggest_categorical("gamma", [0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
    trial.suggest_categorical("gae_lambda", [0.8, 0.9, 0.95, 0.98, 1.0])
    trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_float("ent_coef", 1e-8, 0.1, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 2.0)
    trial.suggest_categorical("net_arch", list(NETWORKS))
    trial.suggest_categorical("activation_fn", list(ACTIVATIONS))
    return convert_gipo_params(trial.params)


def convert_gipo_params(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    Translate what a trial drew into arguments of GIPO. rl-zoo3 also calls this to train with a trial of a stored study.

    :param sampled: the parameters of a trial, by the names of :func:`sample_gipo_params`
    :return: arguments of GIPO
    """
    arguments = dict(sampled)
    network = NETWORKS[arguments.pop("net_arch")]
    activation = ACTIVATIONS[arguments.pop("activation_fn")]
    return {**arguments, "policy_kwargs": {"net_arch": {"pi": network, "vf": network}, "activation_fn": activation}}


def register() -> None:
    """
    Make GIPO known to rl-zoo3 in this process as ``gipo``, for training, loading and hyper-parameter search.

    :raises ImportError: if rl-zoo3 is missing
    """
    try:
        from rl_zoo3 import ALGOS
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    except ImportError as error:
        raise ImportError(
            f"sb3_gipo.zoo needs rl-zoo3, which could not be imported ({error}): pip install 'sb3-gipo[zoo]'"
        ) from error
    ALGOS["gipo"] = ZooGIPO
    HYPERPARAMS_SAMPLER["gipo"] = sample_gipo_params
    HYPERPARAMS_CONVERTER["gipo"] = convert_gipo_params


def main(arguments: list[str] | None = None) -> None:
    """
    Run a command of rl-zoo3 with GIPO registered.

    :param arguments: the command and its options. None: from the command line
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} {{train,enjoy}} [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["train", "enjoy"], help="what to do")
    command = parser.parse_args(arguments[:1] or ["--help"]).command

    try:
        register()
    except ImportError as error:
        sys.exit(str(error))
    # For GIPO alone; another algorithm through this door keeps its own settings. enjoy would otherwise look among the
    # agents that rl-zoo3 can download, where there is none of GIPO.
    defaults = {"train": ["--conf-file", str(HYPERPARAMS)], "enjoy": ["--folder", "logs"]}[command]
    algorithm = argparse.ArgumentParser(add_help=False)
    algorithm.add_argument("--algo", default="gipo")
    name = algorithm.parse_known_args(arguments[1:])[0].algo
    # Of an option given twice the last counts: the user's.
    sys.argv = [f"{PROGRAM} {command}", "--algo", name, *(defaults if name == "gipo" else []), *arguments[1:]]
    if command == "train":
        from rl_zoo3.train import train

        train()
    else:
        from rl_zoo3.enjoy import enjoy

        enjoy()


if __name__ == "__main__":
    main()
