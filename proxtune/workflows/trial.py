"""A job made small enough to be examined in a minute: a few rows of its data, short answers, one update a step."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.data.bundled import resolve
from proxtune.data.collate import Tokens, collate_examples, collate_pairs
from proxtune.data.files import rows as read_rows
from proxtune.data.formats import MalformedRowError
from proxtune.data.lines import Encoding
from proxtune.data.template import PreferenceExample
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import disable_dropout
from proxtune.models.score import rewards, score
from proxtune.rewards.base import Answers, Reward
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.rollout import Rollout, Sampler
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import derive_seed
from proxtune.training.metrics import Metrics
from proxtune.training.optim import Optimizer
from proxtune.workflows.jobs import Job
from proxtune.workflows.schemas import PPORun, RewardRun, RunConfig, SFTRun
from proxtune.workflows.shapes import language_model, rows_of

READ, ROWS, LONGEST, NEW_TOKENS = 256, 4, 192, 16  # rows of the file, rows of a batch, tokens of a row, of an answer

C = TypeVar("C", bound=RunConfig)


def small(config: C, folder: Path) -> C:
    """The config with the first rows of its data, a small batch and short answers. All else is as configured.

    Dropout is off, for two passes with it differ on purpose, and so are autocast, whose rounding is larger than what is
    looked for, and the warm-ups, in which little or nothing moves.
    """
    train = head(config.data.train, config.data.encoding, folder)
    data = {"train": train, "encoding": "auto", "eval": None, "eval_fraction": 0.0}
    batch = {"batch_size": ROWS, "microbatch_size": None}
    changes: dict[str, dict[str, Any]] = {"data": data, "tuning": {"dropout": 0.0}, "optim": {"warmup": 0.0}}
    changes["training"] = {"autocast": "none"}
    if isinstance(config, SFTRun):
        changes["sft"] = batch
    elif isinstance(config, RewardRun):
        changes["reward_model"] = batch
    elif isinstance(config, PPORun):
        tokens = min(config.rollout.max_new_tokens, NEW_TOKENS)
        changes["ppo"] = batch | {"minibatch_size": ROWS, "epochs": 1}
        changes["rollout"] = {"max_new_tokens": tokens, "save": False}
        changes["critic"] = {"warmup_steps": 0}
        changes |= {"ptx": {"data": None}, "reward": {"judges": []}}
    parts = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    return config.model_copy(update=parts)


def head(path: Path, encoding: Encoding, folder: Path) -> Path:
    """The first well-formed rows of a data file, as a file of its own in `folder`, in UTF-8."""
    found = read_rows(resolve(path), hashlib.sha256(), encoding)
    rows = islice((row for _, row in found if not isinstance(row, MalformedRowError)), READ)
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, default=repr) + "\n" for row in rows), encoding="utf-8")
    return file


class Recorder(Optimizer):
    """Stands in for an optimiser: keeps the gradients that it is given, and moves nothing."""

    def __init__(self, optimizer: Optimizer, weights: dict[str, nn.Parameter]) -> None:
        super().__init__(optimizer.groups, optimizer.config, total=optimizer.total, rates=optimizer.peaks)
        self.weights = weights
        self.gradients: dict[str, Tensor] = {}

    def apply(self, figures: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        self.gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in self.weights.items()
        }
        self.adam.zero_grad(set_to_none=True)
        return dict(figures)


class Alternating:
    """+1 and −1 by turns, on top of a reward's scores if there is one: without a difference nothing is learnt."""

    name = "alternating"

    def __init__(self, reward: Reward | None = None) -> None:
        self.reward = reward

    def __call__(self, answers: Answers) -> Tensor:
        turns = 1.0 - 2 * (torch.arange(len(answers.responses)) % 2)
        return turns if self.reward is None else self.reward(answers) + turns


