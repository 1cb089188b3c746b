"""A model folder is believed when it has been loaded again and says what the trained model says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.task import TaskTrainer
from proxtune.data.collate import Tokens, collate
from proxtune.errors import ModelError
from proxtune.models.heads import RewardModel, TaskModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import load
from proxtune.models.score import frozen_logprobs, rewards, row_states
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
    if isinstance(job.algorithm, TaskTrainer):
        gap = _task_gap(job.algorithm, TaskModel.load(saved, folder), upcoming(job, 1)[0][:EXAMPLES])
    else:
        gap = difference(job, saved, folder, _rows(job, trained))
    limit = TOLERANCE[trained.module.dtype]
    if not gap <= limit:
        raise ModelError(
            f"{folder} was loaded again and is another model than the one that was trained: a {said_by(job)} on the "
            "training "
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


def _task_gap(trained: TaskTrainer, saved: TaskModel, examples: Sequence[Any]) -> float:
    """The largest difference of a head's number, over the tokens of a few rows."""
    rows = [example.prompt_ids for example in examples]
    trained.model.head.eval()
    before, after = (model.head(row_states(model.lm, rows)[0]) for model in (trained.model, saved))
    return float((before - after).abs().max())


def said_by(job: Job) -> str:
    """What a job's model says: the word for messages."""
    match job.algorithm:
        case TaskTrainer():
            return "logit"
        case RewardTrainer():
            return "score"
    return "log-prob"


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
