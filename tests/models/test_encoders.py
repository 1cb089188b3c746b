"""An encoder's rows see both ways, and themselves alone, whatever stands beside them in a pass."""

from pathlib import Path

import pytest
import torch

from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel, check_architecture
from proxtune.models.load import ModelConfig, load
from proxtune.models.rows import Rows
from proxtune.models.score import pooled_states, row_states
from tests.tiny import ENCODERS, tiny_encoder, tiny_model

ROWS = [[5, 6, 7, 8, 9, 10], [7, 8], [14, 5, 6, 9, 11], [20, 21, 22]]

each_encoder = pytest.mark.parametrize("family", ENCODERS)


@each_encoder
@torch.no_grad()
def test_packed_rows_are_what_each_is_alone(family: str) -> None:
    model = tiny_encoder(family=family)
    found, _ = row_states(model, ROWS)
    alone = torch.cat([model.hidden(torch.tensor([row]))[0] for row in ROWS])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


@each_encoder
def test_gradients_are_the_sum_of_those_of_each_row_alone(family: str) -> None:
    model = tiny_encoder(family=family)
    weights = [w for w in model.module.requires_grad_(True).parameters() if w.ndim == 2]
    packed = row_states(model, ROWS)[0].pow(3).sum()
    single = sum(model.hidden(torch.tensor([row])).pow(3).sum() for row in ROWS)
    for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in (packed, single)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@each_encoder
@torch.no_grad()
def test_the_first_token_sees_the_last_one(family: str) -> None:
    model = tiny_encoder(family=family)
    one, other = (model.run(torch.tensor([5, 6, 7, last]), Rows([4]))[0] for last in (8, 9))
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_the_second_text_of_a_pair_is_read_as_such_where_the_model_tells_texts_apart() -> None:
    rows, second = [[30, 5, 31, 6, 31], [30, 7, 31]], [3, 3]
    bert = tiny_encoder()
    segments = torch.tensor([[0, 0, 0, 1, 1]])
    alone = bert.module(input_ids=torch.tensor(rows[:1]), token_type_ids=segments).last_hidden_state[0]
    torch.testing.assert_close(row_states(bert, rows, second)[0][:5], alone, rtol=0, atol=1e-5)
    distilbert = tiny_encoder(family="distilbert")
    assert torch.equal(row_states(distilbert, rows, second)[0], row_states(distilbert, rows)[0])


@torch.no_grad()
def test_a_row_is_pooled_from_all_its_tokens_or_where_it_is_read_forwards_from_the_last() -> None:
    encoder, decoder = tiny_encoder(), tiny_model()
    means = torch.stack([encoder.hidden(torch.tensor([row]))[0].mean(0) for row in ROWS])
    torch.testing.assert_close(pooled_states(encoder, ROWS), means, rtol=0, atol=1e-5)
    lasts = torch.stack([decoder.hidden(torch.tensor([row]))[0, -1] for row in ROWS])
    torch.testing.assert_close(pooled_states(decoder, ROWS), lasts, rtol=0, atol=1e-5)


@each_encoder
@torch.no_grad()
def test_an_encoder_that_is_saved_is_loaded_as_one(family: str, tmp_path: Path) -> None:
    model = tiny_encoder(family=family)
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    assert not again.causal
    assert again.context == model.context
    torch.testing.assert_close(row_states(again, ROWS)[0], row_states(model, ROWS)[0], rtol=0, atol=1e-6)


def test_roberta_counts_positions_from_the_one_after_its_padding() -> None:
    assert [tiny_encoder(family=family).context for family in ("bert", "roberta")] == [64, 62]


def test_attention_within_a_window_to_both_sides_is_refused() -> None:
    from transformers import ModernBertConfig, ModernBertModel

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    module = ModernBertModel(ModernBertConfig(vocab_size=40, **small, **ids)).eval()
    with pytest.raises(ModelError, match="window to both sides is not supported"):
        check_architecture(LanguageModel(module, tiny_encoder().tokenizer))
