"""An encoder reads the prompt, a decoder writes the response, and neither padding nor neighbours change a number."""

from pathlib import Path

import pytest
import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertModel,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from proxtune.data.collate import Tokens, collate
from proxtune.data.template import encode_completion
from proxtune.errors import ModelError
from proxtune.models.encoder_decoder import EncoderDecoder, check_encoder_decoder
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.load import ModelConfig, ScratchConfig, load, load_tokenizer
from proxtune.models.peft import TuningConfig, disable_dropout, tune
from proxtune.models.score import (
    frozen_logprobs,
    frozen_states,
    pooled_states,
    rewards,
    row_states,
    score,
    states,
    values_after,
)
from tests.tiny import ENCODER_DECODERS, letter_tokenizer, tiny_model

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
RESPONSES = [[3, 4], [15, 16, 17, 18, 19, 20, 1], [1]]
TOKENS = collate(PROMPTS, RESPONSES)
SCRATCH = ScratchConfig(vocab_size=300, layers=1, hidden=32, heads=2, context=32)

each_family = pytest.mark.parametrize("family", ENCODER_DECODERS)


def both_halves(family: str) -> EncoderDecoder:
    model = tiny_model(family=family)
    assert isinstance(model, EncoderDecoder)
    if family == "bart":
        model.module.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    return model


def value_head(model: LanguageModel) -> ScalarHead:
    return ScalarHead(model.hidden_size, zero=False, generator=torch.Generator().manual_seed(3))


def by_hand(model: EncoderDecoder, prompt: list[int], response: list[int]) -> Tensor:
    """[T, V]: the whole model's own logits, of one row by itself."""
    begun = torch.tensor([[model.start, *response[:-1]]])
    return model.module(input_ids=torch.tensor([prompt]), decoder_input_ids=begun).logits[0].float()


