"""The loop with people in it, on a model of a second, with people who like one letter."""

import io
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proxtune import config as configs
from proxtune.errors import ConfigError, DataError
from proxtune.feedback.store import Store
from proxtune.models.trunk import blocks
from proxtune.runs import Run
from proxtune.workflows.rlhf import loop
from proxtune.workflows.rlhf.design import Design, Findings, Share, adjusted, kept
from proxtune.workflows.rlhf.measure import ceiling, win_rate
from proxtune.workflows.rlhf.questions import Pair, items, middle_states, pairs_of
from proxtune.workflows.rlhf.schema import RLHFRun
from proxtune.workflows.terminal import terminal
from tests.forked import exit_code, fork
from tests.tiny import FAMILIES, tiny_model

SCRATCH = {"vocab_size": 300, "layers": 1, "hidden": 16, "heads": 2, "context": 64}
SMALL = {"tuning": {"kind": "full"}, "training": {"steps": 3, "save_every": 1}}


def config_of(folder: Path, **given: Any) -> RLHFRun:
    """A loop of two rounds."""
    prompts = [{"prompt": f"{a} {b}"} for a, b in itertools.permutations("abcdefgh", 2)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    values: dict[str, Any] = {
        "name": "loop",
        "runs": str(folder),
        "model": {"name": "scratch:transformer", "scratch": SCRATCH},
        "data": {"train": str(folder / "prompts.jsonl")},
        "iterations": 2,
        "ask": {"prompts": 16, "answers": 3, "pairs": 20, "compared": 11, "again": 0.6, "held_out": 0.4, "least": 4},
        "reward": {**SMALL, "reward_model": {"batch_size": 4}},
        "policy": {**SMALL, "rollout": {"max_new_tokens": 6}, "ppo": {"batch_size": 8, "minibatch_size": 4}},
    }
    for key, value in given.items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    (folder / "loop.yaml").write_text(json.dumps(values))
    return configs.load(RLHFRun, [folder / "loop.yaml"])


@contextmanager
def people(path: Path, count: int = 2) -> Iterator[None]:
    """People who prefer the answer with more of the letter e, until the block ends."""
    stop = threading.Event()

    def work(name: str) -> None:
        while not path.exists() and not stop.is_set():
            time.sleep(0.01)
        with Store.create(path) as store:
            known = store.people.by_name(name)
            person = known[0].id if known else store.people.add(name, "annotator").id
            while not stop.is_set():
                lease = store.queue.next(person)
                if lease is None:
                    time.sleep(0.01)
                    continue
                texts = [lease.item.candidates[place].text for place in lease.order]
                body: dict[str, Any]
                if lease.item.kind == "pair":
                    left, right = ((text.count("e"), -len(text), text) for text in texts)
                    body = {"kind": "pair", "preference": 1 if left > right else -1}
                else:
                    body = {"kind": "rating", "scores": {"overall": 1 + min(4, texts[0].count("e"))}}
                name_of = f"{name}-{lease.id}-{lease.revision}"
                store.judgements.submit(person, lease.id, body, revision=lease.revision, request=name_of)

    threads = [threading.Thread(target=work, args=(f"person {i}",)) for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL", 0.02)


def walk(config: RLHFRun, *, resume: bool = False) -> tuple[Run, str]:
    said = io.StringIO()
    run = loop.rlhf(config, resume=resume, console=terminal(file=said, width=200))
    return run, said.getvalue()


def findings_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run.path.glob("iterations/*/finding.json"))]


