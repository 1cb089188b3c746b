"""Continuous batching over preallocated memory.

Each token is computed once. Its log-prob, the entropy of its distribution and the value of its state come out of the
same pass, so that PPO needs no second forward of the policy. A pass takes one token of every row that goes on and the
whole prompts of rows that begin, without padding; a row that ends leaves its place to the next prompt in the queue. An
encoder-decoder, whose halves run apart, begins with the next prompts when all rows have ended.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from proxtune.data.collate import Tokens, pad
from proxtune.models import trunk
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.models.packed import packed
from proxtune.models.rows import Rows
from proxtune.rollouts.cache import BothHalves, KeysAndValues, memory_for
from proxtune.rollouts.rollout import Rollout, check_room
from proxtune.rollouts.sampling import SamplingConfig, next_tokens

ROWS_SAMPLED_AT_ONCE = 64  # it bounds memory and changes no token


@dataclass
class Row:
    """A prompt, and what has been answered so far."""

    key: int
    prompt: list[int]
    uniforms: list[float]
    response: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One more token for each of the n rows that are running."""

    rows: list[int]  # [n] the keys of the rows
    tokens: list[int]  # [n]
    logprobs: Tensor  # [n]
    entropy: Tensor  # [n]
    values: Tensor | None  # [n]
    ended: dict[int, Tensor | None]  # rows that ended with this token -> states [S, H] of their frozen lower blocks


