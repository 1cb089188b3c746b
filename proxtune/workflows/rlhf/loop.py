"""`proxtune rlhf`: sample, ask people, learn what they like, improve the policy, have people compare; and again.

runs/<name>/
├── labels.db                the judgements (unless they are elsewhere)
├── prompts.jsonl            what the policy is trained on
├── held_prompts.jsonl       and what nothing is trained on
├── iterations/001/
│   ├── candidates.json      (a) answers of the policy to some prompts
│   ├── asked.json           (b) the most telling pairs, which people are asked about
│   ├── pairs.jsonl          (c) all judgements so far, and held_pairs.jsonl
│   ├── reward/              (c) the reward model learnt from them: a run
│   ├── ppo/                 (d) the new policy: a run
│   ├── compared.json        (e) when people were asked to compare it with the one before
│   └── finding.json         (e) what was measured, and what changes
└── status.html

Each line is written once, whole, in this order. Killed at any point, the loop goes on at the first that is missing.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from proxtune import config as configs
from proxtune.charts import duration
from proxtune.data.records import Message, Prompt, PromptLike, prompt_row
from proxtune.data.sources import load as load_data
from proxtune.data.template import encode_prompt, encode_prompts
from proxtune.errors import ConfigError, DataError, StoreError
from proxtune.feedback.export import side_of_text
from proxtune.feedback.store import Store
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig
from proxtune.models.load import load as load_model
from proxtune.rewards.base import FunctionReward
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import Run, derive_seed, environment, write_atomic
from proxtune.workflows.dry_run import DryRun
from proxtune.workflows.dry_run import dry_run as try_out
from proxtune.workflows.jobs import ppo_job
from proxtune.workflows.rewards import RewardConfig
from proxtune.workflows.rlhf import page, questions
from proxtune.workflows.rlhf.design import Design, adjusted, figures, kept
from proxtune.workflows.rlhf.measure import findings
from proxtune.workflows.rlhf.questions import Judged, Pair
from proxtune.workflows.rlhf.schema import RLHFRun
from proxtune.workflows.rlhf.stages import learn, longer, policy_run, train_policy
from proxtune.workflows.train import difference

POLL = 2.0  # seconds between two looks at the store
SECONDS_AN_ANSWER = 20  # of a pair of short texts, for the estimate of a dry run


class Iteration:
    """One time round: its folder, the policy it begins with, and its design."""

    def __init__(self, run: str, folder: Path, number: int, policy: str, design: Design, reward: Path | None) -> None:
        self.folder, self.number, self.policy, self.design = folder, number, policy, design
        self.last_reward = reward
        self.asking = f"{run}-{number:03}"  # several runs may ask in one store
        self.comparing = f"{self.asking}-compared"

    def write(self, name: str, content: Any) -> None:
        write_atomic(self.folder / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()


class Loop:
    """The loop over a run's folder and its store."""

    def __init__(self, config: RLHFRun, run: Run, store: Store, console: Console) -> None:
        self.config, self.run, self.store, self.console = config, run, store, console
        self.now = ""

    def go(self) -> None:
        """All iterations that are not finished."""
        self.prompts, self.held_prompts = write_prompts(self.config, self.run.path, self.console)
        policy, reward = self.config.model.name, None
        design = Design(self.config.policy.ppo.kl_coef, self.config.ask.pairs)
        for number in range(1, self.config.iterations + 1):
            folder = self.run.path / "iterations" / f"{number:03}"
            folder.mkdir(parents=True, exist_ok=True)
            it = Iteration(self.config.name, folder, number, policy, design, reward)
            if not it.has("finding.json"):
                self.console.rule(Text(f"iteration {number} of {self.config.iterations}", "bold"))
                self._round(it)
            finding = it.read("finding.json")
            design, policy = Design(**finding["design"]), finding["policy"]
            reward = folder / "reward"
        self._status("finished")

    def _round(self, it: Iteration) -> None:
        self._ask(it)
        self._wait(it, it.asking, "asked.json", self.config.ask.least)
        self._judgements(it)
        self._status("learning what people like")
        learn(self.config, it.folder, self.console)
        self._status("improving the policy")
        train_policy(self.config, it.folder, it.policy, it.design, self.store, self.console)
        self._compare(it)
        self._wait(it, it.comparing, "compared.json", 0)
        self._status("measuring")
        found = findings(self.config, it.folder, self.store, it.comparing)
        design, reasons = adjusted(it.design, found)
        policy = str(it.folder / "ppo") if kept(found) else it.policy
        self.run.rewind(it.number - 1)  # a line that a kill left without its finding
        self.run.log(it.number, figures(found))
        it.write(
            "finding.json",
            {**asdict(found), "iteration": it.number, "design": design.state(), "reasons": reasons, "policy": policy},
        )
        for line in [page.sentence(found), *reasons]:
            self.console.print(line)

    def _ask(self, it: Iteration) -> None:
        """(a) answers of the policy, and (b) the pairs of them that people are asked about."""
        ask, seed = self.config.ask, derive_seed(self.config.seed, "ask", it.number)
        if not it.has("candidates.json"):
            self._status("answering")
            drawn = _drawn(self.prompts + self.held_prompts, ask.prompts, seed)
            answers = self._answers(it.policy, drawn, ask.answers, seed)
            pairs = questions.pairs_of(drawn, answers)
            it.write("candidates.json", _rows(pairs))
        if not it.has("asked.json"):
            self._status("choosing what to ask")
            pairs = _pairs(it.read("candidates.json"))
            reads = load_model(self._model(str(it.last_reward or it.policy)))
            known = questions.preferences(self.store) if ask.choose == "informative" else []
            pairs = questions.chosen(reads, pairs, known, it.design.pairs, how=ask.choose, seed=seed)
            it.write("asked.json", {"pairs": _rows(pairs)})
        self._queue(it, _pairs(it.read("asked.json")["pairs"]), it.asking, ask.again, ("policy", "policy"))

    def _compare(self, it: Iteration) -> None:
        """(e) answers of the new policy beside those of the old, to prompts that nothing was trained on."""
        if it.has("compared.json"):
            return
        self._status("answering, before and after")
        seed = derive_seed(self.config.seed, "compare", it.number)
        drawn = _drawn(self.held_prompts, self.config.ask.compared, seed)
        old, new = (self._answers(name, drawn, 1, seed) for name in (it.policy, str(it.folder / "ppo")))
        rows = [Pair(prompt, a, b) for prompt, (a,), (b,) in zip(drawn, old, new, strict=True)]
        differ = [pair for pair in rows if pair.first != pair.second]
        sources = (f"{self.config.name} policy {it.number - 1}", f"{self.config.name} policy {it.number}")
        self._queue(it, differ, it.comparing, 0.0, sources)
        it.write("compared.json", {"pairs": len(differ), "same": len(rows) - len(differ)})

    def _queue(self, it: Iteration, pairs: Sequence[Pair], batch: str, again: float, sources: tuple[str, str]) -> None:
        people, seed = self.config.ask.people, derive_seed(self.config.seed, "again", it.number)
        self.store.queue.add(
            questions.items(pairs, batch=batch, people=people, again=again, sources=sources, seed=seed)
        )

    def _wait(self, it: Iteration, batch: str, marker: str, least: int) -> None:
        """Until people have answered all, or time is up and there are enough answers to go on with."""
        asked = it.read(marker)
        deadline, told = time.monotonic() + self.config.ask.wait, -1
        while asked["pairs"]:
            progress = self.store.queue.batches()[batch]
            if progress.closed == progress.items:
                return
            if progress.judgements != told:
                told = progress.judgements
                self._status(f"waiting for people: {batch}, {told} answers, {progress.closed} of {progress.items} done")
            if time.monotonic() > deadline:
                if len(questions.preferences(self.store)) >= least:
                    self.console.print(f"time is up: going on with what {told} answers say of {batch}")
                    return
                self._status(f"time is up, and {least} judged pairs are needed: waiting on")
            time.sleep(POLL)

    def _judgements(self, it: Iteration) -> None:
        """(c) What people prefer, to learn from and to measure by; written once, so that a kill changes nothing."""
        if it.has("pairs.jsonl"):
            return
        known = [one for one in questions.preferences(self.store) if one.preferred != 0.5]
        for name, held in (("held_pairs", True), ("pairs", False)):
            rows = [_row(one) for one in known if is_held(self.config, one.pair.prompt) is held]
            if not rows:
                raise StoreError(
                    f"people prefer an answer in {len(known)} pairs, and none is for {name}.jsonl: too little to learn "
                    "or to measure by; begin anew with more ask.pairs, or another ask.held_out"
                )
            _write_rows(it.folder / f"{name}.jsonl", rows)

    def _answers(self, policy: str, prompts: Sequence[PromptLike], count: int, seed: int) -> list[list[str]]:
        model = load_model(self._model(policy))
        rollout = self.config.policy.rollout
        records = [Prompt(prompt) for prompt in prompts]
        encoded, _ = encode_prompts(records, model.tokenizer, max_length=room(self.config, model))
        sampling = SamplingConfig(max_new_tokens=rollout.max_new_tokens, temperature=rollout.temperature)
        return questions.answers_to(model, encoded, sampling, count=count, seed=seed)

    def _model(self, name: str) -> ModelConfig:
        return self.config.model.model_copy(update={"name": name})

    def _status(self, doing: str) -> None:
        """Say what the loop does, here and on its page."""
        if doing != self.now:
            self.now = doing
            self.console.print(doing, style="dim")
        page.write(self.run, self.config, self.store, doing)


