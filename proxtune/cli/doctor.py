"""`proxtune doctor`: is this machine well, and is this run?"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from proxtune.cli.app import Configs, InitFrom, app, console, load_config, sources
from proxtune.errors import ConfigError
from proxtune.workflows.terminal import terminal


@app.command(epilog="Example: proxtune doctor --verify ppo.yaml --reward my_rewards.py:brevity")
def doctor(
    configs: Configs = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check, in about a minute, what must hold of every run, on this config.")
    ] = False,
    command: Annotated[
        str | None, typer.Option(metavar="sft|reward|ppo", help="What the config is for, where it does not say.")
    ] = None,
    init_from: InitFrom = None,
    reward: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:FUNCTION[=WEIGHT]", help="As `proxtune ppo` takes it.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="No check begins after this time.")] = 300,
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="Where runs live.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """What a report of a bug needs, and what is known to hurt; with --verify, whether a run would be right.

    With --verify, the exit code is 1 unless everything that was to be checked holds.
    """
    if not verify:
        if configs:
            raise ConfigError(f"got {' '.join(configs)}; add --verify to check a config")
        _machine(runs, as_json=as_json)
        return
    from proxtune.workflows import verify as verifying
    from proxtune.workflows.evaluate import SCHEMAS

    command = command or verifying.command_of(*sources(configs))
    if command not in SCHEMAS:
        raise ConfigError(f"--command {command}: expected {', '.join(SCHEMAS)}")
    config = load_config(SCHEMAS[command], configs, init_from)
    with tempfile.TemporaryDirectory() as folder:
        build = verifying.builder(config, reward or (), Path(folder))
        findings = verifying.verify(build, terminal(stderr=True) if as_json else console, seconds=seconds)
    if as_json:
        typer.echo(json.dumps(verifying.as_json(findings), indent=2))
    else:
        verifying.show(findings, console)
    raise typer.Exit(code=0 if all(finding.passed for finding in findings) else 1)


def _machine(runs: Path, *, as_json: bool) -> None:
    from proxtune.workflows import doctor as examining

    found = examining.facts(runs)
    if as_json:
        typer.echo(json.dumps(examining.as_json(found), indent=2))
    else:
        examining.show(found, console)
