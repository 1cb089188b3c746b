"""From a config to the parts of a run: model, data, algorithm. Nothing is trained here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ptx import Ptx
from proxtune.algorithms.reward_model import (
    PAIRS,
    RATINGS,
    Judgements,
    RewardTrainer,
    normalise,
    rating_scale,
    standardise,
)
from proxtune.algorithms.sft import SFT
from proxtune.algorithms.task import TaskTrainer
from proxtune.data.labels import Reading
from proxtune.data.loader import Loader
from proxtune.data.records import Answered, Completion, Labelled, Preference, Rated, Record, Tagged, Text, text_of
from proxtune.data.sources import Dataset, TooLong, read
from proxtune.data.sources import load as load_data
from proxtune.data.template import EncodeReport, encode, encode_preferences, encode_prompts, encode_rated
from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import rises
from proxtune.evaluation.run import likelihood, pair_accuracy, rating_fit
from proxtune.evaluation.task import evaluation, reading_of
from proxtune.evaluation.tasks import TASKS
from proxtune.evaluation.tasks.writing import Writing
from proxtune.models.critic import build_critic
from proxtune.models.heads import LinearHead, RewardModel, ScalarHead, TaskModel
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.load import check_bfloat16
from proxtune.models.load import load as load_model
from proxtune.models.peft import VIRTUAL, tune
from proxtune.rewards.base import Reward
from proxtune.rollouts.store import RolloutStore
from proxtune.runs import Run, derive_seed
from proxtune.training.loop import Algorithm, Best
from proxtune.training.metrics import Metrics
from proxtune.workflows.rewards import (
    build_judges,
    build_reward,
    longest_scored,
    mean_scores,
    scorers,
)
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun, SupervisedRun


@dataclass
class Job:
    """All that a run needs, built and ready: `execute` trains it, a dry run describes it."""

    command: str
    config: RunConfig
    algorithm: Algorithm
    batches: Loader[Any]
    steps: int
    save: Callable[[Path], None]
    evaluate: Callable[[], Metrics] | None
    base: dict[str, str]  # name and hash of the weights the run starts from
    data: dict[str, str]  # path -> fingerprint
    parameters: dict[str, int]  # trained and total
    notes: list[str] = field(default_factory=list)  # what was read, kept, cut
    rewards: dict[str, float] = field(default_factory=dict)  # name -> weight: functions do not stand in the config
    judges: list[str] = field(default_factory=list)  # names, likewise
    held_out: Sequence[Any] = ()  # what `evaluate` measures on
    best: Best | None = None  # what the saved model is chosen by, where it is not the last step's


def sft_job(config: SFTRun) -> Job:
    """Supervised fine-tuning: of a model that writes, or of a head for a task."""
    if config.task.kind != "language":
        return _task_job(config)
    train, held_out, notes, data = _read(config)
    model, base = _model(config, train.records)
    _check_writes(config, model)
    model = tune(model, config.tuning, seed=derive_seed(config.seed, "adapter"))
    length = _max_length(config, model)
    examples, report = encode(train.records, model.tokenizer, max_length=length, too_long=config.data.too_long)
    notes.append(str(report))
    evaluate, held = None, list[Any]()
    if held_out is not None:
        held, report = encode(held_out.records, model.tokenizer, max_length=length, too_long=config.data.too_long)
        notes.append(f"held out: {report}")
        evaluate = partial(likelihood, model, held)
        if config.task.answers is not None:
            writing = Writing(config.task.answers, config.task.answer_tokens, config.task.answer_language)
            writing.check(model, held_out.records)
            evaluate = partial(_written, writing, model, held_out.records, held)
    batches = Loader(examples, config.sft.batch_size, seed=config.seed)
    steps = _steps(config, batches)
    algorithm = SFT(model, config.sft, optim=config.optim, total_steps=steps, autocast=_autocast(config, model))
    counts, best = _count(model), _best(config, config.headline, held, notes)
    parts = (algorithm, batches, steps, model.save, evaluate, base, data, counts, notes)
    return Job("sft", config, *parts, held_out=held, best=best)


def _written(writing: Writing, model: LanguageModel, records: Sequence[Record], held: Sequence[Any]) -> Metrics:
    """The likelihood of held-out answers, and the figures of answers that the model writes itself."""
    said = writing.predict(model, records)
    figures = writing.measure(records, said).values()
    return likelihood(model, held) | {f"eval/{name}": value for name, value in figures.items()}


def _task_job(config: SFTRun) -> Job:
    """A head, and what of the trunk `tuning` says, learn the labels of the data."""
    train, held_out, notes, data = _read(config)
    lm, base = _model(config, train.records)
    length = _max_length(config, lm)
    task = TASKS[config.task.kind].learn(train.records, held_out.records if held_out else (), config.task)
    head = LinearHead(
        lm.hidden_size, task.outputs, dropout=config.task.head_dropout, generator=_generator(config.seed, "task head")
    )
    tune(lm, config.tuning, seed=derive_seed(config.seed, "adapter"), head=True)
    model = TaskModel(lm, head.to(lm.device), length, task.meta())
    reading = Reading(lm.tokenizer, lm.causal, length, config.data.too_long)
    examples, report = task.encode(train.records, reading)
    notes.append(str(report))
    evaluate, held = None, list[Any]()
    if held_out is not None:
        held, report = task.encode(held_out.records, reading)
        notes.append(f"held out: {report}")
        whole, _ = task.read(held_out.records, reading_of(model))
        evaluate = partial(evaluation, task, model, held_out.records, held, whole)
    batches = Loader(examples, config.sft.batch_size, seed=config.seed)
    steps = _steps(config, batches)
    config = _ten_times(config, steps)
    autocast = _autocast(config, lm)
    algorithm = TaskTrainer(model, task, config.sft, optim=config.optim, total_steps=steps, autocast=autocast)
    counts, best = _count(lm, head), _best(config, config.headline, held, notes)
    parts = (algorithm, batches, steps, model.save, evaluate, base, data, counts, notes)
    return Job("sft", config, *parts, held_out=held, best=best)


def _best(config: SupervisedRun, own: str, held: Sequence[Any], notes: list[str]) -> Best | None:
    """What the saved model is chosen by: `training.best_by`, or the job's own figure."""
    figure = own if config.training.best_by == "auto" else config.training.best_by
    if figure is None or not held:
        return None
    patience = config.training.patience if config.training.eval_every else None
    ends = f"; {patience} in a row without a better one end the run" if patience else ""
    notes.append(f"the model will be that of the best {figure}, evaluated {_how_often(config)}{ends}")
    return Best(figure, rises=rises(figure))


