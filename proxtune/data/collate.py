"""Token lists of uneven length become right-padded tensors that know their lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxtune.data.template import Example, PreferenceExample, RatedExample


@dataclass(frozen=True)
class Tokens:
    """B prompts with a response each.

    Padding is always on the right, and a slot's meaning comes from the lengths, never from the id that stands there:
    a model whose pad token is its EOS learns to stop like any other.
    """

    prompt_ids: Tensor  # [B, P] int64
    prompt_lengths: Tensor  # [B] int64, at least 1
    response_ids: Tensor  # [B, T] int64
    response_lengths: Tensor  # [B] int64

    @property
    def mask(self) -> Tensor:
        """[B, T] bool: True where a response token stands."""
        return length_mask(self.response_lengths, self.response_ids.shape[1])

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def __getitem__(self, rows: Tensor) -> "Tokens":
        """The given rows, trimmed to their own longest prompt; the response axis keeps its width."""
        lengths = self.prompt_lengths[rows]
        return Tokens(
            self.prompt_ids[rows][:, : int(lengths.max())],
            lengths,
            self.response_ids[rows],
            self.response_lengths[rows],
        )

    def to(self, device: torch.device) -> "Tokens":
        fields = (self.prompt_ids, self.prompt_lengths, self.response_ids, self.response_lengths)
        return Tokens(*(x.to(device) for x in fields))


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """[B] lengths -> [B, width] bool, True for the first `length` slots of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def pad(rows: Sequence[Sequence[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
    """Token lists -> (ids [B, L] with 0 to the right, lengths [B]); L is `width` or the longest row's."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), max(int(lengths.max()), 1) if width is None else width, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return ids, lengths


def collate(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tokens:
    """Pair up prompts and responses."""
    return Tokens(*pad(prompts), *pad(responses))


def collate_examples(examples: Sequence[Example] | Sequence[RatedExample]) -> Tokens:
    """Examples as tensors."""
    return collate([e.prompt_ids for e in examples], [e.response_ids for e in examples])


def collate_pairs(pairs: Sequence[PreferenceExample]) -> Tokens:
    """2N rows: the N chosen answers, then the N rejected ones, each after its prompt."""
    answers = [p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs]
    return collate([p.prompt_ids for p in pairs] * 2, answers)