def write_prompts(config: RLHFRun, folder: Path, console: Console) -> tuple[list[PromptLike], list[PromptLike]]:
    """The prompts in two files, (those that PPO is trained on, those that nothing is): a prompt's hash decides.

    Raises DataError: a row is no prompt, or is too long for people and models to read the same, or all are on one side.
    """
    train, held_out = load_data(config.data, seed=config.seed)
    model, dropped = load_model(config.model), 0
    most = room(config, model)
    sides: dict[bool, list[Prompt]] = {False: [], True: []}
    for record in [*train.records, *(held_out.records if held_out is not None else ())]:
        if not isinstance(record, Prompt):
            raise DataError(f"{record.where}: expected a prompt, as people and PPO answer it")
        tokens = len(encode_prompt(model.tokenizer, record.prompt))
        if tokens > most and config.data.too_long != "drop":
            raise DataError(
                f"{record.where}: a prompt of {tokens} tokens, and there is room for {most}; people and models "
                "must read the same: shorten it, raise data.max_length, or set data.too_long=drop"
            )
        if tokens > most:
            dropped += 1
            continue
        sides[is_held(config, record.prompt)].append(record)
    if dropped:
        console.print(f"{dropped} prompts of more than {most} tokens are left out")
    for held, name in ((False, "prompts"), (True, "held_prompts")):
        if not sides[held]:
            count = sum(map(len, sides.values()))
            raise DataError(f"{count} prompts leave none for {name}.jsonl; give more, or another ask.held_out")
        _write_rows(
            folder / f"{name}.jsonl",
            [{"prompt": prompt_row(record.prompt), **record.columns} for record in sides[held]],
        )
    return [record.prompt for record in sides[False]], [record.prompt for record in sides[True]]


