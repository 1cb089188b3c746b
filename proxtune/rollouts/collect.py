"""Sample the responses of one step, every row from a seed of its own."""

from collections.abc import Sequence

from proxtune.data.template import PromptExample, encode_prompt
from proxtune.models.heads import ScalarHead
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.rollout import Rollout, Sampler
from proxtune.rollouts.sampling import NotFiniteError, SamplingConfig, row_uniforms


def as_prompts(model: LanguageModel, prompts: Sequence[str | PromptExample]) -> list[PromptExample]:
    """Plain strings encoded as the data layer would; examples as they are."""
    tokenizer = model.tokenizer
    return [PromptExample(encode_prompt(tokenizer, p), p, {}, "") if isinstance(p, str) else p for p in prompts]


def collect(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    config: SamplingConfig,
    *,
    sampler: Sampler,
    seed: int,
    step: int,
    head: ScalarHead | None = None,
) -> Rollout:
    """One response to each prompt. Row i of step s draws from a generator seeded by (seed, "rollout", s, i).

    Args:
        head: reads values off the policy's trunk in the sampling pass (shared critic).
    """
    uniforms = row_uniforms(seed, "rollout", step, range(len(prompts)), config.max_new_tokens)
    try:
        return sampler(model, list(prompts), config, uniforms=uniforms, head=head)
    except NotFiniteError as error:
        raise NotFiniteError(error.row, model.text(prompts[error.row])) from error
