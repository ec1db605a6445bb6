"""
What is run: suites, algorithms, regimes and run ids, as immutable data.

A suite is one TOML file. Everything that changes a run's numbers stands in the suite or in the run's id, and is covered by
the digest of its configuration; so two records with the same digest are two measurements of the same thing. Only the
standard library and pydantic are used here.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BenchmarkError", "Learner", "Regime", "Run", "Suite", "choose", "load_suite", "plan", "suite_names"]

SUITES = Path(__file__).parent / "suites"
# Raised whenever the harness itself changes what a configuration means, so that old and new records never mix.
PROTOCOL = 1
# Names become folders, so only characters that every file system takes; a task may carry a Gymnasium namespace.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.,()+-]*"
_LONGEST_NAME = 100
_TASK = re.compile(rf"{_NAME}(/{_NAME})*")


class BenchmarkError(Exception):
    """A mistake in what was asked for, said in one line that names the bad value and the way out."""


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """
    Check a name against the valid ones.

    :param kind: what the name is, for the message: "task", "algorithm", ...
    :param name: the name given
    :param valid: the names that exist
    :return: ``name`` itself
    :raises BenchmarkError: if it is not among them; the nearest valid name is offered
    """
    names = list(valid)
    if name in names:
        return name
    raise BenchmarkError(_unknown(kind, name, names))


def _unknown(kind: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}: did you mean {near[0]!r}?"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"unknown {kind} {name!r}; there are: {listed}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(_unknown("key", str(key), list(cls.model_fields)))
        return data


Part = TypeVar("Part", bound=_Frozen)
# Strict: neither true nor "3" is a number.
Positive = Annotated[float, Field(gt=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
NaturalNumber = Annotated[int, Field(ge=0, strict=True)]


class _Algorithm(_Frozen):
    """
    :param settings: entries of the suite's learner and of the regime that are others for this algorithm, such as
        ``{kl_coef = 0.0}``; they come before the regime's own
    :param regimes: the regimes that this algorithm runs in; None for all
    """

    settings: dict[str, JsonValue] = {}
    regimes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


class TrustAlgorithm(_Algorithm):
    """GIPO with one of its kernels. Where the advantage is not positive the width is sigma times sigma_neg_ratio."""

    surrogate: Literal["gaussian", "laplace", "cauchy"]
    sigma: Positive = 1.0
    sigma_neg_ratio: Positive = 1.0


class ClipAlgorithm(_Algorithm):
    """PPO's clipped objective."""

    surrogate: Literal["ppo_clip"]
    clip_range: Positive = 0.2


class SAPOAlgorithm(_Algorithm):
    """SAPO's soft gate; the defaults are those of its own paper."""

    surrogate: Literal["sapo"]
    tau_pos: Positive = 1.0
    tau_neg: Positive = 1.05


class NoClipAlgorithm(_Algorithm):
    """Plain importance sampling."""

    surrogate: Literal["no_clip"]


class OutsideAlgorithm(_Algorithm):
    """
    Somebody else's algorithm, in its own class, as its users run it: Stable-Baselines3's PPO or sb3-contrib's TRPO.

    Of the learner's entries it takes those that its class knows and that are set; a replay window it does not have, so
    it runs only under regimes of fresh data.
    """

    outside: Literal["PPO", "TRPO"]


def _kind(algorithm: Any) -> Any:
    if isinstance(algorithm, dict):
        return "outside" if "outside" in algorithm else algorithm.get("surrogate")
    return getattr(algorithm, "surrogate", "outside")


Algorithm = Annotated[
    Annotated[TrustAlgorithm, Tag("gaussian")]
    | Annotated[TrustAlgorithm, Tag("laplace")]
    | Annotated[TrustAlgorithm, Tag("cauchy")]
    | Annotated[ClipAlgorithm, Tag("ppo_clip")]
    | Annotated[SAPOAlgorithm, Tag("sapo")]
    | Annotated[NoClipAlgorithm, Tag("no_clip")]
    | Annotated[OutsideAlgorithm, Tag("outside")],
    Discriminator(_kind),
]


class Actors(_Frozen):
    """
    Collection by asynchronous actors: the arguments of :class:`sb3_gipo.AsyncGIPO`, whose names and defaults these are. Each
    actor has the suite's ``n_envs`` environments.

    :param n_actors: how many collect at the same time
    :param samples_per_insert: how often a transition is drawn on average; None: learner and actors run free
    :param max_lag: policy versions after which a rollout is dropped; None: no limit
    :param sync_every: updates from one publication of the weights to the next
    :param step_latency: seconds that each step of an environment waits, as a robot or a heavy simulator would
    """

    n_actors: Count
    samples_per_insert: Positive | None = None
    max_lag: NaturalNumber | None = None
    sync_every: Count = 1
    step_latency: NotNegative = 0.0


