"""How each invariant is measured: functions of a `Trial` that return how far it is from what must hold.

The list of them, what each claims and what a failure means, is `CHECKS` in `workflows.verify`.
"""

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from proxtune.algorithms.ppo import AGREEMENT, PPO, Experience
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.data.collate import Tokens, collate, length_mask
from proxtune.data.template import Example
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import load as load_model
from proxtune.models.score import frozen_logprobs, rewards, score
from proxtune.objectives import sft_loss
from proxtune.rollouts.generate import generate, state_after
from proxtune.rollouts.rollout import Rollout
from proxtune.training import checkpoint
from proxtune.training.metrics import Metrics
from proxtune.workflows.reload import difference
from proxtune.workflows.shapes import responses_in
from proxtune.workflows.trial import NEW_TOKENS, Trial, digests, replayed

# Two ways to compute one number differ by rounding, and the type of the weights says by how much. A log-prob, value or
# score may differ by AGREEMENT, at which a run stops. A gradient may differ by this share of its norm: it is a sum in
# another order, and in the short types rounded again at each micro-batch. What it must catch, a loss divided by the
# micro-batch's own count, is 0.1 and more in four uneven rows.
GRADIENT = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
GREEDY_TOKENS = 8  # the plain sampler takes half of the minute for 16
STEPS_TO_MOVE = 3  # LoRA's A moves at the second step, for B begins at 0; behind a critic's new head, at the third


@dataclass(frozen=True)
class Gap:
    """A distance from what must hold, how much of it is allowed, and where it was found."""

    value: float
    limit: float
    where: str = ""


def first_ratio(trial: Trial) -> Gap:
    """The log ratio log π − log π_old of untouched weights, root mean square over the answer; the worst answer."""
    algorithm = trial.algorithm
    assert isinstance(algorithm, PPO)
    rollout, values = algorithm.sample(trial.rows)
    zeros = torch.zeros_like(values)
    experience = Experience(rollout.tokens, rollout.mask, rollout.logprobs, values, zeros, values)
    gaps = []
    for row in torch.arange(len(rollout)).split(1):
        part = experience[row]
        _, stats = next(algorithm.losses(part, count=part.mask.sum(), rows=1, check=False))
        square = 2 * float(stats["policy/approx_kl"])  # approx_kl is the mean of (log ratio)² / 2, but for its rounding
        gaps.append(math.sqrt(abs(square)))
    return Gap(worst(gaps), rounding(trial))


def first_kl(trial: Trial) -> Gap | None:
    """The log ratio log π − log π_ref of untouched weights, the worst token; None where there is no reference."""
    algorithm = trial.algorithm
    assert isinstance(algorithm, PPO)
    if algorithm.config.kl_coef == 0:
        return None
    rollout, _ = algorithm.sample(trial.rows)
    return Gap(furthest((rollout.logprobs, algorithm.reference_logprobs(rollout))), rounding(trial))


def padded_slots(trial: Trial) -> Gap:
    """What the algorithm reads off the model, and the same with random ids in every padded slot of the input."""
    tokens, generator = trial.tokens, torch.Generator().manual_seed(0)
    vocabulary = trial.model.module.config.get_text_config().vocab_size

    def littered(ids: Tensor, lengths: Tensor) -> Tensor:
        noise = torch.randint(vocabulary, ids.shape, generator=generator).to(ids.device)
        return torch.where(length_mask(lengths, ids.shape[1]), ids, noise)

    dirty = Tokens(
        littered(tokens.prompt_ids, tokens.prompt_lengths),
        tokens.prompt_lengths,
        littered(tokens.response_ids, tokens.response_lengths),
        tokens.response_lengths,
    )
    return Gap(furthest((trial.outputs(tokens), trial.outputs(dirty))), rounding(trial))


def rows_alone(trial: Trial) -> Gap:
    """What the algorithm reads off the model, of all rows in one padded batch and of each by itself."""
    alone = [trial.outputs(trial.tokens[row]) for row in torch.arange(len(trial.tokens)).split(1)]
    return Gap(furthest((trial.outputs(trial.tokens), torch.cat(alone, -1))), rounding(trial))


def masked_slots(trial: Trial) -> Gap:
    """Figures and gradient of a step, and the same with NaN in every slot that the mask leaves out."""
    if isinstance(trial.algorithm, PPO):
        nan = replayed(trial.tokens, trial.truncated, rubbish=math.nan)
        return compare(trial, together(*trial.dry_step()), together(*trial.dry_step(sampler=nan)))
    logprobs, mask = frozen_logprobs(trial.model, trial.tokens), trial.tokens.mask

    def loss_and_gradient(rubbish: float) -> dict[str, Tensor]:
        leaf = torch.where(mask, logprobs, rubbish).requires_grad_()
        loss, _ = sft_loss(leaf, mask)
        return {"loss": loss.detach(), "the log-probs": torch.autograd.grad(loss, leaf)[0]}

    return compare(trial, loss_and_gradient(0.0), loss_and_gradient(math.nan))


