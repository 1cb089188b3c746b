"""What the tests run on: models of a few thousand weights, made in milliseconds."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
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
)

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
    module = FAMILIES[family]().eval().requires_grad_(False)
    return LanguageModel(module, letter_tokenizer(pad_is_eos=pad_is_eos))