def _ten_times(config: SFTRun, steps: int) -> SFTRun:
    """The config, which says how often it is evaluated: ten times in its run, where it did not say."""
    if config.training.eval_every is not None:
        return config
    training = config.training.model_copy(update={"eval_every": max(1, steps // 10)})
    return config.model_copy(update={"training": training})


def _how_often(config: SupervisedRun) -> str:
    every = config.training.eval_every
    return f"every {every} steps" if every else "once, at the end (set training.eval_every)"


def _check_writes(config: RunConfig, model: LanguageModel) -> None:
    if not model.causal:
        raise ConfigError(
            f"model.name={config.model.name} is an encoder, which reads text and writes none; take a model that "
            "writes, or set task.kind to classification, label_sets, regression, tagging or question_answering"
        )


def reward_job(config: RewardRun) -> Job:
    """Reward modelling, from pairs or from ratings, as the data has it."""
    train, held_out, notes, data = _read(config)
    lm, base = _model(config, train.records)
    _check_writes(config, lm)
    length = _max_length(config, lm)
    head = ScalarHead(lm.hidden_size, zero=False, generator=_generator(config.seed, "reward head"))
    tune(lm, config.tuning, seed=derive_seed(config.seed, "adapter"), head=True)
    model = RewardModel(lm, head.to(lm.device), max_length=length)
    rated = train.format == "rated"
    examples, held, model.ratings = _judged(train, held_out, lm, length, config.data.too_long, notes)
    best = _best(config, "eval/correlation" if rated else "eval/accuracy", held, notes)
    batches = Loader(examples, config.reward_model.batch_size, seed=config.seed)
    steps = _steps(config, batches)
    judgements: Judgements[Any] = RATINGS if rated else PAIRS
    learning: dict[str, Any] = {"optim": config.optim, "total_steps": steps, "autocast": _autocast(config, lm)}
    algorithm = RewardTrainer(model, config.reward_model, judgements=judgements, **learning)
    evaluate = partial(rating_fit if rated else pair_accuracy, model, held) if held else None

    def save(folder: Path) -> None:
        normalise(model, held or examples, judgements=judgements)
        model.save(folder)

    parts = (algorithm, batches, steps, save, evaluate, base, data, _count(lm, head), notes)
    return Job("reward", config, *parts, held_out=held, best=best)


def ppo_job(
    config: PPORun,
    functions: Sequence[tuple[Reward, float]] = (),
    *,
    judges: Sequence[Reward] = (),
    replay: Path | None = None,
) -> Job:
    """PPO against reward models of the config and functions of the caller.

    `judges` and those of the config score the held-out answers, and are never trained on.
    With `replay`, the answers and their scores are those that another run saved: nothing is sampled or scored.
    """
    train, held_out, notes, data = _read(config)
    policy, base = _model(config, train.records)
    _check_writes(config, policy)
    length = _max_length(config, policy, reserve=config.rollout.max_new_tokens)
    prompts, report = encode_prompts(train.records, policy.tokenizer, max_length=length, too_long=config.data.too_long)
    notes.append(str(report))
    reward, first_model = build_reward(config.reward, config.model, functions, policy, needed=replay is None)
    _check_room(config, max(len(prompt.prompt_ids) for prompt in prompts), longest_scored(reward))
    critic = build_critic(policy, config.critic, config.tuning, first_model)
    policy = tune(policy, config.tuning, seed=derive_seed(config.seed, "adapter"))
    for scorer in scorers(reward):
        scorer.share(policy)
    batches = Loader(prompts, config.ppo.batch_size, seed=config.seed)
    steps = _steps(config, batches)
    algorithm = PPO(
        policy,
        reward,
        config.ppo,
        rollout=config.rollout,
        optim=config.optim,
        critic=critic,
        critic_config=config.critic,
        store=_store(config, replay, data),
        ptx=_ptx(config, policy, length, notes, data),
        total_steps=steps,
        seed=config.seed,
    )
    asked = {"eval/score": reward} if reward.rewards else {}
    watching = build_judges(config.reward, config.model, judges, reward, policy)
    if watching and held_out is None:
        raise ConfigError("a judge scores held-out answers, and no prompt is held out; set data.eval_fraction=0.05")
    evaluate, held = None, list[Any]()
    if held_out is not None and (asked or watching):
        held, report = encode_prompts(
            held_out.records, policy.tokenizer, max_length=length, too_long=config.data.too_long
        )
        notes.append(f"held out: {report}")
        evaluate = partial(mean_scores, policy, {**asked, **watching}, held, config.rollout, seed=config.seed)
    counts = _count(policy, critic.head) if critic.trunk is None else _count(policy, critic.head, critic.trunk.module)
    weights = {part.name: weight for part, weight in reward.rewards}
    names = [name.removeprefix("judge/") for name in watching]
    return Job(
        "ppo", config, algorithm, batches, steps, policy.save, evaluate, base, data, counts, notes, weights, names, held
    )


def _check_room(config: PPORun, prompt: int, room: int | None) -> None:
    """Refuse prompts of up to `prompt` tokens whose answers may be too long for a model that scores them."""
    longest = prompt + config.rollout.max_new_tokens
    if room is not None and longest > room:
        raise ConfigError(
            f"a prompt and rollout.max_new_tokens={config.rollout.max_new_tokens} come to {longest} tokens, "
            f"but the model that scores them takes at most {room}; set data.max_length and data.too_long=drop, "
            "a smaller rollout.max_new_tokens, or train that model on longer answers"
        )


def _judged(
    train: Dataset, held_out: Dataset | None, lm: LanguageModel, length: int, too_long: TooLong, notes: list[str]
) -> tuple[list[Any], list[Any], tuple[float, float] | None]:
    """Pairs or rated answers to learn from, and the held-out ones; all ratings on the scale of those learnt from."""
    encode_all: Callable[..., tuple[list[Any], EncodeReport]] = (
        encode_rated if train.format == "rated" else encode_preferences
    )
    examples, report = encode_all(train.records, lm.tokenizer, max_length=length, too_long=too_long)
    notes.append(str(report))
    held = list[Any]()
    if held_out is not None:
        held, report = encode_all(held_out.records, lm.tokenizer, max_length=length, too_long=too_long)
        notes.append(f"held out: {report}")
    if train.format != "rated":
        return examples, held, None
    mean, deviation = rating_scale(examples)
    notes.append(f"ratings: mean {mean:.3g}, standard deviation {deviation:.3g}; scores are learnt on that scale")
    held = held and standardise(held, mean, deviation)
    return standardise(examples, mean, deviation), held, (mean, deviation)


def _store(config: PPORun, replay: Path | None, data: dict[str, str]) -> RolloutStore | None:
    """Where the run's rollouts are kept, or those of the run to replay are read."""
    if replay is not None:
        source = Run.open(replay)
        if not source.rollouts.is_dir():
            raise ConfigError(f"{replay} kept no rollouts; train it with rollout.save=true to replay it")
        data[str(source.rollouts)] = f"of the run begun {source.manifest().get('began')}"
        return RolloutStore(source.rollouts, replay=True)
    save = bool(config.reward.remote) if config.rollout.save is None else config.rollout.save
    return RolloutStore(Run(config.runs / config.name).rollouts) if save else None


def _ptx(config: PPORun, policy: LanguageModel, length: int, notes: list[str], data: dict[str, str]) -> Ptx | None:
    """The language modelling that `ptx.data` asks for."""
    if config.ptx.data is None:
        return None
    given = config.data
    texts = read(config.ptx.data, encoding=given.encoding, on_error=given.on_error, chat=given.chat)
    examples, report = encode(texts.records, policy.tokenizer, max_length=length, too_long=config.data.too_long)
    notes += [str(texts.report), f"mixed in: {report}"]
    data[str(config.ptx.data)] = texts.fingerprint
    return Ptx(policy, examples, config.ptx, seed=config.seed)


def _read(config: RunConfig) -> tuple[Dataset, Dataset | None, list[str], dict[str, str]]:
    train, held_out = load_data(config.data, seed=config.seed)
    notes, data = [str(train.report)], {str(config.data.train): train.fingerprint}
    if config.data.eval is not None and held_out is not None:
        notes.append(str(held_out.report))
        data[str(config.data.eval)] = held_out.fingerprint
    return train, held_out, notes, data


def _model(config: RunConfig, records: Sequence[Record]) -> tuple[LanguageModel, dict[str, str]]:
    model = load_model(
        config.model, corpus=(_text(record) for record in records), seed=derive_seed(config.seed, "weights")
    )
    return model, {"name": config.model.name, "hash": weight_hash(model.module)}


def _autocast(config: RunConfig, model: LanguageModel) -> bool:
    """Whether the passes of a step multiply in bfloat16. Raises ModelError: the model's device gains nothing by it."""
    if config.training.autocast == "none":
        return False
    check_bfloat16(model.device)
    return True


def _text(record: Record) -> str:
    match record:
        case Text() | Labelled() | Tagged() | Answered():
            return text_of(record)
        case Completion(prompt, completion) | Rated(prompt, completion):
            return f"{_plain(prompt)} {completion}"
        case Preference(prompt, chosen, rejected):
            return f"{_plain(prompt)} {chosen} {rejected}"
    return _plain(record.prompt)


def _plain(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def _max_length(config: RunConfig, model: LanguageModel, reserve: int = 0) -> int:
    """Tokens of a row: `data.max_length`, or what the model's context leaves besides `reserve`."""
    virtual = config.tuning.virtual_tokens if config.tuning.kind in VIRTUAL and model.virtual is None else 0
    room = model.context - reserve - virtual  # they come when the model is tuned
    wanted = config.data.max_length or room
    if wanted > room or room < 1:
        beside = f" minus rollout.max_new_tokens={reserve}" if reserve else ""
        raise ConfigError(
            f"data.max_length is {wanted}, but the model's context is {model.context}{beside}; set at most {room}"
        )
    return wanted


def _steps(config: RunConfig, batches: Loader[Any]) -> int:
    return config.training.steps or max(1, math.ceil(config.training.epochs * batches.batches_per_epoch))


def _count(model: LanguageModel, *heads: torch.nn.Module) -> dict[str, int]:
    parameters = [*model.module.parameters(), *(p for head in heads for p in head.parameters())]
    return {
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
        "total": sum(p.numel() for p in parameters),
    }


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose))
