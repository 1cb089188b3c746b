"""A teacher's likelihood as a reward: the log-probs of its own pass over the answer, summed or averaged."""

import pytest
import torch

from proxtune.data.collate import collate
from proxtune.errors import RewardError
from proxtune.models.language_model import LanguageModel
from proxtune.rewards.base import Answers
from proxtune.rewards.likelihood import TeacherLikelihood
from tests.tiny import tiny_model

EOS = 1
PROMPTS, RESPONSES = ["ab", "c", "defg"], ["hello", "x", "yz"]


def answers(prompts: list[str] = PROMPTS, responses: list[str] = RESPONSES) -> Answers:
    """What a policy with the same tokenizer has answered, each answer ended by its stop token."""
    encode = tiny_model().tokenizer.encode
    tokens = collate([encode(p) for p in prompts], [[*encode(r), EOS] for r in responses])
    return Answers(prompts, responses, tokens, {})


def by_hand(teacher: LanguageModel, prompt: str, response: str) -> list[float]:
    """The log-prob of each token of the answer, one token after the other."""
    ids = teacher.tokenizer.encode(prompt)
    found = []
    for token in [*teacher.tokenizer.encode(response), EOS]:
        logits = teacher.module(input_ids=torch.tensor([ids])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token]))
        ids = [*ids, token]
    return found


@pytest.mark.parametrize("family", ["llama", "lstm"])
@torch.no_grad()
def test_the_score_is_the_log_likelihood_of_the_answer_its_stop_token_included(family: str) -> None:
    teacher = tiny_model(family=family, seed=5)
    each = [by_hand(teacher, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert [len(logprobs) for logprobs in each] == [6, 2, 3]
    total = TeacherLikelihood(teacher, same_tokenizer=True, likelihood="sum")(answers())
    mean = TeacherLikelihood(teacher, same_tokenizer=True)(answers())
    assert total.tolist() == pytest.approx([sum(logprobs) for logprobs in each], abs=1e-4)
    assert mean.tolist() == pytest.approx([sum(logprobs) / len(logprobs) for logprobs in each], abs=1e-5)
    assert mean.dtype == torch.float32
    assert not mean.requires_grad


def test_the_sum_prefers_the_shorter_of_two_answers_and_the_mean_need_not() -> None:
    teacher = tiny_model()
    teacher.head.weight.zero_()  # every token of the 30 is equally likely: log-prob −log 30 = −3.4012
    both = answers(["a", "a"], ["bcd", "b"])  # 4 and 2 tokens
    total = TeacherLikelihood(teacher, same_tokenizer=True, likelihood="sum")(both)
    mean = TeacherLikelihood(teacher, same_tokenizer=True)(both)
    assert total.tolist() == pytest.approx([-13.6048, -6.8024], abs=1e-3)
    assert mean.tolist() == pytest.approx([-3.4012, -3.4012], abs=1e-4)


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_text_is_scored_as_its_tokens_are_whatever_the_chunk(rows_at_once: int) -> None:
    teacher = tiny_model(seed=5)
    on_ids = TeacherLikelihood(teacher, same_tokenizer=True)(answers())
    on_text = TeacherLikelihood(teacher, same_tokenizer=False, rows_at_once=rows_at_once)(answers())
    torch.testing.assert_close(on_text, on_ids, rtol=0, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["mean", "sum"])
def test_an_answer_without_a_token_of_the_teachers_has_no_score(likelihood: str) -> None:
    given = answers(["ab", "c"], ["", "x"])
    cut = Answers(given.prompts, given.responses, given.tokens, {}, truncated=[True, True])
    reward = TeacherLikelihood(tiny_model(), same_tokenizer=False, likelihood=likelihood)  # type: ignore[arg-type]
    assert reward(cut).isnan().tolist() == [True, False]


def test_an_answer_longer_than_the_teachers_context_is_refused() -> None:
    message = r"an answer of 73 tokens .* the context of 64 of the teacher 'teacher'; set a smaller"
    with pytest.raises(RewardError, match=message):
        TeacherLikelihood(tiny_model(), same_tokenizer=True)(answers(["ab"], ["x" * 70]))


def test_a_teacher_that_has_diverged_is_refused() -> None:
    teacher = tiny_model(family="lstm")
    teacher.module.get_input_embeddings().weight.data[2] = torch.nan
    with pytest.raises(RewardError, match="weights may have diverged"):
        TeacherLikelihood(teacher, same_tokenizer=True)(answers())


def test_dropout_is_off_in_a_teacher() -> None:
    teacher = tiny_model()
    teacher.module.train()
    TeacherLikelihood(teacher, same_tokenizer=True)
    assert not teacher.module.training
