"""Our own decoder: causal, rotary, cached, tied."""

import math

import torch

from proxtune.models.transformer import Transformer, TransformerConfig, rotate
from tests.tiny import WIDTH, tiny_model


def test_rotation_turns_each_pair_by_its_angle() -> None:
    # width 4: frequencies 1 and 1/100; pairs are (x0, x2) and (x1, x3); position 1 turns them by 1 and 0.01
    x = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    turned = rotate(x, torch.tensor([[1]]))[0, 0, 0]
    expected = torch.tensor([math.cos(1), math.cos(0.01), math.sin(1), math.sin(0.01)])
    torch.testing.assert_close(turned, expected)
    assert torch.equal(rotate(x, torch.tensor([[0]])), x)


def test_scores_of_rotated_pairs_depend_on_their_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def dot(here: int, there: int) -> torch.Tensor:
        return (rotate(q, torch.tensor([[here]])) * rotate(k, torch.tensor([[there]]))).sum()

    torch.testing.assert_close(dot(3, 1), dot(40, 38), rtol=0, atol=1e-5)
    assert (dot(3, 1) - dot(3, 2)).abs() > 1e-3


@torch.no_grad()
def test_no_position_sees_what_comes_after_it() -> None:
    model = tiny_model(family="own")
    first, other = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[5, 6, 7, 20, 21]])
    a, b = model.hidden(first), model.hidden(other)
    torch.testing.assert_close(a[:, :3], b[:, :3], rtol=0, atol=1e-6)
    assert (a[:, 3] - b[:, 3]).abs().max() > 1e-3


@torch.no_grad()
def test_order_matters() -> None:
    model = tiny_model(family="own")
    forward, swapped = model.hidden(torch.tensor([[5, 6, 7]])), model.hidden(torch.tensor([[6, 5, 7]]))
    assert (forward[0, 2] - swapped[0, 2]).abs().max() > 1e-3


def test_head_and_embedding_are_one_matrix() -> None:
    module = Transformer(TransformerConfig(**WIDTH))
    assert module.lm_head.weight is module.model.embed.weight


def test_dropout_drops_in_training_and_nowhere_else() -> None:
    torch.manual_seed(0)
    module = Transformer(TransformerConfig(**WIDTH, dropout=0.5))
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(module(ids).logits, module(ids).logits)
    module.eval()
    assert torch.equal(module(ids).logits, module(ids).logits)
