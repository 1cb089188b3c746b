"""What the tests run on: models of a few thousand weights, made in milliseconds."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from proxtune.models.language_model import LanguageModel
from proxtune.models.transformer import Transformer, TransformerConfig

LETTERS = ["<|pad|>", "<|eos|>", *"abcdefghijklmnopqrstuvwxyz ."]


def letter_tokenizer(*, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """One token a letter: ids 0 and 1 are pad and EOS, 2 to 27 are a to z."""
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(LETTERS)}, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    pad = "<|eos|>" if pad_is_eos else "<|pad|>"
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|eos|>", pad_token=pad, unk_token=".")


def tiny_model(*, family: str = "llama", seed: int = 0, pad_is_eos: bool = False) -> LanguageModel:
    """A random two-block model over `LETTERS`, as `models.load` would return it: frozen, in float32."""
    torch.manual_seed(seed)
    module: LlamaForCausalLM | Transformer
    if family == "llama":
        module = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(LETTERS),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                initializer_range=0.2,
            )
        )
    else:
        module = Transformer(
            TransformerConfig(
                vocab_size=len(LETTERS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
            )
        )
    return LanguageModel(module.requires_grad_(False), letter_tokenizer(pad_is_eos=pad_is_eos))
