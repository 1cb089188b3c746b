"""English and Chinese say the same things, and nothing that is not shown."""

import html
import re
from pathlib import Path

import pytest
from fastapi import HTTPException
from starlette.testclient import TestClient

from proxtune.errors import ConflictError, DataError, StoreBusyError, StoreFullError
from proxtune.feedback import web
from proxtune.feedback.export import FORMATS, POLICIES
from proxtune.feedback.records import KINDS
from proxtune.feedback.store import Store
from proxtune.feedback.store.people import IDLE, ROLES
from proxtune.feedback.web.language import LANGUAGES
from tests.feedback.conftest import Clock
from tests.feedback.web.conftest import Login

FOLDER = Path(web.__file__).parent
PROBLEMS = (403, 404, 409, 413, 422, 429, 503, 507)  # those that a reader may meet
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for path in FOLDER.rglob("*")
    if path.suffix in (".html", ".js", ".py") and path.parent.name != "language"
}
COMPOSED = {  # keys that are put together from a name
    *(f"role_{role}" for role in ROLES),
    *(f"ask_{kind}" for kind in KINDS),
    *(f"kind_{kind}" for kind in KINDS),
    *(f"format_{name}" for name in FORMATS),
    *(f"policy_{name}" for name in POLICIES),
    *(f"problem_{status}" for status in PROBLEMS),
    *(f"turn_{role}" for role in ("system", "user", "assistant")),
    *(f"choice_{name}" for name in ("first", "second", "tie", "both_bad", "up", "down", "none")),
}


def test_both_languages_have_the_same_keys_and_none_is_empty() -> None:
    assert set(LANGUAGES["en"]) == set(LANGUAGES["zh"])
    assert all(text.strip() for words in LANGUAGES.values() for text in words.values())
    assert not set(LANGUAGES["en"]) & set(dir(dict)), "a template would find the method of the dict"


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    used = {key for text in SOURCES.values() for key in re.findall(r"\b(?:t|words)\.(\w+)", text)}
    used |= set(re.findall(r'words\["(\w+)"\]', SOURCES[FOLDER / "pages.py"]))
    for name in ("login.py", "account.py"):
        used |= set(re.findall(r'refused\([^)]*?\d{3}, "(\w+)"', SOURCES[FOLDER / name]))
    known = set(LANGUAGES["en"])
    assert used - known - {"get"} == set()
    assert known - used - COMPOSED == set()
    assert known >= COMPOSED


def test_chinese_is_chinese() -> None:
    plain = [key for key, text in LANGUAGES["zh"].items() if not re.search(r"[\u4e00-\u9fff]", text)]
    assert plain == []


@pytest.mark.parametrize(
    ("accept", "cookie", "query", "shown"),
    [
        ("", None, "", "Log in"),
        ("zh-CN,zh;q=0.9", None, "", "登录"),
        ("en", "zh", "", "登录"),
        ("zh", "en", "", "Log in"),
        ("en", None, "?language=zh", "登录"),
        ("zh", "zh", "?language=en", "Log in"),
        ("en", "klingon", "?language=../../etc", "Log in"),
    ],
)
def test_the_reader_chooses_the_language(login: Login, accept: str, cookie: str | None, query: str, shown: str) -> None:
    client = login("anna")
    client.cookies.clear()
    cookies = {} if cookie is None else {"Cookie": f"language={cookie}"}
    answer = client.get(f"/login{query}", headers={"Accept-Language": accept, **cookies})
    assert f"<h1>{shown}</h1>" in answer.text
    assert ("language=" in answer.headers.get("set-cookie", "")) == (query != "")


def test_every_page_is_there_in_chinese(login: Login) -> None:
    root = login("root", "admin")
    for path in (
        "/work",
        "/account",
        "/guidelines",
        "/review",
        "/admin",
        "/admin/people",
        "/admin/import",
        "/admin/quality",
    ):
        page = root.get(path, headers={"Accept-Language": "zh-CN"}).text
        assert re.search(r'<html lang="zh', page), path
        assert re.search(r"[\u4e00-\u9fff]{2}", page), path


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreBusyError("<busy>"), 503),
        (StoreFullError("<full>"), 507),
        (ConflictError("<changed>", None), 409),
        (DataError("<wrong>"), 422),
        (HTTPException(429, "<often>"), 429),
    ],
)
def test_what_went_wrong_is_said_in_the_readers_language_with_the_detail_beneath(
    store: Store, login: Login, monkeypatch: pytest.MonkeyPatch, language: str, error: Exception, status: int
) -> None:
    anna = login("anna")

    def fail() -> tuple[int, str]:
        raise error

    monkeypatch.setattr(store, "guidelines", fail)
    answer = anna.get("/guidelines", headers={"Accept": "text/html", "Accept-Language": language})
    words = LANGUAGES[language]
    detail = str(getattr(error, "detail", error)).replace("<", "&lt;").replace(">", "&gt;")
    assert answer.status_code == status
    places = [
        html.unescape(answer.text).find(part) for part in (words["problem"] + "</h1>", words[f"problem_{status}"])
    ]
    assert -1 < places[0] < places[1] < html.unescape(answer.text).find(html.unescape(detail))
    assert f'lang="en">{detail}<' in answer.text


def test_whoever_was_logged_in_is_told_that_the_session_is_over(login: Login, client: TestClient, clock: Clock) -> None:
    chinese = {"Accept": "text/html", "Accept-Language": "zh-CN"}
    anna, over = login("anna"), LANGUAGES["zh"]["session_over"]
    clock.time += IDLE + 1
    ended, first = (one.get("/work", headers=chinese) for one in (anna, client))
    assert (ended.status_code, first.status_code) == (401, 401)
    assert (over in ended.text, over in first.text) == (True, False)
