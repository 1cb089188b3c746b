"""A running app, and somebody logged in to it."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from proxtune.feedback.store import Store
from proxtune.feedback.store.people import Role
from proxtune.feedback.web import passwords
from proxtune.feedback.web.app import create_app
from tests.feedback.web.browsing import Browser, served

PASSWORD = "correct horse battery"
HOST = "http://127.0.0.1:8410"
Login = Callable[..., TestClient]


@pytest.fixture(scope="session")
def hashed() -> str:
    """The hash of PASSWORD, made once."""
    return passwords.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


@pytest.fixture
def app(store: Store) -> FastAPI:
    return create_app(store, secret=b"s" * 32)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """Nobody's browser."""
    return TestClient(app, base_url=HOST, follow_redirects=False)


@pytest.fixture
def login(app: FastAPI, store: Store, hashed: str) -> Login:
    """Somebody's browser: `login("anna")`, `login("root", "admin")`; with the token of what changes something."""

    def log_in(name: str, role: Role = "annotator") -> TestClient:
        if store.people.by_name(name) is None:
            store.people.add(name, role, hashed)
        client = TestClient(app, base_url=HOST, follow_redirects=False)
        headers = {"Accept": "application/json"}
        answer = client.post("/login", data={"name": name, "password": PASSWORD}, headers=headers)
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client

    return log_in


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """A browser that nobody has used."""
    chromium.forget()
    return chromium


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    """Where the app of the store is served."""
    with served(store) as address:
        yield address
