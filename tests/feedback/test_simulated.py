"""Simulated people: each temperament says what its formula says, and says it through a real server."""

import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
import uvicorn

from proxtune.errors import StoreError
from proxtune.feedback.records import Candidate, Item, Options, PairBody, SkipBody
from proxtune.feedback.simulated import (
    Adversarial,
    Asked,
    Biased,
    Browser,
    Crowd,
    Lazy,
    Noisy,
    Person,
    Recorded,
    answer_all,
)
from proxtune.feedback.store import Store
from proxtune.feedback.web.app import create_app

DRAWS = 4000
PAIR = Asked("pair", "p", ["aa", "b"])
FAR = 4.5  # standard errors: a right share lies within them but for 7 times in a million


def taste(prompt: str, text: str) -> float:
    """A text of two letters is better by one."""
    return len(text) - 1.0


def share(person: Person, asked: Asked = PAIR) -> float:
    """How often the answer in the first place is preferred."""
    said: list[int] = [person.answer(asked, Random(number)).body["preference"] for number in range(DRAWS)]
    return sum(preference > 0 for preference in said) / DRAWS


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def close(found: float, expected: float) -> bool:
    return abs(found - expected) < FAR * math.sqrt(expected * (1 - expected) / DRAWS)


def test_without_noise_the_better_is_preferred_and_equals_are_tied() -> None:
    assert share(Noisy(taste)) == 1.0
    assert share(Noisy(taste), Asked("pair", "p", ["b", "aa"])) == 0.0
    assert Noisy(taste).answer(Asked("pair", "p", ["a", "b"]), Random(0)).body["preference"] == 0
    ranks = Noisy(taste).answer(Asked("ranking", "p", ["a", "ccc", "bb", "d"]), Random(0)).body["ranks"]
    assert ranks == [3, 1, 2, 3]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_noisy_choose_by_bradley_and_terry(temperature: float) -> None:
    assert close(share(Noisy(taste, temperature)), sigmoid(1 / temperature))


def test_of_two_answers_a_ranking_is_a_pair() -> None:
    """Plackett and Luce: whatever else is ranked."""
    asked = Asked("ranking", "p", ["aa", "b", "ccc"])
    ranks = [Noisy(taste, 1.0).answer(asked, Random(number)).body["ranks"] for number in range(DRAWS)]
    assert close(sum(first < second for first, second, _ in ranks) / DRAWS, sigmoid(1.0))


def test_ratings_are_rounded_and_stay_on_the_scale() -> None:
    """Taste 0, 1, 2 with centre 1 and a step of 0.5: 3 − 2, 3, 3 + 2; of seven 4 + 2."""
    person = Noisy(taste, centre=1.0)
    texts = ["a", "aa", "aaa", "a" * 9]
    scores = [person.answer(Asked("rating", "p", [t]), Random(0)).body["scores"] for t in texts]
    assert scores == [{"overall": 1}, {"overall": 3}, {"overall": 5}, {"overall": 5}]
    asked = Asked("rating", "p", ["aaa"], 7, ("true", "kind"))
    assert person.answer(asked, Random(0)).body["scores"] == {"true": 6, "kind": 6}


def test_the_noise_of_ratings_is_gaussian() -> None:
    """Taste at the centre, T equal to the step: the middle one has P(|N(0, 1)| < ½)."""
    asked = Asked("rating", "p", ["a"], 7)
    scores = [Noisy(taste, 0.5).answer(asked, Random(n)).body["scores"]["overall"] for n in range(DRAWS)]
    assert close(sum(score == 4 for score in scores) / DRAWS, math.erf(0.5 / math.sqrt(2)))
    assert close(sum(score > 4 for score in scores) / DRAWS, (1 - math.erf(0.5 / math.sqrt(2))) / 2)


def test_a_thumb_goes_up_above_the_centre() -> None:
    asked = Asked("thumb", "p", ["aa"])
    ups = [Noisy(taste, 0.7, centre=0.5).answer(asked, Random(n)).body["up"] for n in range(DRAWS)]
    assert close(sum(ups) / DRAWS, sigmoid(0.5 / 0.7))


