"""Our own LSTM: causal, with a state at each row's own last token, its head tied or of its own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from proxtune.data.collate import collate
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.load import ModelConfig, load
from proxtune.models.lstm import LSTM, LSTMConfig
from proxtune.models.rows import Rows
from proxtune.models.score import rewards
from proxtune.rollouts.cache import RowStates
from tests.tiny import WIDTH, tiny_model

SIZES = {name: size for name, size in WIDTH.items() if name != "num_attention_heads"}
PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]


@torch.no_grad()
def test_no_position_sees_what_comes_after_it() -> None:
    model = tiny_model(family="lstm")
    first, other = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[5, 6, 7, 20, 21]])
    a, b = model.hidden(first), model.hidden(other)
    torch.testing.assert_close(a[:, :3], b[:, :3], rtol=0, atol=1e-6)
    assert (a[:, 3] - b[:, 3]).abs().max() > 1e-3


@torch.no_grad()
def test_the_state_of_packed_rows_is_that_at_each_rows_own_last_token() -> None:
    model = tiny_model(family="lstm")
    memory = RowStates(3)
    model.run(torch.tensor([token for prompt in PROMPTS for token in prompt]), Rows([4, 1, 2], memory=memory))
    assert memory.state is not None
    for row, prompt in enumerate(PROMPTS):
        alone = RowStates(1)
        model.run(torch.tensor(prompt), Rows([len(prompt)], memory=alone))
        assert alone.state is not None
        for batched, single in zip(memory.state, alone.state, strict=True):
            assert batched.shape == (2, 3, 32)  # layers, rows, width
            torch.testing.assert_close(batched[:, row], single[:, 0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_row_that_goes_on_beside_a_new_one_ends_where_it_would_alone() -> None:
    model = tiny_model(family="lstm")
    whole = model.hidden(torch.tensor([[5, 6, 7]]))[0]
    memory = RowStates(2)
    model.run(torch.tensor([5, 6]), Rows([2], memory=memory))
    both = model.run(torch.tensor([7, 9, 8]), Rows([2], going=[2], memory=memory))
    torch.testing.assert_close(both[0], whole[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(both[1:], model.hidden(torch.tensor([[9, 8]]))[0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_place_that_is_copied_keeps_its_state() -> None:
    model = tiny_model(family="lstm")
    memory = RowStates(3)
    model.run(torch.tensor([5, 6, 7, 8, 9, 10]), Rows([2, 2, 2], memory=memory))
    assert memory.state is not None
    before = [x.clone() for x in memory.state]
    memory.copy(2, 0, 2)
    for after, first in zip(memory.state, before, strict=True):
        assert torch.equal(after, first[:, [2, 1, 2]])


def test_the_head_is_tied_or_of_its_own_and_stays_so_when_saved(tmp_path: Path) -> None:
    for tied in (True, False):
        module = LSTM(LSTMConfig(**SIZES, tie_word_embeddings=tied))
        assert (module.lm_head.weight is module.model.embed.weight) is tied
        model = tiny_model(family="lstm")
        model.module = module
        model.save(tmp_path / str(tied))
        again = load(ModelConfig(name=str(tmp_path / str(tied)))).module
        assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) is tied
        assert torch.equal(again.get_output_embeddings().weight, module.lm_head.weight)


def test_the_forget_gate_is_open_at_first() -> None:
    module = LSTM(LSTMConfig(**SIZES))
    assert torch.equal(module.model.lstm.bias_ih_l1[32:64], torch.ones(32))
    assert module.model.lstm.bias_ih_l1[:32].abs().max() < 1


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_drops_in_training_and_nowhere_else(layers: int) -> None:
    torch.manual_seed(0)
    module = LSTM(LSTMConfig(**SIZES | {"num_hidden_layers": layers}, dropout=0.5))
    assert module.model.lstm.dropout == (0.5 if layers == 2 else 0.0)  # torch drops between layers alone
    ids = torch.tensor([[5, 6, 7]])
    module.train()
    assert not torch.equal(module(ids).logits, module(ids).logits)
    module.eval()
    assert torch.equal(module(ids).logits, module(ids).logits)


def test_it_serves_as_a_reward_model_whose_score_is_read_at_the_last_token(tmp_path: Path) -> None:
    model = tiny_model(family="lstm")
    head = ScalarHead(32, zero=False, generator=torch.Generator().manual_seed(1))
    RewardModel(model, head, max_length=64, gain=2.0, bias=-0.5).save(tmp_path)
    again = RewardModel.load(load(ModelConfig(name=str(tmp_path))), tmp_path)
    with torch.no_grad():
        scores = rewards(again, collate([[5, 6], [7]], [[8, 1], [9, 10, 11, 1]]))
        alone = [2 * head(model.hidden(torch.tensor([ids]))[0, -1]) - 0.5 for ids in ([5, 6, 8, 1], [7, 9, 10, 11, 1])]
    torch.testing.assert_close(scores, torch.stack(alone), rtol=0, atol=1e-5)


def test_weights_are_those_of_one_embedding_and_the_layers() -> None:
    module: nn.Module = LSTM(LSTMConfig(**SIZES))
    # a layer: 4 gates, each 32 × (32 + 32) weights and 2 biases of 32
    assert sum(p.numel() for p in module.parameters()) == 30 * 32 + 2 * 4 * (32 * 64 + 2 * 32)