def microbatches(trial: Trial) -> Gap:
    """The gradient of a step, and the same in micro-batches of one and of two rows."""
    _, whole = trial.dry_step()
    parts = [(f"{rows} at a time, in ", trial.dry_step(microbatch=rows)[1]) for rows in (1, 2)]
    return max((compare(trial, whole, part, how) for how, part in parts), key=lambda gap: nan_last(gap.value))


def stop_token(trial: Trial) -> Gap:
    """Answers that ended whose stop token is not there or is not learnt (by a reward model: not read)."""
    if isinstance(trial.algorithm, RewardTrainer):
        bad = stops_unread(trial, trial.algorithm.model)
    elif isinstance(trial.algorithm, SFT):
        bad = [row.where for row in trial.rows if not row.truncated and not stop_learnt(trial, row)]
    else:
        ended = (~trial.truncated).nonzero()[:, 0].tolist()
        bad = [f"answer {row + 1}" for row in ended if not stop_reinforced(trial, row)]
    return Gap(len(bad), 0, some(bad))


def stop_learnt(trial: Trial, row: Example) -> bool:
    """Whether the row ends with a stop token, and SFT gets a gradient from that token alone."""
    last = replace(row, prompt_ids=row.prompt_ids + row.response_ids[:-1], response_ids=row.response_ids[-1:])
    return last.response_ids[0] in trial.model.stop_ids and pulls(trial.dry_step([last])[1])


def stop_reinforced(trial: Trial, row: int) -> bool:
    """Whether the policy of PPO gets a gradient from the stop token of an answer alone."""
    tokens, asked = trial.tokens, trial.rows[row]
    *answer, stop = tokens.response_ids[row, : int(tokens.response_lengths[row])].tolist()
    asked = replace(asked, prompt_ids=asked.prompt_ids + answer)
    alone = collate([asked.prompt_ids], [[stop]]).to(trial.model.device)
    return pulls(trial.dry_step([asked], sampler=replayed(alone, trial.truncated[row : row + 1]))[1])


@torch.no_grad()
def stops_unread(trial: Trial, model: RewardModel) -> list[str]:
    """Where the answers stand that do not end with a stop token, or score the same with another token there."""
    told = [(row, row.prompt_ids, ids) for row in trial.rows for ids in responses_in(row)]
    prompts, whole = [prompt for _, prompt, _ in told], [ids for _, _, ids in told]
    other = [[*ids[:-1], 0 if ids[-1] else 1] for ids in whole]
    scores = [rewards(model, collate(prompts, ids).to(trial.model.device)).tolist() for ids in (whole, other)]
    rows = zip(told, *scores, strict=True)
    return [row.where for (row, _, ids), a, b in rows if ids[-1] not in trial.model.stop_ids or a == b]


def everything_moves(trial: Trial) -> Gap:
    """Trained tensors that stood still for three steps, and frozen ones that did not."""
    before, trained = trial.weights(), trial.trained()
    still = set(trained) - trial.unread()
    for _ in range(STEPS_TO_MOVE):
        trial.step()
        after = trial.weights()
        still = {name for name in still if after[name] == before[name]}
        if not still:
            break
    strayed = {name for name in before.keys() - trained.keys() if after[name] != before[name]}
    told = {"did not move": still, "is frozen, but moved": strayed}
    return Gap(len(still | strayed), 0, "; ".join(f"{what}: {some(names)}" for what, names in told.items() if names))


def reference_stays(trial: Trial) -> Gap | None:
    """The reference's log-probs before and after a step, the worst token; None where there is no reference."""
    algorithm = trial.algorithm
    assert isinstance(algorithm, PPO)
    if algorithm.config.kl_coef == 0:
        return None
    rollout, _ = algorithm.sample(trial.rows)
    before = algorithm.reference_logprobs(rollout)
    trial.step()
    return Gap(furthest((before, algorithm.reference_logprobs(rollout))), 0)


def sampler_agrees(trial: Trial) -> Gap:
    """Log-probs (and values) as the job's sampler recorded them, and by a fresh pass over the same tokens."""
    config = trial.algorithm.rollout if isinstance(trial.algorithm, PPO) else trial.sampling(NEW_TOKENS)
    rollout = trial.sampled(config)
    with torch.no_grad():
        fresh = score(trial.model, rollout.tokens, temperature=config.temperature, head=trial.value_head)
    pairs = [(rollout.logprobs, fresh.logprobs)]
    if rollout.values is not None and fresh.values is not None:
        pairs.append((rollout.values, fresh.values))
    return Gap(furthest(*((one[rollout.mask], other[rollout.mask]) for one, other in pairs)), rounding(trial))


