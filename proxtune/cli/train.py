"""`proxtune sft`, `reward`, `ppo`: what trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxtune.cli.app import Configs, DryRun, InitFrom, Resume, app, console, load_config

if TYPE_CHECKING:
    from proxtune.workflows.jobs import Job


@app.command(epilog="Example: proxtune sft recipe:sft data.train=chats.jsonl name=my-sft optim.learning_rate=1e-4")
def sft(configs: Configs = None, dry_run: DryRun = False, resume: Resume = False, init_from: InitFrom = None) -> None:
    """Fine-tune on given answers."""
    from proxtune.workflows.jobs import sft_job
    from proxtune.workflows.schemas import SFTRun

    _go(sft_job(load_config(SFTRun, configs, init_from)), dry_run=dry_run, resume=resume)


@app.command(epilog="Example: proxtune reward recipe:reward data.train=pairs.jsonl --init-from runs/my-sft")
def reward(
    configs: Configs = None, dry_run: DryRun = False, resume: Resume = False, init_from: InitFrom = None
) -> None:
    """Train a reward model on pairs of answers, the better one first."""
    from proxtune.workflows.jobs import reward_job
    from proxtune.workflows.schemas import RewardRun

    _go(reward_job(load_config(RewardRun, configs, init_from)), dry_run=dry_run, resume=resume)


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
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="A Python function that scores the held-out answers and is never trained on; may be given again.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train on the answers and scores that RUN kept (rollout.save=true), with its config and what follows; "
            "sample nothing.",
        ),
    ] = None,
) -> None:
    """Improve the model by PPO against reward models, Python functions, or both."""
    from proxtune.workflows.jobs import ppo_job
    from proxtune.workflows.rewards import functions_of
    from proxtune.workflows.schemas import PPORun

    if replay is not None:
        configs = [str(replay / "config.yaml"), f"name={replay.name}-replay", *(configs or ())]
    config = load_config(PPORun, configs, init_from)
    functions = functions_of(config.reward, reward or ())
    judges = [function for function, _ in functions_of(config.reward, judge or ())]
    job = ppo_job(config, functions, judges=judges, replay=replay)
    _go(job, dry_run=dry_run, resume=resume)


def _go(job: "Job", *, dry_run: bool, resume: bool) -> None:
    from proxtune.workflows.dry_run import dry_run as try_out
    from proxtune.workflows.train import execute

    if dry_run:
        try_out(job, console)
    else:
        execute(job, resume=resume, console=console)
