"""The engine takes prompts while others run, gives up cancelled rows, and reads a prompt once for all its samples."""

import pytest
import torch
from torch import Tensor

from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import frozen_states
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import Engine, sample
from proxtune.rollouts.sampling import SamplingConfig, row_uniforms
from tests.tiny import ADAPTABLE, tiny_model

CONFIG = SamplingConfig(max_new_tokens=8)
PROMPTS = [[5, 6], [7], [8, 9, 10, 11], [20, 3, 4], [7], [7]]


def draws(count: int) -> Tensor:
    return row_uniforms(0, "rollout", 0, range(count), CONFIG.max_new_tokens)


def finish(engine: Engine, answers: dict[int, list[int]]) -> dict[int, list[int]]:
    while step := engine.step():
        for row, token in zip(step.rows, step.tokens, strict=True):
            answers.setdefault(row, []).append(token)
    return answers


def expected() -> dict[int, list[int]]:
    rollout = collect(tiny_model(), PROMPTS, CONFIG, sampler=sample, seed=0, step=0)
    rows = zip(rollout.tokens.response_ids.tolist(), rollout.tokens.response_lengths.tolist(), strict=True)
    return {row: ids[:length] for row, (ids, length) in enumerate(rows)}


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_prompts_that_come_while_others_run_are_answered_as_they_would_be_together(rows: int) -> None:
    answers: dict[int, list[int]] = {}
    with Engine(tiny_model(), CONFIG, rows=rows, slots=16) as engine:
        for prompt, uniforms in zip(PROMPTS, draws(6), strict=True):
            engine.add(prompt, uniforms)
            step = engine.step()
            assert step is not None
            for row, token in zip(step.rows, step.tokens, strict=True):
                answers.setdefault(row, []).append(token)
        assert finish(engine, answers) == expected()


def test_a_cancelled_row_says_nothing_more_and_the_others_do_not_notice() -> None:
    whole = expected()
    with Engine(tiny_model(), CONFIG, rows=3, slots=16) as engine:
        for prompt, uniforms in zip(PROMPTS, draws(6), strict=True):
            engine.add(prompt, uniforms)
        engine.cancel(4)  # still waiting
        step = engine.step()
        assert step is not None
        engine.cancel(0)  # running, in the first place
        answers = {row: [token] for row, token in zip(step.rows, step.tokens, strict=True)}
        finish(engine, answers)
    assert len(answers.pop(0)) == 1
    assert answers == {row: ids for row, ids in whole.items() if row not in (0, 4)}


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    model, read = tiny_model(), []
    run = model.run

    def counting(ids: Tensor, rows: object) -> Tensor:
        read.append(len(ids))
        return run(ids, rows)  # type: ignore[arg-type]

    model.run = counting  # type: ignore[method-assign, assignment]
    with Engine(model, CONFIG, rows=8, slots=16) as engine:
        for uniforms in draws(8):
            engine.add([8, 9, 10, 11], uniforms)
        engine.step()
    assert read == [4]


def test_a_place_is_taken_again_at_once() -> None:
    with Engine(tiny_model(), SamplingConfig(max_new_tokens=1), rows=2, slots=8) as engine:
        for prompt, uniforms in zip(PROMPTS, draws(6), strict=True):
            engine.add(prompt, uniforms)
        assert [len(step.rows) if (step := engine.step()) else 0 for _ in range(4)] == [2, 2, 2, 0]


@pytest.mark.parametrize("family", ADAPTABLE)
@pytest.mark.parametrize("rows_at_once", [2, 6])
def test_the_states_of_frozen_blocks_are_kept_as_they_would_be_computed(family: str, rows_at_once: int) -> None:
    model = tune(tiny_model(family=family), TuningConfig(rank=2, top_layers=1))
    rollout = sample(model, PROMPTS, CONFIG, uniforms=draws(6), rows_at_once=rows_at_once)
    computed = frozen_states(model, rollout.tokens)
    assert rollout.below is not None
    assert computed is not None
    assert rollout.below.blocks == computed.blocks == 1
    torch.testing.assert_close(rollout.below.states, computed.states, rtol=0, atol=1e-5)
