"""One's own account: other passwords, and what is held of oneself."""

import json

import pytest
from starlette.testclient import TestClient

from proxtune.feedback.store import Store
from proxtune.feedback.store.people import INVITED, digest
from proxtune.feedback.web.passwords import TRIES
from tests.feedback.conftest import Clock, pair
from tests.feedback.web.conftest import HOST, PASSWORD, Login

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,*/*"}
ANOTHER = "another long sentence"


def may_log_in(client: TestClient, name: str, password: str) -> bool:
    return client.post("/login", data={"name": name, "password": password}, headers=JSON).status_code == 200


def link_for(root: TestClient, store: Store, name: str) -> str:
    person = store.people.by_name(name)[0].id
    answer = root.post("/admin/resets", data={"person": person}, headers=JSON)
    assert answer.status_code == 201
    return answer.json()["link"]


def test_a_changed_password_ends_every_session_and_gives_this_browser_a_new_one(
    store: Store, login: Login, client: TestClient
) -> None:
    here, elsewhere, berta = login("anna"), login("anna"), login("berta")
    before = here.cookies["session"]
    answer = here.post("/account", data={"old": PASSWORD, "password": ANOTHER}, headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account?changed=true")
    assert here.cookies["session"] != before
    assert "Your password is changed" in here.get("/account?changed=true").text
    assert here.get("/api/me").json()["csrf"] != here.headers["X-CSRF-Token"]
    assert client.get("/api/me", headers={"Cookie": f"session={before}"}).status_code == 401
    assert (elsewhere.get("/api/me").status_code, berta.get("/api/me").status_code) == (401, 200)
    assert (may_log_in(client, "anna", PASSWORD), may_log_in(client, "anna", ANOTHER)) == (False, True)
    assert store.people.by_name("anna")[1].startswith("$argon2id$")


def test_a_password_is_changed_by_whoever_knows_the_present_one_alone(store: Store, login: Login) -> None:
    anna, kept = login("anna"), store.people.by_name
    before, session = kept("anna"), anna.cookies["session"]
    for old, password, said in (
        ("wrong", ANOTHER, "The present password is wrong."),
        (PASSWORD, "short", "The new password is too short."),
    ):
        refused = anna.post("/account", data={"old": old, "password": password}, headers=BROWSER)
        assert (refused.status_code, said in refused.text) == (422, True)
    told = anna.post("/account", data={"old": "wrong", "password": ANOTHER}, headers=JSON)
    assert told.json() == {"detail": "The present password is wrong."}
    in_chinese = {**BROWSER, "Accept-Language": "zh"}
    assert "当前密码不正确" in anna.post(
        "/account", data={"old": "wrong", "password": ANOTHER}, headers=in_chinese
    ).text  # fmt: skip
    assert (kept("anna"), anna.cookies["session"]) == (before, session)
    assert anna.get("/api/me").status_code == 200


def test_wa8_a_present_password_is_guessed_no_faster_than_at_the_login(login: Login) -> None:
    anna = login("anna")  # the first try
    data = {"old": "wrong", "password": ANOTHER}
    tries = [anna.post("/account", data=data, headers=JSON).status_code for _ in range(TRIES)]
    assert tries == [422] * (TRIES - 1) + [429]


def test_an_admins_link_gives_one_person_one_new_password(store: Store, login: Login, client: TestClient) -> None:
    root, anna = login("root", "admin"), login("anna")
    link = link_for(root, store, "anna")
    assert link.startswith(f"{HOST}/reset/")
    shown = client.get(link, headers=BROWSER)
    assert "<b>anna</b>" in shown.text
    assert client.post(link, data={"password": "short"}, headers=JSON).status_code == 422
    assert anna.get("/api/me").status_code == 200
    used = client.post(link, data={"password": ANOTHER}, headers=JSON)
    assert (used.status_code, used.json()["name"]) == (200, "anna")
    assert client.get("/api/me").json()["name"] == "anna"
    assert anna.get("/api/me").status_code == 401
    other = TestClient(client.app, base_url=HOST)
    for answer in (other.get(link), other.post(link, data={"password": PASSWORD})):
        assert answer.status_code == 404
    assert (may_log_in(other, "anna", PASSWORD), may_log_in(other, "anna", ANOTHER)) == (False, True)
    assert may_log_in(TestClient(client.app, base_url=HOST), "root", PASSWORD)
    assert "reset link" in root.get("/admin/log").text
    assert link.rsplit("/", 1)[1] not in root.get("/admin/log").text


def test_a_link_is_void_when_it_is_old_or_replaced_or_its_person_locked(
    store: Store, login: Login, client: TestClient, clock: Clock
) -> None:
    root = login("root", "admin")
    anna = store.people.add("anna", "annotator").id
    earlier, newer = link_for(root, store, "anna"), link_for(root, store, "anna")
    assert (client.get(earlier).status_code, client.get(newer).status_code) == (404, 200)
    clock.time += INVITED + 1
    assert client.post(newer, data={"password": ANOTHER}).status_code == 404
    root = login("root", "admin")
    link = link_for(root, store, "anna")
    root.post("/admin/people", data={"person": anna, "change": "lock"})
    assert client.post(link, data={"password": ANOTHER}).status_code == 404
    for person, status in ((anna, 409), (999, 404), (0, 422)):
        assert root.post("/admin/resets", data={"person": person}, headers=JSON).status_code == status


def test_whoever_opens_a_link_while_logged_in_is_its_person_afterwards(
    store: Store, login: Login, client: TestClient
) -> None:
    root, berta = login("root", "admin"), login("berta")
    store.people.add("anna", "annotator")
    link, before = link_for(root, store, "anna"), berta.cookies["session"]
    forged = berta.post(link, data={"password": ANOTHER}, headers={**JSON, "X-CSRF-Token": "0" * 64})
    assert forged.status_code == 403
    assert berta.post(link, data={"password": ANOTHER}, headers=JSON).json()["name"] == "anna"
    assert client.get("/api/me", headers={"Cookie": f"session={before}"}).status_code == 401


def test_everybody_can_download_what_is_held_of_them(store: Store, login: Login) -> None:
    store.queue.add([pair(0, overlap=2)])
    anna, berta = login("anna"), login("berta")
    for client, comment in ((anna, "hers"), (berta, "another's")):
        number = client.get("/api/next").json()["id"]
        said = {"kind": "pair", "preference": 1, "comment": comment}
        answer = {"revision": 1, "request": f"by-{client.cookies['session'][:8]}", "body": said}
        assert client.post(f"/api/items/{number}/judgement", json=answer).status_code == 201
    told = anna.get("/api/mine/all")
    assert told.headers["content-disposition"] == 'attachment; filename="my-data.json"'
    found = told.json()
    assert found["person"]["name"] == "anna"
    assert [one["body"]["comment"] for one in found["judgements"]] == ["hers"]
    assert len(found["sessions"]) == 1
    for hidden in ("another's", "$argon2", anna.cookies["session"], digest(anna.cookies["session"])):
        assert hidden not in json.dumps(found, ensure_ascii=False)
    assert 'href="/api/mine/all"' in anna.get("/account").text
