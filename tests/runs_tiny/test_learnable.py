"""TR-4: no row without a token to learn reaches the model, and none is left out uncounted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxtune.algorithms.sft import SFT
from proxtune.data.collate import collate_examples
from proxtune.data.records import Completion
from proxtune.data.template import Example, TooLong, encode
from proxtune.errors import DataError
from proxtune.models.peft import TuningConfig, tune
from tests.tiny import letter_tokenizer, tiny_model

TOKENIZER = letter_tokenizer()


@settings(max_examples=150)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6),
    max_length=st.integers(1, 16),
    too_long=st.sampled_from(["drop", "truncate", "error"]),
)
def test_tr4_every_row_that_is_kept_has_a_token_to_learn_and_the_others_are_counted(
    lengths: list[tuple[int, int]], max_length: int, too_long: TooLong
) -> None:
    records = [Completion("a" * prompt, "b" * completion) for prompt, completion in lengths]
    try:
        examples, report = encode(records, TOKENIZER, max_length=max_length, too_long=too_long)
    except DataError as error:
        told = str(error)
        assert "no row is left" in told or (too_long == "error" and "more than max_length" in told)
        return
    assert collate_examples(examples).mask.any(1).all()
    assert (report.read, report.kept) == (len(records), len(examples))
    assert report.kept + report.dropped == report.read
    assert all(len(x.prompt_ids) + len(x.response_ids) <= max_length for x in examples)


def test_tr4_a_batch_without_a_token_to_learn_is_an_error_not_a_loss_of_0() -> None:
    algorithm = SFT(tune(tiny_model(), TuningConfig(kind="full")))
    with pytest.raises(ValueError, match="the batch has no token to learn"):
        algorithm.step([Example([5, 6], [], "", truncated=True)])
