"""PPO on rollouts that are kept or replayed, on answers without a score, and with language modelling mixed in."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from proxtune.algorithms.ptx import Ptx, PtxConfig
from proxtune.data.collate import collate_examples
from proxtune.data.template import Example
from proxtune.models.score import score
from proxtune.objectives import sft_loss
from proxtune.rewards.base import Answers
from proxtune.rewards.combine import RunningScale
from proxtune.rollouts.store import RolloutStore
from proxtune.runs import derive_seed
from tests.algorithms.test_ppo import LORA, PROMPTS, count_a, moved, ppo, separate, trained
from tests.tiny import tiny_model


class Failing:
    """Counts the letter a, but gives the rows in `failed` no score."""

    name = "failing"

    def __init__(self, *failed: int) -> None:
        self.failed, self.calls = list(failed), 0

    def __call__(self, answers: Answers) -> Tensor:
        self.calls += 1
        scores = torch.tensor(count_a(answers.prompts, answers.responses))
        scores[self.failed] = torch.nan
        return scores


def refuse(prompts: list[str], responses: list[str]) -> list[float]:
    raise AssertionError("asked again")


@pytest.mark.parametrize("critic", [pytest.param("shared", marks=pytest.mark.slow), "separate"])
def test_a_replay_trains_on_the_saved_answers_to_the_same_bits(critic: str, tmp_path: Path) -> None:
    def parts(store: RolloutStore) -> dict[str, object]:
        return {"store": store} | (separate(LORA) if critic == "separate" else {})

    first = ppo(parts=parts(RolloutStore(tmp_path)))
    figures = [first.step(PROMPTS) for _ in range(3)]
    again = ppo(parts=parts(RolloutStore(tmp_path, replay=True)), reward=refuse)
    again.sampler = lambda *_, **__: pytest.fail("a replay samples nothing")
    assert [again.step(PROMPTS) for _ in range(3)] == figures
    assert all(torch.equal(x, trained(again)[name]) for name, x in trained(first).items())


def test_a_replay_may_train_otherwise_on_the_same_answers(tmp_path: Path) -> None:
    first = ppo(parts={"store": RolloutStore(tmp_path)})
    scores = [first.step(PROMPTS)["score/mean"] for _ in range(2)]
    other = ppo(parts={"store": RolloutStore(tmp_path, replay=True)}, reward=refuse, learning_rate=1e-3)
    replayed = [other.step(PROMPTS) for _ in range(2)]
    assert [step["score/mean"] for step in replayed] == scores
    assert replayed[1]["policy/ratio"] != pytest.approx(1, abs=1e-4)  # the answers are the other policy's


def test_rw3_scored_answers_are_not_scored_again_after_a_kill(tmp_path: Path) -> None:
    reward = Failing()
    first = ppo(reward=reward, parts={"store": RolloutStore(tmp_path)})
    state, whole = first.state(), [first.step(PROMPTS) for _ in range(3)]
    assert reward.calls == 3
    resumed = ppo(reward=reward, parts={"store": RolloutStore(tmp_path)})
    resumed.load_state(ppo().state() | {"steps": state["steps"]})
    assert [resumed.step(PROMPTS) for _ in range(3)] == whole
    assert reward.calls == 3


def test_with_0_epochs_answers_are_sampled_and_scored_and_nothing_is_trained(tmp_path: Path) -> None:
    algorithm = ppo(epochs=0, parts={"store": RolloutStore(tmp_path)})
    before = trained(algorithm)
    said = [[row["response"] for _ in [algorithm.step(PROMPTS)] for row in algorithm.samples()] for _ in range(2)]
    assert moved(algorithm, before) == set()
    assert said[0] != said[1]  # each step draws anew
    assert len(list(tmp_path.iterdir())) == 2


def test_a_row_without_a_score_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = ppo(reward=Failing(2, 5), epochs=1)
    improve, seen = algorithm.improve, []
    monkeypatch.setattr(algorithm, "improve", lambda experience: seen.append(experience) or improve(experience))
    stats = algorithm.step(PROMPTS)
    assert (~seen[0].mask.any(1)).nonzero()[:, 0].tolist() == [2, 5]
    assert seen[0].advantages[[2, 5]].abs().max() == 0
    assert stats["score/failed"] == pytest.approx(2 / 8)
    given = [row["score"] for i, row in enumerate(algorithm.samples()) if i not in (2, 5)]
    assert stats["score/mean"] == pytest.approx(sum(given) / 6)
    assert all(x.isfinite().all() for x in trained(algorithm).values())


def test_with_no_score_at_all_nothing_moves() -> None:
    algorithm = ppo(reward=Failing(*range(8)))
    before = trained(algorithm)
    assert algorithm.step(PROMPTS)["score/failed"] == 1
    assert moved(algorithm, before) == set()


def test_the_running_scale_counts_given_scores_alone() -> None:
    scale, plain = RunningScale(), RunningScale()
    scaled = scale(torch.tensor([1.0, torch.nan, 3.0]))
    assert scaled[[0, 2]].tolist() == plain(torch.tensor([1.0, 3.0])).tolist() == [1.0, 3.0]  # deviation 1
    assert scale.state() == plain.state()
    assert scale(torch.tensor([torch.nan])).isnan().all()
    assert scale.state() == plain.state()


def examples() -> list[Example]:
    return [Example([3], [4, 5, 6], "", truncated=False), Example([7, 8], [9], "", truncated=False)]


def test_ptx_adds_the_weighted_gradient_of_the_likelihood() -> None:
    """With no policy loss (advantages 0) and no value loss, what is left is coef · ∇ mean(−log π) of the drawn rows."""
    config = PtxConfig(coef=3.0, batch_size=4)
    one, two = (ppo(reward=lambda prompts, responses: [0.0] * len(prompts)) for _ in range(2))
    ptx = Ptx(one.policy, examples(), config, seed=5)
    loss = ptx.backward(0, 0)["ptx/loss"]
    rows = torch.randint(2, (4,), generator=torch.Generator().manual_seed(derive_seed(5, "ptx", 0, 0)))
    tokens = collate_examples([examples()[row] for row in rows.tolist()])
    expected, _ = sft_loss(score(two.policy, tokens).logprobs, tokens.mask)
    (3.0 * expected).backward()
    assert loss == pytest.approx(expected.item())
    for name, p in one.policy.trained().items():
        other = two.policy.trained()[name].grad
        assert p.grad is not None
        assert other is not None
        torch.testing.assert_close(p.grad, other)


@pytest.mark.slow
def test_ptx_keeps_texts_likely_that_ppo_alone_would_forget() -> None:
    def likelihood(steps: int, *, mixed: bool) -> tuple[float, dict[str, float]]:
        policy = tiny_model()
        algorithm = ppo(policy=policy, kl_coef=0.0)
        if mixed:
            algorithm.ptx = Ptx(policy, examples(), PtxConfig(coef=1.0, batch_size=2))
        stats = [algorithm.step(PROMPTS) for _ in range(steps)][-1]
        return Ptx(policy, examples(), PtxConfig(batch_size=16)).backward(0, 0)["ptx/loss"], stats

    (mixed, stats), (alone, _) = likelihood(8, mixed=True), likelihood(8, mixed=False)
    assert mixed < alone - 0.1
    assert "ptx/loss" in stats


def test_ptx_waits_for_the_end_of_the_critics_warm_up() -> None:
    algorithm = ppo(parts=separate(LORA, warmup=1))
    algorithm.ptx = Ptx(algorithm.policy, examples(), PtxConfig(coef=100.0))
    before = trained(algorithm)
    assert "ptx/loss" not in algorithm.step(PROMPTS)
    assert not [name for name in moved(algorithm, before) if name.startswith("policy")]
    assert "ptx/loss" in algorithm.step(PROMPTS)
