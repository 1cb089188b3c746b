"""What can be seen to be wrong in the figures of a PPO run."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import correlation, fmean, median

from proxtune.evaluation.checks import WINDOW, Options, Rows, Verdict, beyond, check, first, last, option, values

EVALUATIONS = 6  # of a trend on held-out data


@check(
    "KL runaway",
    metric="kl/sequence",
    steps=10,
    threshold="`kl/sequence` above 10 nats an answer, and above 1 nat a token (watch) or 3 (sick), or costing more "
    "than the score gained since the start (sick)",
    usually_means="the updates are too large, or the KL too cheap: the policy leaves the reference for nothing",
    try_="raise ppo.kl_coef (× 2) or set ppo.kl_target=6 with ppo.kl_horizon=500; lower optim.learning_rate (× 0.3)",
)
def _kl_runaway(rows: Rows, options: Options) -> Verdict:
    kl, length = last(rows, "kl/sequence"), last(rows, "length/mean")
    price = kl * last(rows, "kl/coef")
    gain = last(rows, "score/mean") - first(rows, "score/mean")
    as_logged = (  # where PPO sees other scores than those logged, gain and price are not of one scale
        option(options, "ppo.reward_scale", "none") == "none" and option(options, "ppo.truncation", "none") == "none"
    )
    if kl <= 10:
        return None
    if as_logged and price > gain:
        return "sick", f"the KL is {kl:.3g} nats an answer and costs {price:.3g}; the score changed by {gain:+.3g}"
    level = beyond(kl / length, 1, 3)
    return level and (level, f"the KL is {kl:.3g} nats an answer, {kl / length:.2g} a token")


@check(
    "entropy collapse",
    metric="entropy",
    steps=10,
    threshold="`entropy` below 25% (watch) or 10% (sick) of what it was at the start",
    usually_means="the policy gives one answer to everything, and explores no more",
    try_="raise ppo.kl_coef (× 2), set ppo.entropy_coef=0.01, lower optim.learning_rate (× 0.3), or stop earlier",
)
def _entropy_collapse(rows: Rows, _: Options) -> Verdict:
    start, now = first(rows, "entropy"), last(rows, "entropy")
    level = beyond(-now, -0.25 * start, -0.1 * start)
    return level and (level, f"the entropy fell from {start:.3g} to {now:.3g} nats a token")


@check(
    "critic does not learn",
    metric="value/explained_variance",
    steps=30,
    threshold="median of 10 steps of `value/explained_variance` below 0.05, and of `value/loss` above 90% of what it "
    "was at the start; sick from step 60 on",
    usually_means="the critic's learning rate is too low, or the score cannot be told from the text",
    try_="raise critic.learning_rate (× 5), else optim.learning_rate (× 5); or set critic.kind=separate",
)
def _critic_does_not_learn(rows: Rows, _: Options) -> Verdict:
    explained, loss = last(rows, "value/explained_variance", 10), last(rows, "value/loss", 10)
    start = first(rows, "value/loss")
    if explained < 0.05 and loss > 0.9 * start and not _equal(rows[-WINDOW:]):
        what = f"the critic explains {explained:.1%} of the returns, and its loss went from {start:.3g} to {loss:.3g}"
        return ("sick" if len(rows) >= 60 else "watch"), what
    return None


@check(
    "reward hacking",
    metric="judge",
    steps=10,
    threshold=f"over the last {EVALUATIONS} evaluations `eval/score` rises and a `judge/…` falls: of the 15 pairs of "
    "evaluations at least 12 rise, and at least 13 fall (watch) or 14 (sick)",
    usually_means="the policy found a hole in the reward: what it is paid for is not what you want",
    try_="stop where the judge was best; raise ppo.kl_coef (× 2); add pairs or a reward against what the samples show",
    lasting=True,
)
def _reward_hacking(rows: Rows, _: Options) -> Verdict:
    for judge in (name for name in rows[-1] if name.startswith("judge/")):
        evaluated = [row for row in rows if judge in row and "eval/score" in row][-EVALUATIONS:]
        scores, verdicts = values(evaluated, "eval/score"), values(evaluated, judge)
        falls = -_trend(verdicts)
        if len(scores) == len(verdicts) == EVALUATIONS and _trend(scores) >= 9 and falls >= 11:
            what = (
                f"the held-out score rose from {scores[0]:.3g} to {scores[-1]:.3g} while {judge} fell "
                f"from {verdicts[0]:.3g} to {verdicts[-1]:.3g}"
            )
            return ("sick" if falls >= 13 else "watch"), what
    return None


def _trend(values: Sequence[float]) -> int:
    """Kendall's S: pairs that rise minus pairs that fall.

    Of 6 values in random order, 6.8% have S >= 9, 2.8% S >= 11, 0.8% S >= 13.
    """
    return sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))


@check(
    "length exploitation",
    metric="length/mean",
    steps=10,
    threshold="`length/mean` grew by half or halved, in step with a rising `score/mean` (correlation beyond ±0.8): "
    "watch, and sick when 90% of the answers are cut that were not, or they have at most 2 tokens",
    usually_means="the reward pays for length, not for what is said",
    try_="add a reward that takes length back out; where answers grow, set ppo.truncation=penalty; train the reward "
    "model on pairs of equal length",
)
def _length_exploitation(rows: Rows, _: Options) -> Verdict:
    start, now = first(rows, "length/mean"), last(rows, "length/mean")
    cut, rise = last(rows, "length/truncated"), last(rows, "score/mean") - first(rows, "score/mean")
    if not (now >= 1.5 * start or now <= 0.5 * start) or rise <= 0.5 * first(rows, "score/std"):
        return None
    together = _together(rows[:: max(1, len(rows) // 50)], "length/mean", "score/mean")
    if abs(together) < 0.8:
        return None
    extreme = now <= 2 or (cut >= 0.9 and first(rows, "length/truncated") < 0.5)
    what = f"answers went from {start:.3g} to {now:.3g} tokens ({cut:.0%} cut) as the score rose by {rise:.3g}"
    return ("sick" if extreme else "watch"), f"{what}; their correlation over the steps is {together:.2f}"


def _together(rows: Rows, one: str, other: str) -> float:
    """Correlation of two figures over the steps, 0 where one of them does not vary."""
    pairs = [(row[one], row[other]) for row in rows if math.isfinite(row.get(one, math.nan) + row.get(other, math.nan))]
    xs, ys = zip(*pairs, strict=True)
    return correlation(xs, ys) if len(set(xs)) > 1 and len(set(ys)) > 1 else 0.0


@check(
    "equal rewards",
    metric="score/std",
    steps=WINDOW,
    threshold="`score/std` 0 to within rounding (sick), or only after it was not (watch)",
    usually_means="the reward does not tell answers apart, so there is nothing to learn; later in a run: all answers "
    "have become one",
    try_="look at samples.jsonl; give a reward that differs between answers, or raise rollout.temperature towards 1",
)
def _equal_rewards(rows: Rows, _: Options) -> Verdict:
    if not _equal(rows[-WINDOW:]):
        return None
    what = f"all answers of a step score {last(rows, 'score/mean'):.3g}"
    return ("sick", what) if _equal(rows[:WINDOW]) else ("watch", f"{what}; at the start they did not")


def _equal(rows: Rows) -> bool:
    """Whether scores do not vary, but by the rounding of float32."""
    scale = max(map(abs, values(rows, "score/mean")), default=0.0)
    return last(rows, "score/std") <= 1e-5 * scale


@check(
    "clipping too much",
    metric="policy/clip_fraction",
    steps=10,
    threshold="`policy/clip_fraction` above 0.3 (watch) or 0.5 (sick)",
    usually_means="the policy moves too far on each rollout, and most of what it learns is thrown away",
    try_="lower optim.learning_rate (× 0.3) or ppo.epochs, or set ppo.kl_stop=0.02",
)
def _clipping_too_much(rows: Rows, _: Options) -> Verdict:
    clipped = last(rows, "policy/clip_fraction")
    level = beyond(clipped, 0.3, 0.5)
    return level and (level, f"{clipped:.0%} of the tokens are clipped")


@check(
    "policy does not move",
    metric="policy/clip_fraction",
    steps=20,
    threshold="over 10 steps after the critic's warm-up, `policy/clip_fraction` exactly 0 and `policy/approx_kl` below "
    "1e-6 nats a token, while the learning rate is at least a tenth of its highest",
    usually_means="the learning rate is far too low, or nothing is trained",
    try_="raise optim.learning_rate (× 10); look at the trained parameters that --dry-run shows",
)
def _policy_does_not_move(rows: Rows, options: Options) -> Verdict:
    late = rows[-10:]
    moved, clipped = values(late, "policy/approx_kl"), values(late, "policy/clip_fraction")
    warming = len(rows) < option(options, "critic.warmup_steps", 10) + 10
    if warming or not moved or not clipped or max(clipped) > 0 or max(moved) >= 1e-6:
        return None
    rates = values(rows, "optim/learning_rate")
    if not rates or rates[-1] < 0.1 * max(rates):
        return None
    return "sick", f"nothing was clipped in 10 steps, and a step moves the policy by {median(moved):.1g} nats a token"


@check(
    "answers never end",
    metric="length/truncated",
    steps=10,
    threshold="`length/truncated` at least 0.95: sick if it was below 0.5 at the start or `ppo.truncation` is not "
    "`none`, else watch",
    usually_means="the model never gives its stop token; right only where the length limit is part of the task",
    try_="raise rollout.max_new_tokens (× 2), set ppo.truncation=penalty, or fine-tune first: every SFT example ends "
    "with a stop token",
)
def _answers_never_end(rows: Rows, options: Options) -> Verdict:
    cut, rule = last(rows, "length/truncated"), option(options, "ppo.truncation", "none")
    if not cut >= 0.95:
        return None
    sick = rule != "none" or first(rows, "length/truncated") < 0.5
    return ("sick" if sick else "watch"), f"the length limit cut {cut:.0%} of the answers; ppo.truncation is {rule}"


@check(
    "failed rewards",
    metric="score/failed",
    steps=1,
    threshold="`score/failed` above 0 (watch), or above 0.1 on average over 5 steps (sick)",
    usually_means="a reward raised, timed out or returned no number; such answers teach nothing",
    try_="read the reward's own log and the rows of samples.jsonl without a score; mend it and go on with --resume",
)
def _failed_rewards(rows: Rows, _: Options) -> Verdict:
    failed = fmean(values(rows[-WINDOW:], "score/failed") or [0.0])
    level = beyond(failed, 0, 0.1)
    return level and (level, f"{failed:.1%} of the answers of the last steps have no score")


CHECKS = (
    _kl_runaway,
    _entropy_collapse,
    _critic_does_not_learn,
    _reward_hacking,
    _length_exploitation,
    _equal_rewards,
    _clipping_too_much,
    _policy_does_not_move,
    _answers_never_end,
    _failed_rewards,
)
