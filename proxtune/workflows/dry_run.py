"""A dry run: what a run would do, before it does it."""

from proxtune import config as configs
from proxtune.workflows.jobs import Job


def describe(job: Job) -> str:
    """What a run would do: the data as read, the steps, the weights, the resolved config."""
    trained, total = job.parameters["trained"], job.parameters["total"]
    return "\n".join(
        [
            *job.notes,
            f"steps       {job.steps}  ({job.batches.batches_per_epoch} to an epoch)",
            f"parameters  {trained:,} trained of {total:,} ({trained / total:.2%})",
            f"base        {job.base['name']}  sha256 {job.base['hash'][:16]}",
            f"run         {job.config.runs / job.config.name}",
            "",
            configs.dump(job.config),
        ]
    )
