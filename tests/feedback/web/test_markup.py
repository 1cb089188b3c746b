"""Nothing that is shown is read as HTML, but what we wrote."""

import re
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store
from proxtune.feedback.web.guard import HEADERS
from proxtune.feedback.web.pages import markdown
from tests.feedback.conftest import pair
from tests.feedback.web.conftest import Login
from tests.feedback.web.payloads import PAYLOADS

OURS = {"/static/theme.js", "/static/work.js", "/static/import.js", "/static/export.js"}
FROM_MARKDOWN = {
    "p",
    "a",
    "em",
    "strong",
    "code",
    "pre",
    "ul",
    "ol",
    "li",
    "blockquote",
    "hr",
    "br",
    "h1",
    "h2",
    "table",
}


class Seen(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def refuse_foreign(html: str) -> None:
    for tag, attributes in Seen(html).tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset")], attributes
        assert tag not in ("iframe", "object", "embed", "base", "svg", "math", "style"), tag
        for name in ("href", "src", "action"):
            value = attributes.get(name) or "/"
            assert value.startswith(("/", "?", "#", "https://", "http://")), value
        if tag in ("img", "script", "link"):
            assert (attributes.get("src") or attributes["href"]).startswith("/static/"), attributes
        if tag == "script":
            assert attributes["src"] in OURS


def test_wa3_there_are_two_hundred_payloads() -> None:
    assert len(set(PAYLOADS)) >= 200


@pytest.mark.parametrize("payload", PAYLOADS)
def test_wa3_markdown_writes_no_tag_but_its_own(payload: str) -> None:
    for tag, attributes in Seen(str(markdown(payload))).tags:
        assert tag in FROM_MARKDOWN
        assert set(attributes) <= {"href", "title", "rel", "target", "class"}
        if tag == "a":
            assert re.match(r"https?://", attributes["href"] or "")
            assert "noopener" in (attributes["rel"] or "")


def test_wa3_what_markdown_is_for_still_works() -> None:
    html = markdown("# Title\n\n*a* **b** `c`\n\n- [x](https://example.org)\n\n| a |\n|---|\n| b |")
    for part in ("<h1>Title</h1>", "<em>a</em>", "<strong>b</strong>", '<a href="https://example.org"', "<td>b</td>"):
        assert part in html


@pytest.mark.parametrize("start", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(20, len(PAYLOADS), 20))])
def test_wa3_every_page_shows_payloads_as_text(store: Store, login: Login, start: int) -> None:
    root = login("root", "admin")
    for payload in PAYLOADS[start : start + 20]:
        short = payload[:190]
        answers = tuple(Candidate(text=payload, source=short) for _ in "ab")
        store.queue.add([Item(kind="pair", prompt=payload, candidates=answers, batch=short, overlap=2)])
        if short.isprintable():
            store.people.add(short, "annotator")
        store.write_guidelines(payload)
    for judge, preference in (("a", 1), ("b", -1)):
        person = store.people.add(judge, "annotator").id
        while (lease := store.queue.next(person)) is not None:
            body = {"kind": "pair", "preference": preference if lease.order[0] == 0 else -preference, "comment": "x"}
            store.judgements.submit(person, lease.id, body, revision=1, request=f"{judge}-{lease.id}")
    pages = ["/work", "/account", "/guidelines", "/review", "/review/1", "/admin", "/admin/people", "/admin/guidelines"]
    for path in [*pages, "/admin/export", "/admin/log", "/admin/import", "/work?language=<script>"]:
        answer = root.get(path)
        assert answer.status_code == 200
        refuse_foreign(answer.text)
    for payload in PAYLOADS[start : start + 20]:
        name = payload.replace("\n", " ") + ".jsonl"
        sent = root.post("/admin/import", data={"action": "add"}, files={"file": (name, b"{}\n")})
        assert sent.status_code in (200, 422)
        refuse_foreign(sent.text)
        token = quote(payload[:50], safe="")
        refuse_foreign(root.get(f"/join/{token}", headers={"Accept": "text/html"}).text)


def test_wa3_every_answer_has_its_headers(login: Login) -> None:
    anna = login("anna")
    answers = [anna.get(path) for path in ("/work", "/static/app.css", "/api/me", "/nothing", "/admin")]
    answers.append(anna.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}))
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")


def test_wa3_the_quality_page_allows_its_one_style_alone(store: Store, login: Login) -> None:
    store.queue.add([pair(number, overlap=3) for number in range(12)])
    for name in ("<b>anna", "berta", "clara"):
        person = store.people.add(name, "annotator").id
        while (lease := store.queue.next(person)) is not None:
            said = {"kind": "pair", "preference": (person * lease.id) % 3 - 1}
            store.judgements.submit(person, lease.id, said, revision=1, request=f"{person}-{lease.id}")
    answer = login("root", "admin").get("/admin/quality")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert re.search(r"style-src 'sha256-[\w+/]+='", policy)
    assert 'class="shade-' in answer.text
    tags = Seen(answer.text).tags
    assert not [tag for tag, _ in tags if tag in ("script", "img", "link", "iframe")]
    assert not [attributes for _, attributes in tags if "style" in attributes]
