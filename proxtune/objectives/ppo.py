"""All of PPO's maths: pure functions on tensors, for single sequences of actions with one score at the end.

Shapes: B responses of at most T tokens. `mask` [B, T] is True where a response token counts. What stands in a masked
slot, NaN included, changes neither a value nor a gradient. A loss returns `(loss, stats)`; the stats are detached
scalars, divided by the loss's own `count`, so that the stats of micro-batches add up as their losses do.

Sources: Schulman et al. 2017 (arXiv 1707.06347), Schulman et al. 2016 (GAE, arXiv 1506.02438), Ziegler et al. 2019
(arXiv 1909.08593, section 2.2), Huang et al. 2023 ("The N implementation details of RLHF with PPO").
"""

from typing import Literal

import torch
from torch import Tensor

from proxtune.objectives.masked import masked_mean

Stats = dict[str, Tensor]


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation on the sequence of counted tokens.

        δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γλ A_{t+1}        R_t = A_t + V_t

    t+1 is the next *counted* token: gaps (tool output, padding) are skipped, not zeroed.
    After the last one V is `bootstrap`.

    Args:
        rewards, values, mask: [B, T].
        gamma: discount; lam: λ, 1 is Monte Carlo and 0 one-step.
        bootstrap: [B], the value of the state after the last counted token; 0 where the answer ended, the default.

    Returns:
        (advantages, returns), both [B, T], zero outside the mask.
    """
    values = torch.where(mask, values, 0)
    next_value = values.new_zeros(len(values)) if bootstrap is None else bootstrap
    next_advantage = torch.zeros_like(next_value)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        counted = mask[:, t]
        advantages[:, t] = torch.where(counted, delta + gamma * lam * next_advantage, 0)
        next_advantage = torch.where(counted, advantages[:, t], next_advantage)
        next_value = torch.where(counted, values[:, t], next_value)
    return advantages, advantages + values


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """An estimate of KL(p ‖ q) from tokens sampled by p (Schulman 2020, "Approximating KL divergence").

        k1 = log p − log q        k2 = k1² / 2        k3 = e^(−k1) − 1 + k1

    k1 is unbiased and may be negative, k3 is unbiased and never is; k2 is biased, and its gradient is that of the KL.

    Args:
        logprobs, ref_logprobs: [B, T], log p and log q of the sampled tokens, in nats.

    Returns:
        [B, T]
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio**2 / 2
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"estimator is {estimator!r}; expected 'k1', 'k2' or 'k3'")


def kl_shaped_rewards(
    scores: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    coef: float,
    estimator: Literal["k1", "k2", "k3"] = "k1",
) -> Tensor:
    """Rewards per token: −coef · KL estimate at every counted token, plus the score at the last counted one.

    Args:
        scores: [B], one number a response.
        old_logprobs, ref_logprobs, mask: [B, T].
        coef: β, in units of the score per nat.

    Returns:
        [B, T], zero outside the mask; a row with no counted token gets no score.
    """
    old_logprobs, ref_logprobs = torch.where(mask, old_logprobs, 0), torch.where(mask, ref_logprobs, 0)
    kl = kl_estimate(old_logprobs, ref_logprobs, estimator=estimator)
    is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(is_last, scores[:, None], 0) - coef * kl