def moved(model: LanguageModel) -> LanguageModel:
    """Every weight that is trained changed, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.trained().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return model


# score


@each_family
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_a_padded_batch_gives_each_row_what_the_model_gives_it_alone(family: str, temperature: float) -> None:
    model = both_halves(family)
    logprobs = score(model, TOKENS, temperature=temperature).logprobs
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        whole = (by_hand(model, prompt, response) / temperature).log_softmax(-1)
        expected = whole[range(len(response)), response]
        torch.testing.assert_close(logprobs[row, : len(response)], expected, rtol=0, atol=1e-5)
        assert not logprobs[row, len(response) :].any()


@each_family
@torch.no_grad()
def test_the_head_on_the_states_gives_the_models_own_logits(family: str) -> None:
    model = both_halves(family)
    found = states(model, TOKENS)
    assert found.shape == (10, model.hidden_size)
    whole = [by_hand(model, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(model.logits(found), torch.cat(whole), rtol=0, atol=1e-5)
    head = model.head
    torch.testing.assert_close(head.logits(found)[0], torch.cat(whole), rtol=0, atol=1e-5)
    check_encoder_decoder(model)


@each_family
@pytest.mark.parametrize(("extra", "rubbish"), [(0, 1), (1, 29), (30, 0)])
@torch.no_grad()
def test_neither_the_size_nor_the_content_of_padding_changes_a_number(family: str, extra: int, rubbish: int) -> None:
    model = both_halves(family)
    prompt, response = (nn.functional.pad(x, (0, extra)) for x in (TOKENS.prompt_ids, TOKENS.response_ids))
    wide = Tokens(prompt, TOKENS.prompt_lengths, response, TOKENS.response_lengths)
    prompt[torch.arange(prompt.shape[1]) >= TOKENS.prompt_lengths[:, None]] = rubbish
    response[~wide.mask] = rubbish
    head = value_head(model)
    ours, theirs = (score(model, tokens, head=head, entropy=True) for tokens in (TOKENS, wide))
    for name in ("logprobs", "values", "entropy"):
        torch.testing.assert_close(getattr(theirs, name)[:, :7], getattr(ours, name), rtol=0, atol=1e-6)
    torch.testing.assert_close(values_after(model, head, wide), values_after(model, head, TOKENS), rtol=0, atol=1e-6)


@each_family
@torch.no_grad()
def test_a_reward_is_read_after_the_last_token_of_the_response(family: str) -> None:
    model = both_halves(family)
    head = value_head(model)
    tokens = collate([*PROMPTS, [5, 6]], [*RESPONSES, []])
    found = rewards(RewardModel(model, head, max_length=64, gain=3.0, bias=-1.0), tokens)
    for row, (prompt, response) in enumerate(zip([*PROMPTS, [5, 6]], [*RESPONSES, []], strict=True)):
        last = model.states([prompt], torch.tensor([response], dtype=torch.int64))[0, -1]
        torch.testing.assert_close(found[row], 3 * head(last) - 1, rtol=0, atol=1e-5)


@each_family
def test_the_gradient_of_a_batch_is_the_sum_of_its_rows_and_reaches_both_halves(family: str) -> None:
    def gradient(rows: list[int]) -> Tensor:
        model = both_halves(family)
        model.module.requires_grad_(True)
        score(model, TOKENS[torch.tensor(rows)]).logprobs.sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in model.module.get_encoder().parameters())
        return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient([0, 1, 2]), gradient([0]) + gradient([1]) + gradient([2]), rtol=1e-4, atol=1e-4)


@each_family
@torch.no_grad()
def test_a_whole_text_is_read_by_both_halves(family: str) -> None:
    model = both_halves(family)
    found, _ = row_states(model, PROMPTS)
    assert found.shape == (10, model.hidden_size)
    alone = [model.hidden(torch.tensor([prompt]))[0] for prompt in PROMPTS]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(alone[0], model.states([[5, 6, 7]], torch.tensor([[5, 6, 7]]))[0, 1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled_states(model, PROMPTS)[0], alone[0][-1], rtol=0, atol=1e-5)


# what a prompt is to the encoder


def test_the_encoder_reads_a_prompt_with_what_the_tokenizer_puts_around_a_text() -> None:
    model = both_halves("bart")
    core = model.tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A <|eos|>", special_tokens=[("<|pad|>", 0), ("<|eos|>", 1)]
    )
    assert model.around == ([0], [1])
    assert model.closed([5, 6]) == model.closed([0, 5, 6]) == model.closed([0, 5, 6, 1]) == [0, 5, 6, 1]
    assert model.context == 62
    with torch.no_grad():
        expected = by_hand(model, [0, 5, 6, 1], [3, 4]).log_softmax(-1)[range(2), [3, 4]]
        torch.testing.assert_close(score(model, collate([[5, 6]], [[3, 4]])).logprobs[0], expected, rtol=0, atol=1e-5)


@each_family
def test_the_context_is_that_of_the_shorter_half(family: str) -> None:
    model = both_halves(family)
    longest = min(model.context, 63)
    assert model.context == (2**20 - 1 if family == "t5" else 63)
    assert score(model, collate([[5] * (longest - 1)], [[6]])).logprobs.isfinite().all()
    assert score(model, collate([[5]], [[6] * (longest - 1)])).logprobs.isfinite().all()


# loading and saving


@each_family
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_saved_model_loads_and_gives_the_same_logprobs(family: str, kind: str, tmp_path: Path) -> None:
    model = both_halves(family)
    moved(tune(model, TuningConfig(kind=kind, rank=2)))
    found = frozen_logprobs(model, TOKENS)
    assert (found - frozen_logprobs(both_halves(family), TOKENS)).abs().max() > 0.01
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    assert isinstance(again, EncoderDecoder)
    assert (again.start, again.stop_ids) == (model.start, (1,)) == (1 if family == "small" else 0, (1,))
    torch.testing.assert_close(frozen_logprobs(again, TOKENS), found, rtol=0, atol=0 if kind == "full" else 1e-5)
    module = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    with torch.no_grad():
        theirs = module(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[model.start, 3]])).logits[
            0
        ]
    torch.testing.assert_close(theirs.log_softmax(-1)[range(2), [3, 4]], found[0, :2], rtol=0, atol=1e-5)


def test_a_model_from_scratch_has_the_sizes_it_was_asked_for(tmp_path: Path) -> None:
    corpus = ["the cat sat on the mat", "the dog sat on the log"] * 10
    config = ModelConfig(name="scratch:encoder-decoder", scratch=SCRATCH.model_copy(update={"tied": False}))
    model, other = (load(config, corpus=corpus, seed=seed) for seed in (1, 2))
    assert isinstance(model, EncoderDecoder)
    assert model.hidden_size == 32
    assert model.context == 31
    assert model.start == model.tokenizer.bos_token_id
    assert model.around == ([model.tokenizer.bos_token_id], [])
    assert model.module.get_output_embeddings().weight is not model.module.get_input_embeddings().weight
    assert weight_hash(model.module) != weight_hash(other.module)
    tokens = collate(*([x] for x in encode_completion(model.tokenizer, "the cat", " sat")))
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    torch.testing.assert_close(score(again, tokens).logprobs, score(model, tokens).logprobs, rtol=0, atol=0)


def test_two_copies_of_an_encoder_become_an_encoder_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    encoder.save_pretrained(tmp_path)
    tokenizer = letter_tokenizer()
    tokenizer.eos_token, tokenizer.sep_token, tokenizer.cls_token = None, "z", "y"
    tokenizer.save_pretrained(tmp_path)
    model, same, other = (load(ModelConfig(name=f"bert2bert:{tmp_path}"), seed=seed) for seed in (1, 1, 2))
    assert isinstance(model, EncoderDecoder)
    assert (model.stop_ids, model.start) == ((27,), 26)  # its separator, and its [CLS]
    for half in (model.module.encoder, model.module.decoder.bert):
        ours = half.encoder.layer[0].attention.self.query.weight
        assert torch.equal(ours, encoder.encoder.layer[0].attention.self.query.weight)
    assert weight_hash(model.module) == weight_hash(same.module) != weight_hash(other.module)
    model.save(tmp_path / "model")
    again = load(ModelConfig(name=str(tmp_path / "model")))
    assert (again.stop_ids, again.start) == ((27,), 26)
    assert weight_hash(again.module) == weight_hash(model.module)
    assert torch.equal(score(again, TOKENS).logprobs, score(model, TOKENS).logprobs)
    tokenizer, context = load_tokenizer(f"bert2bert:{tmp_path}")
    assert (tokenizer.eos_token_id, context) == (27, 512)
    both_halves("t5").save(tmp_path / "t5")
    with pytest.raises(ModelError, match=r"t5 is no encoder"):
        load(ModelConfig(name=f"bert2bert:{tmp_path / 't5'}"))


def test_an_architecture_that_changes_its_logits_after_the_head_is_refused() -> None:
    class Louder(T5ForConditionalGeneration):
        def forward(self, *args: object, **kwargs: object) -> object:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 2
            return out

    config = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="Louder changes its logits after the head"):
        check_encoder_decoder(EncoderDecoder(Louder(config).eval(), letter_tokenizer()))


def test_an_architecture_that_takes_its_logits_apart_is_refused() -> None:
    sizes = {f"{half}_{name}": 1 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = ProphetNetConfig(
        vocab_size=30,
        hidden_size=8,
        max_position_embeddings=64,
        decoder_start_token_id=0,
        **{f"num_{name}": size for name, size in sizes.items()},
    )
    with pytest.raises(ModelError, match="ProphetNetForConditionalGeneration changes its logits after the head"):
        check_encoder_decoder(EncoderDecoder(ProphetNetForConditionalGeneration(config).eval(), letter_tokenizer()))


# tuning


@each_family
def test_lora_stands_in_both_halves_and_the_reference_is_the_model_without_it(family: str) -> None:
    model = tune(both_halves(family), TuningConfig(rank=2))
    names = set(model.trained())
    for half, layers in (("encoder", 6), ("decoder", 10)):  # q, k, v and o, once or twice, and two of the feed-forward
        inside = [name for name in names if name.startswith((f"{half}.", f"model.{half}."))]
        assert len(inside) == 2 * layers * 2  # A and B in two blocks
    assert all("lora_" in name for name in names)
    before = frozen_logprobs(both_halves(family), TOKENS)
    moved(model)
    assert (frozen_logprobs(model, TOKENS) - before).abs().max() > 0.01
    with model.as_reference() as reference:
        torch.testing.assert_close(frozen_logprobs(reference, TOKENS), before, rtol=0, atol=1e-6)
    assert model.frozen_blocks == 0
    assert frozen_states(model, TOKENS) is None


@each_family
def test_what_is_made_for_one_stack_of_blocks_is_refused(family: str) -> None:
    with pytest.raises(ModelError, match=r"top_layers is 1, but an encoder-decoder has two stacks.*set null"):
        tune(both_halves(family), TuningConfig(top_layers=1))
    for kind in ("ia3", "adapter", "prefix", "prompt", "ptuning"):
        with pytest.raises(ModelError, match=rf"kind={kind} is made for one stack.*full, lora, adalora, bitfit, head"):
            tune(both_halves(family), TuningConfig(kind=kind))


@each_family
def test_activations_may_be_computed_again(family: str) -> None:
    def gradient(checkpointing: bool) -> Tensor:
        model = tune(both_halves(family), TuningConfig(kind="full", checkpointing=checkpointing))
        model.module.train()
        score(model, TOKENS).logprobs.sum().backward()
        return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(True), gradient(False), rtol=0, atol=1e-5)


@each_family
def test_without_dropout_train_mode_gives_what_eval_mode_gives(family: str) -> None:
    model = both_halves(family)
    expected = score(model, TOKENS).logprobs
    for part in model.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
        for name in ("dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.5)
    model.module.train()
    assert not torch.allclose(score(model, TOKENS).logprobs, expected, atol=1e-3)
    disable_dropout(model.module)
    torch.testing.assert_close(score(model, TOKENS).logprobs, expected, rtol=0, atol=1e-6)