def test_the_biased_like_the_first_and_the_longer_more() -> None:
    even = Asked("pair", "p", ["a", "b"])
    assert close(share(Biased(taste, 1.0, first=0.8), even), sigmoid(0.8))
    assert close(share(Biased(lambda prompt, text: 0.0, 1.0, longer=-0.5)), sigmoid(-0.5))
    assert close(share(Biased(taste, 1.0, longer=0.5), even), 0.5)  # neither is longer
    assert close(share(Biased(taste, 1.0, first=0.8, longer=0.5)), sigmoid(1 + 0.8 + 0.5))


def test_the_lazy_take_the_first_of_a_share_unread() -> None:
    person = Lazy(taste, share=0.4)
    worse_first = Asked("pair", "p", ["b", "aa"])
    assert close(share(person, worse_first), 0.4)
    said = [person.answer(worse_first, Random(number)) for number in range(DRAWS)]
    assert all(one.read == (one.body["preference"] < 0) for one in said)
    unread = Lazy(taste, share=1.0)
    assert unread.answer(Asked("rating", "p", ["a" * 9], 7, ("x",)), Random(0)).body["scores"] == {"x": 4}
    assert unread.answer(Asked("ranking", "p", ["a", "b", "cc"]), Random(0)).body["ranks"] == [1, 2, 3]
    assert unread.answer(Asked("thumb", "p", ["a"]), Random(0)).body["up"]
    assert unread.answer(Asked("spans", "p", []), Random(0)).body == {"kind": "skip"}


def test_the_adversarial_prefer_the_worse_in_a_share() -> None:
    assert share(Adversarial(taste)) == 0.0
    assert close(share(Adversarial(taste, share=0.3)), 0.7)
    assert close(share(Adversarial(taste, 0.5)), sigmoid(-2.0))
    scores = Adversarial(taste, centre=1.0).answer(Asked("rating", "p", ["a"]), Random(0)).body["scores"]
    assert scores == {"overall": 5}


def items() -> list[Item]:
    """Of every kind that a taste can answer, and one that it cannot."""
    answers = [tuple(Candidate(text=t) for t in texts) for texts in (["aa", "b"], ["a", "bb", "ccc"], ["aa"])]
    two, three, one = answers
    return [
        *(Item(kind="pair", prompt=f"pair {n}", candidates=two, overlap=2) for n in range(30)),
        Item(kind="ranking", prompt="rank", candidates=three, overlap=2),
        Item(kind="rating", prompt="rate", candidates=one, options=Options(criteria=("a", "b"), scale=7), overlap=2),
        Item(kind="thumb", prompt="thumb", candidates=one, overlap=2),
        Item(kind="rewrite", prompt="rewrite", candidates=one, overlap=2),
    ]


