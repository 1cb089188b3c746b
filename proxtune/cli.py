"""The command line. Commands are thin, and import what they need when they are chosen, so that `--help` is instant."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

import proxtune
from proxtune.errors import ConfigError, ProxtuneError

if TYPE_CHECKING:
    from proxtune.workflows.jobs import Job, RunConfig

    S = TypeVar("S", bound=RunConfig)

app = typer.Typer(
    name="proxtune",
    help="From a pretrained language model to an aligned one: sft, reward, ppo. Start with [bold]proxtune demo[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

Configs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml | recipe:NAME | section.key=value] ...",
        help="Config files, left to right, then overrides.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read the data, build the model, show what would be done; train nothing.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")]
InitFrom = Annotated[Path | None, typer.Option(metavar="RUN", help="Start from the model that this run made.")]


@app.command(epilog="Example: proxtune sft recipe:sft data.train=chats.jsonl name=my-sft optim.learning_rate=1e-4")
def sft(configs: Configs = None, dry_run: DryRun = False, resume: Resume = False, init_from: InitFrom = None) -> None:
    """Fine-tune on given answers."""
    from proxtune.workflows.jobs import SFTRun, sft_job

    _go(sft_job(_load(SFTRun, configs, init_from)), dry_run=dry_run, resume=resume)


@app.command(epilog="Example: proxtune reward recipe:reward data.train=pairs.jsonl --init-from runs/my-sft")
def reward(
    configs: Configs = None, dry_run: DryRun = False, resume: Resume = False, init_from: InitFrom = None
) -> None:
    """Train a reward model on pairs of answers, the better one first."""
    from proxtune.workflows.jobs import RewardRun, reward_job

    _go(reward_job(_load(RewardRun, configs, init_from)), dry_run=dry_run, resume=resume)


@app.command(
    epilog="Example: proxtune ppo recipe:ppo data.train=prompts.jsonl --init-from runs/my-sft "
    "--reward my_rewards.py:brevity"
)
def ppo(
    configs: Configs = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    init_from: InitFrom = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:FUNCTION[=WEIGHT]",
            help="A Python function (prompts, responses) -> numbers; may be given again.",
        ),
    ] = None,
) -> None:
    """Improve the model by PPO against reward models, Python functions, or both."""
    from proxtune.rewards.base import from_file
    from proxtune.workflows.jobs import PPORun, ppo_job

    functions = [from_file(spec) for spec in reward or ()]
    _go(ppo_job(_load(PPORun, configs, init_from), functions), dry_run=dry_run, resume=resume)


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
    from proxtune.rewards.base import from_file
    from proxtune.workflows.evaluate import evaluate_run

    for name, figure in evaluate_run(run, data, [from_file(spec) for spec in reward or ()]).items():
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


@app.command(epilog="Example: proxtune init ppo > ppo.yaml")
def init(task: Annotated[str, typer.Argument(metavar="TASK", help="sft, reward or ppo")]) -> None:
    """Print a commented starter config."""
    folder = Path(proxtune.__file__).parent / "recipes"
    names = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    if task not in names:
        raise ConfigError(f"unknown task {task!r}; expected one of {', '.join(names)}")
    typer.echo((folder / task / "config.yaml").read_text(encoding="utf-8"), nl=False)


@app.command(epilog="Example: proxtune demo --seed 2 --name demo-2")
def demo(
    name: Annotated[str, typer.Option(help="The run's folder is runs/<name>.")] = "demo",
    seed: Annotated[int, typer.Option(help="Every random draw derives from it.")] = 1,
    resume: Resume = False,
) -> None:
    """The whole road on real text: SFT, a reward model from human labels, PPO, and judges that PPO never saw."""
    from proxtune.workflows.demo import run_demo

    run_demo(Path("runs") / name, seed=seed, resume=resume, console=console)


def main() -> None:
    """Run the command line; an error of the user's making is one message, not a traceback."""
    try:
        app()
    except ProxtuneError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]")
        typer.echo(str(error), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; go on with --resume", err=True)
        sys.exit(130)


def _load(schema: "type[S]", configs: list[str] | None, init_from: Path | None) -> "S":
    from proxtune import config

    given = configs or []
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    files = [text for text in given if text not in overrides]
    if init_from is not None:
        overrides.append(f"model.name={init_from}")
    return config.load(schema, files, overrides)


def _go(job: "Job", *, dry_run: bool, resume: bool) -> None:
    from proxtune.workflows.train import describe, execute

    if dry_run:
        typer.echo(describe(job))
    else:
        execute(job, resume=resume, console=console)