def next_kl_coef(coef: float, kl: float, *, target: float, horizon: float, batch: int) -> float:
    """Ziegler's proportional controller for β in log space.

        e = clip(kl / target − 1, −0.2, 0.2)        β ← β · (1 + e · batch / horizon)

    Args:
        kl: the measured KL, nats a *sequence*, as is `target`; horizon and batch in sequences.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * batch / horizon)


def next_penalty_coef(coef: float, kl: float, *, target: float) -> float:
    """The coefficient of `kl_penalty_loss` after an update that moved by `kl` (Schulman et al. 2017, section 4).

        kl < target / 1.5: halve        kl > 1.5 target: double

    Args:
        kl, target: KL(π_old ‖ π), nats a token.
    """
    if kl < target / 1.5:
        return coef / 2
    return coef * 2 if kl > target * 1.5 else coef


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float,
    clip_high: float | None = None,
    aggregate: Literal["token", "sequence"] = "token",
    count: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """PPO's clipped surrogate, to be minimised.

        r = exp(log π − log π_old)        L = mean of max(−A r, −A clip(r, 1 − clip, 1 + clip_high))

    Args:
        logprobs, old_logprobs, advantages, mask: [B, T].
        clip_high: the upper bound's width; None is `clip`.
        aggregate: "token", the mean over counted tokens; "sequence", the mean over rows of each row's token mean.
        count: the denominator of the whole optimiser step: counted tokens, or for "sequence" the rows that have one.

    Returns:
        (loss, stats) with `clip_fraction` (share of tokens where the clipped term is the larger), `approx_kl` (k3 of
        old against new, nats a token) and `ratio`.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = _aggregate(torch.maximum(unclipped, clipped), mask, aggregate, count)
    stats = {"clip_fraction": clipped > unclipped, "approx_kl": _old_new_kl(log_ratio), "ratio": ratio}
    return loss, {name: _aggregate(x.detach().to(ratio.dtype), mask, aggregate, count) for name, x in stats.items()}


def kl_penalty_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    coef: float,
    count: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """PPO's other form: the unclipped surrogate with a penalty on KL(π_old ‖ π), to be minimised.

        L = mean of −A r + coef · (r − 1 − log r)

    The penalty is k3 of old against new: never negative, unbiased in value and gradient for tokens that π_old sampled.

    Returns:
        (loss, stats) with `approx_kl` and `ratio` as in `clipped_policy_loss`.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0)
    ratio = log_ratio.exp()
    kl = kl_estimate(torch.zeros_like(log_ratio), log_ratio, estimator="k3")
    loss = masked_mean(-advantages * ratio + coef * kl, mask, count=count)
    stats = {"approx_kl": _old_new_kl(log_ratio), "ratio": ratio}
    return loss, {name: masked_mean(x.detach(), mask, count=count) for name, x in stats.items()}


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None,
    count: Tensor | float | None = None,
) -> tuple[Tensor, Stats]:
    """½ · max((V − R)², (V_clipped − R)²), averaged, with V_clipped = V_old + clip(V − V_old, ±clip).

    Args:
        values, old_values, returns, mask: [B, T].
        clip: in the units of the returns; None is the plain squared error.

    Returns:
        (loss, stats) with `clip_fraction` and `explained_variance` (1 − Var(R − V) / Var(R) of this batch, weighted by
        its share of `count`; 0 where the returns do not vary, by more than a variance of 1e-8).
    """
    values, old_values, returns = (torch.where(mask, x, 0) for x in (values, old_values, returns))
    near = values if clip is None else values.clamp(old_values - clip, old_values + clip)
    unclipped, clipped = (values - returns) ** 2, (near - returns) ** 2
    loss = masked_mean(torch.maximum(unclipped, clipped) / 2, mask, count=count)
    clip_fraction = masked_mean((clipped > unclipped).to(values.dtype), mask, count=count)
    return loss, {
        "clip_fraction": clip_fraction,
        "explained_variance": _explained_variance(values, returns, mask, count),
    }


def _aggregate(x: Tensor, mask: Tensor, aggregate: str, count: Tensor | float | None) -> Tensor:
    if aggregate == "token":
        return masked_mean(x, mask, count=count)
    if aggregate == "sequence":
        row_mean = torch.where(mask, x, 0).sum(1) / mask.sum(1)  # NaN where nothing is counted, and not counted below
        return masked_mean(row_mean, mask.any(1), count=count)
    raise ValueError(f"aggregate is {aggregate!r}; expected 'token' or 'sequence'")


def _old_new_kl(log_ratio: Tensor) -> Tensor:
    """k3 of old against new, clamped: one token at e^40 would hide every other in a figure that is only logged."""
    log_ratio = log_ratio.clamp(-20, 20)
    return kl_estimate(torch.zeros_like(log_ratio), log_ratio, estimator="k3")


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor, count: Tensor | float | None) -> Tensor:
    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    with torch.no_grad():
        total = variance(returns)
        share = 1.0 if count is None else mask.sum() / count
        return torch.where(total > 1e-8, 1 - variance(returns - values) / total, 0) * share
