"""Our own small LSTM, for training from scratch: embedding, LSTM layers with dropout between them, head.

It is registered with transformers, as `transformer.py` is. What it has read so far is one state a row, not a growing
cache: (h, c) of each layer.
"""

from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from proxtune.models.causal import CausalModel, register

State: TypeAlias = tuple[Tensor, Tensor]  # h and c, each [layers, B, H]


class LSTMConfig(PreTrainedConfig):
    """Sizes of an `LSTM`; `max_position_embeddings` is the longest sequence that it is used for."""

    model_type = "proxtune-lstm"

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 2
    max_position_embeddings: int = 512
    dropout: float = 0.0
    tie_word_embeddings: bool = True


class LSTMBase(PreTrainedModel):
    """What trunk and whole model share."""

    config_class = LSTMConfig
    base_model_prefix = "model"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.uniform_(module.weight, -0.1, 0.1)
        if isinstance(module, nn.LSTM):
            module.reset_parameters()
            for layer in range(module.num_layers):  # remember first: the forget gate is open (Jozefowicz et al. 2015)
                bias = getattr(module, f"bias_ih_l{layer}")
                nn.init.ones_(bias[module.hidden_size : 2 * module.hidden_size])


class LSTMTrunk(LSTMBase):
    """Token ids to hidden states."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        width, layers = config.hidden_size, config.num_hidden_layers
        self.embed = nn.Embedding(config.vocab_size, width)
        between = config.dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, width, num_layers=layers, dropout=between, batch_first=True)
        self.drop = nn.Dropout(config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **_: Any
    ) -> BaseModelOutputWithPast:
        """Positions are those of the recurrence itself; no real token sees the padding on its right.

        Args:
            attention_mask: [B, S], True where a row has a token, its padding on the right; None: everywhere.
            past_key_values: anything with a `state`, None or that of the tokens before, where the new one is left.
        """
        state: State | None = None if past_key_values is None else past_key_values.state
        x = self.drop(self.embed(input_ids))
        if attention_mask is None:
            y, state = self.lstm(x, state)
        else:  # packed, each row ends at its own last token, and so does its state
            lengths = attention_mask.sum(1).cpu()
            packed, state = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
            y = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]
        if past_key_values is not None:
            past_key_values.state = state
        return BaseModelOutputWithPast(last_hidden_state=self.drop(y), past_key_values=past_key_values)


class LSTM(CausalModel, LSTMBase):
    """The trunk with a language-model head, tied to the embedding or of its own."""

    trunk_class = LSTMTrunk


register(LSTMConfig, LSTM)