def room(config: RLHFRun, model: LanguageModel) -> int:
    """The most tokens that a prompt may have."""
    return config.data.max_length or model.context - config.policy.rollout.max_new_tokens


def is_held(config: RLHFRun, prompt: PromptLike) -> bool:
    """Whether nothing is trained on a prompt: the side on which an export with this share and seed has it too."""
    text = prompt if isinstance(prompt, str) else " ".join(turn.content for turn in prompt)
    return side_of_text(text, config.ask.held_out, config.seed) == "held-out"


def dry_run(config: RLHFRun, console: Console) -> DryRun:
    """Say what people are asked, and what PPO of an iteration needs by three steps of it; nothing is left behind."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "iterations" / "001"
        folder.mkdir(parents=True)
        train, held = write_prompts(config, Path(temporary), console)
        ask = config.ask
        run = policy_run(config, folder, config.model.name, Design(config.policy.ppo.kl_coef, ask.pairs))
        unrewarded = run.model_copy(update={"reward": RewardConfig()})
        job = ppo_job(unrewarded, [(FunctionReward(longer, "people"), 1.0)])
        answers = ask.pairs * (ask.people + ask.again) + min(ask.compared, len(held)) * ask.people
        if config.people.reward != "model":
            answers += job.steps * run.ppo.batch_size * config.people.rate
        console.print(
            f"{len(train) + len(held)} prompts: {len(train)} for PPO, {len(held)} held out\n"
            f"an iteration asks for {answers:.0f} answers; at {SECONDS_AN_ANSWER} s each, people are at work for "
            f"{duration(answers * SECONDS_AN_ANSWER)}, and {config.iterations} times that in all",
        )
        return try_out(job, console)


def rlhf(config: RLHFRun, *, resume: bool, console: Console) -> Run:
    """Run the loop in its folder, from where it was.

    Raises ConfigError: the folder is taken, or was begun with another config. StoreError: the store cannot be used.
    """
    with Run.create(config.runs / config.name, resume=resume) as run:
        text = configs.dump(config)
        if not run.manifest():
            run.write_config(text)
            run.write_manifest({"command": "rlhf", "environment": environment()})
        elif run.config_path.read_text(encoding="utf-8") != text:
            old = run.config_path.read_text(encoding="utf-8")
            raise ConfigError(
                f"{run.path} was begun with another config:\n{difference(old, text)}\n"
                "give the run's own values to resume it"
            )
        with Store.create(config.store or run.path / "labels.db") as store:
            Loop(config, run, store, console).go()
        console.print(f"status  {page.path_of(run)}", soft_wrap=True)
    return run


def _drawn(prompts: Sequence[PromptLike], count: int, seed: int) -> list[PromptLike]:
    """So many of the prompts, in an order that the seed decides."""
    order = sorted(range(len(prompts)), key=lambda place: derive_seed(seed, "prompt", place))
    return [prompts[place] for place in order[:count]]


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(judged: Judged) -> dict[str, Any]:
    """A pair as the reward model learns it, the better answer first."""
    pair, better = judged.pair, judged.preferred > 0.5
    chosen, rejected = (pair.first, pair.second) if better else (pair.second, pair.first)
    return {"prompt": prompt_row(pair.prompt), "chosen": chosen, "rejected": rejected}


def _rows(pairs: Sequence[Pair]) -> list[list[Any]]:
    return [[prompt_row(pair.prompt), pair.first, pair.second] for pair in pairs]


def _pairs(rows: Sequence[Sequence[Any]]) -> list[Pair]:
    return [Pair(_as_prompt(prompt), first, second) for prompt, first, second in rows]


def _as_prompt(row: Any) -> PromptLike:
    return row if isinstance(row, str) else tuple(Message(turn["role"], turn["content"]) for turn in row)
