"""Whatever a program sends, by the app's own description: no answer is a crash."""

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error

from proxtune.feedback.store import Store
from tests.feedback.conftest import KINDS, pair
from tests.feedback.web.conftest import Login

pytestmark = pytest.mark.slow
EXAMPLES = 15  # of each operation


def operations(app: FastAPI) -> list[tuple[str, str]]:
    return [(path, method) for path, found in app.openapi()["paths"].items() for method in found]


def test_every_operation_is_described(app: FastAPI) -> None:
    assert len(operations(app)) >= 29


@pytest.mark.parametrize("address", KINDS, indirect=True)
def test_wa7_no_request_crashes_the_app(app: FastAPI, store: Store, login: Login) -> None:
    store.queue.add([pair(i, overlap=5) for i in range(20)])
    root = login("root", "admin")
    shown = root.get("/api/next").json()
    said = {"revision": 1, "request": "first", "body": {"kind": "pair", "preference": 1}}
    assert root.post(f"/api/items/{shown['id']}/judgement", json=said).status_code == 201
    root.get("/api/next")
    cookie = f"session={root.cookies['session']}"
    headers = {"Cookie": cookie, "X-CSRF-Token": root.headers["X-CSRF-Token"], "Accept": "application/json"}
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in ("/logout", "/login"):
            continue  # the one ends the session; the other is the test of the throttle

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        @hypothesis.given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            case.headers = {**(case.headers or {}), **headers}
            case.cookies = {}
            case.validate_response(case.call(), checks=[not_a_server_error])

        check()
