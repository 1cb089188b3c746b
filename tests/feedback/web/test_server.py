"""The first start: nothing is known to everybody."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from proxtune.errors import ConfigError, StoreError
from proxtune.feedback.store import Store
from proxtune.feedback.web import server
from proxtune.feedback.web.app import create_app
from proxtune.feedback.web.server import first_admin_link, is_loopback, secret_of, serve
from tests.feedback.web.conftest import HOST, PASSWORD

pytestmark = pytest.mark.slow  # together they take longer than `make check` has


def test_wa2_a_secret_is_made_once_and_nobody_else_may_read_it(store: Store, address: str, tmp_path: Path) -> None:
    secret = secret_of(store)
    path = Path(f"{address}-secret")
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_of(store) == secret
    with Store.create(tmp_path / "other.db") as other:
        assert secret_of(other) != secret
    path.chmod(0o644)
    with pytest.raises(StoreError, match="mode 644"):
        secret_of(store)
    path.chmod(0o600)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="shorter"):
        secret_of(store)


def test_wa2_the_first_admin_joins_by_a_link_that_works_once(store: Store) -> None:
    assert store.people.all() == []
    link = first_admin_link(store, HOST)
    assert link is not None
    assert first_admin_link(store, HOST) != link
    client = TestClient(create_app(store, secret=b"s" * 32), base_url=HOST)
    data = {"name": "root", "password": PASSWORD}
    assert client.post(link, data=data, headers={"Accept": "application/json"}).json()["role"] == "admin"
    assert first_admin_link(store, HOST) is None
    assert client.get(link).status_code == 404


def test_wa2_an_admin_who_cannot_log_in_is_none(store: Store, hashed: str) -> None:
    store.people.add("by name only", "admin")
    store.people.add("anna", "annotator", hashed)
    assert first_admin_link(store, HOST) is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "labels.example", ""])
def test_wa2_others_reach_no_app_that_has_no_admin(store: Store, host: str) -> None:
    with pytest.raises(ConfigError, match="no admin"):
        serve(store, host, say=pytest.fail)


def test_wa2_what_is_said_at_the_start(store: Store, hashed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, object] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: run.update(given, app=app))
    said: list[str] = []
    serve(store, port=8411, say=said.append)
    assert said[0].endswith("http://127.0.0.1:8411")
    assert "http://127.0.0.1:8411/join/" in said[1]
    assert not run["app"].state.site.secure
    serve(store, "::1", say=said.append)
    assert "http://[::1]:8300/join/" in said[-1]
    store.people.add("root", "admin", hashed)
    said.clear()
    serve(store, "0.0.0.0", say=said.append)
    assert "TLS" in said[0]
    assert not any("/join/" in line for line in said)
    assert run["app"].state.site.secure


def test_wa2_nobody_registers_without_an_invitation(client: TestClient) -> None:
    for path in ("/join/", "/join/x", "/join/admin", "/register", "/signup"):
        assert client.post(path, data={"name": "x", "password": PASSWORD}).status_code in {404, 405}
    for name in ("admin", "root", "owner", "proxtune", ""):
        for password in ("admin", "12345678", "password", "proxtune", ""):
            status = client.post("/login", data={"name": name, "password": password}).status_code
            assert status in {401, 422, 429}


def test_wa6_the_app_loads_nothing_that_could_fetch_an_address() -> None:
    code = "import sys, proxtune.feedback.web.server; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & {"torch", "transformers", "requests", "aiohttp", "httpx", "httpx2", "urllib3"}
    for path in Path(server.__file__).parent.rglob("*.py"):
        assert not re.search(r"urllib\.request|http\.client|urlopen", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False)],
)
def test_an_address_is_of_this_machine_or_not(host: str, local: bool) -> None:
    assert is_loopback(host) == local
