"""What the tests run on: models of a few thousand weights, made in milliseconds."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from proxtune.models.encoder_decoder import EncoderDecoder, small
from proxtune.models.language_model import LanguageModel
from proxtune.models.lstm import LSTM, LSTMConfig
from proxtune.models.transformer import Transformer, TransformerConfig

LETTERS = ["<|pad|>", "<|eos|>", *"abcdefghijklmnopqrstuvwxyz ."]

WIDTH: dict[str, Any] = {
    "vocab_size": len(LETTERS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LLAMA: dict[str, Any] = {
    **WIDTH,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}
SLIDING: dict[str, Any] = {
    "sliding_window": 4,  # shorter than the sequences of the tests
    "layer_types": ["full_attention", "sliding_attention"],
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {
    "initializer_range": 0.2,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "own": lambda: Transformer(TransformerConfig(**WIDTH)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA, **SLIDING, use_sliding_window=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**WIDTH, **GPT2)),
    "lstm": lambda: LSTM(LSTMConfig(**WIDTH)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**LLAMA, **SLIDING, head_dim=8, final_logit_softcapping=5.0)),
}
HALF: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
BERT: dict[str, Any] = {**WIDTH, **HALF, "intermediate_size": 64}
ENDS: dict[str, Any] = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
BART: dict[str, Any] = {
    f"{half}_{name}": size
    for half in ("encoder", "decoder")
    for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
}
OWN: dict[str, Any] = {
    "vocab_size": len(LETTERS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "heads": 4,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "init_std": 0.2,
}
ENCODER_DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(LETTERS), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, **ENDS
        )
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(LETTERS), d_model=32, max_position_embeddings=64, dropout=0.0, init_std=0.2, **BART, **ENDS
        )
    ),
    "bert2bert": lambda: EncoderDecoderModel(
        EncoderDecoderConfig(
            encoder=BertConfig(**BERT).to_dict(),
            decoder=BertConfig(**BERT, is_decoder=True, add_cross_attention=True).to_dict(),
            **ENDS,
        )
    ),
    "small": lambda: small(letter_tokenizer(), **OWN),
}
ADAPTABLE = [family for family in FAMILIES if family != "lstm"]  # LoRA wants blocks of linear layers


def letter_tokenizer(*, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """One token a letter: ids 0 and 1 are pad and EOS, 2 to 27 are a to z."""
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(LETTERS)}, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    pad = "<|eos|>" if pad_is_eos else "<|pad|>"
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|eos|>", pad_token=pad, unk_token=".")


def tiny_model(*, family: str = "llama", seed: int = 0, pad_is_eos: bool = False) -> LanguageModel:
    """A random two-block model over `LETTERS`, as `models.load` returns it: frozen, float32, without dropout."""
    torch.manual_seed(seed)
    module = (FAMILIES | ENCODER_DECODERS)[family]().eval().requires_grad_(False)
    kind = EncoderDecoder if module.config.is_encoder_decoder else LanguageModel
    return kind(module, letter_tokenizer(pad_is_eos=pad_is_eos))


ENCODER: dict[str, Any] = {**WIDTH, "vocab_size": len(LETTERS) + 2, "intermediate_size": 64, "initializer_range": 0.2}
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**ENCODER)),
    "roberta": lambda: RobertaModel(RobertaConfig(**ENCODER)),
    "electra": lambda: ElectraModel(ElectraConfig(**ENCODER, embedding_size=16)),
    "albert": lambda: AlbertModel(AlbertConfig(**ENCODER, embedding_size=16)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=len(LETTERS) + 2)
    ),
}


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, framed by [CLS] and [SEP], which come after the letters; a second text is of segment 1."""
    names = [*LETTERS, "[CLS]", "[SEP]"]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(names)}, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, names.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="<|pad|>",
        unk_token=".",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_encoder(*, family: str = "bert", seed: int = 0) -> LanguageModel:
    """A random two-block encoder over `LETTERS`, as `models.load` returns it."""
    torch.manual_seed(seed)
    module = ENCODERS[family]().eval().requires_grad_(False)
    module.pooler = None
    return LanguageModel(module, encoder_tokenizer())