@pytest.mark.slow
def test_each_round_asks_learns_improves_and_compares(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with people(tmp_path / "loop" / "labels.db"):
        run, said = walk(config)
    first, second = findings_of(run)
    assert second["judged"] > first["judged"] >= 20
    assert second["accuracy"] is not None
    assert first["ceiling"] == 1.0  # these people are of one mind
    assert first["win"] is not None
    assert second["iteration"] == 2
    assert all((run.path / "iterations" / "002" / name / "model").is_dir() for name in ("reward", "ppo"))
    page = (run.path / "status.html").read_text()
    assert "finished" in page
    assert "loop-002-compared" in page
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert "waiting for people" in said


@pytest.mark.slow
def test_nothing_is_trained_on_what_is_held_out(tmp_path: Path) -> None:
    with people(tmp_path / "loop" / "labels.db"):
        run, _ = walk(config_of(tmp_path, iterations=1))

    def prompts(name: str) -> set[str]:
        return {json.loads(line)["prompt"] for line in (run.path / name).read_text().splitlines()}

    trained = prompts("prompts.jsonl") | prompts("iterations/001/pairs.jsonl")
    held = prompts("held_prompts.jsonl") | prompts("iterations/001/held_pairs.jsonl")
    assert trained
    assert held
    assert not trained & held


@pytest.mark.slow
def test_stopped_after_any_file_it_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends right after each of its files is written, again and again, until the loop is finished."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole, torn = (config_of(tmp_path / name, ask={"again": 0.0}) for name in ("whole", "torn"))
    with people(tmp_path / "whole" / "loop" / "labels.db", count=1):
        run, _ = walk(whole)
    expected = findings_of(run)

    class KilledError(Exception):
        pass

    write, seen = loop.Iteration.write, set[Path]()

    def then_stop(self: loop.Iteration, name: str, content: Any) -> None:
        write(self, name, content)
        if self.folder / name not in seen:
            seen.add(self.folder / name)
            raise KilledError

    monkeypatch.setattr(loop.Iteration, "write", then_stop)
    stops = 0
    with people(tmp_path / "torn" / "loop" / "labels.db", count=1):
        while True:
            try:
                run, _ = walk(torn, resume=stops > 0)
                break
            except KilledError:
                stops += 1
    assert stops == 8  # four files in each of two rounds
    same = ("judged", "accuracy", "longer_people", "longer_model", "win", "kl")
    assert [row["step"] for row in run.metrics()] == [1, 2]
    found = findings_of(run)
    assert [[one[key] for key in same] for one in found] == [[one[key] for key in same] for one in expected]


@pytest.mark.slow
def test_killed_in_the_middle_of_each_stage_it_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    """kill -9 while it waits for people, while the reward model is learnt, within PPO, and while people compare."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole, torn = (config_of(tmp_path / name, iterations=1, ask={"again": 0.0}) for name in ("whole", "torn"))
    with people(tmp_path / "whole" / "loop" / "labels.db", count=1):
        run, _ = walk(whole)
    (expected,) = findings_of(run)
    folder = tmp_path / "torn" / "loop" / "iterations" / "001"
    for life, sign in enumerate(("asked.json", "reward/metrics.jsonl", "ppo/checkpoints", "compared.json")):
        pid = fork(lambda life=life: walk(torn, resume=life > 0) and None)  # type: ignore[misc]
        answering = people(tmp_path / "torn" / "loop" / "labels.db", count=1) if life else nullcontext()
        with answering:
            while not (folder / sign).exists():
                time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    with people(tmp_path / "torn" / "loop" / "labels.db", count=1):
        run, _ = walk(torn, resume=True)
    (found,) = findings_of(run)
    same = ("judged", "accuracy", "longer_people", "longer_model", "win", "kl", "score")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["people", "both"])
def test_ppo_learns_from_peoples_ratings_of_its_own_answers(tmp_path: Path, by: str) -> None:
    config = config_of(tmp_path, iterations=1, people={"reward": by, "wait": 20.0})
    with people(tmp_path / "loop" / "labels.db"):
        run, _ = walk(config)
    with Store.open(run.path / "labels.db") as store:
        progress = store.queue.batches()["loop-001-ppo"]
    assert progress.judgements >= 3 * 8 - 6  # three steps of eight answers; equal ones are asked about once
    assert progress.items == progress.closed  # nobody is asked about what was left, nor about held-out prompts
    assert progress.items <= 3 * 8


@pytest.mark.slow
def test_time_is_up_with_enough_answers_and_the_loop_goes_on_with_those(tmp_path: Path) -> None:
    """One person, and every pair is for two: not one is ever done."""
    config = config_of(tmp_path, iterations=1, ask={"people": 2, "wait": 1.0, "least": 4})
    with people(tmp_path / "loop" / "labels.db", count=1):
        run, said = walk(config)
    assert "time is up: going on with" in said
    (found,) = findings_of(run)
    assert found["ceiling"] is None


@pytest.mark.slow
def test_another_config_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, iterations=1)
    with people(tmp_path / "loop" / "labels.db"):
        walk(config)
    with pytest.raises(ConfigError, match="iterations: 3"):
        walk(config_of(tmp_path, iterations=3), resume=True)


@pytest.mark.slow
def test_the_recipe_passes_a_dry_run_which_leaves_nothing(tmp_path: Path) -> None:
    config_of(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    overrides = [
        f"data.train={tmp_path / 'prompts.jsonl'}",
        f"runs={tmp_path}",
        "model.name=scratch:transformer",
        f"model.scratch={json.dumps(SCRATCH)}",
        "policy.tuning.top_layers=null",
        "policy.rollout.max_new_tokens=4",
        "data.max_length=32",
    ]
    config = configs.load(RLHFRun, ["recipe:rlhf"], overrides)
    said = io.StringIO()
    result = loop.dry_run(config, terminal(file=said, width=200))
    assert result.probe is not None
    assert "56 prompts:" in said.getvalue()
    assert "people are at work for" in said.getvalue()
    assert sorted(tmp_path.rglob("*")) == before


@contextmanager
def judged_by_two(folder: Path, likes_new: Callable[[int, int], bool]) -> Iterator[tuple[Store, list[int]]]:
    """A store of twenty pairs, and their numbers; `likes_new` says it of a judge (0 or 1) and the place of a pair."""
    with Store.create(folder / "labels.db") as store:
        pairs = [Pair(f"p{i}", "old", "new") for i in range(20)]
        numbers = store.queue.add(items(pairs, batch="b", people=2, again=0.0, sources=("a", "b"), seed=0))
        for which, name in enumerate(("one", "other")):
            person = store.people.add(name, "annotator").id
            while (lease := store.queue.next(person)) is not None:
                shown_new_first = lease.order[0] == 1
                likes = likes_new(which, numbers.index(lease.id))
                body = {"kind": "pair", "preference": 1 if likes == shown_new_first else -1}
                store.judgements.submit(person, lease.id, body, revision=1, request=f"{person} {lease.id}")
        yield store, numbers


@pytest.mark.parametrize(("agree", "most"), [(20, 1.0), (16, (1 + 0.6**0.5) / 2)])
def test_the_ceiling_of_people_who_agree(agree: int, most: float, tmp_path: Path) -> None:
    """Two agree in a = p² + (1 − p)² of pairs where each prefers the likelier answer with p: of 0.8, p = 0.887."""
    with judged_by_two(tmp_path, lambda which, place: which == 0 or place < agree) as (store, _):
        assert ceiling(store) == pytest.approx(most)


def test_a_prompt_that_models_could_not_read_whole_is_refused_or_left_out_before_anybody_is_asked(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path, data={"train": str(tmp_path / "prompts.jsonl"), "max_length": 8})
    long = '{"prompt": "a b c d e f g h i j k l m n o p"}\n'
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(long)
    with pytest.raises(DataError, match=r"prompts\.jsonl:57: a prompt of \d+ tokens, and there is room for 8; people"):
        walk(config)
    dropping = config.model_copy(update={"data": config.data.model_copy(update={"too_long": "drop"})})
    said = io.StringIO()
    train, held = loop.write_prompts(dropping, tmp_path, terminal(file=said))
    assert len(train) + len(held) == 56
    assert "1 prompts of more than 8 tokens are left out" in said.getvalue()


def test_answers_are_not_prompts(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "b", "completion": "b"}\n')
    with pytest.raises(DataError, match="expected a prompt"):
        walk(config)


def test_a_pair_is_of_two_different_answers() -> None:
    pairs = pairs_of(["p"], [["x", "y", "x", "z"]])
    assert pairs == [Pair("p", "x", "y"), Pair("p", "x", "z"), Pair("p", "y", "z")]


def test_a_share_of_the_pairs_is_for_one_person_more() -> None:
    pairs = [Pair("p", "x", f"y{i}") for i in range(10)]
    asked = items(pairs, batch="b", people=2, again=0.3, sources=("m", "m"), seed=0)
    assert sorted(item.overlap for item in asked) == [2] * 7 + [3] * 3
    assert [item.priority for item in asked] == sorted((item.priority for item in asked), reverse=True)


def test_the_ceiling_is_of_the_model_that_names_the_likelier_answer_and_wins_count_ties_as_a_half(
    tmp_path: Path,
) -> None:
    with judged_by_two(tmp_path, lambda which, place: place < 10 or which == 0) as (store, numbers):  # half agreed
        assert ceiling(store) == pytest.approx(0.5)  # agreement of 0.5 is that of two coins
        reviewer = store.people.add("reviewer", "reviewer").id
        for number in numbers[10:15]:  # what a reviewer decides does not hide that people differed
            body = {"kind": "pair", "preference": 1}
            store.judgements.submit(reviewer, number, body, revision=1, request=f"final {number}", final=True)
        assert ceiling(store) == pytest.approx(0.5)
        for number in numbers[10:15]:
            store.judgements.withdraw(reviewer, number, revision=2, request=f"back {number}")
        win = win_rate(store, "b", pairs=20, same=10, seed=0)
        assert win_rate(store, "nobody judged", pairs=20, same=10, seed=0) is None
    assert win is not None
    assert win[0] == pytest.approx((10 * 1.0 + 10 * 0.5 + 10 * 0.5) / 30)
    assert win[1] < win[0] < win[2]


FOUND = Findings(
    judged=100,
    accuracy=Share(0.8, 0.75, 0.86),
    ceiling=0.85,
    longer_people=Share(0.5, 0.4, 0.6),
    longer_model=Share(0.6, 0.5, 0.7),
    win=Share(0.45, 0.35, 0.55),
    score=(0.0, 1.0),
    kl=2.0,
)


def test_nothing_changes_while_nothing_is_clear() -> None:
    assert adjusted(Design(0.05, 64), FOUND) == (Design(0.05, 64), [])
    assert kept(FOUND)


def test_a_reward_that_was_exploited_gets_a_stronger_kl_and_the_old_policy_stays() -> None:
    found = replace(FOUND, win=Share(0.3, 0.2, 0.4))
    design, (reason,) = adjusted(Design(0.05, 64), found)
    assert design.kl_coef == 0.1
    assert "30%" in reason
    assert not kept(found)


def test_a_reward_model_far_below_people_asks_for_more_judgements() -> None:
    design, (reason,) = adjusted(Design(0.05, 64), replace(FOUND, accuracy=Share(0.7, 0.6, 0.8)))
    assert design.pairs == 96
    assert "96 pairs" in reason


def test_a_reward_model_that_likes_length_more_than_people_pays_for_it_until_it_does_not() -> None:
    design, _ = adjusted(Design(0.05, 64), replace(FOUND, longer_model=Share(0.7, 0.65, 0.75)))
    assert design.length_penalty == 0.5
    design, _ = adjusted(design, replace(FOUND, longer_model=Share(0.3, 0.2, 0.35)))
    assert design.length_penalty == 0.0


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"lstm", "own"}))  # which do not tell
@torch.no_grad()
def test_halfway_up_an_answer_is_the_mean_of_its_tokens_and_no_answer_is_zero(family: str) -> None:
    model = tiny_model(family=family)
    rows, begins = [[5, 6, 7, 8, 9, 10], [7, 8], [14, 5, 6, 9, 11], [20, 21, 22]], [2, 1, 5, 0]
    half = len(blocks(model.module)[1]) // 2
    assert half > 0
    found = middle_states(model, rows, begins)
    for row, begin, mine in zip(rows, begins, found, strict=True):
        layers = model.module(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        expected = layers[half][0, begin:].sum(0) / max(len(row) - begin, 1)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
