"""PPO from human feedback in one file, to be read from top to bottom.

A policy answers prompts, a reward gives each answer one number, and PPO (Schulman et al. 2017) moves the policy towards
answers that earn more, while a KL penalty holds it near where it began (Ziegler et al. 2019):

    sample     answer each prompt, token by token
    score      one number an answer from the reward; log-probs of the answer by a frozen copy of the first policy
    credit     KL-shaped rewards, generalised advantage estimation, whitening
    improve    four epochs of minibatches: clipped policy loss, clipped value loss, gradient clipping, Adam

Each answer is a vector of its own length: there is no padding, no mask and no cache. That is slow and plain. The
package does the same in padded batches, and a test holds the losses of the two equal.

    python reference/ppo.py --seed 1 --steps 25 --out metrics.jsonl

trains a random two-block transformer to fill its answers with one letter, in less than half a minute on one core.
"""

import argparse
import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.optim import Adam

Ids = list[int]
Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """What there is to choose."""

    max_new_tokens: int = 12
    temperature: float = 1.0
    epochs: int = 4  # passes over the answers of a step
    minibatch_size: int = 16  # answers of an optimiser step
    clip: float = 0.2  # the probability of a token may usefully change by this share
    value_clip: float = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    kl_coef: float = 0.01  # β, the reward that a nat of KL costs
    learning_rate: float = 2e-3
    critic_learning_rate: float = 1e-2
    max_grad_norm: float = 1.0


@dataclass
class Answer:
    """One answer of L tokens. Only the policy moves on: what was known when the answer was sampled stays as it was."""

    prompt: Ids
    tokens: Ids
    score: float
    logprobs: Tensor  # [L] by the policy that sampled them
    ref_logprobs: Tensor  # [L] by the policy as it was before training
    values: Tensor  # [L] the critic's guess, before each token, of the reward still to come
    advantages: Tensor  # [L] how much better than that guess it went
    returns: Tensor  # [L] what the critic should have guessed


# ---- The model -------------------------------------------------------------------------------------------------------
# Any module that maps token ids [S] to (logits [S, V], hidden states [S, H]) can be trained. This is a small one.
class Block(nn.Module):
    """Causal self-attention and a two-layer network, each added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(length, 3, self.heads, -1).permute(1, 2, 0, 3)  # each [heads, S, d]
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        attention = logits.masked_fill(future, -math.inf).softmax(-1)
        x = x + self.out((attention @ v).transpose(0, 1).reshape(length, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Policy(nn.Module):
    """A decoder-only transformer over one sequence at a time."""

    def __init__(self, vocabulary: int, width: int = 32, heads: int = 4, blocks: int = 2, context: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.norm(self.blocks(self.token(ids) + self.position.weight[: len(ids)]))
        return self.head(hidden), hidden


# ---- Sample and score ------------------------------------------------------------------------------------------------
def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """The randomness of one thing, by its name: what is drawn here depends on nothing that was drawn before."""
    digest = hashlib.blake2b(repr((seed, purpose, *indices)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@torch.no_grad()
def sample(policy: nn.Module, prompt: Ids, end: int, settings: Settings, draw: torch.Generator) -> Ids:
    """Tokens up to `end` or the length limit, each where a uniform number falls on the cumulated probabilities."""
    tokens: Ids = []
    for uniform in torch.rand(settings.max_new_tokens, dtype=torch.float64, generator=draw):
        logits, _ = policy(torch.tensor(prompt + tokens))
        cumulative = (logits[-1].double() / settings.temperature).softmax(-1).cumsum(-1)
        tokens.append(int((cumulative <= uniform * cumulative[-1]).sum()))
        if tokens[-1] == end:
            break
    return tokens


def read(policy: nn.Module, critic: nn.Module, prompt: Ids, tokens: Ids, temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probs [L], values [L]) of the tokens of an answer, each from the state just before its token.

    The critic reads the policy's states but does not shape them: its gradient stops there.
    """
    logits, hidden = policy(torch.tensor(prompt + tokens))
    before = slice(len(prompt) - 1, -1)
    logprobs = (logits[before] / temperature).log_softmax(-1)
    values = critic(hidden[before].detach()).squeeze(-1)
    return logprobs[torch.arange(len(tokens)), tokens], values


# ---- Credit ----------------------------------------------------------------------------------------------------------
def shaped_rewards(logprobs: Tensor, ref_logprobs: Tensor, score: float, kl_coef: float) -> list[float]:
    """−β (log π − log π_ref) for each token, and the score on top of the last one (Ziegler et al. 2019, equation 2)."""
    pairs = zip(logprobs.tolist(), ref_logprobs.tolist(), strict=True)
    rewards = [-kl_coef * (logprob - ref_logprob) for logprob, ref_logprob in pairs]
    rewards[-1] += score
    return rewards


