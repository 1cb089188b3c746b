"""What a model says of the rows of a file: predictions, and how they are measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from proxtune import config as configs
from proxtune.data.records import (
    Answered,
    Completion,
    Labelled,
    Prompt,
    PromptLike,
    Record,
    Tagged,
    Text,
    content_key,
)
from proxtune.data.sources import DataConfig, Dataset
from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import Measure, paired
from proxtune.evaluation.page import Tongue, write_comparison, write_page
from proxtune.evaluation.task import Prediction, Table, Task, TaskConfig, Watch, reading_of
from proxtune.evaluation.tasks import restore
from proxtune.evaluation.tasks.classification import Classification
from proxtune.evaluation.tasks.label_sets import LabelSets
from proxtune.evaluation.tasks.question_answering import said
from proxtune.evaluation.tasks.tagging import Tagging, named
from proxtune.evaluation.tasks.writing import WRITTEN, Writing
from proxtune.models.heads import TaskModel, head_of
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, resolve
from proxtune.models.load import load as load_model
from proxtune.runs import Run
from proxtune.workflows.evaluate import records_for
from proxtune.workflows.schemas import SFTRun

SHORT = ("classes", "entities", "tags", "signatures")  # tables that a terminal shows


@dataclass(frozen=True)
class Model:
    """A model by its name, as its run left it: with its head, its data and its task."""

    name: str
    lm: LanguageModel
    head: TaskModel | None
    config: SFTRun | None  # of the run, if it was one of `proxtune sft`


@dataclass(frozen=True)
class Outcome:
    """Predictions for records, and the task, whose `measure` and `tables` need records that have labels."""

    name: str
    records: list[Record]
    predictions: list[Prediction]
    task: Task | Writing
    settings: dict[str, Any] = field(default_factory=dict)

    def measured(self, labels: Sequence[str] = ()) -> Measure:
        """The figures; macro averages are over `labels`, by default those of the model.

        Raises DataError: a record has no label.
        """
        task = self.task
        if labels and isinstance(task, Classification | LabelSets):
            task = replace(task, labels=tuple(labels))
        return task.measure(self.records, self.predictions)

    @property
    def kind(self) -> str:
        """The name of the task."""
        return self.task.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model may say of a row; empty for a task without classes."""
        return self.task.labels if isinstance(self.task, Classification | LabelSets) else ()


def open_model(name: str) -> Model:
    """The model of a run, or any other that `model.name` takes."""
    config, source = _config_of(name), resolve(name)
    given = config.model if config is not None else ModelConfig()
    lm = load_model(given.model_copy(update={"name": source}))
    head = TaskModel.load(lm, Path(source)) if "task" in head_of(Path(source)) else None
    return Model(name, lm, head, config)


def has_task(name: str) -> bool:
    """Whether a run or a folder has a head for a task, or the run measured what it wrote."""
    config = _config_of(name)
    if config is None:
        return "task" in head_of(Path(name))
    return config.task.kind != "language" or config.task.answers is not None


def _config_of(name: str) -> SFTRun | None:
    """The config of a run of `proxtune sft`; None: the name is of something else."""
    path = Path(name)
    if not (path / "config.yaml").exists() or Run.open(path).manifest().get("command") != "sft":
        return None
    return configs.load(SFTRun, [path / "config.yaml"])


def records_of(model: Model, data: Path | None, columns: dict[str, str] | None = None) -> Dataset:
    """The rows of `data`, every one as often as it stands there; without it, those that the model's run held out.

    Raises ConfigError: there are none.
    """
    if model.config is not None:
        return records_for(model.config.data, data, seed=model.config.seed, columns=columns, duplicates="keep")
    if data is None:
        raise ConfigError(f"{model.name} is no run of proxtune sft, which holds data out; pass --data FILE")
    return records_for(DataConfig(train=data), data, seed=0, columns=columns, duplicates="keep")