class Regime(_Frozen):
    """
    How old the training data is.

    :param replay_window: rollouts kept, the newest included, >= 1; 1 is fresh data
    :param min_lag: policy versions a rollout waits before it is trained on, 0 <= min_lag < replay_window
    :param actors: who collects; None: the learner itself, between its updates
    :param settings: entries of the suite's learner that are others under this regime, such as ``{n_steps = 10}``
    """

    replay_window: Count
    min_lag: NaturalNumber = 0
    actors: Actors | None = None
    settings: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _some_rollout_is_trainable(self) -> "Regime":
        if self.min_lag >= self.replay_window:
            raise ValueError(
                f"min_lag {self.min_lag} must be below replay_window {self.replay_window} (0 to window - 1)"
            )
        return self


class Environment(_Frozen):
    """
    What is done to every task's environment.

    :param reward_scale: what the learner's rewards are multiplied by, > 0; recorded returns are never scaled
    :param action_bins: cut each dimension of a Box action into so many values, >= 2; None: leave actions as they are
    :param n_envs: copies of the environment that a learner steps together, each with its own seed
    """

    reward_scale: Positive = 1.0
    action_bins: Annotated[int, Field(ge=2, strict=True)] | None = None
    n_envs: Count = 1


class WarmupCosine(_Frozen):
    """
    A learning rate of :class:`sb3_gipo.schedules.WarmupCosineSchedule` over the whole budget.

    :param peak: the largest value
    :param warmup_iterations: iterations of linear warm-up before it
    """

    peak: Positive
    warmup_iterations: NaturalNumber = 0


