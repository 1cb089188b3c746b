"""What our own models share: a language-model head on a trunk, tied to the trunk's embedding or of its own."""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class CausalModel(PreTrainedModel):
    """`trunk_class` makes hidden states, the head reads them."""

    trunk_class: type[PreTrainedModel]
    _tied_weights_keys = {"lm_head.weight": "model.embed.weight"}  # noqa: RUF012 (transformers declares it so)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = self.trunk_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids, **kwargs).last_hidden_state))


def register(config: type[PreTrainedConfig], model: type[CausalModel]) -> None:
    """Let transformers load, save and adapt the model like any other."""
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model.trunk_class)
    AutoModelForCausalLM.register(config, model)