def predict(
    model: Model,
    records: list[Record],
    *,
    task: str | None = None,
    answer_tokens: int | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """What a model says of records.

    Args:
        task: of a model without a head, what its answers are measured as; by default what its run measured them as.
        watch: told what share is done, by a model with a head.

    Raises ConfigError: the model has another task, or none.
    """
    if model.head is not None:
        kind = restore(model.head.task)
        if task not in (None, kind.kind):
            raise ConfigError(f"{model.name} was trained for {kind.kind}, not for {task}; leave --task out")
        if isinstance(kind, Tagging):
            records = list(map(kind.sentence, records))
        examples, report = kind.read(records, reading_of(model.head))
        said_of = kind.predict(model.head, examples, watch)
        settings = {"max_length": model.head.max_length, "rows that were cut": report.truncated}
        return Outcome(model.name, records, said_of, kind, settings)
    asked = model.config.task if model.config is not None else None
    wanted = task or (asked.answers if asked is not None else None)
    chosen = next((name for name in WRITTEN if name == wanted), None)
    if chosen is None:
        got = "no task" if wanted is None else wanted
        raise ConfigError(f"{model.name} has no head for a task, and got {got}; expected --task {', '.join(WRITTEN)}")
    tokens = answer_tokens or (asked.answer_tokens if asked is not None else TaskConfig().answer_tokens)
    writing = Writing(chosen, tokens, asked.answer_language if asked is not None else "")
    records = [Prompt(r.text, r.where, r.columns) if isinstance(r, Text) else r for r in records]
    said_of = writing.predict(model.lm, records)
    return Outcome(model.name, records, said_of, writing, writing.settings())


def rows_of(result: Outcome) -> Iterator[dict[str, Any]]:
    """One row a record: what was read, what is said of it, and under `true` what its label is."""
    for record, prediction in zip(result.records, result.predictions, strict=True):
        row: dict[str, Any] = {"where": record.where}
        match record:
            case Labelled(text, label, pair=pair):
                row |= {"text": text, **({"text_pair": pair} if pair is not None else {}), "true": label}
            case Tagged(tokens, tags):
                row |= {"tokens": tokens, **({"true": tags} if tags else {})}
                row["entities"] = named(record, prediction["tags"])
            case Answered(_, question, answers):
                row |= {"question": question, "answer": said(record, prediction)}
                row |= {} if answers is None else {"true": [span.text for span in answers]}
            case Completion(prompt, completion):
                row |= {"prompt": _last(prompt), "true": completion}
            case Prompt(prompt):
                row["prompt"] = _last(prompt)
            case Text(text, pair=pair):
                row |= {"text": text, **({"text_pair": pair} if pair is not None else {})}
        yield row | prediction


def _last(prompt: PromptLike) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


def show(
    result: Outcome, console: Console, page: Path, *, data: Path | None = None, tongue: Tongue = "en", seed: int = 0
) -> None:
    """Print the figures with their 95% intervals and the task's tables, and write the page; `data` has the rows."""
    figures = result.measured().intervals(seed=seed)
    tables = result.task.tables(result.records, result.predictions)
    read = data or _held_out(result.name)
    settings = {"model": result.name, "task": result.kind, "data": read, "rows": len(result.records), **result.settings}
    settings["interval"] = "1000 resamples of the rows, percentiles 2.5 and 97.5"
    shown = Grid("figure", "value", "95% interval", box=SIMPLE_HEAD)
    for name, value in figures.items():
        shown.add_row(name, f"{value.mean:.4f}", f"[{value.low:.4f}, {value.high:.4f}]")
    for part in [part for part in tables if part.title in SHORT]:
        console.print(_grid(part))
    console.print(shown)
    console.print(
        "   ".join(f"{name} {value}" for name, value in settings.items()),
        style="dim",
        soft_wrap=True,
    )
    write_page(page, result.name, figures, tables, settings, tongue=tongue)
    console.print(f"page    {page}", soft_wrap=True)


def _held_out(name: str) -> str:
    """What the rows are that a run did not learn from."""
    chose = Run.open(Path(name)).manifest().get("best")
    return "held out in training" + (": its best step was chosen by them" if chose else "")


def compare(a: Outcome, b: Outcome, console: Console, page: Path, *, tongue: Tongue = "en", seed: int = 0) -> None:
    """Print and write two outcomes on the same rows, with a paired bootstrap test of each figure.

    Macro averages of both are over the labels of either, so that equal predictions have equal figures.

    Raises ConfigError: they are of different tasks or rows.
    """
    if a.kind != b.kind or list(map(content_key, a.records)) != list(map(content_key, b.records)):
        raise ConfigError(
            f"{a.name} ({a.kind}, {len(a.records)} rows) and {b.name} ({b.kind}, {len(b.records)} rows) cannot be "
            "compared: expected one task and the same rows; give both the same --data FILE"
        )
    known = sorted({*a.labels, *b.labels})
    first, second = a.measured(known), b.measured(known)
    gaps, before, after = paired(first, second, seed=seed), first.values(), second.values()
    shown = Grid("figure", a.name, b.name, "difference", "95% interval", "p", box=SIMPLE_HEAD)
    for name, gap in gaps.items():
        ends = f"[{gap.low:+.4f}, {gap.high:+.4f}]"
        shown.add_row(name, f"{before[name]:.4f}", f"{after[name]:.4f}", f"{gap.difference:+.4f}", ends, f"{gap.p:.3f}")
    console.print(shown)
    console.print(
        f"{len(a.records)} rows; paired bootstrap, 1000 resamples: p is how often a difference as large would come of "
        "rows that do not tell the two apart",
        style="dim",
    )
    write_comparison(page, (a.name, b.name), {n: (before[n], after[n], gaps[n]) for n in gaps}, tongue=tongue)
    console.print(f"page    {page}", soft_wrap=True)


def _grid(part: Table) -> Grid:
    grid = Grid(*map(str, part.header), title=part.title, title_justify="left", box=SIMPLE_HEAD)
    for row in part.rows:
        grid.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row))
    return grid
