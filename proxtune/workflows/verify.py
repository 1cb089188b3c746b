"""`proxtune doctor --verify`: in about a minute, whether what must hold of every run holds of this one.

On the configured model, data and hardware. A number that is wrong in silence is caught here or in no log at all.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxtune.config.source import Draft
from proxtune.errors import ConfigError
from proxtune.workflows import invariants as check
from proxtune.workflows.invariants import Gap
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.rewards import functions_of
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun
from proxtune.workflows.trial import Trial, small

SECTIONS = {"sft": {"sft"}, "reward": {"reward_model"}, "ppo": {"ppo", "rollout", "reward", "critic", "ptx"}}


class Check(NamedTuple):
    """One invariant: what must hold, of which commands, how it is measured, and what it means when it does not."""

    name: str
    unit: str
    commands: str
    measure: Callable[[Trial], Gap | None]
    hint: str


# In this order: ratio and KL are 1 and 0 before the first update only; sampler and saved model are examined after some,
# when an adapter that never reached them would show.
CHECKS = (
    Check(
        "ratio is 1 before the first update",
        "nats",
        "ppo",
        check.first_ratio,
        "The training pass is another function than the one that gives the old log-probs: another temperature, or "
        "dropout that stays on. Every update would be clipped, or pushed by noise.",
    ),
    Check(
        "KL is 0 before the first update",
        "nats",
        "ppo",
        check.first_kl,
        "The reference is not the policy as it stands. Merge an adapter that was trained before (save the model, load "
        "the folder), give policy and reference one dtype, and pass no other model as the reference.",
    ),
    Check(
        "padding is not seen",
        "",
        "sft reward ppo",
        check.padded_slots,
        "A real token sees padding to its right: the attention is not causal, or the model mixes positions (pooling, "
        "batch norm, a prefix mask). Results depend on what a row is batched with: it cannot be trained here.",
    ),
    Check(
        "a batch equals its rows one by one",
        "",
        "sft reward ppo",
        check.rows_alone,
        "Position ids or the attention mask depend on the width of the batch, or the kernel does more than rounding. "
        "Compare a row alone and in a batch by hand (models.score.score); try model.dtype=float32.",
    ),
    Check(
        "NaN in masked slots changes nothing",
        "share",
        "sft ppo",
        check.masked_slots,
        "An objective multiplies by its mask (0 · NaN is NaN) or sums outside of it. Select with torch.where, as "
        "objectives.masked does.",
    ),
    Check(
        "micro-batches add up to the batch",
        "share",
        "sft reward ppo",
        check.microbatches,
        "A loss is divided by the micro-batch's own count instead of the whole step's (`count`), so that the size of "
        "micro-batches changes the result. If padding or rows fail above, mend those first.",
    ),
    Check(
        "the stop token is learnt",
        "answers",
        "sft reward ppo",
        check.stop_token,
        "The model would never learn to end an answer (a reward model: not see its end). A mask was made from ids, "
        "with pad equal to EOS, or the tokenizer's stop token is not the one that the chat template writes.",
    ),
    Check(
        "what is trained moves, nothing else",
        "tensors",
        "sft reward ppo",
        check.everything_moves,
        "A weight is marked as trained and gets no gradient (nothing reads it, or a detach or no_grad cut it off), the "
        "step was not finite, or the update is smaller than the type can hold: with bfloat16 weights raise "
        "optim.learning_rate or set model.dtype=float32.",
    ),
    Check(
        "an update leaves the reference alone",
        "nats",
        "ppo",
        check.reference_stays,
        "The reference shares weights with the policy, so the KL measures nothing. It must be a copy, or the same "
        "weights with the adapter off.",
    ),
    Check(
        "the sampler equals the trainer",
        "nats",
        "sft ppo",
        check.sampler_agrees,
        "The sampler draws from other weights or another distribution than is trained: a stale copy, an adapter that "
        "it does not apply, a temperature, top_p or penalty that the log-probs leave out.",
    ),
    Check(
        "the engine equals plain sampling",
        "nats",
        "sft ppo",
        check.engine_agrees,
        "The key/value cache gives another function: positions, a sliding window, or rows that change place. Sample "
        "with rollouts.generate (slow, right) and report the model.",
    ),
    Check(
        "a resumed run goes on bit for bit",
        "values",
        "sft reward ppo",
        check.checkpoint_resumes,
        "state() leaves something out that step() reads or changes (moments, counters, a scale), or a step is not a "
        "function of its inputs: a reward with a clock or a generator of its own, a CUDA kernel that adds in any "
        "order.",
    ),
    Check(
        "the saved model is the trained one",
        "",
        "sft reward ppo",
        check.saved_model_reloads,
        "Merging the adapter or writing the weights changed them: a dtype that rounds, a tied weight that was trained "
        "apart, a key that the loader renames. The result of the run would be another model.",
    ),
)


@dataclass(frozen=True)
class Finding:
    """What came of one check. `passed` is None where there was no time for it; `gap` is None if it could not be run."""

    name: str
    gap: float | None
    limit: float | None
    unit: str
    passed: bool | None
    hint: str
    seconds: float


def verify(build: Callable[[], Job], console: Console, *, seconds: float = 300) -> list[Finding]:
    """Run all checks that apply to the job, one line each as they are done; none begins after `seconds`."""
    began = time.monotonic()
    trial = Trial(build)
    checks = [each for each in CHECKS if trial.job.command in each.commands.split()]
    console.print(f"model and data ready  {time.monotonic() - began:.0f} s", style="dim")
    findings: list[Finding] = []
    ready = time.monotonic()
    for number, each in enumerate(checks, start=1):
        finding = examine(trial, each) if time.monotonic() - began < seconds else _late(each, seconds)
        findings += [finding] if finding else []
        left = (time.monotonic() - ready) / number * (len(checks) - number)
        verdict = verdict_of(finding) if finding else Text("nothing to check")
        times = f"  {time.monotonic() - began:.0f} s, about {left:.0f} s left"
        console.print(Text.assemble(f"{number:2}/{len(checks)}  {each.name:36} ", verdict, (times, "dim")))
    return findings


def examine(trial: Trial, each: Check) -> Finding | None:
    """One check, timed; what it raises is a finding too."""
    began = time.monotonic()
    try:
        gap = each.measure(trial)
    except Exception as error:  # noqa: BLE001 (whatever a model, reward or kernel raises is what the check found)
        told = f"It could not be run: {type(error).__name__}: {error}"
        return Finding(each.name, None, None, each.unit, passed=False, hint=told, seconds=time.monotonic() - began)
    if gap is None:
        return None
    passed = gap.value <= gap.limit
    where = f"Where: {gap.where}. " if gap.where else ""
    hint = "" if passed else where + each.hint
    return Finding(each.name, gap.value, gap.limit, each.unit, passed, hint, time.monotonic() - began)


def _late(each: Check, seconds: float) -> Finding:
    hint = f"The {seconds:g} seconds were over; give it more with --seconds."
    return Finding(each.name, None, None, each.unit, passed=None, hint=hint, seconds=0.0)


def verdict_of(finding: Finding) -> Text:
    """In a word."""
    return Text(*{True: ("holds", "green"), False: ("FAILS", "bold red"), None: ("not run", "yellow")}[finding.passed])


def show(findings: Sequence[Finding], console: Console) -> None:
    """The table, and for what does not hold what it means and what to do."""
    table = Table("what must hold", "measured", "limit", "", "s", title="Invariants", box=SIMPLE_HEAD)
    for finding in findings:
        limit = "—" if finding.limit is None else f"{finding.limit:g} {finding.unit}".strip()
        measured = "—" if finding.gap is None else f"{finding.gap:.2g}"
        table.add_row(finding.name, measured, limit, verdict_of(finding), f"{finding.seconds:.1f}")
    console.print(table)
    for finding in findings:
        if not finding.passed:
            console.print(Text.assemble((finding.name, "bold"), ": ", verdict_of(finding), f". {finding.hint}"))
    held = sum(finding.passed is True for finding in findings)
    console.print(f"{held} of {len(findings)} hold")


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON has them: a gap that is no finite number is null."""
    finite = [f.gap if f.gap is not None and math.isfinite(f.gap) else None for f in findings]
    return [asdict(finding) | {"gap": gap} for finding, gap in zip(findings, finite, strict=True)]


