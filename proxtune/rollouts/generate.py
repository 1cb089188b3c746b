"""Sampling without a cache: slow, obvious, and the oracle of every other sampler.

The whole sequence is run again for every token.
"""

import torch
from torch import Tensor

from proxtune.data.collate import collate
from proxtune.models.encoder_decoder import EncoderDecoder
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.rollout import Rollout, check_room
from proxtune.rollouts.sampling import SamplingConfig, next_tokens


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: list[list[int]],
    config: SamplingConfig,
    *,
    uniforms: Tensor,
    head: ScalarHead | None = None,
) -> Rollout:
    """Answer each prompt by itself, one token at a time. See `Sampler` for the arguments."""
    check_room(model, prompts, config)
    size = (len(prompts), config.max_new_tokens)
    logprobs, entropy, values = (torch.zeros(size, device=model.device) for _ in range(3))
    responses: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        answer: list[int] = []
        for t in range(config.max_new_tokens):
            hidden = state_after(model, prompt, answer)
            logits = model.logits(hidden)
            draw = next_tokens(logits, uniforms[row : row + 1, t], config, [prompt + answer], [row])
            logprobs[row, t], entropy[row, t] = draw.logprobs, draw.entropy
            if head is not None:
                values[row, t] = head(hidden)
            answer.append(int(draw.tokens))
            if answer[-1] in model.stop_ids:
                break
        responses.append(answer)
    tokens = collate(prompts, responses).to(model.device)
    width = tokens.response_ids.shape[1]
    return Rollout(
        tokens=tokens,
        truncated=torch.tensor([answer[-1] not in model.stop_ids for answer in responses], device=model.device),
        logprobs=logprobs[:, :width],
        entropy=entropy[:, :width],
        values=None if head is None else values[:, :width],
    )


def state_after(model: LanguageModel, prompt: list[int], answer: list[int]) -> Tensor:
    """[1, H]: the state that the token after `answer` is chosen in, of this row by itself."""
    if isinstance(model, EncoderDecoder):
        written = torch.tensor([answer], dtype=torch.int64, device=model.device)
        return model.states([prompt], written)[:, -1]
    return model.hidden(torch.tensor([prompt + answer], device=model.device))[:, -1]