class Learner(_Frozen):
    """
    The arguments of :class:`sb3_gipo.GIPO` that all algorithms of a suite share; names and defaults are GIPO's.

    Every default is written out, so that a record's configuration is complete on its own, apart from ``n_epochs`` and
    ``kl_coef``: None leaves them to the class, see :class:`sb3_gipo.GIPO`. ``policy_kwargs`` is handed
    on to the policy; its ``activation_fn`` is the name of a class in ``torch.nn``, such as "Tanh". ``policy`` is one of
    Stable-Baselines3's, or "LayerNormActorCriticPolicy". A learning rate is a number, or a table such as
    ``{peak = 3e-4, warmup_iterations = 10}``.
    """

    policy: Literal["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "LayerNormActorCriticPolicy"] = "MlpPolicy"
    n_steps: Count = 2048
    batch_size: Count = 64
    n_epochs: Count | None = None
    learning_rate: Positive | WarmupCosine = 3e-4
    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    clip_range_vf: Positive | None = None
    normalize_advantage: bool | Literal["minibatch", "window"] = True
    ent_coef: NotNegative = 0.0
    vf_coef: NotNegative = 0.5
    max_grad_norm: Positive = 0.5
    target_kl: Positive | None = None
    ratio_level: Literal["joint", "dimension"] = "joint"
    advantage: Literal["stored", "recomputed", "vtrace"] = "vtrace"
    vtrace_rho_bar: Positive = 1.0
    vtrace_c_bar: Positive = 1.0
    bootstrap_time_limit: bool = True
    value_learning_rate: Positive | WarmupCosine | None = None
    critic_updates: NaturalNumber = 0
    kl_coef: NotNegative | None = None
    kl_anchor: Literal["proximal", "behavior"] = "proximal"
    policy_kwargs: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _truncations_are_in_order(self) -> "Learner":
        if self.vtrace_c_bar > self.vtrace_rho_bar:
            raise ValueError(f"vtrace_c_bar {self.vtrace_c_bar} must be at most vtrace_rho_bar {self.vtrace_rho_bar}")
        return self


class Suite(_Frozen):
    """
    A benchmark: every algorithm on every task under every regime, for all seeds and repeats.

    :param name: the suite's name, which begins every run id
    :param description: one line for `status`
    :param note: a warning printed with every table, empty for none
    :param budget: environment steps of one run, a multiple of :attr:`rollout`; part of the suite's identity
    :param budget_overridden: whether the budget is another than the one in its TOML file
    :param seeds: number of seeds, 0 to seeds - 1; a seed fixes the environment
    :param repeats: number of repeats of each seed; a repeat fixes the learner
    :param score_episodes: a run's score is the mean return of this many last training episodes
    :param evaluation_episodes: episodes of the deterministic policy after training, in an environment with a seed of its
        own, that are recorded beside the score; 0 for none
    """

    name: str
    description: str = ""
    note: str = ""
    budget: Annotated[Count, Field(le=10**12)]
    budget_overridden: bool = False
    seeds: Count
    repeats: Count
    score_episodes: Count
    evaluation_episodes: NaturalNumber = 0
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    environment: Environment = Environment()
    learner: Learner = Learner()
    regimes: Annotated[dict[str, Regime], Field(min_length=1)]
    algorithms: Annotated[dict[str, Algorithm], Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        return _folder_name("suite name", name)

    @field_validator("description", "note")
    @classmethod
    def _is_one_line(cls, text: str) -> str:
        if len(text.splitlines()) > 1:
            raise ValueError(f"it must be one line: it stands in headings and comments, got {text!r}")
        return text

    @field_validator("tasks")
    @classmethod
    def _tasks_are_folders(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            if not _TASK.fullmatch(task):
                raise ValueError(f"task {task!r} is not a usable name")
            if tasks.count(task) > 1:
                raise ValueError(f"task {task!r} stands there twice")
        return tasks

    @field_validator("regimes", "algorithms")
    @classmethod
    def _labels_are_folders(cls, labelled: dict[str, Any]) -> dict[str, Any]:
        for label in labelled:
            _folder_name("label", label)
        return labelled

    @field_validator("algorithms")
    @classmethod
    def _gipo_labels_tell_the_truth(cls, algorithms: dict[str, Any]) -> dict[str, Any]:
        for label, algorithm in algorithms.items():
            numbers = re.fullmatch(r"gipo\(([^,]*),([^,]*)\)", label)
            if numbers is None:
                continue
            if not isinstance(algorithm, TrustAlgorithm) or algorithm.surrogate != "gaussian":
                raise ValueError(f'the label {label!r} is GIPO\'s, whose surrogate is "gaussian"')
            told = f"gipo({algorithm.sigma},{algorithm.sigma_neg_ratio})"
            if label != told:
                raise ValueError(f"the label {label!r} does not agree with its settings: they are those of {told!r}")
        return algorithms

    @model_validator(mode="after")
    def _settings_fit(self) -> "Suite":
        for label, regime in self.regimes.items():
            _known_settings(f"regimes.{label}", regime.settings, Learner.model_fields)
        for label, algorithm in self.algorithms.items():
            _known_settings(
                f"algorithms.{label}", algorithm.settings, {**Learner.model_fields, "replay_window": 0, "min_lag": 0}
            )
            for name in algorithm.regimes or ():
                if name not in self.regimes:
                    raise ValueError(f"algorithms.{label}.regimes: {_unknown('regime', name, list(self.regimes))}")
            try:
                runs = [self.runs_in(label, regime) for regime in self.regimes]
                for regime in self.regimes:
                    self.learner_of(label, regime)
            except ValidationError as error:
                raise ValueError(f"algorithms.{label}: settings: {_in_one_line(error)}") from error
            if not any(runs):
                raise ValueError(
                    f"algorithms.{label} runs in no regime: an outside algorithm has no replay window, so it needs one of "
                    "fresh data, with replay_window = 1"
                )
        for regime in self.regimes:
            if not any(self.runs_in(label, regime) for label in self.algorithms):
                raise ValueError(f"regimes.{regime}: no algorithm runs under it")
        return self

    @model_validator(mode="after")
    def _budget_is_whole_iterations(self) -> "Suite":
        rollout = self.rollout
        if self.budget % rollout:
            below = self.budget // rollout * rollout
            near = " or ".join(str(b) for b in (below, below + rollout) if b)
            raise ValueError(f"budget {self.budget} is not a multiple of {rollout} = n_steps * n_envs: take {near}")
        return self

    @model_validator(mode="after")
    def _budget_is_long_enough(self) -> "Suite":
        for algorithm, regime in itertools.product(self.algorithms, self.regimes):
            learner, staleness = self.learner_of(algorithm, regime), self.regime_of(algorithm, regime)
            iterations = self.budget // (learner.n_steps * self.environment.n_envs)
            # Actors' data ages by the learner's updates, however many it makes.
            if staleness.min_lag >= iterations and staleness.actors is None and self.runs_in(algorithm, regime):
                raise ValueError(
                    f"regimes.{regime}: nothing becomes {staleness.min_lag} versions old (min_lag) within the {iterations} "
                    f"iterations of the budget {self.budget}"
                )
            for rate in (learner.learning_rate, learner.value_learning_rate):
                if isinstance(rate, WarmupCosine) and rate.warmup_iterations >= iterations:
                    raise ValueError(
                        f"a warm-up of {rate.warmup_iterations} iterations does not end within the {iterations} of the "
                        f"budget {self.budget}"
                    )
        return self

    @property
    def rollout(self) -> int:
        """Environment steps of whole iterations of every algorithm."""
        steps = {self.learner_of(algorithm, regime).n_steps for algorithm in self.algorithms for regime in self.regimes}
        return math.lcm(*steps) * self.environment.n_envs

    def learner_of(self, algorithm: str, regime: str) -> Learner:
        """The suite's learner with the settings of a regime and an algorithm."""
        return _with(self.learner, self.regimes[regime].settings | self.algorithms[algorithm].settings)

    def regime_of(self, algorithm: str, regime: str) -> Regime:
        """A regime with the settings of one algorithm."""
        return _with(self.regimes[regime], self.algorithms[algorithm].settings)

    def runs_in(self, algorithm: str, regime: str) -> bool:
        """Whether an algorithm has runs under a regime: an outside one has none where data is replayed."""
        chosen = self.algorithms[algorithm]
        if chosen.regimes is not None and regime not in chosen.regimes:
            return False
        here = self.regime_of(algorithm, regime)
        return not isinstance(chosen, OutsideAlgorithm) or (here.replay_window == 1 and here.actors is None)

    @property
    def identity(self) -> str:
        """The name, with the budget where it is not the suite's own: records of two budgets never share a folder."""
        return f"{self.name}@{self.budget}" if self.budget_overridden else self.name


class Run(_Frozen):
    """One run of a suite: the coordinates that its id spells out."""

    suite: Suite
    regime: str
    algorithm: str
    task: str
    seed: int
    repeat: int

    @property
    def id(self) -> str:
        """For example ``metaworld8/stale/gipo(1.0,1.0)/button-press-v3/seed3/repeat1``."""
        return f"{self.suite.identity}/{self.regime}/{self.algorithm}/{self.task}/seed{self.seed}/repeat{self.repeat}"

    @property
    def learner(self) -> Learner:
        """The learner's arguments in this run."""
        return self.suite.learner_of(self.algorithm, self.regime)

    @property
    def staleness(self) -> Regime:
        """How old this run's data is."""
        return self.suite.regime_of(self.algorithm, self.regime)

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that changes the run's numbers, as JSON data."""
        suite = self.suite
        return {
            "protocol": PROTOCOL,
            "task": self.task,
            "environment": suite.environment.model_dump(mode="json"),
            # What has no actors is what it was before there were any.
            "regime": self.staleness.model_dump(
                mode="json", exclude={"settings"}, exclude_none=self.staleness.actors is None
            ),
            "algorithm": suite.algorithms[self.algorithm].model_dump(mode="json", exclude={"settings", "regimes"}),
            "learner": self.learner.model_dump(mode="json"),
            "budget": suite.budget,
            "score_episodes": suite.score_episodes,
            "evaluation_episodes": suite.evaluation_episodes,
            "seed": self.seed,
            "repeat": self.repeat,
        }

    @property
    def digest(self) -> str:
        """The SHA-256 of the configuration."""
        return digest(self.configuration)


def digest(configuration: dict[str, Any]) -> str:
    """
    :param configuration: JSON data
    :return: the hexadecimal SHA-256 of its canonical JSON text
    """
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def suite_names() -> list[str]:
    """The names of the suites that come with the benchmark."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load_suite(name: str, budget: int | None = None) -> Suite:
    """
    Read a suite.

    :param name: the name of a suite in ``benchmarks/suites``, or the path of a TOML file (it ends in ``.toml``)
    :param budget: environment steps a run instead of the file's own; ``score_episodes`` shrinks or grows with it, so that a
        score remains the mean over the same share of a run
    :return: the suite
    :raises BenchmarkError: if there is no such suite, or something in it is unknown or out of range
    """
    own = name.endswith(".toml")
    path = Path(name) if own else SUITES / f"{choose('suite', name, suite_names())}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"cannot read the suite {name!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path.name} is not valid TOML: {error}") from error
    if "budget_overridden" in data:
        raise BenchmarkError(f"{path.name}: unknown key 'budget_overridden': did you mean 'budget'?")
    try:
        suite = Suite.model_validate(data)
        if own and suite.name in suite_names() and suite != load_suite(suite.name):
            raise BenchmarkError(
                f"{path.name}: the name {suite.name!r} is that of a suite that comes with the benchmark, and whose records "
                "would be set aside: give yours another name"
            )
        if budget in (None, suite.budget):
            return suite
        share = budget / suite.budget
        scaled = {"score_episodes": max(1, round(share * suite.score_episodes)), "budget": budget}
        return Suite.model_validate(data | scaled | {"budget_overridden": True})
    except ValidationError as error:
        raise BenchmarkError(f"{path.name}: {_in_one_line(error)}") from error


def plan(
    suite: Suite,
    *,
    seeds: Iterable[int] | None = None,
    repeats: Iterable[int] | None = None,
    tasks: Iterable[str] = (),
    algorithms: Iterable[str] = (),
    regimes: Iterable[str] = (),
) -> list[Run]:
    """
    The runs of a suite in the order in which they are made: repeats outermost, then seeds, tasks and regimes, with the
    algorithms innermost. Any prefix is therefore even over algorithms and tasks.

    :param seeds: only these seeds; None for all of the suite's
    :param repeats: only these repeats; None for all of the suite's
    :param tasks: only these tasks; empty for all
    :param algorithms: only these algorithms; empty for all
    :param regimes: only these regimes; empty for all
    :return: the runs, at least one
    :raises BenchmarkError: if a seed, repeat or name is not the suite's, or no algorithm asked for runs under the regimes
        asked for
    """
    chosen_tasks = _subset("task", tasks, suite.tasks)
    chosen_algorithms = _subset("algorithm", algorithms, suite.algorithms)
    chosen_regimes = _subset("regime", regimes, suite.regimes)

    def every() -> Iterator[Run]:
        for repeat in _numbers("repeat", repeats, suite.repeats):
            for seed in _numbers("seed", seeds, suite.seeds):
                for task in chosen_tasks:
                    for regime in chosen_regimes:
                        for algorithm in (label for label in chosen_algorithms if suite.runs_in(label, regime)):
                            # Not validated again: the suite is, and a large suite has thousands of runs.
                            yield Run.model_construct(
                                suite=suite, regime=regime, algorithm=algorithm, task=task, seed=seed, repeat=repeat
                            )

    runs = list(every())
    if not runs:
        raise BenchmarkError(f"{', '.join(chosen_algorithms)} runs under none of {', '.join(chosen_regimes)}")
    return runs


def _with(part: Part, settings: dict[str, JsonValue]) -> Part:
    own = {key: value for key, value in settings.items() if key in type(part).model_fields}
    return type(part).model_validate({**part.model_dump(), **own}) if own else part


def _known_settings(where: str, settings: dict[str, JsonValue], known: Iterable[str]) -> None:
    for key in settings:
        if key not in known:
            raise ValueError(f"{where}.settings: {_unknown('key', key, list(known))}")


def _subset(kind: str, chosen: Iterable[str], valid: Iterable[str]) -> list[str]:
    names = list(valid)
    wanted = {choose(kind, name, names) for name in chosen}
    return [name for name in names if not wanted or name in wanted]


def _numbers(kind: str, chosen: Iterable[int] | None, count: int) -> list[int]:
    numbers = range(count) if chosen is None else chosen
    for number in numbers:
        if not 0 <= number < count:
            raise BenchmarkError(f"{kind} {number} is not in the suite: it has {kind}s 0 to {count - 1}")
    return sorted(set(numbers))


def _folder_name(kind: str, name: str) -> str:
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{kind} {name!r} must be letters, digits and any of _ . , ( ) + -, {_LONGEST_NAME} at most: it becomes a folder"
        )
    return name


def _in_one_line(error: ValidationError) -> str:
    told: list[Any] = []
    for problem in error.errors():
        *place, _ = problem["loc"] or ("",)
        # A list whose entry is wrong is called too short besides, and each type that a value may have says its own.
        follows = any(each["loc"][: len(problem["loc"])] == problem["loc"] for each in told)
        alike = [each for each in told if each["input"] is problem["input"] and list(each["loc"][:-1]) == place]
        for each in alike:
            each["loc"] = tuple(place)
        if not follows and not alike:
            told.append(dict(problem))
    return "; ".join(map(_say, told))


def _say(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "tuple_type":
        return f'{where}: it must be a list, such as ["{problem["input"]}"]'
    if problem["type"] == "union_tag_invalid":
        names = [name for name in re.findall(r"'([^']+)'", problem["ctx"]["expected_tags"]) if name != "outside"]
        return f"{where}: {_unknown('surrogate', problem['ctx']['tag'], names)}"
    if problem["type"] == "union_tag_not_found":
        return f'{where}: it needs a `surrogate`, such as "gaussian", or `outside`, got {problem["input"]!r}'
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{where}: it must be a table of settings, got {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    # Our own messages quote the bad value; pydantic's say only the range.
    given = "" if problem["type"] in ("value_error", "missing") else f", got {problem['input']!r}"
    return f"{where}: {message}{given}" if where else f"{message}{given}"
