"""Our own small decoder, for training from scratch: pre-norm blocks, rotary positions, GELU, tied embeddings.

It is registered with transformers, so that loading, saving, adapters and caches work as for any model from a hub.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from proxtune.models.causal import CausalModel, register
from proxtune.models.rows import Rows


class TransformerConfig(PreTrainedConfig):
    """Sizes of a `Transformer`; `hidden_size` is a multiple of 2 · `num_attention_heads`."""

    model_type = "proxtune-transformer"

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 512
    dropout: float = 0.0
    tie_word_embeddings: bool = True


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): turn (x_i, x_{i+d/2}) by positions · 10000^(−2i/d).

    Args:
        x: [B, heads, S, d]; positions: [B, S].
    """
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = (positions[:, None, :, None] * frequency).to(x.dtype)
    cos, sin = angle.cos(), angle.sin()
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.dropout = layer, config.num_attention_heads, config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, positions: Tensor, rows: Rows | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (y.view(batch, length, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        q, k = rotate(q, positions), rotate(k, positions)
        dropout = self.dropout if self.training else 0.0
        if rows is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout).transpose(1, 2)
        else:
            y = rows.attend(self.layer, q[0], k[0], v[0], dropout=dropout)
        return self.out(y.reshape(batch, length, width))


class Block(GradientCheckpointingLayer):
    """Attention, then a two-layer network, each added to what came in."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(config.hidden_size), nn.RMSNorm(config.hidden_size)
        self.attention = Attention(config, layer)
        self.up = nn.Linear(config.hidden_size, 4 * config.hidden_size, bias=False)
        self.down = nn.Linear(4 * config.hidden_size, config.hidden_size, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, rows: Rows | None) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), positions, rows))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class TransformerBase(PreTrainedModel):
    """What trunk and whole model share."""

    config_class = TransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class TransformerTrunk(TransformerBase):
    """Token ids to hidden states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, rows: Rows | None = None, **_: Any
    ) -> BaseModelOutputWithPast:
        """Causal over whole rows [B, S], or over the packed `rows` of [1, N]."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.embed(input_ids)
        for block in self.layers:
            x = block(x, position_ids, rows)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x))


class Transformer(CausalModel, TransformerBase):
    """The trunk with a language-model head, tied to the embedding or of its own."""

    trunk_class = TransformerTrunk


register(TransformerConfig, Transformer)
