"""What another site makes a browser send is refused."""

import itertools

import pytest
from starlette.testclient import TestClient

from proxtune.feedback.store import Store
from tests.feedback.conftest import pair
from tests.feedback.web.conftest import HOST, PASSWORD, Login

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

SITES = [None, "same-origin", "none", "same-site", "cross-site", "nonsense", ""]
FOREIGN = ["http://evil.example", "null", "http://127.0.0.1:9999", f"{HOST}.evil.example", "file://127.0.0.1:8410"]
ORIGINS = [None, HOST, *FOREIGN]
TOKENS = ["right", None, "", "0" * 64, "ü", "another's"]


def allowed(site: str | None, origin: str | None) -> bool:
    return site in ("same-origin", "none") if site is not None else origin in (None, HOST)


@pytest.mark.parametrize(
    "method", ["POST", *(pytest.param(m, marks=pytest.mark.slow) for m in ("PUT", "PATCH", "DELETE", "BREW"))]
)
def test_wa4_no_method_that_changes_something_is_taken_from_another_site(
    store: Store, login: Login, method: str
) -> None:
    store.queue.add([pair(i) for i in range(3)])
    anna, right = login("anna"), login("berta").headers["X-CSRF-Token"]
    another, right = right, anna.headers.pop("X-CSRF-Token")
    url = f"/api/items/{anna.get('/api/next').json()['id']}/{'draft' if method == 'PUT' else 'judgement'}"
    for site, origin, token in itertools.product(SITES, ORIGINS, TOKENS):
        headers = {"Sec-Fetch-Site": site, "Origin": origin}
        headers["X-CSRF-Token"] = {"right": right, "another's": another}.get(token, token)
        sent = {name: value.encode() for name, value in headers.items() if value is not None}
        json = {"revision": 7, "request": "r", "body": {"kind": "skip"}}
        status = anna.request(method, url, json={"x": 1} if method == "PUT" else json, headers=sent).status_code
        ours = allowed(site, origin) and (token == "right" or method in ("PATCH", "BREW"))
        expected = {"PUT": 204, "PATCH": 405, "BREW": 405, "POST": 409, "DELETE": 422}[method] if ours else 403
        assert status == expected, (site, origin, token)


def test_wa4_a_form_holds_the_token_as_a_field(store: Store, login: Login) -> None:
    root = login("root", "admin")
    token = root.headers.pop("X-CSRF-Token")
    for csrf in ("", "0" * 64, None):
        data = {"text": "Forged.", **({} if csrf is None else {"csrf": csrf})}
        assert root.post("/admin/guidelines", data=data).status_code == 403
    forged = root.post("/admin/guidelines", files={"csrf": ("x", token.encode())}, data={"text": "Forged."})
    assert forged.status_code == 403
    assert store.guidelines() == (0, "")
    assert root.post("/admin/guidelines", data={"text": "Be fair.", "csrf": token}).status_code == 303
    assert f'name="csrf" value="{token}"' in root.get("/admin/guidelines").text
    file = {"file": ("x.jsonl", b'{"kind": "pair"}\n')}
    assert root.post("/admin/import", data={"action": "check", "csrf": token}, files=file).status_code == 200
    assert root.post("/admin/import", data={"action": "check"}, files=file).status_code == 403


@pytest.mark.parametrize("path", ["/login", "/logout", "/join/x", "/reset/x", "/account", "/admin/import", "/nothing"])
def test_wa4_another_site_can_log_nobody_in_or_out(client: TestClient, path: str) -> None:
    data = {"name": "anna", "password": PASSWORD}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert client.post(path, data=data, headers=headers).status_code == 403


def test_wa4_reading_changes_nothing_and_the_cookie_stays_at_home(store: Store, login: Login) -> None:
    store.queue.add([pair(0)])
    anna = login("anna")
    assert anna.get("/work", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link from a mail
    answer = anna.post("/login", data={"name": "anna", "password": PASSWORD}, headers={"Accept": "application/json"})
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