def engine_agrees(trial: Trial) -> Gap:
    """Greedy answers by the job's sampler, and by `rollouts.generate`, which runs the whole text for each token."""
    config = trial.sampling(GREEDY_TOKENS, temperature=0)
    both = answers(trial.sampled(config)), answers(trial.sampled(config, generate))
    rows = zip(trial.rows, *both, strict=True)
    return Gap(worst(regret(trial.model, row.prompt_ids, ours, plain) for row, ours, plain in rows), rounding(trial))


def answers(rollout: Rollout) -> list[list[int]]:
    """The sampled ids of each row."""
    lengths = rollout.tokens.response_lengths.tolist()
    return [ids[:length] for ids, length in zip(rollout.tokens.response_ids.tolist(), lengths, strict=True)]


@torch.no_grad()
def regret(model: LanguageModel, prompt: list[int], ours: list[int], plain: list[int]) -> float:
    """By how many nats the plain token is the likelier where the two first part.

    0 if they never do, a rounding error at a tie, infinite where one ended and the other did not.
    """
    t = next((t for t, (one, other) in enumerate(zip(ours, plain, strict=False)) if one != other), None)
    if t is None:
        return 0.0 if len(ours) == len(plain) else math.inf
    logprobs = model.logits(state_after(model, prompt, ours[:t]))[0].log_softmax(-1)
    return float(logprobs[plain[t]] - logprobs[ours[t]])


def checkpoint_resumes(trial: Trial) -> Gap:
    """What differs one step later between this job and a fresh one that loaded its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"algorithm": trial.algorithm.state(), "batches": trial.job.batches.state()}
        saved = checkpoint.save(Path(folder), trial.algorithm.steps, state)
        del state  # it holds the weights of the job that is about to go
        expected = future(trial)
        trial.renew()
        _, state = checkpoint.load(saved)
    trial.algorithm.load_state(state["algorithm"])
    trial.job.batches.load_state(state["batches"])
    found = future(trial)
    differs = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    return Gap(len(differs), 0, some(differs))


def future(trial: Trial) -> dict[str, str]:
    """The next batch, then figures and state after one more step."""
    following = [str(row) for row in next(trial.job.batches)]
    figures = trial.step()
    return dict(digests({"batch": following, "figures": figures, "state": trial.algorithm.state()}))


@torch.no_grad()
def saved_model_reloads(trial: Trial) -> Gap:
    """Log-probs (of a reward model: scores) by the trained model, and by the folder it was saved to."""
    algorithm, config = trial.algorithm, trial.job.config.model
    model = algorithm.model if isinstance(algorithm, RewardTrainer) else trial.model
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save(folder)  # as it stands: the run's own `save` first sets a reward model's scale, on all its data
        saved = load_model(config.model_copy(update={"name": temporary}))
        return Gap(difference(trial.job, saved, folder, trial.tokens), rounding(trial))


def rounding(trial: Trial) -> float:
    """How far two log-probs, values or scores may lie apart, by the type of the weights."""
    return AGREEMENT[trial.model.module.dtype]


def furthest(*pairs: tuple[Tensor, Tensor]) -> float:
    """The largest difference within the pairs; NaN if there is one."""
    return worst(float((one - other).abs().max()) for one, other in pairs)


def compare(trial: Trial, one: Mapping[str, Tensor], other: Mapping[str, Tensor], how: str = "") -> Gap:
    """How far the tensors of two steps lie apart, as a share of their norm (or of 1e-3 of the whole norm, if more).

    The worst counts; NaN where one is, or where there is nothing but zeros.
    """
    whole = math.hypot(*(float(x.norm()) for x in one.values()))
    shares = {}
    for name, x in one.items():
        scale = max(float(x.norm()), 1e-3 * whole)
        shares[name] = float((x - other[name]).norm()) / scale if scale else math.nan
    name = max(shares, key=lambda name: nan_last(shares[name]))
    return Gap(shares[name], GRADIENT[trial.model.module.dtype], how + name)


def together(figures: Metrics, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Figures and gradients by name."""
    return {name: torch.tensor(x) for name, x in figures.items()} | dict(gradients)


def pulls(gradients: Mapping[str, Tensor]) -> bool:
    """Whether the language model gets a gradient."""
    return any(bool(x.any()) for name, x in gradients.items() if name.startswith("model."))


def worst(gaps: Iterable[float]) -> float:
    """The largest; NaN if there is one."""
    return max(gaps, key=nan_last)


def nan_last(x: float) -> float:
    """A key to sort by: NaN above all numbers."""
    return math.inf if math.isnan(x) else x


def some(names: Collection[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
