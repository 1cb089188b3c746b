"""Models of two halves: an encoder reads the prompt both ways, a decoder writes the response.

Both are run padded, as transformers does it, under masks made from lengths. What stands before the output layer is the
state that a token is chosen in, so that `head`, `logits` and all that is built on them are those of any other model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderModel, MBartConfig, MBartForConditionalGeneration, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from proxtune.data.collate import Tokens, length_mask, pad
from proxtune.errors import ModelError
from proxtune.models import trunk
from proxtune.models.language_model import LanguageModel, refuse
from proxtune.models.rows import Rows
from proxtune.models.vocabulary import Head


class Read(NamedTuple):
    """What the encoder made of B prompts."""

    states: Tensor  # [B, P, E]
    mask: Tensor  # [B, P] int64, 1 where a token stands


class EncoderDecoder(LanguageModel):
    """A transformers encoder-decoder: T5, BART and their relatives, or two encoders as an `EncoderDecoderModel`."""

    def __post_init__(self) -> None:
        """Attention stays transformers' own: rows are padded here."""

    @property
    def hidden_size(self) -> int:
        return int(self.head.weight.shape[1])

    @property
    def context(self) -> int:
        """Tokens of prompt and response together. Each half could hold so many, but data counts their sum."""
        config = self.module.config
        halves = (getattr(config, "encoder", config), getattr(config, "decoder", config))
        named = [getattr(half, "max_position_embeddings", None) for half in halves]
        beside = max(1, sum(map(len, self.around)))  # of the tokenizer, or the one that the decoder begins with
        return min((int(limit) for limit in named if limit is not None), default=2**20) - beside - self.first_position

    @cached_property
    def first_position(self) -> int:
        """The position of the decoder's first token, as for any other model."""
        embeddings: Any = getattr(self.module.get_decoder().base_model, "embeddings", None)
        return int(embeddings.padding_idx) + 1 if hasattr(embeddings, "create_position_ids_from_input_ids") else 0

    @property
    def frozen_blocks(self) -> int:
        """None that a pass could begin above: every block of the decoder reads the encoder too."""
        return 0

    @cached_property
    def start(self) -> int:
        """The token that the decoder begins with."""
        return int(self.module.config.decoder_start_token_id)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before a text, and after it: </s> for T5, <s> and </s> for BART."""
        text, whole = self.tokenizer.encode("a", add_special_tokens=False), self.tokenizer.encode("a")
        begin = next((i for i in range(len(whole)) if whole[i : i + len(text)] == text), 0)
        return whole[:begin], whole[begin + len(text) :]

    def closed(self, prompt: list[int]) -> list[int]:
        """A prompt as the encoder reads it: with what the tokenizer puts around a text, where that is missing."""
        before, after = self.around
        opened = prompt if prompt[: len(before)] == before else before + prompt
        return opened if not after or opened[-len(after) :] == after else opened + after

    def read(self, prompts: Sequence[list[int]]) -> Read:
        """Run the encoder over prompts."""
        ids, lengths = (x.to(self.device) for x in pad([self.closed(prompt) for prompt in prompts]))
        mask = length_mask(lengths, ids.shape[1]).long()
        return Read(self.module.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def write(self, read: Read, ids: Tensor, past: Any = None, *, cache: bool = False) -> tuple[Tensor, Any]:
        """Run the decoder over [B, S] of its tokens, after those that `past` remembers.

        It gets vectors for them: from ids, some families take one that is their padding's for no token at all.

        Returns:
            (states [B, S, H], what is remembered now; None without `cache`)
        """
        more = {}
        if isinstance(self.module, EncoderDecoderModel):  # RoBERTa forgets what went before, if it has vectors
            begin = self.first_position + (0 if past is None else past.get_seq_length())
            more["decoder_position_ids"] = torch.arange(begin, begin + ids.shape[1], device=self.device)[None]
        with _caught(self.module.get_output_embeddings()) as found:
            out = self.module(
                encoder_outputs=BaseModelOutput(last_hidden_state=read.states),
                attention_mask=read.mask,
                decoder_inputs_embeds=self.module.get_decoder().get_input_embeddings()(ids),
                past_key_values=past,
                use_cache=cache,
                **more,
            )
        return found[0], out.past_key_values

    def states(self, prompts: Sequence[list[int]], written: Tensor) -> Tensor:
        """[B, S + 1, H]: the decoder's states before the first and after each of the tokens [B, S] it has written."""
        start = written.new_full((len(written), 1), self.start)
        return self.write(self.read(prompts), torch.cat([start, written], 1))[0]

    def token_states(self, tokens: Tokens, *, last: bool = False) -> Tensor:
        """[N, H]: the states that the N response tokens were chosen in; `last`: [B, H], those after the responses."""
        lengths = tokens.response_lengths
        width = max(int(lengths.max()) - (not last), 0)
        written = tokens.response_ids[:, :width] * tokens.mask[:, :width]
        rows = zip(tokens.prompt_ids.tolist(), tokens.prompt_lengths.tolist(), strict=True)
        hidden = self.states([ids[:length] for ids, length in rows], written)
        return hidden[torch.arange(len(tokens)), lengths] if last else hidden[tokens.mask[:, : width + 1]]

    def hidden(self, ids: Tensor) -> Tensor:
        """[B, S, H]: whole texts, read by both halves (as BART reads them for labels, Lewis et al. 2019)."""
        return self.states(ids.tolist(), ids)[:, 1:]

    def run(
        self,
        ids: Tensor,
        rows: Rows,
        *,
        below: trunk.Below | None = None,
        segments: Tensor | None = None,  # noqa: ARG002 (neither half tells two texts apart)
    ) -> Tensor:
        """[N, H]: the same of packed rows."""
        assert below is None, "there are no frozen blocks to begin above"
        texts = ids.split(rows.lengths)
        padded, lengths = (x.to(self.device) for x in pad([text.tolist() for text in texts]))
        return self.states([text.tolist() for text in texts], padded)[:, 1:][length_mask(lengths, padded.shape[1])]

    @property
    def head(self) -> Head:
        """What makes logits of hidden states; BART adds a bias of its own after its output layer."""
        head, more = super().head, getattr(self.module, "final_logits_bias", None)
        if more is None:
            return head
        return head._replace(bias=more[0] if head.bias is None else head.bias + more[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V] in float32."""
        more = getattr(self.module, "final_logits_bias", None)
        return super().logits(hidden) if more is None else super().logits(hidden) + more[0]


@contextmanager
def _caught(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Note what comes to a layer [B, S, H], and do not run it: the logits of a batch never exist at once."""
    found: list[Tensor] = []

    def catch(hidden: Tensor) -> Tensor:
        found.append(hidden)
        return hidden.new_zeros(1)

    before = vars(layer).get("forward")  # of `packed`
    layer.forward = catch
    try:
        yield found
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def settle_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer that names no token for the end of an answer end it with its separator, as BERT ends a text."""
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token


def settle(module: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the tokens that an answer ends and the decoder begins with, where the model's files do not."""
    settle_end(tokenizer)
    if hasattr(module.get_encoder(), "pooler"):
        module.get_encoder().pooler = None  # of next-sentence prediction: nothing reads it
    config = module.config
    named = (getattr(x, "decoder_start_token_id", None) for x in (config, module.generation_config))
    candidates = (*named, tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    config.decoder_start_token_id = next((token for token in candidates if token is not None), None)
    if config.decoder_start_token_id is None:
        raise ModelError("no token begins the decoder's text; set decoder_start_token_id in the model's config.json")


def from_two_encoders(folder: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> Any:
    """Two copies of an encoder, the second with new attention to the first (Rothe et al. 2020, arXiv 1907.12461)."""
    options = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in _SAFE.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, **options)
    settle(module, tokenizer)
    return module


_SAFE = {"use_safetensors": True, "trust_remote_code": False}


def small(
    tokenizer: PreTrainedTokenizerBase, *, hidden_size: int, num_hidden_layers: int, heads: int, **sizes: Any
) -> MBartForConditionalGeneration:
    """Both halves of these sizes, with random weights: mBART's layers, which are normalised before attention."""
    of_each = {"layers": num_hidden_layers, "attention_heads": heads, "ffn_dim": 4 * hidden_size}
    halves: dict[str, Any] = {f"{half}_{name}": x for half in ("encoder", "decoder") for name, x in of_each.items()}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    module = MBartForConditionalGeneration(
        MBartConfig(d_model=hidden_size, forced_eos_token_id=None, **ids, **halves, **sizes)
    )
    settle(module, tokenizer)
    return module


@torch.no_grad()
def check_encoder_decoder(model: EncoderDecoder) -> None:
    """Refuse an architecture whose logits are not those of its head, or whose rows depend on their padding."""
    prompts = [[3, 4, 5, 6, 7, 8], [9, 10, 11]]
    read, ids = model.read(prompts), torch.tensor([[model.start, 5, 6], [model.start, 7, 8]], device=model.device)
    outputs = BaseModelOutput(last_hidden_state=read.states)
    theirs = model.module(encoder_outputs=outputs, attention_mask=read.mask, decoder_input_ids=ids).logits.float()
    try:
        ours = model.logits(model.states(prompts, ids[:, 1:]))
    except (IndexError, RuntimeError, TypeError):  # it takes apart what its output layer gives
        ours = torch.full_like(theirs, torch.nan)
    refuse(model, ours, theirs, "changes its logits after the head")
    alone = model.logits(model.states(prompts[1:], ids[1:, 1:]))
    refuse(model, ours[1:], alone, "does not keep a row apart from its padding")
