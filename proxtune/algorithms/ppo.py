"""PPO from human feedback.

One step reads as four verbs: *sample* responses to prompts, *score* them, assign *credit* to their tokens, *improve*
policy and critic. The maths is in `objectives.ppo`, sampling in `rollouts`, passes over given tokens in `models.score`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.algorithms.ptx import Ptx
from proxtune.data.collate import Tokens
from proxtune.data.template import PromptExample
from proxtune.errors import ConfigError, GenerationError
from proxtune.models.critic import Critic, CriticConfig, build_critic
from proxtune.models.language_model import LanguageModel, copy_into
from proxtune.models.peft import TuningConfig, disable_dropout
from proxtune.models.score import frozen_logprobs, frozen_states, score
from proxtune.models.trunk import Below
from proxtune.objectives import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_penalty_loss,
    kl_shaped_rewards,
    masked_mean,
    next_kl_coef,
    next_penalty_coef,
    whiten,
)
from proxtune.rewards.base import Answers, Reward, answers_of, as_reward
from proxtune.rewards.combine import RunningScale
from proxtune.rollouts.collect import as_prompts, collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.rollout import Rollout, Sampler
from proxtune.rollouts.sampling import SamplingConfig, training_problems
from proxtune.rollouts.store import RolloutStore, Scored
from proxtune.runs import derive_seed
from proxtune.training.metrics import Metrics, Tally, phase, prefixed
from proxtune.training.optim import OptimConfig, Optimizer
from proxtune.training.stop import interruptible

# How far the log-prob of a token may lie between the sampling pass and the training pass, by type of the weights.
AGREEMENT = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class Experience:
    """What the improvement needs of B responses: all [B, T] but `tokens`."""

    tokens: Tokens
    mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    below: Below | None = None  # [B, S, H], of the blocks that the policy does not train

    def __getitem__(self, rows: Tensor) -> "Experience":
        whole = (self.mask, self.old_logprobs, self.old_values, self.advantages, self.returns)
        mask, logprobs, values, advantages, returns = (x[rows] for x in whole)
        below = None if self.below is None else self.below[rows]
        return Experience(self.tokens[rows], mask, logprobs, values, advantages, returns, below)


class PPO:
    """Proximal policy optimisation (Schulman et al. 2017) of a language model, as in Ziegler et al. 2019.

    Args:
        policy: with the weights to train marked (`models.peft.tune`).
        reward: a `Reward`, or any function `f(prompts, responses) -> numbers`.
        critic: by default a new head on the policy's trunk.
        reference: what the KL is measured against; by default the policy as it is now (its adapter off, or a copy).
            Not used, and not made, when `config.kl_coef` is 0.
        total_steps: of the run, for the learning-rate schedule; 0 keeps the rate constant.
        sampler: anything that follows `rollouts.rollout.Sampler`.
        store: where rollouts and scores are kept, or read back from.
        ptx: language modelling mixed into the updates.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reward: Reward | Callable[..., Sequence[float]],
        config: PPOConfig | None = None,
        *,
        rollout: SamplingConfig | None = None,
        optim: OptimConfig | None = None,
        critic: Critic | None = None,
        critic_config: CriticConfig | None = None,
        reference: LanguageModel | None = None,
        sampler: Sampler = sample,
        store: RolloutStore | None = None,
        ptx: Ptx | None = None,
        total_steps: int = 0,
        seed: int = 0,
    ) -> None:
        self.policy, self.reward, self.sampler, self.seed = policy, as_reward(reward), sampler, seed
        self.store, self.ptx, self.parts = store, ptx, dict[str, Tensor]()
        self.seconds = dict[str, float]()
        self.config, self.rollout, self.critic_config = (
            config or PPOConfig(),
            rollout or SamplingConfig(),
            critic_config or CriticConfig(),
        )
        _refuse(training_problems(self.rollout))
        disable_dropout(policy.module)
        self.critic = critic or build_critic(policy, self.critic_config, TuningConfig())
        self.reference, self.starts_at_reference = reference, reference is None
        if reference is None and self.config.kl_coef > 0 and policy.adapter is None:
            self.reference = policy.frozen_copy()
        for other in (self.reference, self.critic.trunk):
            if other is not None:
                other.share(policy)
        optim = optim or OptimConfig()
        self.optimizer = Optimizer(
            {"policy": list(policy.trained().values()), "critic": list(self.critic.trained().values())},
            optim,
            total=total_steps,
            rates={"critic": self.critic_config.learning_rate or 5 * optim.learning_rate},
        )
        self.steps, self.kl_coef, self.penalty_coef = 0, self.config.kl_coef, self.config.penalty_coef
        self.scale = RunningScale()
        self.last: list[dict[str, Any]] = []

    def step(self, prompts: Sequence[str | PromptExample]) -> Metrics:
        """One iteration on `prompts`: sample, score, credit, improve. Returns the step's figures by name."""
        cfg = self.config
        self.optimizer.begin(self.steps)
        asked = as_prompts(self.policy, prompts)
        stored = self.stored(asked)

        with interruptible():  # nothing has changed yet
            # sample
            rollout, values = self.sample(asked, stored)

            # score
            answers = answers_of(self.policy, asked, rollout)
            raw = self.scores(answers, rollout, stored)
        ref_logprobs = self.reference_logprobs(rollout)

        # credit
        mask, scores, bootstrap = self.settle(rollout, self.scaled(raw))
        rewards = kl_shaped_rewards(
            scores, rollout.logprobs, ref_logprobs, mask, coef=self.kl_coef, estimator=cfg.kl_estimator
        )
        advantages, returns = gae(rewards, values, mask, gamma=cfg.gamma, lam=cfg.lam, bootstrap=bootstrap)
        if cfg.whiten:
            advantages = whiten(advantages, mask)

        # improve
        stats = self.improve(
            Experience(rollout.tokens, mask, rollout.logprobs, values, advantages, returns, rollout.below)
        )

        kl = torch.where(rollout.mask, rollout.logprobs - ref_logprobs, 0).sum(1)
        stats |= self.describe(rollout, raw, kl) | {"kl/coef": self.kl_coef}
        self.last = _samples(answers, raw, kl, rollout)
        if cfg.kl_target is not None and self.steps >= self.critic.warmup_steps:
            self.kl_coef = next_kl_coef(
                self.kl_coef, float(kl.mean()), target=cfg.kl_target, horizon=cfg.kl_horizon, batch=len(rollout)
            )
        self.steps += 1
        return stats

    def stored(self, prompts: Sequence[PromptExample]) -> Scored | None:
        """This step as it was sampled and scored before a kill, or by the run that is replayed."""
        if self.store is None:
            return None
        return self.store.load(self.steps + 1, [p.prompt_ids for p in prompts], self.policy.device)

    @phase("rollout")
    def sample(self, prompts: Sequence[PromptExample], stored: Scored | None = None) -> tuple[Rollout, Tensor]:
        """Responses of the current policy, and the values [B, T] of the states they went through."""
        if stored is not None:
            rollout = stored.rollout
        else:
            ids = [prompt.prompt_ids for prompt in prompts]
            head = self.critic.head if self.critic.trunk is None else None
            rollout = collect(
                self.policy, ids, self.rollout, sampler=self.sampler, seed=self.seed, step=self.steps, head=head
            )
        if rollout.below is None:
            rollout = replace(rollout, below=frozen_states(self.policy, rollout.tokens))
        if rollout.values is not None:
            return rollout, rollout.values
        with torch.no_grad():
            return rollout, self.critic.values(rollout.tokens, self.below_for(self.critic.trunk, rollout.below))

    @phase("reward")
    def scores(self, answers: Answers, rollout: Rollout, stored: Scored | None) -> Tensor:
        """[B]: the reward of each answer, NaN where it gave none."""
        if stored is None:
            stored = Scored(rollout, self.reward(answers), dict(getattr(self.reward, "parts", {})))
            if self.store is not None:
                self.store.save(self.steps + 1, stored)
        self.parts = stored.parts
        return stored.scores.to(rollout.logprobs.device)

    def below_for(self, other: LanguageModel | None, below: Below | None) -> Below | None:
        """What the frozen blocks made, for another model that has the very same ones."""
        shares = other is not None and below is not None and other.shares_below(self.policy, below.blocks)
        return below if shares else None

    @phase("reference")
    def reference_logprobs(self, rollout: Rollout) -> Tensor:
        """[B, T], at the sampler's temperature; the policy's own (a KL of 0) where there is no reference."""
        if self.config.kl_coef == 0:
            return rollout.logprobs
        with nullcontext(self.reference) if self.reference else self.policy.as_reference() as reference:
            below = self.below_for(reference, rollout.below)
            logprobs = frozen_logprobs(reference, rollout.tokens, temperature=self.rollout.temperature, below=below)
        if self.steps == 0 and self.starts_at_reference:
            self.assert_equal("the policy and the reference it begins as", rollout.logprobs, logprobs, rollout.mask)
        return logprobs

    def scaled(self, scores: Tensor) -> Tensor:
        """Scores as the algorithm uses them: on a steady scale, without outliers."""
        if self.config.reward_scale == "running":
            scores = self.scale(scores)
        clip = self.config.reward_clip
        return scores if clip is None else scores.clamp(-clip, clip)

    def settle(self, rollout: Rollout, scores: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What becomes of responses that the length limit cut, or that have no score (NaN).

        Returns (mask [B, T], scores [B], bootstrap [B] or None).
        """
        rule, cut = self.config.truncation, rollout.truncated
        if rule == "penalty":
            scores = torch.where(cut, self.config.penalty_score, scores)
        left_out = scores.isnan() | cut if rule == "mask" else scores.isnan()
        mask = rollout.mask & ~left_out[:, None]
        bootstrap = torch.where(cut, self.critic.after(self.policy, rollout.tokens), 0) if rule == "bootstrap" else None
        return mask, scores, bootstrap

    @phase("update")
    def improve(self, experience: Experience) -> Metrics:
        """`epochs` passes over the experience in minibatches, each one optimiser step."""
        cfg, tally = self.config, Tally()
        rows = experience.mask.any(1).nonzero()[:, 0].cpu()
        if not len(rows) or not cfg.epochs:  # every response is left out, or nothing is to be trained
            return {"policy/epochs": 0.0}
        for epoch in range(cfg.epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "minibatches", self.steps, epoch))
            order = rows[torch.randperm(len(rows), generator=generator)]
            parts = order.split(cfg.minibatch_size)
            updates = [self.update(experience[part], epoch * len(parts) + i) for i, part in enumerate(parts)]
            for stats in updates:
                tally.add(stats)
            moved = sum(stats["policy/approx_kl"] for stats in updates) / len(updates)
            if cfg.kl_stop is not None and moved > cfg.kl_stop:
                break
        figures = {"policy/epochs": float(epoch + 1), "optim/learning_rate": self.optimizer.learning_rate}
        if cfg.loss == "kl_penalty":
            figures["policy/penalty_coef"] = self.penalty_coef
            if cfg.penalty_target is not None and self.steps >= self.critic.warmup_steps:
                self.penalty_coef = next_penalty_coef(self.penalty_coef, moved, target=cfg.penalty_target)
        return tally.mean() | figures

    def update(self, minibatch: Experience, number: int) -> Metrics:
        """One optimiser step, the step's `number`th, in micro-batches whose losses add up to the minibatch's loss."""
        sums = Tally()
        replays = self.store is not None and self.store.replay  # another policy's answers
        for rows in torch.arange(len(minibatch.mask)).split(self.config.microbatch_size or len(minibatch.mask)):
            for loss, stats in self.losses(
                minibatch[rows],
                count=minibatch.mask.sum(),
                rows=len(minibatch.mask),
                check=number == 0 and not replays,
            ):
                if loss.requires_grad:
                    loss.backward()
                sums.add(stats)
        if self.ptx is not None and self.steps >= self.critic.warmup_steps:
            sums.add(self.ptx.backward(self.steps, number))
        return self.optimizer.apply(sums.total())

    def losses(
        self, batch: Experience, *, count: Tensor, rows: int, check: bool
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """A micro-batch's weighted losses, over the `count` tokens and `rows` responses of its minibatch.

        One where policy and critic share a trunk, else one after the other: their activations are never held at once.
        """
        cfg, warming, shared = self.config, self.steps < self.critic.warmup_steps, self.critic.trunk is None
        now = score(
            self.policy,
            batch.tokens,
            temperature=self.rollout.temperature,
            head=self.critic.head if shared else None,
            detach=self.critic_config.detach or warming,
            entropy=cfg.entropy_coef > 0,
            below=batch.below,
        )
        if check:
            self.assert_equal("the sampler and the trainer", now.logprobs, batch.old_logprobs, batch.mask)
        if cfg.loss == "clip":
            loss, stats = clipped_policy_loss(
                now.logprobs,
                batch.old_logprobs,
                batch.advantages,
                batch.mask,
                clip=cfg.clip,
                clip_high=cfg.clip_high,
                aggregate=cfg.aggregate,
                count=count if cfg.aggregate == "token" else rows,
            )
        else:
            loss, stats = kl_penalty_loss(
                now.logprobs, batch.old_logprobs, batch.advantages, batch.mask, coef=self.penalty_coef, count=count
            )
        stats = {"policy/loss": loss.detach()} | prefixed("policy", stats)
        if now.entropy is not None:
            loss = loss - cfg.entropy_coef * masked_mean(now.entropy, batch.mask, count=count)
        loss = loss.detach() if warming else loss
        if now.values is not None:
            value_loss, value_stats = self.value_loss(now.values, batch, count=count)
            yield loss + value_loss, stats | value_stats
        else:
            yield loss, stats
            del now  # in a warm-up nothing else lets go of the policy's activations
            values = self.critic.values(batch.tokens, self.below_for(self.critic.trunk, batch.below))
            yield self.value_loss(values, batch, count=count)

    def value_loss(self, values: Tensor, batch: Experience, *, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's weighted loss, and its figures."""
        loss, stats = clipped_value_loss(
            values, batch.old_values, batch.returns, batch.mask, clip=self.config.value_clip, count=count
        )
        return self.config.value_coef * loss, {"value/loss": loss.detach()} | prefixed("value", stats)

    def assert_equal(self, what: str, logprobs: Tensor, others: Tensor, mask: Tensor) -> None:
        """Before anything has moved, sampler, trainer and reference are one function: the ratio is 1 and the KL 0."""
        gap = float(torch.where(mask, logprobs.detach() - others, 0).abs().max())
        if not gap <= (limit := AGREEMENT[self.policy.module.dtype]):
            raise GenerationError(
                f"before the first update, a token's log-prob differs by {gap:.2g} between {what} "
                f"(at most {limit:g} is rounding): every ratio or KL would be wrong. "
                "A sampler of your own can be compared with rollouts.generate; "
                "an adapter that was trained before must be merged (LanguageModel.save, then load)"
            )

    def describe(self, rollout: Rollout, scores: Tensor, kl: Tensor) -> Metrics:
        """The figures of a rollout; those of scores over the responses that have one."""
        lengths, given = rollout.tokens.response_lengths.float(), scores[~scores.isnan()]
        figures = {
            "score/failed": scores.isnan().float().mean(),
            "entropy": masked_mean(rollout.entropy, rollout.mask),
            "length/mean": lengths.mean(),
            "length/truncated": rollout.truncated.float().mean(),
            "tokens": lengths.sum(),
        }
        if len(given):
            figures |= {"score/mean": given.mean(), "score/std": given.std(unbiased=False)}
        if self.config.kl_coef > 0:
            figures["kl/sequence"] = kl.mean()
        figures |= {f"score/{name}": part.nanmean() for name, part in self.parts.items()}
        return {name: float(x) for name, x in figures.items()}

    def samples(self) -> list[dict[str, Any]]:
        """Prompt, response, score and KL of the last step's rows."""
        return self.last

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit; randomness is derived from the step number."""
        return {
            "policy": {name: p.detach() for name, p in self.policy.trained().items()},
            "critic": {name: p.detach() for name, p in self.critic.trained().items()},
            "optimizer": self.optimizer.state(),
            "scale": self.scale.state(),
            "steps": self.steps,
            "kl_coef": self.kl_coef,
            "penalty_coef": self.penalty_coef,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        copy_into(self.policy.trained(), state["policy"])
        copy_into(self.critic.trained(), state["critic"])
        self.optimizer.load_state(state["optimizer"])
        self.scale.load_state(state["scale"])
        self.steps, self.kl_coef, self.penalty_coef = state["steps"], state["kl_coef"], state["penalty_coef"]


def _refuse(problems: Sequence[tuple[str, str]]) -> None:
    if problems:
        raise ConfigError("\n".join(f"{key}: {message}" for key, message in problems))


def _samples(answers: Answers, scores: Tensor, kl: Tensor, rollout: Rollout) -> list[dict[str, Any]]:
    columns = zip(
        answers.prompts, answers.responses, scores.tolist(), kl.tolist(), rollout.truncated.tolist(), strict=True
    )
    return [{"prompt": p, "response": r, "score": s, "kl": k, "truncated": t} for p, r, s, k, t in columns]