def generalised_advantages(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} − V_t, as printed (Schulman et al. 2016, equation 16).

    After the last token nothing is to come: V = 0 there.
    """
    next_values = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, next_values, strict=True)]
    length = len(deltas)
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


def whiten(answers: list[Answer]) -> None:
    """Bring the advantages of all tokens of a step to mean 0 and variance 1; returns stay in units of the reward."""
    every = torch.cat([answer.advantages for answer in answers])
    mean, deviation = every.mean(), (every.var(correction=0) + 1e-8).sqrt()
    for answer in answers:
        answer.advantages = (answer.advantages - mean) / deviation


# ---- Improve ---------------------------------------------------------------------------------------------------------
def policy_losses(logprobs: Tensor, answer: Answer, clip: float) -> tuple[Tensor, Tensor]:
    """([L] −min(r A, g), [L] 1 where g is the smaller), where r = π / π_old, which is 1 before the first update.

    The bound g is (1 + clip) A for a good token and (1 − clip) A for a bad one: past it there is nothing more to gain,
    and the gradient is 0. This is equation 7 of Schulman et al. 2017 with the two cases of its clip written out.
    """
    surrogate = (logprobs - answer.logprobs).exp() * answer.advantages
    bound = torch.where(answer.advantages > 0, 1 + clip, 1 - clip) * answer.advantages
    return -torch.minimum(surrogate, bound), (surrogate > bound).to(surrogate.dtype)


def value_losses(values: Tensor, answer: Answer, clip: float) -> Tensor:
    """[L] half the squared error of the value, or of the value held within ± clip of the old one if that is larger."""
    held = torch.clamp(values, answer.values - clip, answer.values + clip)
    return torch.maximum((values - answer.returns) ** 2, (held - answer.returns) ** 2) / 2


# ---- All of it -------------------------------------------------------------------------------------------------------
def train(
    policy: nn.Module,
    critic: nn.Module,
    reward: Callable[[Ids, Ids], float],
    batches: Iterable[list[Ids]],
    *,
    end: int,
    settings: Settings,
    seed: int,
) -> Iterator[Figures]:
    """Train `policy` and `critic` in place, one step for each batch of prompts; yield the figures of each step.

    `reward(prompt, tokens)` and `end`, the token that ends an answer, are in token ids.
    """
    reference = copy.deepcopy(policy)
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [(trained, settings.learning_rate), (list(critic.parameters()), settings.critic_learning_rate)]
    adam = Adam([{"params": weights, "lr": rate} for weights, rate in groups], betas=(0.9, 0.95), eps=1e-5)

    for step, prompts in enumerate(batches):
        answers = []
        for row, prompt in enumerate(prompts):
            # Sample.
            tokens = sample(policy, prompt, end, settings, generator(seed, "rollout", step, row))
            # Score.
            score = reward(prompt, tokens)
            with torch.no_grad():
                logprobs, values = read(policy, critic, prompt, tokens, settings.temperature)
                ref_logprobs, _ = read(reference, critic, prompt, tokens, settings.temperature)
            # Credit.
            rewards = shaped_rewards(logprobs, ref_logprobs, score, settings.kl_coef)
            credit = generalised_advantages(rewards, values.tolist(), settings.gamma, settings.lam)
            advantages = torch.tensor(credit)
            returns = advantages + values
            answers.append(Answer(prompt, tokens, score, logprobs, ref_logprobs, values, advantages, returns))
        whiten(answers)

        # Improve.
        updates = []
        for epoch in range(settings.epochs):
            order = torch.randperm(len(answers), generator=generator(seed, "minibatches", step, epoch))
            minibatches = [[answers[i] for i in rows] for rows in order.split(settings.minibatch_size)]
            updates += [update(policy, critic, adam, minibatch, settings) for minibatch in minibatches]

        yield {
            "score/mean": fmean([answer.score for answer in answers]),
            "kl/sequence": fmean([float((answer.logprobs - answer.ref_logprobs).sum()) for answer in answers]),
            "length/mean": fmean([len(answer.tokens) for answer in answers]),
            **{name: fmean([figures[name] for figures in updates]) for name in updates[0]},
        }


def update(policy: nn.Module, critic: nn.Module, adam: Adam, answers: list[Answer], settings: Settings) -> Figures:
    """One optimiser step. Losses are means over the tokens of the minibatch, so long answers weigh more than short."""
    terms = []
    for answer in answers:
        logprobs, values = read(policy, critic, answer.prompt, answer.tokens, settings.temperature)
        losses, clipped = policy_losses(logprobs, answer, settings.clip)
        terms.append(torch.stack([losses, value_losses(values, answer, settings.value_clip), clipped], dim=1))
    policy_loss, value_loss, clip_fraction = torch.cat(terms).mean(0)
    (policy_loss + settings.value_coef * value_loss).backward()
    for group in adam.param_groups:
        nn.utils.clip_grad_norm_(group["params"], settings.max_grad_norm)
    adam.step()
    adam.zero_grad()
    figures = {"policy/loss": policy_loss, "value/loss": value_loss, "policy/clip_fraction": clip_fraction}
    return {name: x.item() for name, x in figures.items()}


# ---- A little task ---------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz."  # the full stop ends an answer
END = LETTERS.index(".")


def share_of_e(_: Ids, tokens: Ids) -> float:
    """How much of the longest answer possible is the letter e."""
    return tokens.count(LETTERS.index("e")) / Settings.max_new_tokens


def random_prompts(seed: int, step: int) -> list[Ids]:
    """32 prompts of one to four letters."""
    draw = generator(seed, "prompts", step)
    lengths = torch.randint(1, 5, (32,), generator=draw).tolist()
    return [torch.randint(END, (length,), generator=draw).tolist() for length in lengths]


def main() -> None:
    """Train on the little task and print a line a step."""
    parser = argparse.ArgumentParser(description="PPO in one file: teach a random transformer to write one letter.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument(
        "--out", type=Path, default=Path(os.devnull), help="write the figures of each step here, as JSON lines"
    )
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    policy, critic, settings = Policy(len(LETTERS), width=32), nn.Linear(32, 1), Settings()
    nn.init.zeros_(critic.weight)  # a critic that knows nothing yet
    nn.init.zeros_(critic.bias)
    batches = (random_prompts(args.seed, step) for step in range(args.steps))
    figures = train(policy, critic, share_of_e, batches, end=END, settings=settings, seed=args.seed)
    with args.out.open("w") as file:
        for step, row in enumerate(figures, start=1):
            print(f"step {step:3d}", *(f"{name} {x:8.4f}" for name, x in row.items()), sep="  ")
            file.write(json.dumps({"step": step, **row}) + "\n")


if __name__ == "__main__":
    main()
