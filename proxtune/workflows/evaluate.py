"""`proxtune eval`: a run's model on held-out data."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from proxtune import config as configs
from proxtune.algorithms.reward_model import rating_scale, standardise
from proxtune.data.bundled import resolve
from proxtune.data.cells import MalformedRowError, Row, renamed
from proxtune.data.files import rows
from proxtune.data.formats import Format, parse
from proxtune.data.records import Rated, Record
from proxtune.data.sift import Duplicates
from proxtune.data.sources import DataConfig, Dataset, in_turns, load, read
from proxtune.data.template import EncodeReport, encode, encode_preferences, encode_prompts, encode_rated
from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import Interval, Measure, grouped
from proxtune.evaluation.run import likelihoods, pair_accuracy, rating_fit
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import load as load_model
from proxtune.runs import Run
from proxtune.workflows.rewards import build_judges, build_reward, functions_of, mean_scores, reward_model_of
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun

logger = logging.getLogger(__name__)

E = TypeVar("E")
TRUTHS = ("label", "labels", "relation", "tags", "answers", "answer", "completion", "response")  # what is predicted
SCHEMAS: dict[str, type[SFTRun | RewardRun | PPORun]] = {"sft": SFTRun, "reward": RewardRun, "ppo": PPORun}


def evaluate_run(
    path: Path, data: Path | None = None, rewards: Sequence[str] = (), columns: Mapping[str, str] | None = None
) -> Mapping[str, float | Interval]:
    """The figures that the run's own evaluation gives, on `data` or on what the run held out.

    Those of `proxtune sft` have 95% intervals, of 1000 resamples of the rows; the turns of a conversation are one row.

    `rewards` are the functions of a PPO run, as FILE.py:FUNCTION[=WEIGHT].

    Raises:
        ConfigError: the folder is not a run, or nothing was held out and no data is given.
    """
    run = Run.open(path)
    command = run.manifest().get("command")
    if command not in SCHEMAS:
        given = f"is of proxtune {command}" if command else "ended before it had a manifest"
        raise ConfigError(f"{path} {given}, expected a run of {', '.join(SCHEMAS)}, or one within it")
    config = configs.load(SCHEMAS[command], [run.config_path])
    records = records_for(config.data, data, seed=config.seed, columns=columns).records
    if isinstance(config, RewardRun):
        model = reward_model_of(str(path), config.model)
        model.gain, model.bias = 1.0, 0.0  # the scale that it learnt on, as in training
        limits: dict[str, Any] = {"max_length": model.max_length, "too_long": config.data.too_long}
        if isinstance(records[0], Rated):
            rated = _kept(encode_rated(records, model.lm.tokenizer, **limits))
            return rating_fit(model, standardise(rated, *(model.ratings or rating_scale(rated))))
        return pair_accuracy(model, _kept(encode_preferences(records, model.lm.tokenizer, **limits)))
    lm = load_model(config.model.model_copy(update={"name": str(path)}))
    if isinstance(config, SFTRun):
        measured = language_measure(lm, records, config.data).intervals(seed=0)
        return {f"eval/{name}": value for name, value in measured.items()}
    length = config.data.max_length or lm.context - config.rollout.max_new_tokens
    prompts = _kept(encode_prompts(records, lm.tokenizer, max_length=length, too_long=config.data.too_long))
    functions = functions_of(config.reward, rewards)
    reward, _ = build_reward(config.reward, config.model, functions, lm)
    judges = build_judges(config.reward, config.model, (), reward, lm)
    return mean_scores(lm, {"eval/score": reward, **judges}, prompts, config.rollout, seed=config.seed)


def language_measure(lm: LanguageModel, records: Sequence[Record], config: DataConfig) -> Measure:
    """Loss and perplexity of what a run of that config learns of records; the turns of a conversation are one row."""
    length = config.max_length or lm.context
    examples = _kept(encode(records, lm.tokenizer, max_length=length, too_long=config.too_long))
    return grouped(likelihoods(lm, examples), [example.where for example in examples])


def records_for(
    config: DataConfig,
    data: Path | None,
    *,
    seed: int,
    columns: Mapping[str, str] | None = None,
    duplicates: Duplicates = "drop",
) -> Dataset:
    """The rows of `data`, read as a run of that config reads its own; without it, those that the run held out.

    A file whose first row lacks what is to be predicted is read without it. Rows of `data` that are left out are told.

    Raises ConfigError: it held none out.
    """
    if data is not None:
        columns = {**config.columns, **(columns or {})}
        first = _first_row(data, config)
        if first is not None:
            columns = {ours: theirs for ours, theirs in columns.items() if theirs in first or ours not in TRUTHS}
        whole = read(
            data,
            format=config.format if first is None or _reads_as(config.format, first, columns) else "auto",
            encoding=config.encoding,
            on_error=config.on_error,
            chat=config.chat,
            columns=columns,
            duplicates=duplicates,
        )
        if whole.report.kept < whole.report.read:
            logger.warning("%s", whole.report)
        return in_turns(whole, config)
    _, held_out = load(config, seed=seed)
    if held_out is None:
        raise ConfigError("the run held nothing out (no data.eval, data.eval_fraction=0); pass --data FILE")
    return held_out


def _kept(encoded: tuple[list[E], EncodeReport]) -> list[E]:
    """The examples; rows that were left out are told."""
    examples, report = encoded
    if report.dropped:
        logger.warning("%s", report)
    return examples


def _first_row(data: Path, config: DataConfig) -> Row | None:
    """None: there is none that could be read, which reading the file will say."""
    row = next((row for _, row in rows(resolve(data), hashlib.sha256(), config.encoding)), None)
    return None if isinstance(row, MalformedRowError) else row


def _reads_as(kind: Format | Literal["auto"], row: Row, columns: Mapping[str, str]) -> bool:
    try:
        return kind == "auto" or bool(parse(renamed(row, columns), kind, ""))
    except MalformedRowError:
        return False
