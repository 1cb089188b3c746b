"""Figures of a model on held-out data, and fresh answers to judge."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from proxtune.data.collate import collate_examples
from proxtune.data.template import Example, PreferenceExample, PromptExample, RatedExample
from proxtune.evaluation.metrics import Array, Measure, ratio
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel, frozen
from proxtune.models.score import ROWS_AT_ONCE, answer_rewards, pair_rewards, ratings_of, score
from proxtune.objectives import bradley_terry_loss, rating_loss
from proxtune.rewards.base import Answers, answers_of
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.runs import derive_seed


def likelihood(
    model: LanguageModel, examples: Sequence[Example], *, rows_at_once: int = ROWS_AT_ONCE
) -> dict[str, float]:
    """`eval/loss`, nats a response token over all of them, and `eval/perplexity`, its exponential."""
    found = likelihoods(model, examples, rows_at_once=rows_at_once).values()
    return {f"eval/{name}": value for name, value in found.items()}


def likelihoods(model: LanguageModel, examples: Sequence[Example], *, rows_at_once: int = ROWS_AT_ONCE) -> Measure:
    """The figures `loss` and `perplexity`; each example adds its −log p in nats, and its response tokens."""
    rows = list[Tensor]()
    with frozen(model.module):
        for start in range(0, len(examples), rows_at_once):
            tokens = collate_examples(examples[start : start + rows_at_once]).to(model.device)
            surprise = -score(model, tokens).logprobs.double().sum(1)
            rows.append(torch.stack([surprise, tokens.mask.sum(1)], dim=1).cpu())

    def figures(sums: Array) -> dict[str, Array]:
        loss = ratio(sums[..., 0], sums[..., 1])
        return {"loss": loss, "perplexity": np.exp(np.minimum(loss, 700.0))}

    return Measure(torch.cat(rows).numpy(), figures)


def pair_scores(
    model: RewardModel, pairs: Sequence[PreferenceExample], *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """([N], [N]): scores of the chosen and of the rejected answers, without a gradient, a few pairs at a time."""
    with frozen(model.lm.module):
        parts = [pair_rewards(model, pairs[i : i + rows_at_once]) for i in range(0, len(pairs), rows_at_once)]
    chosen, rejected = (torch.cat(side) for side in zip(*parts, strict=True))
    return chosen, rejected


def pair_accuracy(
    model: RewardModel, pairs: Sequence[PreferenceExample], *, rows_at_once: int = ROWS_AT_ONCE
) -> dict[str, float]:
    """`eval/accuracy`, the share of pairs whose chosen answer scores higher, `eval/loss` and `eval/margin`."""
    chosen, rejected = pair_scores(model, pairs, rows_at_once=rows_at_once)
    loss, stats = bradley_terry_loss(chosen, rejected)
    return {"eval/loss": float(loss), "eval/accuracy": float(stats["accuracy"]), "eval/margin": float(stats["margin"])}


def rating_fit(
    model: RewardModel, rated: Sequence[RatedExample], *, rows_at_once: int = ROWS_AT_ONCE
) -> dict[str, float]:
    """`eval/correlation` of score and rating (Pearson), `eval/loss` and `eval/error`."""
    starts = range(0, len(rated), rows_at_once)
    with frozen(model.lm.module):
        scores = torch.cat([answer_rewards(model, rated[i : i + rows_at_once]) for i in starts]).cpu()
    ratings = ratings_of(rated)
    loss, stats = rating_loss(scores, ratings)
    figures = {"eval/loss": float(loss), "eval/error": float(stats["error"])}
    if len(rated) > 1 and scores.std() > 0 and ratings.std() > 0:
        figures["eval/correlation"] = float(torch.corrcoef(torch.stack([scores, ratings]))[0, 1])
    return figures


def fresh_answers(
    model: LanguageModel, prompts: Sequence[PromptExample], config: SamplingConfig, *, seed: int
) -> Answers:
    """One answer to each prompt. The same seed gives two models the same luck, so they can be compared in pairs."""
    ids = [prompt.prompt_ids for prompt in prompts]
    rollout = collect(model, ids, config, sampler=sample, seed=derive_seed(seed, "held-out answers"), step=0)
    return answers_of(model, prompts, rollout)