def command_of(files: Sequence[str], overrides: Sequence[str]) -> str:
    """The command that a config is for, by the sections that it has.

    Raises:
        ConfigError: they fit none, or more than one.
    """
    draft = Draft()
    for order, file in enumerate(files):
        draft.read_file(order, file)
    for override in overrides:
        draft.read_override(len(files), override)
    if draft.mistakes:
        raise ConfigError("\n".join(f"{mark}: {text}" for mark, text in draft.mistakes))
    present = set(draft.values)
    fits = [command for command, sections in SECTIONS.items() if sections & present]
    if len(fits) == 1:
        return fits[0]
    found = f"it has {', '.join(sorted(present)) or 'no sections'}"
    raise ConfigError(f"sft, reward or ppo? The config does not say ({found}); add --command sft, reward or ppo")


def builder(config: RunConfig, functions: Sequence[str], folder: Path) -> Callable[[], Job]:
    """What builds the small job of a config, again and again; `functions` are PPO's FILE.py:FUNCTION[=WEIGHT]."""
    config = small(config, folder)
    if isinstance(config, PPORun):
        rewards = functions_of(config.reward, functions)
        return lambda: ppo_job(config, rewards)
    if functions:
        raise ConfigError(f"--reward {functions[0]}: only PPO has a reward; leave it out")
    if isinstance(config, SFTRun):
        if config.task.kind != "language":
            raise ConfigError(
                f"task.kind={config.task.kind}: --verify examines language models, reward models and PPO; "
                "`proxtune sft --dry-run` shows what a task would learn"
            )
        return lambda: sft_job(config)
    assert isinstance(config, RewardRun)
    return lambda: reward_job(config)
