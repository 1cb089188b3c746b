"""Our own small LSTM, for training from scratch: embedding, LSTM layers with dropout between them, head.

It is registered with transformers, as `transformer.py` is. What it has read so far is one state a row, not a growing
cache: (h, c) of each layer.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from proxtune.models.causal import CausalModel, register
from proxtune.models.rows import Rows

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

    def forward(self, input_ids: Tensor, rows: Rows | None = None, **_: Any) -> BaseModelOutputWithPast:
        """Whole rows [B, S] from the beginning, or the packed `rows` of [1, N].

        Positions are those of the recurrence itself; `rows.memory` holds the states of rows that go on.
        """
        x = self.drop(self.embed(input_ids))
        y = self.lstm(x)[0] if rows is None else self._packed(x[0], rows)[None]
        return BaseModelOutputWithPast(last_hidden_state=self.drop(y))

    def _packed(self, x: Tensor, rows: Rows) -> Tensor:
        memory: Any = rows.memory
        state: State | None = None if memory is None else memory.read(rows.going)
        if state is not None:  # those of new rows begin at 0
            new = [h.new_zeros(h.shape[0], len(rows.lengths), h.shape[2]) for h in state]
            state = (torch.cat([state[0], new[0]], 1), torch.cat([state[1], new[1]], 1))
        each = x.split([1] * rows.going + rows.lengths)
        y: PackedSequence
        y, after = self.lstm(pack_sequence(list(each), enforce_sorted=False), state)
        if memory is not None:
            memory.write(after)
        return torch.cat(unpack_sequence(y))


class LSTM(CausalModel, LSTMBase):
    """The trunk with a language-model head, tied to the embedding or of its own."""

    trunk_class = LSTMTrunk


register(LSTMConfig, LSTM)
