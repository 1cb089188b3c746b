"""`proxtune eval`, `predict`, `chat`: what uses a trained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from proxtune.cli.app import Columns, app, columns_of, console, one_of
from proxtune.errors import ConfigError
from proxtune.workflows.terminal import share_bar

AnswerTokens = Annotated[
    int | None, typer.Option(min=1, help="Length limit of an answer; by default as in its run, or 64.")
]


@app.command(
    name="eval",
    epilog="Examples: proxtune eval runs/my-sft --data held_out.jsonl · proxtune eval --compare runs/a runs/b · "
    "proxtune eval bundled:smollm2 --task question_answering --data questions.jsonl",
)
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="RUN|MODEL ...", help="A finished run, or a model.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Data to evaluate on; by default what the run held out.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="What the answers of a model without a head are measured as; by default as in its run."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Two models on the same rows, with a paired bootstrap test.")
    ] = False,
    reward: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:FUNCTION[=WEIGHT]", help="For a PPO run that had one.")
    ] = None,
    column: Columns = None,
    answer_tokens: AnswerTokens = None,
    html: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="By default eval.html in the run.")] = None,
    lang: Annotated[str, typer.Option(metavar="en|zh", help="Language of the page.")] = "en",
) -> None:
    """Measure a model: figures of its task with 95% intervals, or loss, accuracy of pairs, score of fresh answers."""
    from proxtune.workflows import outcome

    if len(models) != (2 if compare else 1):
        raise ConfigError(f"got {len(models)} models; expected one, or two with --compare")
    tongue: Literal["en", "zh"] = one_of("--lang", lang, ("en", "zh"))
    if not compare and task is None and not outcome.has_task(models[0]):
        if html or lang != "en" or answer_tokens:
            raise ConfigError(
                f"--html, --lang and --answer-tokens are of a model that has a task, and {models[0]} has none; "
                "leave them out, or give --task"
            )
        _figures_of(models[0], data, reward or (), columns_of(column))
        return
    if reward:
        raise ConfigError("--reward is of a PPO run; leave it out")
    columns = columns_of(column)
    found = []
    for name in models:
        model = outcome.open_model(name)
        records = outcome.records_of(model, data, columns).records
        with share_bar(console, name) as watch:
            found.append(outcome.predict(model, records, task=task, answer_tokens=answer_tokens, watch=watch))
    default = Path(models[-1]) / "eval.html" if Path(models[-1]).is_dir() else Path("eval.html")
    if compare:
        outcome.compare(found[0], found[1], console, html or default.with_name("compare.html"), tongue=tongue)
    else:
        outcome.show(found[0], console, html or default, data=data, tongue=tongue)


def _figures_of(name: str, data: Path | None, rewards: Sequence[str], columns: Mapping[str, str]) -> None:
    from proxtune.evaluation.metrics import Interval
    from proxtune.workflows.evaluate import evaluate_run

    figures = evaluate_run(Path(name), data, rewards, columns)
    for figure, value in figures.items():
        shown = f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]" if isinstance(value, Interval) else value
        console.print(f"{figure:20} {shown}")
    if any(isinstance(value, Interval) for value in figures.values()):
        console.print("95% intervals: 1000 resamples of the rows", style="dim")


@app.command(epilog="Example: proxtune predict runs/my-sft reviews.csv --column text=review --out said.jsonl")
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A finished run of proxtune sft, or a model.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows as those it was trained on, with labels or not.")],
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="By default predictions.jsonl in the run.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Of a model without a head, as proxtune eval takes it.")] = None,
    column: Columns = None,
    answer_tokens: AnswerTokens = None,
) -> None:
    """Say for every row of a file what the model makes of it; rows without anything to read are told and left out."""
    from proxtune.runs import write_jsonl
    from proxtune.workflows import outcome

    model = outcome.open_model(run)
    records = outcome.records_of(model, file, columns_of(column)).records
    with share_bar(console, run) as watch:
        result = outcome.predict(model, records, task=task, answer_tokens=answer_tokens, watch=watch)
    path = out or (Path(run) / "predictions.jsonl" if Path(run).is_dir() else Path("predictions.jsonl"))
    write_jsonl(path, outcome.rows_of(result))
    console.print(f"{len(result.records)} rows  {path}", soft_wrap=True)


@app.command(epilog="Example: proxtune chat runs/my-sft --temperature 0.7 --max-new-tokens 128")
def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, or any name that model.name takes.")],
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total mass.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of an answer, within the model's context.")] = 256,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the text as typed, without the chat template.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed and words give the same answers.")] = 0,
) -> None:
    """Talk to a model in the terminal; an empty line ends."""
    from proxtune.rollouts.sampling import SamplingConfig
    from proxtune.workflows.chat import talk

    config = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    talk(model, config, plain=plain, seed=seed)
