"""Payloads in every field that is shown, in a real browser: none runs, none calls home."""

import itertools
from pathlib import Path

import pytest

from proxtune.feedback.records import Candidate, Item, Turn
from proxtune.feedback.store import Store
from tests.feedback.web.browsing import Browser
from tests.feedback.web.conftest import PASSWORD
from tests.feedback.web.payloads import PAYLOADS

pytestmark = pytest.mark.slow
KINDS = ("pair", "ranking", "rating", "thumb", "rewrite", "flags", "label", "spans")
COUNTS = {"pair": 2, "ranking": 3, "label": 0, "spans": 0}


def shown(payload: str, kind: str) -> Item:
    """An item with a payload in every field."""
    short = payload[:200]
    options = {"criteria": (short,), "labels": (short,), "flags": (short,), "multiple": True}
    candidates = tuple(Candidate(text=f"{payload} {i}", source=short) for i in range(COUNTS.get(kind, 1)))
    turns = tuple(Turn(role=role, content=payload) for role in ("system", "user", "assistant"))
    prompt = payload if kind in ("pair", "spans") else turns
    return Item(kind=kind, prompt=prompt, candidates=candidates, options=options, batch=short)


def refuse_harm(browser: Browser, url: str) -> None:
    assert browser.run("return window.hacked") is None
    asked = browser.requested()
    assert asked
    assert [address for address in asked if not address.startswith((url, "data:text/html,", "chrome"))] == []
    assert [said for said in browser.complaints() if "favicon" not in said] == []


def test_wa3_no_payload_runs_on_the_page_that_asks(store: Store, browser: Browser, url: str, hashed: str) -> None:
    kinds = itertools.cycle(KINDS)
    store.queue.add([shown(payload, next(kinds)) for payload in PAYLOADS])
    store.write_guidelines("\n\n".join(PAYLOADS)[:90_000])
    store.people.add("<img src=x onerror=window.hacked=1>", "annotator", hashed)
    browser.log_in(url, "<img src=x onerror=window.hacked=1>", PASSWORD)
    for number in range(len(PAYLOADS)):
        browser.until(lambda: browser.driver.find_elements("css selector", "#task .task:not([data-seen])"))
        browser.run("document.querySelector('#task .task').dataset.seen = 1")
        browser.press("1", *(["d"] if number % 8 == 0 else []), "s")
    browser.shows("All done")
    browser.press("h", "g")
    browser.shows("skipped", "#earlier")
    refuse_harm(browser, url)


def test_wa3_no_payload_runs_on_any_other_page(
    store: Store, browser: Browser, url: str, hashed: str, tmp_path: Path
) -> None:
    store.queue.add([shown(payload, "pair").model_copy(update={"overlap": 2}) for payload in PAYLOADS])
    for preference in (1, -1):
        person = store.people.add(f"<b>{preference}", "annotator").id
        while (lease := store.queue.next(person)) is not None:
            signed = preference if lease.order[0] == 0 else -preference
            said = {"comment": lease.item.text, "flags": list(lease.item.options.flags)}
            body = {"kind": "pair", "preference": signed, **said}
            store.judgements.submit(person, lease.id, body, revision=1, request=f"{person}-{lease.id}")
    for payload in PAYLOADS:
        if payload.isprintable():
            store.people.add(payload[:200], "annotator")
            store.people.note(1, payload[:40], {payload: payload})
    store.write_guidelines("\n\n".join(PAYLOADS)[:90_000])
    store.people.add("root", "admin", hashed)
    browser.log_in(url, "root", PASSWORD)
    pages = ["/guidelines", "/review", "/admin", "/admin/people", "/admin/guidelines", "/admin/export", "/admin/log"]
    for path in [*pages, "/admin/quality", *(f"/review/{number}" for number in range(1, 21))]:
        browser.driver.get(f"{url}{path}?language=zh")
        if path.startswith("/review/"):
            browser.shows("各人的回答")
        refuse_harm(browser, url)
    for payload in PAYLOADS[::7]:
        file = tmp_path / payload.replace("/", "").replace("\n", "")[:60]
        file.write_text("\n".join(PAYLOADS))
        browser.driver.get(f"{url}/admin/import")
        browser.find("input[type=file]").send_keys(str(file))
        browser.until(lambda: browser.driver.find_elements("css selector", "#found li"))
    refuse_harm(browser, url)
