"""Passwords, sessions, invitations."""

import asyncio
import time
from collections import Counter
from http.cookies import SimpleCookie

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from starlette.testclient import TestClient

from proxtune.feedback.store import Store
from proxtune.feedback.store.people import ABSOLUTE, IDLE
from proxtune.feedback.web.app import create_app
from proxtune.feedback.web.passwords import ADDRESS_TRIES, HASHES, REMEMBERED, TRIES, WINDOW, Passwords, Throttle
from tests.feedback.conftest import Clock
from tests.feedback.web.conftest import HOST, PASSWORD, Login

JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,*/*"}


def try_login(client: TestClient, name: str, password: str = "wrong", headers: dict[str, str] = JSON) -> int:
    return client.post("/login", data={"name": name, "password": password}, headers=headers).status_code


def test_wa8_a_name_is_tried_five_times_a_minute_from_one_address(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert [throttle.wait("anna", "here") for _ in range(TRIES)] == [0.0] * TRIES
    clock.time += 20
    assert throttle.wait("anna", "here") == WINDOW - 20
    assert throttle.wait("berta", "here") == 0.0
    assert throttle.wait("anna", "elsewhere") == 0.0
    clock.time += 40
    assert throttle.wait("anna", "here") == 0.0


def test_wa8_one_address_cannot_try_many_names_and_what_is_remembered_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock)
    waits = [throttle.wait(f"name {i}", "here") for i in range(1000)]
    assert waits.count(0.0) == ADDRESS_TRIES
    for i in range(3 * REMEMBERED):
        clock.time += 1
        throttle.wait(f"name {i}", f"address {i}")
    assert len(throttle._tries) <= REMEMBERED + 10


def test_wa8_the_sixth_try_is_refused_even_with_the_right_password(
    store: Store, client: TestClient, hashed: str
) -> None:
    store.people.add("anna", "annotator", hashed)
    assert [try_login(client, "anna") for _ in range(TRIES)] == [401] * TRIES
    refused = client.post("/login", data={"name": " anna ", "password": PASSWORD}, headers=JSON)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= WINDOW


def test_wa8_at_most_two_hashes_are_made_at_once() -> None:
    passwords, running, most = Passwords(), 0, 0

    class Slow:
        def verify(self, hashed: str, password: str) -> bool:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.02)
            running -= 1
            return True

    passwords._hasher = Slow()

    async def many() -> list[bool]:
        return await asyncio.gather(*(passwords.verify("hash", "password", str(i)) for i in range(20)))

    assert asyncio.run(many()) == [True] * 20
    assert most == HASHES


@pytest.mark.slow
def test_wa8_others_log_in_and_work_while_somebody_guesses(
    store: Store, login: Login, app: FastAPI, hashed: str
) -> None:
    """50 wrong logins a second for 10 seconds, from one address under ever new names."""
    cookie = {"session": login("anna").cookies["session"]}
    right = asyncio.run(Passwords().hash(PASSWORD))
    for number in range(20):
        store.people.add(f"person {number}", "annotator", right)

    def browser(address: str, **more: object) -> AsyncClient:
        transport = ASGITransport(app=app, client=(address, 1))
        return AsyncClient(transport=transport, base_url=HOST, headers=JSON, timeout=None, **more)

    async def send(client: AsyncClient, name: str, password: str) -> tuple[int, float]:
        begin = time.monotonic()
        answer = await client.post("/login", data={"name": name, "password": password})
        return answer.status_code, time.monotonic() - begin

    async def read(client: AsyncClient) -> tuple[int, float]:
        begin = time.monotonic()
        return (await client.get("/api/me")).status_code, time.monotonic() - begin

    async def load() -> tuple[list[tuple[int, float]], ...]:
        guesses, logins, reads = [], [], []
        async with browser("10.9.9.9") as guesser, browser("10.0.0.1", cookies=cookie) as anna:
            for number in range(500):
                guesses.append(asyncio.create_task(send(guesser, f"name {number}", "wrong")))
                if number % 25 == 0:
                    other = browser(f"10.0.1.{number // 25}")
                    logins.append(asyncio.create_task(send(other, f"person {number // 25}", PASSWORD)))
                    reads.append(asyncio.create_task(read(anna)))
                await asyncio.sleep(0.02)
            return tuple([await asyncio.gather(*tasks) for tasks in (guesses, logins, reads)])

    guesses, logins, reads = asyncio.run(load())
    assert Counter(status for status, _ in guesses) == {401: ADDRESS_TRIES, 429: 500 - ADDRESS_TRIES}
    assert {status for status, _ in (*logins, *reads)} == {200}
    assert max(seconds for _, seconds in (*logins, *reads)) < 2.0


def test_wa8_when_too_many_wait_more_are_sent_away(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxtune.feedback.web.passwords.WAITING", 0)
    refused = client.post("/login", data={"name": "anna", "password": "x"}, headers=JSON)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")


def test_a_wrong_password_and_an_unknown_name_are_told_apart_by_nothing(
    store: Store, client: TestClient, hashed: str
) -> None:
    store.people.add("anna", "annotator", hashed)
    store.people.add("invited only", "annotator")
    answers = [
        client.post("/login", data={"name": name, "password": "wrong"}, headers=JSON)
        for name in ("anna", "nobody", "invited only")
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}


def test_wa11_the_session_is_hidden_from_scripts_and_travels_over_tls_off_loopback(
    store: Store, client: TestClient, hashed: str
) -> None:
    store.people.add("anna", "annotator", hashed)
    public = TestClient(create_app(store, secret=b"s" * 32, secure=True), base_url="https://labels.example")
    for browser, secure in ((client, ""), (public, True)):
        answer = browser.post("/login", data={"name": "anna", "password": PASSWORD}, headers=JSON)
        cookie = SimpleCookie(answer.headers["set-cookie"])["session"]
        assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "lax", secure)
        assert (cookie["path"], cookie["domain"]) == ("/", "")


def test_wa11_a_login_begins_a_new_session_and_ends_the_old_one(login: Login, client: TestClient) -> None:
    anna = login("anna")
    old = anna.cookies["session"]
    anna.post("/login", data={"name": "anna", "password": PASSWORD}, headers=JSON)
    assert anna.cookies["session"] != old
    assert client.get("/api/me", headers={"Cookie": f"session={old}"}).status_code == 401
    client.cookies.set("session", "chosen-by-an-attacker")
    answer = client.post("/login", data={"name": "anna", "password": PASSWORD}, headers=JSON)
    assert answer.status_code == 200
    assert "chosen-by-an-attacker" not in answer.headers["set-cookie"]


def test_wa11_logging_out_ends_the_session_in_the_store(login: Login, client: TestClient) -> None:
    anna = login("anna")
    token = anna.cookies["session"]
    assert anna.post("/logout", headers=JSON).status_code == 204
    assert client.get("/api/me", headers={"Cookie": f"session={token}"}).status_code == 401


def test_wa11_a_session_ends_by_idleness_by_age_and_with_the_account(store: Store, login: Login, clock: Clock) -> None:
    anna = login("anna")
    clock.time += IDLE + 1
    assert anna.get("/api/me").status_code == 401
    anna, began = login("anna"), clock.time
    while clock.time - began < ABSOLUTE:
        assert anna.get("/api/me").status_code == 200
        clock.time += IDLE / 2
    assert anna.get("/api/me").status_code == 401
    anna, root = login("anna"), login("root", "admin")
    number = store.people.by_name("anna")[0].id
    assert root.post("/admin/people", data={"person": number, "change": "lock"}).status_code == 303
    assert anna.get("/api/me").status_code == 401
    assert try_login(anna, "anna", PASSWORD) == 401


def test_an_invitation_makes_one_person_and_logs_them_in(store: Store, login: Login, client: TestClient) -> None:
    root = login("root", "admin")
    link = root.post("/admin/invites", data={"role": "reviewer"}, headers=JSON).json()["link"]
    assert link.startswith(f"{HOST}/join/")
    assert "reviewer" in client.get(link, headers=BROWSER).text
    for name, password, status in (("anna", "short", 422), ("an\u0000na", PASSWORD, 422), ("root", PASSWORD, 409)):
        assert client.post(link, data={"name": name, "password": password}, headers=JSON).status_code == status
    joined = client.post(link, data={"name": "anna", "password": PASSWORD}, headers=JSON)
    assert joined.json()["role"] == "reviewer"
    assert client.get("/api/me").json()["name"] == "anna"
    hashed = store.people.by_name("anna")[1]
    assert hashed.startswith("$argon2id$")
    again = TestClient(client.app, base_url=HOST)
    assert again.get(link).status_code == 404
    assert again.post(link, data={"name": "berta", "password": PASSWORD}).status_code == 404
    assert Counter(person.name for person in store.people.all())["berta"] == 0


def test_a_browser_is_led_to_work_and_back_to_the_form(store: Store, client: TestClient, hashed: str) -> None:
    store.people.add("anna", "annotator", hashed)
    asked = client.get("/work", headers=BROWSER)
    assert asked.status_code == 401
    assert 'action="/login"' in asked.text
    wrong = client.post("/login", data={"name": "anna", "password": "wrong"}, headers=BROWSER)
    assert wrong.status_code == 401
    assert "The name or the password is wrong." in wrong.text
    right = client.post("/login", data={"name": "anna", "password": PASSWORD}, headers=BROWSER)
    assert (right.status_code, right.headers["location"]) == (303, "/work")
    assert client.get("/login", headers=BROWSER).headers["location"] == "/work"
    assert client.get("/admin", headers=BROWSER).status_code == 403
