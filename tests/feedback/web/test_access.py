"""Who may do what, on every route there is."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.testclient import TestClient

from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store
from proxtune.feedback.web.work import Me
from tests.feedback.conftest import pair
from tests.feedback.web.conftest import Login

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ROLES = ("nobody", "annotator", "reviewer", "admin")
REFUSED = {401, 403, 404}
# Every route, and the least role that it answers. A route that is not here fails the test: say who may use it.
TABLE = {
    ("GET", "/static"): "nobody",
    ("HEAD", "/static"): "nobody",
    ("GET", "/login"): "nobody",
    ("POST", "/login"): "nobody",
    ("GET", "/join/{token}"): "nobody",
    ("POST", "/join/{token}"): "nobody",
    ("GET", "/reset/{token}"): "nobody",
    ("POST", "/reset/{token}"): "nobody",
    ("GET", "/"): "nobody",
    ("POST", "/logout"): "annotator",
    ("GET", "/work"): "annotator",
    ("GET", "/guidelines"): "annotator",
    ("GET", "/account"): "annotator",
    ("POST", "/account"): "annotator",
    ("GET", "/api/me"): "annotator",
    ("GET", "/api/next"): "annotator",
    ("GET", "/api/mine"): "annotator",
    ("GET", "/api/mine/all"): "annotator",
    ("PUT", "/api/items/{item}/draft"): "annotator",
    ("POST", "/api/items/{item}/judgement"): "annotator",
    ("DELETE", "/api/items/{item}/judgement"): "annotator",
    ("GET", "/review"): "reviewer",
    ("GET", "/review/{item}"): "reviewer",
    ("GET", "/api/items/{item}/review"): "reviewer",
    ("POST", "/api/items/{item}/final"): "reviewer",
    ("GET", "/admin"): "admin",
    ("POST", "/admin/batches/overlap"): "admin",
    ("GET", "/admin/people"): "admin",
    ("POST", "/admin/people"): "admin",
    ("POST", "/admin/invites"): "admin",
    ("POST", "/admin/resets"): "admin",
    ("GET", "/admin/guidelines"): "admin",
    ("POST", "/admin/guidelines"): "admin",
    ("GET", "/admin/import"): "admin",
    ("POST", "/admin/import"): "admin",
    ("GET", "/admin/export"): "admin",
    ("GET", "/admin/export/{format}"): "admin",
    ("GET", "/admin/quality"): "admin",
    ("GET", "/admin/log"): "admin",
}
JSON = {"revision": 1, "request": "walk", "body": {"kind": "pair", "preference": 1}}
FORMS = {
    "/login": {"name": "x", "password": "x"},
    "/join/{token}": {"name": "x", "password": "a long enough one"},
    "/reset/{token}": {"password": "a long enough one"},
    "/account": {"old": "not mine", "password": "a long enough one"},
    "/admin/batches/overlap": {"batch": "imported", "overlap": "2"},
    "/admin/people": {"person": "999", "change": "admin"},
    "/admin/invites": {"role": "annotator"},
    "/admin/resets": {"person": "999"},
    "/admin/guidelines": {"text": "Be fair."},
    "/admin/import": {"action": "check"},
}


def routes(router: Any) -> Iterator[tuple[str, str]]:
    """Every method and path that is registered, those of included routers too."""
    for route in router.routes:
        if isinstance(route, Mount):
            yield from (("GET", route.path), ("HEAD", route.path))
        elif hasattr(route, "original_router"):
            yield from routes(route.original_router)
        else:
            yield from ((method, route.path) for method in route.methods - {"HEAD"})


def ask(client: TestClient, method: str, path: str, number: int) -> int:
    """The status of a request that is well formed."""
    url = path.replace("{item}", str(number)).replace("{token}", "none").replace("{format}", "events")
    url = f"{url}/app.css" if path == "/static" else url
    data = FORMS.get(path) if method == "POST" else None
    json = JSON if "/api/" in path and method in ("POST", "DELETE", "PUT") else None
    if method == "DELETE":
        json = {name: JSON[name] for name in ("revision", "request")}
    return client.request(method, url, data=data, json=json).status_code


def test_wa1_every_route_is_in_the_table(app: FastAPI) -> None:
    assert set(routes(app)) == set(TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_wa1_every_route_and_method_answers_those_alone_who_may(
    app: FastAPI, store: Store, login: Login, client: TestClient, role: str
) -> None:
    (number,) = store.queue.add([pair(0, overlap=3)])
    ends_a_session = {"/login", "/logout", "/join/{token}"}
    paths = sorted({path for _, path in TABLE}, key=lambda path: (path in ends_a_session, path))
    who = client if role == "nobody" else login("walker", role)
    if role != "nobody":
        who.get("/api/next")
    wrong = []
    for path, method in itertools.product(paths, METHODS):
        app.state.site.throttle._tries.clear()
        if role != "nobody" and path in ends_a_session:
            who = login("walker", role)
        status = ask(who, method, path, number)
        least = TABLE.get((method, path))
        if least is None:
            if status not in {*REFUSED, 405}:
                wrong.append((method, path, status, "no such route"))
        elif ROLES.index(role) < ROLES.index(least):
            if status not in {401, 403}:
                wrong.append((method, path, status, f"{role} may not"))
        elif status in {401, 403} and path != "/login":
            wrong.append((method, path, status, f"{role} may"))
    assert wrong == []


def test_wa1_what_is_not_registered_is_not_there(login: Login) -> None:
    root = login("root", "admin")
    for path in ("/docs", "/redoc", "/openapi.json", "/api", "/admin/", "/static", "/static/", "/labels.db", "/.env"):
        assert root.get(path).status_code in {307, 404}, path


def test_wa7_no_answer_holds_a_hash_or_a_secret(store: Store, login: Login, app: FastAPI) -> None:
    answers = tuple(Candidate(text=text, source="hidden-model") for text in "xy")
    gold, columns = {"kind": "pair", "preference": 1, "comment": "hidden-gold"}, {"x": "hidden-column"}
    store.queue.add([Item(kind="pair", prompt="p", candidates=answers, gold=gold, columns=columns)])
    root = login("root", "admin")
    hashed = store.people.by_name("root")[1]
    for method, path in TABLE:
        if method != "GET" or path.startswith(("/static", "/admin/export")):
            continue
        text = root.get(path.replace("{item}", "1").replace("{token}", "none")).text
        for secret in (hashed, "$argon2", "s" * 32, "hidden-"):
            assert secret not in text, (path, secret)
    assert set(Me.model_fields) == {"id", "name", "role", "csrf", "judged", "today", "daily"}
    names = re.findall(r'"(\w+)": ?{', str(app.openapi()).replace("'", '"'))
    assert not {name for name in names if "password" in name.lower() and name != "password"}


@pytest.mark.parametrize(
    "url",
    [
        "/admin/export/passwords",
        "/admin/export/reward?suffix=db",
        "/admin/export/reward?policy=password",
        "/admin/export/reward?fraction=nan",
        "/admin/export/reward?fraction=1",
        "/admin/guidelines?version=-1",
        "/admin/guidelines?version=x",
    ],
)
def test_wa7_what_can_be_chosen_is_a_closed_list(login: Login, url: str) -> None:
    assert login("root", "admin").get(url).status_code == 422


@pytest.mark.slow
def test_wa9_nobody_reads_or_changes_what_is_anothers_by_any_id(store: Store, login: Login) -> None:
    numbers = store.queue.add([pair(i) for i in range(6)])
    anna, berta = login("anna"), login("berta")
    hers = [anna.get("/api/next").json()]
    said = {**JSON, "request": "hers", "body": {"kind": "pair", "preference": 2, "comment": "private"}}
    assert anna.post(f"/api/items/{hers[0]['id']}/judgement", json=said).status_code == 201
    hers.append(anna.get("/api/next").json())
    anna.put(f"/api/items/{hers[1]['id']}/draft", json={"comment": "private draft"})
    before = (list(store.judgements.events()), store.queue.next(1).draft)
    for number in [*numbers, 0, -1, 999, 2**31 - 1, 2**31, 2**70]:
        url = f"/api/items/{number}"
        for revision in (1, 2):
            attempt = {"revision": revision, "request": f"theirs-{number}-{revision}"}
            answers = [
                berta.put(f"{url}/draft", json={"comment": "mine now"}),
                berta.post(f"{url}/judgement", json={**attempt, "body": said["body"]}),
                berta.request("DELETE", f"{url}/judgement", json=attempt),
                berta.get(f"{url}/review"),
                berta.post(f"{url}/final", json={**attempt, "body": said["body"]}),
            ]
            assert {answer.status_code for answer in answers} <= {403, 409, 422}, number
            assert not any("private" in answer.text for answer in answers)
    again = berta.post(f"/api/items/{hers[0]['id']}/judgement", json=said)  # her request, sent by another
    assert again.status_code == 409
    assert "private" not in again.text
    assert (list(store.judgements.events()), store.queue.next(1).draft) == before
    assert berta.get("/api/mine").json() == []
    assert berta.get("/api/next").json()["id"] not in {one["id"] for one in hers}
