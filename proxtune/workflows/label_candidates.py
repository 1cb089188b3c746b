"""`proxtune label candidates`: answers sampled from models, for people to compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from proxtune.data.cells import MalformedRowError
from proxtune.data.records import Completion, Message, Preference, Prompt, Rated
from proxtune.data.sources import read
from proxtune.data.template import PromptExample, encode_prompts
from proxtune.errors import ConfigError, DataError
from proxtune.evaluation.run import fresh_answers
from proxtune.feedback.records import CANDIDATES, Item, item_of
from proxtune.feedback.store import Store
from proxtune.models.heads import head_of
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load, resolve
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import derive_seed
from proxtune.workflows.label import put, watched
from proxtune.workflows.label_items import ALONE, Asking, questions_of

T = TypeVar("T")

AT_ONCE = 64  # prompts that are answered between two steps of the bar


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `answers` at each temperature from each model."""

    temperatures: Sequence[float]
    answers: int
    max_new_tokens: int
    top_p: float
    plain: bool  # continue the prompt as it stands, without the chat template
    seed: int


def candidates(
    models: Sequence[str], path: Path, url: str, asking: Asking, sampling: Sampling, console: Console, *, repeat: float
) -> None:
    """Sample answers to the prompts of a file, and queue them: two as a pair, three to six as a ranking.

    The store is made where there is none. An answer that is sampled twice stands once; a prompt with fewer than two
    different answers is left out and counted.

    Raises ConfigError: there would be too few or too many answers to a prompt, or a model writes no text.
    """
    count = len(models) * len(sampling.temperatures) * sampling.answers
    most = CANDIDATES["ranking"][1]
    if asking.kind not in ALONE and not 2 <= count <= most:
        raise ConfigError(
            f"{len(models)} models, {len(sampling.temperatures)} temperatures and {sampling.answers} answers at each "
            f"make {count} answers to a prompt; people compare 2 to {most}"
        )
    prompts = _prompts(path, asking)
    answers: list[dict[str, str]] = [{} for _ in prompts]  # of each prompt: every answer, and who wrote it first
    for name in models:
        for found, text, source in _sampled(name, prompts, answers, sampling, console):
            if text.strip():
                found.setdefault(text, source)
    least = 1 if asking.kind in ALONE else 2
    enough = [(prompt, found) for prompt, found in zip(prompts, answers, strict=True) if len(found) >= least]
    if len(enough) < len(prompts):
        few = len(prompts) - len(enough)
        console.print(f"left out: {few:,} prompts with fewer than {least} different answers")
    if not enough:
        raise DataError(f"{path}: no prompt has {least} different answers; raise the temperatures or --max-new-tokens")
    items = [item for prompt, found in enough for item in _items(prompt, found, asking)]
    with Store.create(url) as store:
        put(store, items, repeat, console)


def _prompts(path: Path, asking: Asking) -> list[Prompt]:
    """The prompts of a file of any format that has them, with the columns of prompts."""
    prompts = []
    for record in read(path, encoding=asking.encoding, columns=asking.columns).records:
        match record:
            case Prompt():
                prompts.append(record)
            case Completion(prompt) | Preference(prompt) | Rated(prompt) if prompt:
                prompts.append(Prompt(prompt, record.where))
            case _:
                raise DataError(f"{record.where}: the row has no prompt to answer; give rows with a prompt or messages")
    return prompts


def _sampled(
    name: str, prompts: Sequence[Prompt], answers: Sequence[T], sampling: Sampling, console: Console
) -> Iterator[tuple[T, str, str]]:
    """Every answer of one model: what is kept of its prompt, the answer, and its source."""
    model = _writer(name)
    examples = _encoded(model, prompts, sampling)
    draws = [(temperature, draw) for temperature in sampling.temperatures for draw in range(sampling.answers)]
    chunks = [(*draw, begin) for draw in draws for begin in range(0, len(prompts), AT_ONCE)]
    for temperature, draw, begin in watched(chunks, f"sampling {name}", console):
        config = SamplingConfig(max_new_tokens=sampling.max_new_tokens, temperature=temperature, top_p=sampling.top_p)
        source = f"{name} at {temperature:g}"
        seed = derive_seed(sampling.seed, f"candidates of {source}", draw, begin)
        some = fresh_answers(model, examples[begin : begin + AT_ONCE], config, seed=seed)
        for found, text in zip(answers[begin : begin + AT_ONCE], some.responses, strict=True):
            yield found, text, source


def _writer(name: str) -> LanguageModel:
    source = resolve(name)
    model = load(ModelConfig(name=source))
    if not model.causal or "task" in head_of(Path(source)):
        raise ConfigError(f"{name} labels text and writes none; give a model that answers, or a run that trained one")
    return model


def _encoded(model: LanguageModel, prompts: Sequence[Prompt], sampling: Sampling) -> list[PromptExample]:
    chat = bool(model.tokenizer.chat_template) and not sampling.plain
    turns = [
        replace(one, prompt=(Message("user", one.prompt),)) if chat and isinstance(one.prompt, str) else one
        for one in prompts
    ]
    examples, _ = encode_prompts(turns, model.tokenizer, max_length=model.context - sampling.max_new_tokens)
    return examples


def _items(prompt: Prompt, found: Mapping[str, str], asking: Asking) -> Iterator[Item]:
    responses = [{"text": text, "source": source} for text, source in found.items()]
    record = replace(prompt, columns={**prompt.columns, "responses": responses})
    try:
        yield from (item_of(question, prompt.where) for question in questions_of(record, asking))
    except MalformedRowError as error:
        raise DataError(f"{prompt.where}: {error}") from error
