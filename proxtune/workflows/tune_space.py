"""`search` in a config: which options are searched, between which bounds, and by which figure trials are told apart."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt

from proxtune.config import Section, key_table, load
from proxtune.config.source import COMMAND_LINE
from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import rises
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun

Value: TypeAlias = bool | int | float | str | None
Values: TypeAlias = dict[str, Any]  # dotted key -> value, of one trial

OURS = ("name", "runs")  # keys that the search sets itself


class Parameter(Section):
    """The values that one option may take: a range, or a list of choices."""

    low: int | float | None = Field(None, description="smallest value")
    high: int | float | None = Field(None, description="largest value, itself among them if steps lead to it")
    log: bool = Field(False, description="draw evenly in the logarithm: for values of several powers of ten")
    step: int | float | None = Field(None, gt=0, description="distance of neighbouring values; by default any, or 1")
    choices: list[Value] | None = Field(None, min_length=1, description="the values themselves, in place of a range")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.choices is not None:
            if any(given is not None for given in (self.low, self.high, self.step)) or self.log:
                yield "choices", "choices stand alone; leave out low, high, log and step, or the choices"
        elif self.low is None or self.high is None:
            yield "low", "expected low and high, or choices"
        elif self.log and self.low <= 0:
            yield "log", f"low={self.low} has no logarithm; set low above 0, or log=false"
        elif self.log and self.step is not None:
            yield "step", "steps are even and logarithms are not; leave out step, or log"
        elif self.step is not None and self.low + self.step > self.high:
            yield "step", f"low={self.low} and one step are above high={self.high}, which leaves one value to try"

    @property
    def ends(self) -> list[Value]:
        """The choices; or the lowest value, the next if there are steps, and the highest: all valid if these are."""
        if self.choices is not None:
            return self.choices
        return [self.low, *([self.low + self.step] if self.step and self.low is not None else []), self.high]


class SearchConfig(Section):
    """`search`: what `proxtune tune` varies, and by what it chooses."""

    metric: str | None = Field(
        None,
        description="figure of metrics.jsonl that tells trials apart; by default training.best_by, or the task's own, "
        "in PPO eval/score, else eval/loss",
    )
    direction: Literal["minimize", "maximize"] | None = Field(
        None, description="by default minimize for a loss, perplexity or error, else maximize"
    )
    trials: PositiveInt = Field(20, description="trials in all, those that are pruned or fail among them")
    workers: PositiveInt = Field(1, description="trials at once, each in a process of its own")
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median: a trial ends early where its best figure so far is worse than the median of the finished "
        "trials at the same step",
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="tpe: where good trials were (the first 10 are random); random: anywhere"
    )
    seed: int = Field(1, description="of the values that are tried; a trial's own seed is the run's")
    space: dict[str, Parameter] = Field(min_length=1, description="dotted key of an option -> the values to try")


class WithSearch(Section):
    """What makes the config of a command one of `proxtune tune`."""

    plain: ClassVar[type[RunConfig]]
    search: SearchConfig = Field(description="what is varied, and what is looked for")

    @property
    def base(self) -> RunConfig:
        """The config without its search."""
        return self.plain.model_validate(self.model_dump(exclude={"search"}))

    def problems(self) -> list[tuple[str, str]]:
        found = list(super().problems())
        if found:
            return found  # a config that is wrong itself tells nothing about its space
        found += [(f"search.space.{key}", text) for key, text in _misfits(self.base, self.search.space)]
        data = self.base.data
        if metric_of(self).startswith("eval/") and data.eval is None and data.eval_fraction == 0:
            message = f"{metric_of(self)} is measured on held-out data, and nothing is held out"
            found.append(("search.metric", f"{message}; set data.eval_fraction=0.05 or data.eval"))
        return found


class SFTSearch(WithSearch, SFTRun):
    """`proxtune tune` over `proxtune sft`."""

    plain: ClassVar[type[RunConfig]] = SFTRun


class RewardSearch(WithSearch, RewardRun):
    """`proxtune tune` over `proxtune reward`."""

    plain: ClassVar[type[RunConfig]] = RewardRun


class PPOSearch(WithSearch, PPORun):
    """`proxtune tune` over `proxtune ppo`."""

    plain: ClassVar[type[RunConfig]] = PPORun


Search: TypeAlias = SFTSearch | RewardSearch | PPOSearch
SEARCHES: dict[str, type[Search]] = {"sft": SFTSearch, "reward": RewardSearch, "ppo": PPOSearch}


def with_values(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with other values at dotted keys. Raises ConfigError: it would not be valid."""
    given = [*base.model_dump(mode="json").items(), *values.items()]
    return load(type(base), [], [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given])


def is_whole(schema: type[Section], name: str) -> bool:
    """Whether the option `name` takes whole numbers alone."""
    types = [key.type.split(" | ") for key in key_table(schema) if fnmatchcase(name, key.name)]
    return any("integer" in each and "number" not in each for each in types)


def metric_of(config: WithSearch) -> str:
    """The figure that tells trials apart: the one that is asked for, else the one that chooses the run's model."""
    base = config.base
    figure = config.search.metric or base.training.best_by
    if figure is not None and figure != "auto":
        return figure
    if isinstance(base, SFTRun):
        return base.headline
    return "eval/score" if isinstance(base, PPORun) else "eval/loss"


def direction_of(config: WithSearch) -> Literal["minimize", "maximize"]:
    """Which values of the metric are the better ones."""
    return config.search.direction or ("maximize" if rises(metric_of(config)) else "minimize")


def _misfits(base: RunConfig, space: Mapping[str, Parameter]) -> Iterator[tuple[str, str]]:
    """The keys of the space that the config has not, or that may not have one of their values.

    A value is refused if the config is invalid with it whatever the others are: the config's own, or all first or all
    last ones of the space. What only some combinations forbid shows when such a trial fails.
    """
    corners: list[Values] = [{}, *({key: each.ends[end] for key, each in space.items()} for end in (0, -1))]
    for key, parameter in space.items():
        if key in OURS:
            yield key, "is set by the search, a folder for each trial; leave it out"
            continue
        if parameter.low is not None and parameter.high is not None and parameter.low >= parameter.high:
            yield key, f"low={parameter.low} is not below high={parameter.high}; exchange them"
            continue
        for value in parameter.ends:
            mistakes = [text for corner in corners if (text := _mistake(base, corner | {key: value}))]
            if len(mistakes) == len(corners):
                yield key, mistakes[0]
                break


def _mistake(base: RunConfig, values: Values) -> str | None:
    try:
        with_values(base, values)
    except ConfigError as error:
        return str(error).replace(f"{COMMAND_LINE}: ", "")
    return None
