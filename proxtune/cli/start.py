"""`proxtune init`, `demo`: where a new user starts."""

from pathlib import Path
from typing import Annotated

import typer

from proxtune.cli.app import Resume, app, console
from proxtune.errors import ConfigError


@app.command(epilog="Example: proxtune init ppo > ppo.yaml")
def init(task: Annotated[str, typer.Argument(metavar="TASK", help="sft, reward, ppo, or another recipe")]) -> None:
    """Print a commented starter config."""
    from proxtune.config import recipes

    known = recipes()
    if task not in known:
        raise ConfigError(f"unknown task {task!r}; expected one of {', '.join(known)}")
    typer.echo(known[task].read_text(encoding="utf-8"), nl=False)


@app.command(epilog="Example: proxtune demo --seed 2 --name demo-2")
def demo(
    name: Annotated[str, typer.Option(help="The run's folder is runs/<name>.")] = "demo",
    seed: Annotated[int, typer.Option(help="Every random draw derives from it.")] = 1,
    resume: Resume = False,
) -> None:
    """The whole road on real text: SFT, a reward model from human labels, PPO, and judges that PPO never saw."""
    from proxtune.workflows.demo import run_demo

    run_demo(Path("runs") / name, seed=seed, resume=resume, console=console)