class Served:
    """A store, and a server of it on a port of its own."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create(path)
        self.store.queue.add(items())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        app = create_app(self.store, secret=b"s" * 32)
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def invite(self) -> str:
        return self.store.people.invite("annotator")

    def bodies(self) -> list[tuple[int, int, Any]]:
        return [(one.item, one.person, one.body) for one in self.store.judgements.events()]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "labels.db")
    yield served
    served.stop()
    served.store.close()


@pytest.mark.slow
def test_a_crowd_answers_everything_and_a_rerun_says_the_same(served: Served, tmp_path: Path) -> None:
    people: dict[str, Person] = {"anna": Noisy(taste, 1.0), "bert": Adversarial(taste)}

    def judged(served: Served, seed: int) -> list[tuple[int, int, Any]]:
        crowd = Crowd(served.url, people)
        crowd.join(served.invite)
        told: list[Recorded] = []
        assert crowd.answer_all(seed=seed, told=told.append) == {"anna": 34, "bert": 34}
        assert len({one.request for one in told}) == 68
        return sorted(served.bodies(), key=lambda said: said[:2])

    first = judged(served, 7)
    assert all(progress.closed == 33 for progress in served.store.queue.batches().values())  # and one that is skipped
    assert sum(isinstance(body, SkipBody) for _, _, body in first) == 2
    numbers = {person.name: person.id for person in served.store.people.all()}
    by_bert = [body for _, person, body in first if person == numbers["bert"] and isinstance(body, PairBody)]
    assert {body.preference for body in by_bert} == {-1}  # the worse, whichever side it was shown on
    for name, seed, same in (("again", 7, True), ("another", 8, False)):
        other = Served(tmp_path / f"{name}.db")
        assert (judged(other, seed) == first) is same
        other.stop()
        other.store.close()


@pytest.mark.slow
def test_an_answer_whose_acknowledgement_is_lost_is_sent_again_and_recorded_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer reaches the app; of every other one the connection breaks before the person hears of it."""
    crowd = Crowd(served.url, {"anna": Noisy(taste)})
    crowd.join(served.invite)
    sent: list[str] = []
    request = httpx2.Client.request

    def breaking(self: httpx2.Client, method: str, url: str, **content: Any) -> httpx2.Response:
        answer = request(self, method, url, **content)
        if url.endswith("/judgement"):
            sent.append(content["json"]["request"])
            if sent.count(sent[-1]) == 1 and len(set(sent)) % 2:
                raise httpx2.ReadError("the connection broke")
        return answer

    monkeypatch.setattr(httpx2.Client, "request", breaking)
    assert crowd.answer_all() == {"anna": 34}
    assert len(sent) == 34 + 17
    assert len(set(sent)) == 34
    said = served.bodies()
    assert len(said) == len({item for item, _, _ in said}) == 34


@pytest.mark.slow
def test_who_works_while_the_app_restarts_goes_on(served: Served) -> None:
    crowd = Crowd(served.url, {"anna": Noisy(taste)})
    crowd.join(served.invite)
    restarts = iter(range(1))

    def restart(recorded: Recorded) -> None:
        if next(restarts, None) is not None:
            served.stop()
            threading.Timer(0.5, served.start).start()

    assert crowd.answer_all(told=restart) == {"anna": 34}
    assert len(served.bodies()) == 34


@pytest.mark.slow
def test_what_changed_meanwhile_is_left_and_a_refusal_is_an_error(served: Served) -> None:
    crowd = Crowd(served.url, {"anna": Noisy(taste)})
    crowd.join(served.invite)
    with Browser(served.url, "anna", patience=0.5) as browser:
        browser.login(crowd.passwords["anna"])
        shown = browser.next()
        assert shown is not None
        body = {"kind": "pair", "preference": 1}
        assert browser.submit(shown["id"], body, 2) is None  # 409: it would be the first
        recorded = browser.submit(shown["id"], body, 1)
        assert recorded is not None
        assert recorded.revision == 1
        with pytest.raises(StoreError, match="HTTP 422"):
            browser.submit(shown["id"], {"kind": "thumb", "up": True}, 2)
        served.stop()
        with pytest.raises(StoreError, match="is the app running"):
            browser.next()
    served.start()
    with pytest.raises(StoreError, match="HTTP 401"):
        answer_all(served.url, "anna", "not the password", Noisy(taste))


@pytest.mark.slow
def test_people_wait_for_more_until_they_are_told_to_stop(served: Served) -> None:
    crowd = Crowd(served.url, {"anna": Noisy(taste)})
    crowd.join(served.invite)
    said: list[Recorded] = []

    def enough() -> bool:
        if len(said) == 34 and len(served.store.queue.batches()) == 1:
            served.store.queue.add([items()[0].model_copy(update={"batch": "later"})])
        return len(said) == 35

    assert crowd.answer_all(until=enough, stay=True, told=said.append) == {"anna": 35}


@pytest.mark.slow
def test_where_one_fails_all_end(served: Served) -> None:
    def fails(prompt: str, text: str) -> float:
        raise ZeroDivisionError

    crowd = Crowd(served.url, {"anna": Noisy(taste), "bert": Noisy(fails)})
    crowd.join(served.invite)
    with pytest.raises(ZeroDivisionError):
        crowd.answer_all(stay=True)
