"""`proxtune tune`: the best values of options, searched."""

from typing import Annotated

import typer

from proxtune.cli.app import Configs, InitFrom, app, console, load_config, sources
from proxtune.errors import ConfigError

EXAMPLE = """
Example: proxtune tune sft.yaml search.trials=20, where sft.yaml has besides its own sections

    search:
      space:
        optim.learning_rate: {low: 1e-5, high: 1e-3, log: true}
        tuning.rank: {choices: [4, 8, 16]}
        sft.batch_size: {low: 8, high: 32, step: 8}
"""


@app.command(epilog=EXAMPLE)
def tune(
    configs: Configs = None,
    command: Annotated[
        str | None, typer.Option(metavar="sft|reward|ppo", help="What the config is for, where it does not say.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search; search.trials may be a higher number.")
    ] = False,
    init_from: InitFrom = None,
    reward: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:FUNCTION[=WEIGHT]", help="As `proxtune ppo` takes it.")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:FUNCTION", help="As `proxtune ppo` takes it.")
    ] = None,
) -> None:
    """Search for the best values of options: the config's `search` says which, and by what figure."""
    from proxtune.workflows.tune import tune as search
    from proxtune.workflows.tune_space import SEARCHES
    from proxtune.workflows.tune_worker import Functions
    from proxtune.workflows.verify import command_of

    command = command or command_of(*sources(configs))
    if command not in SEARCHES:
        raise ConfigError(f"--command {command}: expected {', '.join(SEARCHES)}")
    if command != "ppo" and (reward or judge):
        raise ConfigError(f"--reward and --judge are of ppo, and this is {command}; leave them out")
    config = load_config(SEARCHES[command], configs, init_from)
    search(config, resume=resume, functions=Functions(reward or (), judge or ()), console=console)
