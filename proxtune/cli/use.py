"""`proxtune eval`, `chat`: what uses a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from proxtune.cli.app import app, console


@app.command(name="eval", epilog="Example: proxtune eval runs/my-sft --data held_out.jsonl")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Data to evaluate on; by default what the run held out.")
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:FUNCTION[=WEIGHT]", help="For a PPO run that had one.")
    ] = None,
) -> None:
    """Measure a run's model on held-out data: loss, accuracy of pairs, or score of fresh answers."""
    from proxtune.workflows.evaluate import evaluate_run

    for name, figure in evaluate_run(run, data, reward or ()).items():
        console.print(f"{name:20} {figure}", highlight=False)


@app.command(epilog="Example: proxtune chat runs/my-sft --temperature 0.7 --max-new-tokens 128")
def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, or any name that model.name takes.")],
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total mass.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of an answer.")] = 256,
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
