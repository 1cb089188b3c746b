"""Training jobs over tiny models, whole, and each broken on purpose so that `proxtune doctor --verify` must see it."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaModel

from proxtune.algorithms import ppo as ppo_file
from proxtune.algorithms import sft as sft_file
from proxtune.algorithms.ppo import PPO, Experience
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.reward_model import RewardModelConfig, RewardTrainer
from proxtune.algorithms.sft import SFT, SFTConfig
from proxtune.data.collate import Tokens, length_mask
from proxtune.data.loader import Loader
from proxtune.data.sources import DataConfig
from proxtune.data.template import Example, PreferenceExample, PromptExample
from proxtune.models import score as score_file
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.peft import TuningConfig, tune
from proxtune.objectives import clipped_value_loss, sft_loss
from proxtune.objectives.ppo import Stats
from proxtune.rollouts.engine import sample
from proxtune.rollouts.rollout import Rollout
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.metrics import Metrics
from proxtune.training.optim import OptimConfig
from proxtune.workflows import invariants
from proxtune.workflows.jobs import Job
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun
from tests.tiny import tiny_model

RATIO, KL = "ratio is 1 before the first update", "KL is 0 before the first update"
PADDING, ROWS = "padding is not seen", "a batch equals its rows one by one"
MASKED, MICRO = "NaN in masked slots changes nothing", "micro-batches add up to the batch"
STOP, MOVES = "the stop token is learnt", "what is trained moves, nothing else"
REFERENCE, SAMPLER = "an update leaves the reference alone", "the sampler equals the trainer"
ENGINE, RESUME = "the engine equals plain sampling", "a resumed run goes on bit for bit"
SAVED = "the saved model is the trained one"

FULL, LORA = TuningConfig(kind="full"), TuningConfig(rank=2)
OPTIM = OptimConfig(learning_rate=1e-2, warmup=0)
DATA = DataConfig(train=Path("nowhere.jsonl"))
WORDS = ([5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15])
STOP_ID, STEPS = 1, 50


def sft_job(cls: type[SFT] = SFT, *, tuning: TuningConfig = LORA, model: LanguageModel | None = None) -> Job:
    """Answers of two to six tokens, the stop token last."""
    lm = tune(model or tiny_model(), tuning)
    rows = [Example(ids, [*reversed(ids), STOP_ID], f"row {i}", truncated=False) for i, ids in enumerate(WORDS)]
    algorithm = cls(lm, SFTConfig(batch_size=4), optim=OPTIM, total_steps=STEPS)
    return _job("sft", SFTRun(data=DATA), algorithm, rows)


def reward_job(*, tuning: TuningConfig = LORA, model: LanguageModel | None = None) -> Job:
    """Pairs whose answers differ in length."""
    lm = tune(model or tiny_model(), tuning)
    rows = [PreferenceExample(ids, [*ids, 20, STOP_ID], [21, 22, STOP_ID], f"row {i}") for i, ids in enumerate(WORDS)]
    head = ScalarHead(lm.hidden_size, zero=False, generator=torch.Generator().manual_seed(0))
    config = RewardModelConfig(batch_size=4)
    algorithm = RewardTrainer(RewardModel(lm, head, max_length=64), config, optim=OPTIM, total_steps=STEPS)
    return _job("reward", RewardRun(data=DATA), algorithm, rows)


def ppo_job(
    cls: type[PPO] = PPO,
    *,
    tuning: TuningConfig = LORA,
    model: LanguageModel | None = None,
    reward: Callable[..., list[float]] | None = None,
    **parts: Any,
) -> Job:
    """Answers of up to eight tokens to four prompts, at a temperature that is not 1."""
    policy = tune(model or tiny_model(), tuning)
    rows = [PromptExample(ids, policy.text(ids), {}, f"row {i}") for i, ids in enumerate(WORDS)]
    algorithm = cls(
        policy,
        reward or brevity,
        PPOConfig(batch_size=4, minibatch_size=4, epochs=1),
        rollout=SamplingConfig(max_new_tokens=8, temperature=0.95),
        optim=OPTIM,
        total_steps=STEPS,
        **parts,
    )
    return _job("ppo", PPORun(data=DATA), algorithm, rows)


def _job(command: str, config: Any, algorithm: Any, rows: list[Any]) -> Job:
    return Job(command, config, algorithm, Loader(rows, 4, seed=3), STEPS, lambda _: None, None, {}, {}, {})


def brevity(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def luck(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A reward with a generator of its own, which no checkpoint holds."""
    return [random.SystemRandom().random() for _ in responses]


