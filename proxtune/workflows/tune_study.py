"""The trials of a search in Optuna's storage: what is tried next, what was measured, how each trial ended.

Each change is one transaction, and the search alone writes, so that a kill leaves every trial either as it was or done.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proxtune.errors import ConfigError
from proxtune.runs import derive_seed
from proxtune.workflows.tune_page import Direction
from proxtune.workflows.tune_space import Parameter, SearchConfig

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ModuleNotFoundError as error:
    raise ConfigError(
        'a search needs optuna, which is not installed; install it with\n    pip install "proxtune[tune]"'
    ) from error

OVER = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
STATES = {state: word for word, state in OVER.items()}
PRUNED, FAILED = "pruned", "failed"  # attributes of a trial: why
NAME = "tune"


class Trial(NamedTuple):
    """A trial: its values by dotted key; why it is to be pruned, or was, or why it failed, else empty."""

    number: int
    values: dict[str, Any]
    state: str
    value: float | None
    pruned: str
    failed: str


class Study:
    """Opens `path`, or makes it whole.

    Args:
        whole: the keys of `search.space` that take whole numbers alone.
    """

    def __init__(self, path: Path, search: SearchConfig, direction: Direction, whole: Sequence[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            made = _storage(partial)
            optuna.create_study(study_name=NAME, direction=direction, storage=made)
            made.engine.dispose()
            partial.rename(path)
        self.search, self.direction = search, direction
        self.storage = _storage(path)
        self.study = optuna.load_study(study_name=NAME, storage=self.storage)
        self.space = {key: _distribution(each, whole=key in whole) for key, each in search.space.items()}

    def trials(self) -> list[Trial]:
        """All, by number."""
        return [_trial(each) for each in self.study.get_trials(deepcopy=False)]

    def begin(self) -> Trial:
        """Enter one more. Its values depend on the trials before it and on the seed, not on interruptions."""
        before = self.study.get_trials()
        seed = derive_seed(self.search.seed, "trial", len(before)) % 2**32
        sampler: BaseSampler = TPESampler(seed=seed) if self.search.sampler == "tpe" else RandomSampler(seed=seed)
        draft = optuna.create_study(direction=self.direction, sampler=sampler)
        draft.add_trials(before)
        values = draft.ask(self.space).params
        self.study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=self.space))
        return self.trials()[-1]

    def report(self, number: int, step: int, value: float) -> None:
        """What a trial measured; again is no harm."""
        self.storage.set_trial_intermediate_value(self._id(number), step, value)

    def measured(self) -> list[Mapping[int, float]]:
        """By step the values of each finished trial."""
        return [each.intermediate_values for each in self.study.get_trials(deepcopy=False, states=[OVER["finished"]])]

    def condemn(self, number: int, why: str) -> None:
        """Note that a trial is to be pruned: it stays so if we are killed before it has ended."""
        self.storage.set_trial_user_attr(self._id(number), PRUNED, why)

    def finish(self, number: int, value: float) -> None:
        """A trial ended with its value."""
        self.study.tell(number, value)

    def prune(self, number: int) -> None:
        """A condemned trial has ended."""
        self.study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """A trial ended without a value."""
        self.storage.set_trial_user_attr(self._id(number), FAILED, why)
        self.study.tell(number, state=TrialState.FAIL)

    def importance(self) -> dict[str, float]:
        """The share of each option in how the value varies, by functional ANOVA (Hutter, Hoos, Leyton-Brown 2014)."""
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.search.seed)
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(NAME)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")


def _trial(found: FrozenTrial) -> Trial:
    state = STATES.get(found.state, "running")
    value = found.value if state == "finished" else None
    attributes = found.user_attrs
    return Trial(found.number, dict(found.params), state, value, attributes.get(PRUNED, ""), attributes.get(FAILED, ""))


def _distribution(parameter: Parameter, *, whole: bool) -> BaseDistribution:
    if parameter.choices is not None:
        return CategoricalDistribution(parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    if whole:
        return IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
        )
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
