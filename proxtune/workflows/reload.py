"""A model folder is believed when it has been loaded again and says what the trained model says."""

from pathlib import Path
from typing import Any

import torch

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.data.collate import Tokens, collate
from proxtune.errors import ModelError
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import load
from proxtune.models.score import frozen_logprobs, rewards
from proxtune.workflows.jobs import Job
from proxtune.workflows.shapes import language_model, responses_in, upcoming

EXAMPLES, LONGEST = 4, 64  # of the training data; tokens of a prompt and of a response
# The largest difference that is rounding. Merging an adapter rounds every weight once more, to the type it is saved in.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}


@torch.no_grad()
def reload_gap(job: Job, folder: Path) -> float:
    """The largest difference of a log-prob (of a score: in units of the head) between `folder` and the trained model.

    Raises:
        ModelError: the folder cannot be loaded, or another model stands in it.
    """
    trained = language_model(job)
    saved = load(job.config.model.model_copy(update={"name": str(folder)}))
    if not saved.reads_as(trained):
        raise ModelError(f"{folder} was loaded again and its tokenizer reads text otherwise; {_ADVICE}")
    trained.module.eval()
    gap, limit = difference(job, saved, folder, _rows(job, trained)), TOLERANCE[trained.module.dtype]
    if not gap <= limit:
        what = "score" if isinstance(job.algorithm, RewardTrainer) else "log-prob"
        raise ModelError(
            f"{folder} was loaded again and is another model than the one that was trained: a {what} on the training "
            f"data differs by {gap:.2g} (at most {limit:g} is rounding); {_ADVICE}"
        )
    return gap


@torch.no_grad()
def difference(job: Job, saved: LanguageModel, folder: Path, tokens: Tokens) -> float:
    """The largest difference of a log-prob, or of a score in units of the head, between the trained model and `saved`.

    NaN where there is one. `saved` is the language model that was loaded from `folder`.
    """
    if isinstance(job.algorithm, RewardTrainer):
        before, after = job.algorithm.model, RewardModel.load(saved, folder)
        gaps = (rewards(before, tokens) - rewards(after, tokens)) / max(1.0, before.gain)
    else:
        gaps = frozen_logprobs(language_model(job), tokens) - frozen_logprobs(saved, tokens)
    return float(gaps.abs().max())


_ADVICE = (
    "the run is not finished, and its checkpoints are untouched: look for a failing disk, or for weights that "
    "save_pretrained does not write, then finish with --resume"
)


def _rows(job: Job, model: LanguageModel) -> Tokens:
    [batch] = upcoming(job, 1)
    rows = [row for example in batch[:EXAMPLES] for row in _answers(example, model)]
    prompts, responses = zip(*((p[:LONGEST], r[:LONGEST]) for p, r in rows), strict=True)
    return collate(prompts, responses).to(model.device)


def _answers(example: Any, model: LanguageModel) -> list[tuple[list[int], list[int]]]:
    """Prompts with responses; of a prompt alone, its first token with the rest of it."""
    prompt = example.prompt_ids
    answered = [(prompt, response) for response in responses_in(example)]
    return answered or [(prompt[:1], [*prompt[1:], model.stop_ids[0]])]
