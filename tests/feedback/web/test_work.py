"""What a person is asked and answers, as a program or the page sees it."""

import itertools

import pytest

from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store
from tests.feedback.conftest import KINDS, Clock, pair
from tests.feedback.web.conftest import Login

pytestmark = pytest.mark.parametrize("address", KINDS, indirect=True)
NUMBERS = itertools.count()


def attempt(revision: int, **more: object) -> dict[str, object]:
    return {"revision": revision, "request": f"r-{next(NUMBERS)}", **more}


def test_an_item_is_shown_answered_changed_and_taken_back(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    store.write_guidelines("Be *fair*.")
    anna = login("anna")
    shown = anna.get("/api/next").json()
    assert set(shown) == {
        "id", "kind", "prompt", "candidates", "options", "draft", "revision", "guideline", "guideline_version",
    }  # fmt: skip
    assert sorted(shown["candidates"]) == ["first 0", "second 0"]
    assert (shown["guideline"], shown["guideline_version"], shown["revision"]) == ("Be *fair*.", 1, 1)
    url = f"/api/items/{shown['id']}"
    assert anna.put(f"{url}/draft", json={"comment": "hm"}).status_code == 204
    assert anna.get("/api/next").json()["draft"] == {"comment": "hm"}
    better = shown["candidates"].index("first 0")
    body = {"kind": "pair", "preference": 2 if better == 0 else -2}
    said = anna.post(f"{url}/judgement", json=attempt(1, body=body))
    assert (said.status_code, said.json()) == (201, {"revision": 1})
    assert anna.get("/api/next").status_code == 204
    (judged,) = store.judgements.all()
    assert judged.judgements[0].body.preference == 2
    (mine,) = anna.get("/api/mine").json()
    assert (mine["id"], mine["revision"], mine["body"]["preference"]) == (shown["id"], 1, body["preference"])
    taken = anna.request("DELETE", f"{url}/judgement", json=attempt(2))
    assert (taken.status_code, taken.json()) == (200, {"revision": 2})
    again = anna.get("/api/next").json()
    assert (again["revision"], again["draft"]["preference"]) == (3, body["preference"])


def test_what_was_changed_meanwhile_is_refused_and_shown(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    anna = login("anna")
    url = f"/api/items/{anna.get('/api/next').json()['id']}/judgement"
    first = attempt(1, body={"kind": "pair", "preference": 1, "comment": "one"})
    assert anna.post(url, json=first).status_code == 201
    assert anna.post(url, json=first).json() == {"revision": 1}  # the same request
    late = anna.post(url, json=attempt(1, body={"kind": "pair", "preference": -1}))
    assert late.status_code == 409
    assert late.json()["current"]["revision"] == 1
    assert late.json()["current"]["body"] == {
        "kind": "pair", "preference": 1, "both_bad": False, "comment": "one", "flags": [],
    }  # fmt: skip
    wrong = anna.post(url, json=attempt(2, body={"kind": "thumb", "up": True}))
    assert wrong.status_code == 422
    assert "the item asks for pair" in wrong.json()["detail"]


def test_what_no_store_can_keep_is_refused(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    anna = login("anna")
    url = f"/api/items/{anna.get('/api/next').json()['id']}"
    for text in ('{"comment": NaN}', '{"comment": "\\ud800"}', "[1]", "{", "null"):
        answer = anna.put(f"{url}/draft", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), text
    assert anna.put(f"{url}/draft", json={"comment": "x" * 200_001}).status_code == 413
    for wrong in ({"revision": 0}, {"revision": 2**31}, {"request": "r" * 65}, {"request": "ü"}, {"more": 1}):
        given = {**attempt(1, body={"kind": "pair", "preference": 1}), **wrong}
        assert anna.post(f"{url}/judgement", json=given).status_code == 422, wrong


def test_progress_counts_what_stands_and_what_is_of_today(store: Store, login: Login, clock: Clock) -> None:
    store.queue.add([pair(0), pair(1), pair(2)])
    anna = login("anna")
    for days in (0, 2):
        clock.time += days * 24 * 3600
        anna = login("anna")
        shown = anna.get("/api/next").json()
        body = {"kind": "pair", "preference": 0}
        anna.post(f"/api/items/{shown['id']}/judgement", json=attempt(1, body=body))
    me = anna.get("/api/me").json()
    assert (me["name"], me["role"], me["judged"], me["today"]) == ("anna", "annotator", 2, 1)


def test_a_conversation_is_shown_turn_by_turn(store: Store, login: Login) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    store.queue.add([Item(kind="thumb", prompt=turns, candidates=(Candidate(text="x", source="secret-model"),))])
    answer = login("anna").get("/api/next")
    assert answer.json()["prompt"] == turns
    assert "secret-model" not in answer.text


def test_a_character_that_postgresql_cannot_keep_is_refused_or_kept(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    root = login("root", "admin")
    url = f"/api/items/{root.get('/api/next').json()['id']}"
    body = {"kind": "pair", "preference": 1, "comment": "a\0b"}
    said = '{"kind": "thumb", "prompt": "a\\u0000b", "candidates": [{"text": "\\u0000"}], "batch": "a\\u0000b"}'
    answers = [
        root.put(f"{url}/draft", json={"comment": "a\0b"}),
        root.post(f"{url}/judgement", json=attempt(1, body=body)),
        root.get("/api/mine"),
        root.post("/admin/guidelines", data={"text": "a\0b"}),
        root.post("/admin/batches/overlap", data={"batch": "a\0b", "overlap": "2"}),
        root.post("/admin/import", data={"action": "add"}, files={"file": ("a\0b.jsonl", said.encode())}),
        root.get("/admin/export/events?batch=%00"),
        root.post("/login", data={"name": "a\0b", "password": "a\0b"}),
    ]
    assert [answer.status_code for answer in answers if answer.status_code >= 500] == []
