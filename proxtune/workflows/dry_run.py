"""A dry run: what a run would do and cost, before it does it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxtune import config as configs
from proxtune.charts import duration
from proxtune.data.template import PreferenceExample, PromptExample
from proxtune.data.tokenizer import Tokenizer
from proxtune.workflows import machine, memory, preview
from proxtune.workflows.jobs import Job
from proxtune.workflows.machine import GIB, gib
from proxtune.workflows.memory import Estimate, Sizes
from proxtune.workflows.probe import STEPS, Clock, Part, Probe, guess, probe
from proxtune.workflows.shapes import language_model, upcoming

SHOWN = 3  # rows of the first batch


@dataclass(frozen=True)
class DryRun:
    """What was estimated and measured; without a probe where the run would not fit."""

    memory: Estimate
    probe: Probe | None
    time: list[Part]

    @property
    def seconds(self) -> Sizes:
        """The whole run: low, likely, high."""
        low, likely, high = (sum(part.seconds[i] for part in self.time) for i in range(3))
        return low, likely, high


def dry_run(job: Job, console: Console, *, clock: Clock = time.perf_counter) -> DryRun:
    """Show the data, the config, the first batch, and what memory, disk and time the run will need.

    Three real steps are taken for it, in memory alone: rewards are asked for, and no run folder is touched.
    """
    begun = time.process_time()
    console.print(describe(job), soft_wrap=True)
    tokenizer = language_model(job).tokenizer
    _show_rows(job, tokenizer, console)
    estimated = memory.estimate(job)
    _show_memory(estimated, console)
    free = machine.available(language_model(job).device)
    if free is not None and estimated.peak[1] > free:
        told = (
            f": {gib(estimated.peak[1])} are likely and {gib(free)} are free, so no step was tried. "
            "Smaller: sft.microbatch_size (reward_model., ppo.), tuning.kind=lora, tuning.top_layers"
        )
        console.print(Text.assemble(("will not fit", "bold red"), told))
        _show_disk(job, console)
        return DryRun(estimated, None, [])
    with console.status(f"taking {STEPS} steps") as status:
        measured = probe(job, clock=clock, watch=lambda step: status.update(f"step {step} of {STEPS} is done"))
    result = DryRun(estimated, measured, guess(job, measured, begun=begun))
    console.print(
        f"memory   {gib(estimated.peak[1])} likely ({gib(estimated.peak[0])} to {gib(estimated.peak[2])}), "
        f"{gib(measured.peak)} measured in {STEPS} steps{f', {gib(free)} free' if free else ''}",
    )
    _show_disk(job, console)
    _show_answers(measured, console)
    _show_time(result, console)
    return result


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


def _show_rows(job: Job, tokenizer: Tokenizer, console: Console) -> None:
    """The first rows of the first batch, token by token."""
    [batch] = upcoming(job, 1)
    console.print(Text.assemble("first batch, [", ("trained", preview.STYLES["trained"]), "] in brackets"))
    for row in [row for example in batch[:SHOWN] for row in _as_trained(example, tokenizer)]:
        console.print(Text.assemble((row.where, "bold"), f"  {row.answer}  ", (row.note, "dim")))
        given = [piece for piece in row.pieces if piece.kind == "given"]
        answer = preview.in_colour(row.pieces[len(given) :])
        console.print(Text.assemble(preview.in_colour(given), *(("[", answer, "]") if answer else ())), "\n")


def _as_trained(example: Any, tokenizer: Tokenizer) -> Iterator[preview.Previewed]:
    if not hasattr(example, "response_ids") and not isinstance(example, PreferenceExample):
        pieces = list(preview.pieces_of(tokenizer, example.prompt_ids, "given"))
        target = "" if isinstance(example, PromptExample) else f" · learnt: {example.target}"
        yield preview.Previewed(example.where, "", pieces, f"{len(example.prompt_ids)} tokens{target}")
        return
    pair = isinstance(example, PreferenceExample)
    answers = {"chosen": example.chosen_ids, "rejected": example.rejected_ids} if pair else {"": example.response_ids}
    for name, ids in answers.items():
        whole = len(example.prompt_ids) + len(ids)
        yield preview.answered(example.where, name, example.prompt_ids, ids, tokenizer, whole)


def _show_memory(estimated: Estimate, console: Console) -> None:
    table = Table("memory, GiB", "how", "low", "likely", "high", "when")
    for column in table.columns[2:5]:
        column.justify = "right"
    phases = sorted({phase for term in estimated.terms for phase in term.phases}, key=estimated.of_phase)
    for term in estimated.terms:
        when = "always" if len(term.phases) == len(phases) else ", ".join(term.phases)
        style = None if estimated.phase in term.phases else "dim"
        table.add_row(term.name, term.how, *_gibs(term.sizes), when, style=style)
    table.add_section()
    for phase in phases:
        row = (f"at {phase}", "the peak" if phase == estimated.phase else "", *_gibs(estimated.of_phase(phase)), "")
        table.add_row(*row, style="bold" if phase == estimated.phase else None)
    console.print(table)


def _show_disk(job: Job, console: Console) -> None:
    need = memory.disk(job)
    total, free = sum(size for _, size in need), machine.free_disk(job.config.runs)
    parts = " · ".join(f"{name} {gib(size)}" for name, size in need)
    console.print(f"disk     {gib(total)}, {gib(free)} free  ({parts})")
    if total > free:
        told = ": make room, or set runs to a folder elsewhere, training.save_every to more steps or tuning.kind=lora"
        console.print(Text.assemble(("will not fit on the disk", "bold red"), told))


def _show_answers(measured: Probe, console: Console) -> None:
    """What the policy answered in the probe's first step."""
    if not measured.samples:
        return
    table = Table("prompt", "sampled in the first step", "score")
    for row in measured.samples[:SHOWN]:
        table.add_row(Text(row["prompt"]), Text(row["response"]), f"{row['score']:.3g}")
    console.print(table)


def _show_time(result: DryRun, console: Console) -> None:
    table = Table("time", "how", "low", "likely", "high")
    for column in table.columns[2:]:
        column.justify = "right"
    for part in result.time:
        table.add_row(part.name, part.how, *map(duration, part.seconds))
    table.add_section()
    table.add_row("the run", "", *map(duration, result.seconds), style="bold")
    console.print(table)


def _gibs(sizes: Sizes) -> list[str]:
    return [f"{size / GIB:.2f}" if size >= GIB / 100 or not size else "<0.01" for size in sizes]
