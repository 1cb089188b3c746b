"""`proxtune rlhf`: people in the loop."""

from proxtune.cli.app import Configs, DryRun, InitFrom, Resume, app, console, load_config

EXAMPLE = """
Example: proxtune rlhf recipe:rlhf data.train=prompts.jsonl --init-from runs/sft

People judge in a browser meanwhile; in another terminal:

    proxtune label serve --store runs/rlhf/labels.db
"""


@app.command(epilog=EXAMPLE)
def rlhf(configs: Configs = None, dry_run: DryRun = False, resume: Resume = False, init_from: InitFrom = None) -> None:
    """Sample answers, ask people, learn what they like, improve the policy by PPO, have people compare; and again."""
    from proxtune.workflows.rlhf.loop import dry_run as try_out
    from proxtune.workflows.rlhf.loop import rlhf as run
    from proxtune.workflows.rlhf.schema import RLHFRun

    config = load_config(RLHFRun, configs, init_from)
    if dry_run:
        try_out(config, console)
    else:
        run(config, resume=resume, console=console)
