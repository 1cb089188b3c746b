"""What a job runs through its models: rows of which lengths, in passes of which shape, over which weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.supervised import Supervised
from proxtune.data.labels import AnswerExample, LabelExample, TagExample
from proxtune.data.template import Example, PreferenceExample, PromptExample, RatedExample
from proxtune.models.language_model import LanguageModel
from proxtune.workflows.jobs import Job

LOOKED_AT = 1000  # batches of the run whose rows are measured

Lengths = tuple[int, int]  # tokens of a prompt and of the response to it


class Shape(NamedTuple):
    """The rows of one forward pass."""

    rows: int
    width: int  # tokens of the longest row
    counted: int  # response tokens in all: the language-model head runs on these alone
    tokens: int  # in all: rows are not padded

    @classmethod
    def of(cls, rows: Sequence[Lengths]) -> "Shape":
        """The shape of a pass over rows of these lengths."""
        lengths = [p + r for p, r in rows]
        return cls(len(rows), max(lengths), sum(r for _, r in rows), sum(lengths))


def language_model(job: Job) -> LanguageModel:
    """The model that a job trains."""
    match job.algorithm:
        case Supervised(parts=(lm, _)):
            return lm
        case PPO(policy=policy):
            return policy
    raise AssertionError(type(job.algorithm))


def trained_weights(job: Job) -> list[nn.Parameter]:
    """All weights that a job trains, heads and critic among them."""
    match job.algorithm:
        case Supervised(parts=(lm, head)):
            return [*lm.trained().values(), *(head.parameters() if head is not None else ())]
        case PPO(policy=policy, critic=critic):
            return [*policy.trained().values(), *critic.trained().values()]
    raise AssertionError(type(job.algorithm))


def responses_in(example: Any) -> list[list[int]]:
    """The token ids of the responses that stand in an example; of a prompt none, for its response is sampled."""
    match example:
        case PreferenceExample(chosen_ids=chosen, rejected_ids=rejected):
            return [chosen, rejected]
        case Example(response_ids=response) | RatedExample(response_ids=response):
            return [response]
        case PromptExample():
            return []
        case LabelExample() | TagExample() | AnswerExample():  # all of a row is given
            return [[]]
    raise AssertionError(type(example))


def rows_of(example: Any, answer: int = 0) -> list[Lengths]:
    """The rows that an example becomes; the response to a prompt is taken to have `answer` tokens."""
    lengths = [len(response) for response in responses_in(example)] or [answer]
    return [(len(example.prompt_ids), length) for length in lengths]


def upcoming(job: Job, steps: int) -> list[list[Any]]:
    """The next batches of a job, which stay the next ones."""
    here = job.batches.state()
    batches = [next(job.batches) for _ in range(steps)]
    job.batches.load_state(here)
    return batches


def shapes(job: Job) -> tuple[Shape, Shape, Shape]:
    """Of the passes with a gradient: the smallest one of the run, its largest, and one of nothing but its longest rows.

    Responses that are still to be sampled have half of the length limit in the first, and all of it in the others.
    """
    limit = job.algorithm.rollout.max_new_tokens if isinstance(job.algorithm, PPO) else 0
    batches = [[row for e in batch for row in rows_of(e, limit)] for batch in upcoming(job, min(job.steps, LOOKED_AT))]
    rows = _rows_at_once(job, len(batches[0]))
    parts = [batch[i : i + rows] for batch in batches for i in range(0, len(batch), rows)]
    if limit:
        parts += [[(p, (r + 1) // 2) for p, r in part] for part in parts]
    if isinstance(job.algorithm, PPO) and job.algorithm.ptx is not None:
        mixed_in = sorted((row for e in job.algorithm.ptx.examples for row in rows_of(e)), key=sum)
        parts.append(mixed_in[-job.algorithm.ptx.config.batch_size :])
    found = sorted(map(Shape.of, parts), key=lambda shape: shape.tokens + shape.counted)
    longest = max((row for part in parts for row in part), key=sum)
    return found[0], found[-1], Shape.of([longest] * rows)


def _rows_at_once(job: Job, batch: int) -> int:
    """Rows of a forward pass that has a gradient; `batch` are those of a step."""
    match job.algorithm:
        case PPO(config=config):
            return config.microbatch_size or config.minibatch_size
        case Supervised(config=config):
            return (config.microbatch_size or config.batch_size) * batch // config.batch_size
    raise AssertionError(type(job.algorithm))
