"""What reviewers and admins do."""

import json

import pytest

from proxtune.feedback.store import Store
from tests.feedback.conftest import pair
from tests.feedback.web.conftest import Login

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

JSON = {"Accept": "application/json"}


def judge(store: Store, person: int, preference: int) -> int:
    """Somebody prefers the first candidate by so much, wherever it stands."""
    lease = store.queue.next(person)
    assert lease is not None
    body = {"kind": "pair", "preference": preference if lease.order[0] == 0 else -preference}
    store.judgements.submit(person, lease.id, body, revision=lease.revision, request=f"{person}-{lease.id}")
    return lease.id


def test_a_reviewer_sees_what_was_said_and_has_the_last_word(store: Store, login: Login) -> None:
    (number,) = store.queue.add([pair(0, overlap=2)])
    for name, preference in (("anna", 2), ("berta", -1)):
        judge(store, store.people.add(name, "annotator").id, preference)
    rosa = login("rosa", "reviewer")
    assert f'href="/review/{number}"' in rosa.get("/review").text
    shown = rosa.get(f"/api/items/{number}/review").json()
    assert (shown["candidates"], shown["revision"]) == (["first 0", "second 0"], 1)
    assert sorted(one["preference"] for one in shown["said"]) == [-1, 2]
    assert "anna" not in json.dumps(shown)
    answer = {"body": {"kind": "pair", "preference": -2}, "revision": 1, "request": "decided"}
    assert rosa.post(f"/api/items/{number}/final", json=answer).json() == {"revision": 1}
    (judged,) = store.judgements.all()
    assert [(one.final, one.body.preference) for one in judged.judgements] == [(True, -2)]
    assert f'href="/review/{number}"' not in rosa.get("/review").text
    assert rosa.get("/api/items/999/review").status_code == 404
    assert rosa.get("/review/999").status_code == 404


def test_a_reviewer_who_judged_decides_in_the_places_they_saw(store: Store, login: Login) -> None:
    store.queue.add([pair(i, overlap=2) for i in range(12)])
    rosa = login("rosa", "reviewer")
    person = store.people.by_name("rosa")[0].id
    orders = set()
    for _ in range(12):
        number = judge(store, person, 1)
        shown = rosa.get(f"/api/items/{number}/review").json()
        orders.add(shown["candidates"][0].split()[0])
        place = [text.split()[0] for text in shown["candidates"]].index("second")
        body = {"kind": "pair", "preference": 2 if place == 0 else -2}
        answer = {"body": body, "revision": shown["revision"], "request": f"final-{number}"}
        assert rosa.post(f"/api/items/{number}/final", json=answer).status_code == 201
    assert orders == {"first", "second"}  # 12 fair coins: false alarm 1 in 2048, and the shuffle is seeded
    assert {one.body.preference for judged in store.judgements.all() for one in judged.judgements} == {-2}


def test_people_are_given_roles_locked_and_forgotten(store: Store, login: Login) -> None:
    root, anna = login("root", "admin"), store.people.add("anna", "annotator")

    def change(person: int, what: str) -> int:
        data = {"person": person, "change": what, "sure": True}
        return root.post("/admin/people", data=data, headers=JSON).status_code

    assert change(anna.id, "reviewer") == 303
    assert change(anna.id, "lock") == 303
    assert (store.people.by_name("anna")[0].role, store.people.by_name("anna")[0].active) == ("reviewer", False)
    assert change(anna.id, "unlock") == 303
    assert change(anna.id, "erase") == 303
    assert store.people.by_name("anna") is None
    assert change(anna.id, "owner") == 422
    myself = store.people.by_name("root")[0].id
    for what in ("lock", "erase", "annotator"):
        assert change(myself, what) == 409, "nobody would be left to administer"
    assert store.people.by_name("root")[0].may("admin")
    log = root.get("/admin/log").text
    assert "change erase" in log
    assert log.count("root") > 3


def test_a_name_is_erased_only_after_a_question(store: Store, login: Login) -> None:
    root, anna = login("root", "admin"), store.people.add("<anna>", "annotator")
    assert '<option value="erase">' in root.get("/admin/people").text
    data = {"person": anna.id, "change": "erase"}
    asked = root.post("/admin/people", data=data)
    assert asked.status_code == 200
    assert "&lt;anna&gt;" in asked.text
    assert '<input type="hidden" name="sure" value="true">' in asked.text
    told = root.post("/admin/people", data=data, headers=JSON)
    assert (told.status_code, "sure=true" in told.json()["detail"]) == (422, True)
    assert root.post("/admin/people", data={**data, "person": 999}).status_code == 404
    assert store.people.by_name("<anna>") is not None
    assert root.post("/admin/people", data={**data, "sure": True}).status_code == 303
    assert store.people.by_name("<anna>") is None