class Trial:
    """A small job under examination, with four rows of its data.

    For PPO the answers are sampled once, cut to uneven lengths, every second one ended by a stop token. Each step is
    given those again, with the log-probs that the trainer's own pass finds now, so that what one check finds is not
    found by the others too; `sampler` is the job's own.
    """

    def __init__(self, build: Callable[[], Job]) -> None:
        self.build, self.job = build, build()
        self.rows = pick([row for _ in range(16) for row in next(self.job.batches)])
        self.sampler: Sampler = sample
        if isinstance(self.algorithm, PPO):
            self.sampler = self.algorithm.sampler
            self.tokens, self.truncated = staged(self.sampled(self.algorithm.rollout), self.model)
        else:
            pairs = isinstance(self.rows[0], PreferenceExample)
            self.tokens = uneven((collate_pairs if pairs else collate_examples)(self.rows).to(self.model.device))
        self._prepare()

    def renew(self) -> None:
        """Build the job again, as another process would. Only one is in memory at a time."""
        del self.job
        self.job = self.build()
        self._prepare()

    def _prepare(self) -> None:
        for module in self.modules().values():
            disable_dropout(module)
        if isinstance(self.algorithm, PPO):
            self.algorithm.sampler = replayed(self.tokens, self.truncated)
            self.algorithm.reward = Alternating(self.algorithm.reward)
            # What a run would stop at is measured here instead.
            self.algorithm.assert_equal = lambda *_: None  # type: ignore[method-assign]

    @property
    def algorithm(self) -> SFT | RewardTrainer | PPO:
        assert isinstance(self.job.algorithm, SFT | RewardTrainer | PPO)
        return self.job.algorithm

    @property
    def model(self) -> LanguageModel:
        """The language model that is trained."""
        return language_model(self.job)

    @property
    def value_head(self) -> ScalarHead | None:
        """What reads values off the policy's trunk, if anything does."""
        shared = isinstance(self.algorithm, PPO) and self.algorithm.critic.trunk is None
        return self.algorithm.critic.head if isinstance(self.algorithm, PPO) and shared else None

    def modules(self) -> dict[str, nn.Module]:
        """Everything that has weights, but for the rewards."""
        parts: dict[str, nn.Module] = {"model": self.model.module}
        if isinstance(self.algorithm, RewardTrainer):
            parts["head"] = self.algorithm.model.head
        if isinstance(self.algorithm, PPO):
            critic, reference = self.algorithm.critic, self.algorithm.reference
            parts["critic.head"] = critic.head
            parts |= {"critic": critic.trunk.module} if critic.trunk else {}
            parts |= {"reference": reference.module} if reference else {}
        return parts

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that this run trains, by name."""
        named = ((f"{part}.{name}", p) for part, m in self.modules().items() for name, p in m.named_parameters())
        return {name: p for name, p in named if p.requires_grad}

    def unread(self) -> set[str]:
        """Trained weights that nothing reads: the language-model head, untied, of a model that is read as a trunk."""
        critic = self.algorithm.critic.trunk if isinstance(self.algorithm, PPO) else None
        trunks = {"model": self.model} if isinstance(self.algorithm, RewardTrainer) else {}
        trunks |= {"critic": critic} if critic else {}
        heads = {id(p) for lm in trunks.values() for p in lm.module.get_output_embeddings().parameters()}
        heads -= {id(p) for lm in trunks.values() for p in lm.module.get_input_embeddings().parameters()}
        return {name for name, p in self.trained().items() if id(p) in heads}

    def weights(self) -> dict[str, str]:
        """Every parameter and buffer, by name, with a digest of its bits; tied ones once."""
        parts = self.modules().items()
        return dict(digests({part: dict((*m.named_parameters(), *m.named_buffers())) for part, m in parts}))

    def step(self) -> Metrics:
        """One step on the four rows."""
        torch.manual_seed(derive_seed(self.job.config.seed, "step", self.algorithm.steps + 1))
        return self.algorithm.step(self.rows)

    def dry_step(
        self, rows: Sequence[Any] | None = None, *, microbatch: int | None = None, sampler: Sampler | None = None
    ) -> tuple[Metrics, dict[str, Tensor]]:
        """The figures of one step on `rows`, and the gradients that the optimiser is given.

        Nothing moves, and no reward is asked: one that is a matter of luck would be another gradient each time.
        """
        probe: Any = copy.copy(self.algorithm)  # Any: one of three classes, whose configs are three
        probe.config = probe.config.model_copy(update={"microbatch_size": microbatch})
        probe.optimizer = Recorder(probe.optimizer, self.trained())
        if isinstance(probe, PPO):
            probe.sampler, probe.reward, probe.scale = sampler or probe.sampler, Alternating(), copy.copy(probe.scale)
        figures: Metrics = probe.step(self.rows if rows is None else rows)
        return figures, probe.optimizer.gradients

    @torch.no_grad()
    def outputs(self, tokens: Tokens) -> Tensor:
        """What the algorithm reads off its models.

        Rewards [B], or log-probs [N] of the counted tokens; for PPO [2, N], their values too.
        """
        if isinstance(self.algorithm, RewardTrainer):
            return rewards(self.algorithm.model, tokens)
        if isinstance(self.algorithm, SFT):
            return score(self.model, tokens).logprobs[tokens.mask]
        now = score(self.model, tokens, temperature=self.algorithm.rollout.temperature, head=self.value_head)
        values = self.algorithm.critic.values(tokens) if now.values is None else now.values
        return torch.stack([now.logprobs[tokens.mask], values[tokens.mask]])

    def sampling(self, tokens: int, *, temperature: float = 1.0) -> SamplingConfig:
        """For answers of at most that many tokens, or what the model's context leaves."""
        room = self.model.context - max(len(row.prompt_ids) for row in self.rows)
        return SamplingConfig(max_new_tokens=max(1, min(tokens, room)), temperature=temperature)

    def sampled(self, config: SamplingConfig, sampler: Sampler | None = None) -> Rollout:
        """Answers to the rows' prompts by the job's own sampler, or another."""
        prompts = [row.prompt_ids for row in self.rows]
        seed = self.job.config.seed
        return collect(
            self.model, prompts, config, sampler=sampler or self.sampler, seed=seed, step=0, head=self.value_head
        )