class Engine:
    """Answers prompts; they may be added, and cancelled, while others are being answered.

    The model's weights must not change between `with Engine(…)` and its end: the engine reads copies of them.

    Args:
        rows: how many are answered at once; the others wait.
        slots: tokens of the longest prompt with its answer.
        head: reads the value of each state off the model's trunk.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: SamplingConfig,
        *,
        slots: int,
        rows: int = ROWS_SAMPLED_AT_ONCE,
        head: ScalarHead | None = None,
    ) -> None:
        self.model, self.config, self.head, self.places = model, config, head, rows
        self.memory: Any = memory_for(model, rows, slots)
        self.frozen = model.frozen_blocks if isinstance(self.memory, KeysAndValues) else 0
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # row i is remembered in place i
        self.added = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(packed(self.model.module, self.model.device, self.model.module.dtype))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, prompt: list[int], uniforms: Tensor) -> int:
        """Queue a prompt, with a draw in [0, 1) for each token of its answer; returns the key of its row."""
        self.waiting.append(Row(self.added, prompt, uniforms.tolist()))
        self.added += 1
        return self.added - 1

    def cancel(self, key: int) -> None:
        """Stop answering a row; its place is free at once. One that has ended is gone already."""
        self.waiting = deque(row for row in self.waiting if row.key != key)
        self._leave([place for place, row in enumerate(self.running) if row.key == key])

    @torch.no_grad()
    def step(self) -> Step | None:
        """One pass: a token for every row that is running or begins now; None where there is none left."""
        hidden = self._write() if isinstance(self.memory, BothHalves) else self._pass()
        return None if hidden is None else self._draw(hidden)

    def _write(self) -> Tensor | None:
        """[n, H]: the states of the running rows in an encoder-decoder; of new ones, where none is left."""
        if not self.running:
            self.running = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.places))]
            if not self.running:
                return None
            self.memory.begin(self.model, [row.prompt for row in self.running])
        hidden: Tensor = self.memory.write(self.model, [row.response for row in self.running])
        return hidden

    def _pass(self) -> Tensor | None:
        """[n, H]: the states that each row goes on from."""
        new = self._begin()
        first = [rows[0] for rows in new]
        going = [len(row.prompt) + len(row.response) - 1 for row in self.running]
        if not going and not first:
            return None
        batch = Rows([len(row.prompt) for row in first], going=going, memory=self.memory, device=self.model.device)
        ids = [row.response[-1] for row in self.running] + [token for row in first for token in row.prompt]
        hidden = self._run(torch.tensor(ids, device=self.model.device), batch)
        last = torch.tensor(batch.lengths, dtype=torch.int64).cumsum(0) + len(going) - 1
        places = [*range(len(going)), *last.tolist()]  # of the state that each row goes on from, in `hidden`
        self.running += first
        for place, rows in enumerate(new, start=len(going)):
            for copy in rows[1:]:
                self.memory.copy(place, len(self.running), len(copy.prompt))
                self.running.append(copy)
                places.append(places[place])
        return hidden[torch.tensor(places, device=hidden.device)]

    def _begin(self) -> list[list[Row]]:
        """The rows that begin now, those of one prompt together: it is read once for all of them."""
        alike: dict[tuple[int, ...], list[Row]] = {}
        for _ in range(min(len(self.waiting), self.places - len(self.running))):
            row = self.waiting.popleft()
            alike.setdefault(tuple(row.prompt), []).append(row)
        return list(alike.values())

    def _run(self, ids: Tensor, batch: Rows) -> Tensor:
        if not self.frozen:
            return self.model.run(ids, batch)
        with trunk.capture(self.model.module, self.frozen) as noted:
            hidden = self.model.run(ids, batch)
        self.memory.note(batch.places, batch.positions, noted[0])
        return hidden

    def _draw(self, hidden: Tensor) -> Step:
        rows = self.running
        uniforms = torch.tensor([row.uniforms[len(row.response)] for row in rows], dtype=torch.float64)
        seen = [row.prompt + row.response for row in rows] if self.config.repetition_penalty != 1 else None
        keys = [row.key for row in rows]
        drawn = next_tokens(self.model.logits(hidden), uniforms, self.config, seen, keys)
        tokens = drawn.tokens.tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.response.append(token)
        over = [
            place
            for place, row in enumerate(rows)
            if row.response[-1] in self.model.stop_ids or len(row.response) == self.config.max_new_tokens
        ]
        ended = {rows[place].key: self._states(place) for place in over}
        self._leave(over)
        values = None if self.head is None else self.head(hidden)
        return Step(keys, tokens, drawn.logprobs, drawn.entropy, values, ended)

    def _states(self, place: int) -> Tensor | None:
        row = self.running[place]
        length = len(row.prompt) + len(row.response) - 1  # its last token was not run
        return self.memory.states[place, :length].clone() if self.frozen else None

    def _leave(self, places: list[int]) -> None:
        """Take rows out; the last ones move into their places."""
        left = len(self.running) - len(places)
        movers = (place for place in range(left, len(self.running)) if place not in places)
        for place, mover in zip((place for place in places if place < left), movers, strict=True):
            row = self.running[place] = self.running[mover]
            self.memory.copy(mover, place, len(row.prompt) + len(row.response) - 1)
        del self.running[left:]


def decode(model: LanguageModel, prompt: list[int], config: SamplingConfig, *, uniforms: Tensor) -> Iterator[int]:
    """Yield the tokens of one answer as they are drawn."""
    check_room(model, [prompt], config)
    with Engine(model, config, rows=1, slots=len(prompt) + config.max_new_tokens) as engine:
        engine.add(prompt, uniforms)
        while step := engine.step():
            yield step.tokens[0]


def sample(
    model: LanguageModel,
    prompts: list[list[int]],
    config: SamplingConfig,
    *,
    uniforms: Tensor,
    head: ScalarHead | None = None,
    rows_at_once: int = ROWS_SAMPLED_AT_ONCE,
) -> Rollout:
    """Answer all prompts, `rows_at_once` of them at a time. See `Sampler` for the arguments."""
    check_room(model, prompts, config)
    device, size = model.device, (len(prompts), config.max_new_tokens)
    ids = torch.zeros(size, dtype=torch.int64, device=device)
    lengths = [0] * len(prompts)
    logprobs, entropy, values = (torch.zeros(size, device=device) for _ in range(3))
    states: dict[int, Tensor | None] = {}
    slots = max(map(len, prompts)) + config.max_new_tokens
    with Engine(model, config, rows=min(rows_at_once, len(prompts)), slots=slots, head=head) as engine:
        for prompt, draws in zip(prompts, uniforms, strict=True):
            engine.add(prompt, draws)
        while step := engine.step():
            place = (
                torch.tensor(step.rows, device=device),
                torch.tensor([lengths[row] for row in step.rows]).to(device),
            )
            ids[place] = torch.tensor(step.tokens, device=device)
            logprobs[place], entropy[place] = step.logprobs, step.entropy
            if step.values is not None:
                values[place] = step.values
            for row in step.rows:
                lengths[row] += 1
            states |= step.ended
    width, counts = max(lengths), torch.tensor(lengths, device=device)
    prompt_ids, prompt_lengths = (x.to(device) for x in pad(prompts))
    last = ids.gather(1, counts[:, None] - 1)[:, 0]
    return Rollout(
        tokens=Tokens(prompt_ids, prompt_lengths, ids[:, :width], counts),
        truncated=~torch.isin(last, torch.tensor(model.stop_ids, device=device)),
        logprobs=logprobs[:, :width],
        entropy=entropy[:, :width],
        values=None if head is None else values[:, :width],
        below=_below(engine.frozen, states, int((prompt_lengths + counts).max())),
    )


def _below(blocks: int, states: dict[int, Tensor | None], width: int) -> trunk.Below | None:
    """The states of each row, in the order of the rows, padded."""
    found = [x for _, x in sorted(states.items()) if x is not None]
    if not found:
        return None
    whole = found[0].new_zeros(len(found), width, found[0].shape[-1])
    for row, x in zip(whole, found, strict=True):
        row[: len(x)] = x
    return trunk.Below(whole, blocks)