@dataclass(frozen=True)
class Defect:
    """A job with one thing wrong, and the invariants that this breaks: the first is the one it is made for."""

    name: str
    breaks: tuple[str, ...]
    job: Callable[[], Job]
    patch: Callable[[pytest.MonkeyPatch], None] = lambda _: None


class ForgetsTheTemperature(PPO):
    """verl, trlx: logits that are not divided by the temperature that was sampled at."""

    def losses(self, batch: Experience, **how: Any) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        rollout = self.rollout
        self.rollout = rollout.model_copy(update={"temperature": 1.0})
        try:
            yield from super().losses(batch, **how)
        finally:
            self.rollout = rollout


def leak(what: Callable[[Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    """To the hidden states [B, S, H] of a trunk that reads ids [B, S], something of all ids is added."""
    forward = LlamaModel.forward

    def leaking(trunk: LlamaModel, input_ids: Tensor, **how: Any) -> Any:
        out = forward(trunk, input_ids=input_ids, **how)
        out.last_hidden_state = out.last_hidden_state + 0.01 * what(input_ids)[..., None]
        return out

    return lambda patch: patch.setattr(LlamaModel, "forward", leaking)


def what_follows(ids: Tensor) -> Tensor:
    """At each position, the sum of all later ids."""
    return (ids.sum(1, keepdim=True) - ids.cumsum(1)).float()


def width(ids: Tensor) -> Tensor:
    return torch.full(ids.shape, float(ids.shape[1]))


def multiplied_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float, count: Tensor
) -> tuple[Tensor, Stats]:
    """SkyRL#1635: masked by multiplication."""
    loss = ((values - returns + 0 * old_values) ** 2 / 2 * mask).sum() / count
    return loss, {"clip_fraction": loss.detach(), "explained_variance": loss.detach()}


def multiplied_sft_loss(
    logprobs: Tensor, mask: Tensor, *, count: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    return -(logprobs * mask).sum() / (mask.sum() if count is None else count), {}


def own_count_sft_loss(logprobs: Tensor, mask: Tensor, *, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """verl#5625: each micro-batch by its own count, then averaged over micro-batches of four rows in all."""
    return sft_loss(logprobs, mask, count=mask.sum() * 4 / len(mask))


def own_count_value_loss(*args: Tensor, clip: float, count: Tensor) -> tuple[Tensor, Stats]:
    """verl#7110: the same again, in the critic alone."""
    mask = args[3]
    return clipped_value_loss(*args, clip=clip, count=mask.sum() * 4 / len(mask))


def mask_without_stops(tokens: Tokens) -> Tensor:
    """N-details: pad is EOS, and the mask is made from ids."""
    mask = length_mask(tokens.response_lengths, tokens.response_ids.shape[1])
    return mask & (tokens.response_ids != STOP_ID)


def with_a_spare_weight() -> LanguageModel:
    model = tune(tiny_model(), FULL)
    model.module.register_parameter("spare", nn.Parameter(torch.ones(3)))
    return model


class NudgesFrozenWeights(SFT):
    def step(self, batch: Sequence[Example]) -> Metrics:
        figures = super().step(batch)
        with torch.no_grad():
            self.model.module.get_input_embeddings().weight.mul_(1.001)
        return figures


def reference_of_the_same_weights() -> Job:
    policy = tune(tiny_model(), FULL)
    return ppo_job(tuning=FULL, model=policy, reference=LanguageModel(policy.module, policy.tokenizer))


def untempered(model: LanguageModel, prompts: list[list[int]], config: SamplingConfig, **how: Any) -> Rollout:
    """Right tokens with the log-probs of another distribution."""
    rollout = sample(model, prompts, config, **how)
    return replace(rollout, logprobs=rollout.logprobs * 1.01)


def stale(policy: LanguageModel) -> Job:
    """verl#7495: the sampler has the weights of the beginning."""
    beginning = policy.frozen_copy()
    return ppo_job(model=policy, sampler=lambda _, *args, **how: sample(beginning, *args, **how))


def careless(model: LanguageModel, prompts: list[list[int]], config: SamplingConfig, **how: Any) -> Rollout:
    """Greedy tokens of which the third is another; what is sampled is right."""
    rollout = sample(model, prompts, config, **how)
    if config.temperature == 0:
        rollout.tokens.response_ids[:, 2] = (rollout.tokens.response_ids[:, 2] + 1) % 28
    return rollout


class ForgetsTheMoments(SFT):
    def load_state(self, state: Mapping[str, Any]) -> None:
        moments = {"moments": {}, "skipped_in_a_row": 0}
        super().load_state({**state, "optimizer": moments})


class ForgetsTheStep(PPO):
    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state({**state, "steps": 0})


class SavesWithoutAdapter(LanguageModel):
    def save(self, folder: Path) -> None:
        assert self.adapter is not None
        copy.deepcopy(self.adapter).unload().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def unmerged() -> Job:
    model = tiny_model()
    return sft_job(model=SavesWithoutAdapter(model.module, model.tokenizer))


def reads_the_token_before_the_last(patch: pytest.MonkeyPatch) -> None:
    def states(model: LanguageModel, tokens: Tokens) -> Tensor:
        last = (tokens.prompt_lengths + tokens.response_lengths - 2).clamp(min=0)
        hidden = model.hidden(score_file.join(tokens))
        return hidden[torch.arange(len(tokens)), last]

    patch.setattr(score_file, "_last_states", states)


def reads_padded_slots(patch: pytest.MonkeyPatch) -> None:
    right = score_file._last_states

    def states(model: LanguageModel, tokens: Tokens) -> Tensor:
        padded = ~length_mask(tokens.prompt_lengths, tokens.prompt_ids.shape[1])
        return right(model, tokens) + 0.01 * (tokens.prompt_ids * padded).sum(1, keepdim=True)

    patch.setattr(score_file, "_last_states", states)


DEFECTS = (
    Defect("the loss forgets the temperature", (RATIO,), lambda: ppo_job(ForgetsTheTemperature)),
    Defect("another model is the reference", (KL,), lambda: ppo_job(reference=tiny_model(seed=9))),
    Defect("what stands in padded slots is read", (PADDING,), reward_job, reads_padded_slots),
    Defect("a token sees what follows", (ROWS, MICRO), reward_job, leak(what_follows)),
    Defect("a token sees the batch's width", (ROWS, SAVED), reward_job, leak(width)),
    Defect(
        "the value loss multiplies by its mask",
        (MASKED,),
        ppo_job,
        lambda patch: patch.setattr(ppo_file, "clipped_value_loss", multiplied_value_loss),
    ),
    Defect(
        "the SFT loss multiplies by its mask",
        (MASKED,),
        sft_job,
        lambda patch: patch.setattr(invariants, "sft_loss", multiplied_sft_loss),
    ),
    Defect(
        "the SFT loss divides by the micro-batch's own count",
        (MICRO,),
        sft_job,
        lambda patch: patch.setattr(sft_file, "sft_loss", own_count_sft_loss),
    ),
    Defect(
        "the value loss divides by the micro-batch's own count",
        (MICRO,),
        ppo_job,
        lambda patch: patch.setattr(ppo_file, "clipped_value_loss", own_count_value_loss),
    ),
    Defect(
        "the mask is made from ids, and pad is EOS",
        (STOP,),
        sft_job,
        lambda patch: patch.setattr(Tokens, "mask", property(mask_without_stops)),
    ),
    Defect("the reward is read before the stop token", (STOP,), reward_job, reads_the_token_before_the_last),
    Defect("a trained weight is read by nothing", (MOVES,), lambda: sft_job(tuning=FULL, model=with_a_spare_weight())),
    Defect("a frozen weight moves", (MOVES, MICRO, RESUME), lambda: sft_job(NudgesFrozenWeights)),
    Defect("the reference shares the policy's weights", (REFERENCE,), reference_of_the_same_weights),
    Defect("the sampler reports other log-probs", (SAMPLER,), lambda: ppo_job(sampler=untempered)),
    Defect("the sampler has stale weights", (SAMPLER, ENGINE), lambda: stale(tiny_model())),
    Defect("the engine takes a wrong token", (ENGINE,), lambda: ppo_job(sampler=careless)),
    Defect("a checkpoint without Adam's moments", (RESUME,), lambda: sft_job(ForgetsTheMoments)),
    Defect("a checkpoint without the step", (RESUME,), lambda: ppo_job(ForgetsTheStep)),
    Defect("the reward is a matter of luck", (RESUME,), lambda: ppo_job(reward=luck)),
    Defect("the model is saved without its adapter", (SAVED,), unmerged),
)