def pick(rows: Sequence[Any]) -> list[Any]:
    """Four rows from short to long, none too long to be run through the model some thirty times."""
    ordered = sorted(rows, key=size)
    short = [row for row in ordered if size(row) <= LONGEST] or ordered[:ROWS]
    return [short[i * (len(short) - 1) // (ROWS - 1)] for i in range(ROWS)]


def size(row: Any) -> int:
    """Tokens of a row."""
    return max(map(sum, rows_of(row)))


def uneven(tokens: Tokens) -> Tokens:
    """Row i loses the end of its answer, so that padding there is; what stood there is rubbish now."""
    loss = torch.arange(len(tokens), device=tokens.response_lengths.device)
    lengths = (tokens.response_lengths - loss).clamp(min=1)
    return Tokens(tokens.prompt_ids, tokens.prompt_lengths, tokens.response_ids, lengths)


def staged(rollout: Rollout, model: LanguageModel) -> tuple[Tokens, Tensor]:
    """(tokens, truncated) of the answers cut to uneven lengths, every second one ended by a stop token."""
    tokens, n = rollout.tokens, len(rollout)
    rows = torch.arange(n, device=model.device)
    lengths = (tokens.response_lengths * (n - rows) // n).clamp(min=1)
    ids = tokens.response_ids.clone()
    ids[rows[1::2], lengths[1::2] - 1] = model.stop_ids[0]
    ended = torch.isin(ids[rows, lengths - 1], torch.tensor(model.stop_ids, device=model.device))
    return Tokens(tokens.prompt_ids, tokens.prompt_lengths, ids, lengths), ~ended


def replayed(tokens: Tokens, truncated: Tensor, *, rubbish: float = 0.0) -> Sampler:
    """A sampler that gives the same answers again, and lets the trainer's own pass say what it knew of them.

    rubbish: what stands where no token does.
    """

    @torch.no_grad()
    def sampler(
        model: LanguageModel,
        prompts: list[list[int]],  # noqa: ARG001 (those of `tokens`)
        config: SamplingConfig,
        *,
        uniforms: Tensor,  # noqa: ARG001
        head: ScalarHead | None = None,
    ) -> Rollout:
        now = score(model, tokens, temperature=config.temperature, head=head, entropy=True)
        assert now.entropy is not None
        fields = [None if x is None else torch.where(tokens.mask, x, rubbish) for x in (now.entropy, now.values)]
        logprobs = torch.where(tokens.mask, now.logprobs, rubbish)
        assert fields[0] is not None
        return Rollout(tokens, truncated, logprobs, fields[0], fields[1])

    return sampler


def digests(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a nested state by its dotted name, with a text that is equal only where it is equal bit for bit."""
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        yield key, f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw.data).hexdigest()}"
    elif isinstance(value, dict | list | tuple):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from digests(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, repr(value)