def test_a_file_is_looked_through_before_anything_is_added(store: Store, login: Login) -> None:
    root = login("root", "admin")
    good = [{"kind": "thumb", "prompt": f"p {i}", "candidates": [{"text": "t"}], "batch": "new"} for i in range(450)]

    def send(rows: list[object], action: str) -> tuple[int, dict[str, object]]:
        content = "\n".join(json.dumps(row) for row in rows).encode()
        files = {"file": ("items.jsonl", content)}
        answer = root.post("/admin/import", data={"action": action}, files=files, headers=JSON)
        return answer.status_code, answer.json()

    bad = [*good, {"kind": "pair", "prompt": "p"}, [], {"kind": "thumb", "prompt": "x", "candidates": []}]
    for action, status in (("check", 200), ("add", 422)):
        assert send(bad, action) == (status, {
            "items": 450,
            "added": None,
            "mistakes": [
                "items.jsonl:451: 0 candidates, and an item of kind pair has 2; add or remove",
                "items.jsonl:452: a list; expected an object with kind, prompt, candidates",
                "items.jsonl:453: 0 candidates, and an item of kind thumb has 1; add or remove",
            ],
            "more": 0,
        })  # fmt: skip
    assert store.queue.batches() == {}
    assert send(good, "check")[1]["added"] is None
    assert store.queue.batches() == {}
    assert send(good, "add")[1]["added"] == 450
    assert send(good, "add")[1]["added"] == 0
    assert store.queue.batches()["new"].items == 450
    assert send([{"x": 1}] * 70, "check")[1]["more"] == 20
    assert send([], "check")[1]["mistakes"] == ["items.jsonl: no line with an item; expected one JSON object a line"]
    assert root.post("/admin/import", data={"action": "check"}).status_code == 422
    page = root.post("/admin/import", data={"action": "add"}, files={"file": ("x.jsonl", b"{}")})
    assert "x.jsonl:1:" in page.text


def test_more_people_are_asked_about_a_batch(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    judge(store, store.people.add("berta", "annotator").id, 1)
    root = login("root", "admin")
    assert root.get("/api/next").status_code == 204
    for overlap, status in ((0, 422), (1001, 422), (2, 303)):
        data = {"batch": "imported", "overlap": overlap}
        assert root.post("/admin/batches/overlap", data=data).status_code == status
    assert root.get("/api/next").status_code == 200


def test_the_present_overlap_stands_in_its_field(store: Store, login: Login) -> None:
    store.queue.add([pair(0, batch="even", overlap=3), pair(1, batch="even", overlap=3)])
    store.queue.add([pair(2, batch="mixed", overlap=1), pair(3, batch="mixed", overlap=4)])
    assert {name: one.overlap for name, one in store.queue.batches().items()} == {"even": (3, 3), "mixed": (1, 4)}
    root = login("root", "admin")
    shown = root.get("/admin").text
    assert 'required value="3" aria-label="People an item: even"' in shown
    assert 'required placeholder="1–4" aria-label="People an item: mixed"' in shown
    root.post("/admin/batches/overlap", data={"batch": "mixed", "overlap": 2})
    assert 'required value="2" aria-label="People an item: mixed"' in root.get("/admin").text


def test_guidelines_are_edited_in_versions(store: Store, login: Login) -> None:
    root = login("root", "admin")
    for text in ("Be *fair*.", "Be *quick*.\r\n"):
        assert root.post("/admin/guidelines", data={"text": text}).status_code == 303
    assert store.guidelines() == (2, "Be *quick*.\n")
    assert "<em>fair</em>" in root.get("/admin/guidelines?version=1").text
    assert "<em>quick</em>" in root.get("/guidelines").text


@pytest.mark.parametrize("name", ["reward", "events"])
def test_what_was_said_is_downloaded(store: Store, login: Login, name: str) -> None:
    root = login("root", "admin")
    empty = root.get(f"/admin/export/{name}", headers=JSON)
    assert (empty.status_code, "no row" in empty.json()["detail"]) == (422, True)
    store.queue.add([pair(0)])
    judge(store, store.people.add("berta", "annotator").id, 1)
    answer = root.get(f"/admin/export/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert "exported" in root.get("/admin/log").text
