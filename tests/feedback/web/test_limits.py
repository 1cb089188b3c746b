"""Paths that lead nowhere else, and requests that are too large."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from proxtune.feedback.store import Store
from proxtune.feedback.web.guard import MOST_BYTES, MOST_IMPORTED
from tests.feedback.conftest import pair
from tests.feedback.web.conftest import Login

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

UP = ["..", "%2e%2e", "..%2f..", "%2e%2e%2f", "%252e%252e%252f", "..%5c..", "....//", "..;/", "%c0%ae%c0%ae", "．．"]
TARGETS = ["app.py", "../../../../etc/passwd", "%2fetc%2fpasswd", "/etc/passwd"]
PATHS = [f"{up}/{target}" for up in UP for target in TARGETS] + [
    "C:%5cwindows",
    "file:///etc/passwd",
    "%00",
    "a%00.css",
]


@pytest.mark.parametrize("path", PATHS)
def test_wa5_no_path_leads_out_of_its_folder(login: Login, path: str) -> None:
    root = login("root", "admin")
    for prefix in ("/static/", "/static//", "/admin/export/", "/join/", "/review/", "/api/items/"):
        answer = root.get(prefix + path)
        assert answer.status_code in {400, 404, 405, 422}, (prefix, answer.status_code)
        assert "root:" not in answer.text
        assert "create_app" not in answer.text


def test_wa5_a_file_name_is_only_shown(store: Store, login: Login, tmp_path: Path) -> None:
    root, before = login("root", "admin"), sorted(tmp_path.rglob("*"))
    for name in ("../../evil.jsonl", "/etc/cron.d/evil", "C:\\evil", "\u0000", "x" * 5000):
        files = {"file": (name, b'{"kind": "thumb", "prompt": "p", "candidates": [{"text": "t"}]}\n')}
        assert root.post("/admin/import", data={"action": "add"}, files=files).status_code in {200, 400, 422}
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("../reward", "reward/../../etc", "reward%00"):
        assert root.get(f"/admin/export/{name}").status_code in {404, 422}


def test_wa10_what_is_too_long_is_refused_before_it_is_read(login: Login) -> None:
    anna, root = login("anna"), login("root", "admin")
    for client, url, most in ((anna, "/api/items/1/draft", MOST_BYTES), (root, "/admin/import", MOST_IMPORTED)):
        for length in (most + 1, 10**15, "x", "-1"):
            method = "PUT" if "draft" in url else "POST"
            assert client.request(method, url, headers={"Content-Length": str(length)}).status_code == 413


def test_wa10_a_body_without_a_length_is_read_no_further_than_allowed(login: Login, app: FastAPI) -> None:
    anna, read = login("anna"), 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(200):
            read += 100_000
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    assert anna.put("/api/items/1/draft", content=endless(), headers=headers).status_code == 413


def test_wa10_a_form_has_few_parts(login: Login) -> None:
    root = login("root", "admin")
    many = {"action": "check"} | {f"field {i}": "x" for i in range(100)}
    file = ("file", ("x.jsonl", b"{}"))
    assert root.post("/admin/import", data=many, files=[file]).status_code == 400
    assert root.post("/admin/import", data={"action": "check"}, files=[file, file]).status_code == 400


def test_wa10_deep_and_long_json_is_a_mistake_and_no_crash(login: Login) -> None:
    root = login("root", "admin")
    lines = [b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b'"\\ud800"', b"NaN", b"\xff\xfe", b"{}", b""]
    data = b"\n".join(lines)
    answer = root.post(
        "/admin/import",
        data={"action": "check"},
        files={"file": ("x.jsonl", data)},
        headers={"Accept": "application/json"},
    )
    assert answer.status_code == 200
    found = answer.json()
    assert (found["items"], len(found["mistakes"])) == (0, 7)
    assert [f"x.jsonl:{number}: " in mistake for number, mistake in enumerate(found["mistakes"], start=1)] == [True] * 7
    root.headers["Content-Type"] = "application/json"
    assert root.put("/api/items/1/draft", content=b'{"a":' * 50_000).status_code == 400


@pytest.mark.slow
def test_wa10_fifty_megabytes_are_imported_and_one_more_is_not(store: Store, login: Login) -> None:
    root = login("root", "admin")
    line = json.dumps({"kind": "thumb", "prompt": "p" * 90_000, "candidates": [{"text": "t"}]}).encode() + b"\n"
    headers = {"Accept": "application/json"}
    for size, status in ((MOST_IMPORTED - 10_000, 200), (MOST_IMPORTED + 1, 413)):
        content = (line * (size // len(line) + 1))[: size // len(line) * len(line) or None].ljust(size)
        files = {"file": ("x.jsonl", content)}
        sent = root.post("/admin/import", data={"action": "check"}, files=files, headers=headers)
        assert sent.status_code == status


def test_wa10_a_formula_in_an_export_is_a_text(store: Store, login: Login) -> None:
    prompt = '=HYPERLINK("http://evil.example")'
    store.queue.add([pair(0).model_copy(update={"prompt": prompt})])
    anna, root = login("anna"), login("root", "admin")
    number = anna.get("/api/next").json()["id"]
    body = {"kind": "pair", "preference": 1}
    anna.post(f"/api/items/{number}/judgement", json={"revision": 1, "request": "r", "body": body})
    answer = root.get("/admin/export/reward?suffix=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="reward.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert set(archive.namelist()) == {"reward.csv", "reward.manifest.json"}
        assert "\"'=HYPERLINK" in archive.read("reward.csv").decode()
    assert root.get("/admin/export/reward?suffix=csv").content == answer.content


def test_errors_of_the_store_are_told_apart(
    store: Store, login: Login, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    from proxtune.errors import ConflictError, StoreBusyError, StoreError, StoreFullError

    anna = login("anna")
    for error, status in ((StoreBusyError, 503), (StoreFullError, 507), (StoreError, 409)):

        def fail(person: int, error: type[StoreError] = error) -> None:
            raise error("it is <so>")

        monkeypatch.setattr(store.queue, "next", fail)
        answer = anna.get("/api/next")
        assert (answer.status_code, answer.json()) == (status, {"detail": "it is <so>"})
        assert (status == 503) == ("Retry-After" in answer.headers)

    def conflict(*_: object) -> None:
        raise ConflictError("no", None)

    monkeypatch.setattr(store, "guidelines", conflict)
    page = anna.get("/guidelines", headers={"Accept": "text/html"})
    assert page.status_code == 409
    assert "<h1>That did not work</h1>" in page.text
