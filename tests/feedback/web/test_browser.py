"""The pages as a person uses them, in a real browser."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from proxtune.errors import DataError, StoreBusyError, StoreFullError
from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store
from tests.feedback.conftest import pair
from tests.feedback.web.browsing import Browser
from tests.feedback.web.conftest import PASSWORD

pytestmark = pytest.mark.slow
ENTER = Keys.ENTER
TEXT = "Marie 🗼 Curie was born in Warsaw. 她在巴黎工作。"


def item(kind: str, *texts: str, **more: object) -> Item:
    candidates = tuple(Candidate(text=text, source=f"model {i}") for i, text in enumerate(texts))
    return Item(kind=kind, prompt=more.pop("prompt", f"the {kind}"), candidates=candidates, **more)


EVERY_KIND = [
    item("pair", "good words here", "good words there"),
    item("ranking", "w", "x", "y", "z"),
    item("rating", "x", options={"criteria": ("helpful", "true"), "scale": 7}),
    item("thumb", "x"),
    item("rewrite", "a bad text"),
    item("flags", "x"),
    item("label", prompt="x", options={"labels": tuple("abcdefghi"), "multiple": True}),
    item("spans", prompt=TEXT, options={"labels": ("person", "place")}),
]


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    """A store in which time goes on."""
    with Store.create(address) as store:
        yield store


@pytest.fixture
def anna(store: Store, browser: Browser, url: str, hashed: str) -> Browser:
    """Anna's browser; she is person 1."""
    store.people.add("anna", "annotator", hashed)
    return browser


def said(store: Store) -> list[dict[str, object]]:
    """What anna said, the oldest first, as she saw it."""
    from proxtune.feedback.records import as_shown

    mine = reversed(store.judgements.of_person(1))
    return [as_shown(one.body, one.order).model_dump(mode="json") for one in mine]


def add(store: Store, items: list[Item]) -> None:
    store.queue.add([one.model_copy(update={"priority": -float(place)}) for place, one in enumerate(items)])


def test_every_kind_is_answered_by_keyboard_alone(store: Store, anna: Browser, url: str) -> None:
    add(store, EVERY_KIND)
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("Which answer is better?")
    anna.press("5", Keys.ARROW_LEFT, "shift+1", "c", "because", Keys.ESCAPE, ENTER)
    anna.shows("Put the answers in order")
    anna.press("2", "1", "1", Keys.ARROW_UP, Keys.ARROW_DOWN, "4", ENTER)
    anna.shows("How good is the answer?")
    anna.press("7", "3", Keys.ARROW_UP, "6", ENTER)
    anna.shows("Is the answer good?")
    anna.press("2", ENTER)
    anna.shows("Write a better answer")
    anna.press("e", "control+a", "a good one", "control+" + ENTER)
    anna.shows("What is wrong with the answer?")
    anna.press("2", "3", "3", ENTER)
    anna.shows("Which labels fit?")
    anna.press("1", Keys.ARROW_UP, Keys.SPACE, ENTER)
    anna.shows("Mark the parts of the text")
    anna.press(Keys.ARROW_RIGHT, "shift+" + Keys.ARROW_RIGHT, "1", *[Keys.ARROW_RIGHT] * 4, "2", ENTER)
    anna.shows("All done")
    bodies = said(store)
    assert [body["kind"] for body in bodies] == [one.kind for one in EVERY_KIND]
    assert (bodies[0]["preference"], bodies[0]["flags"], bodies[0]["comment"]) == (-1, ["unsafe"], "because")
    assert bodies[1]["ranks"] == [2, 1, 1, 4]
    assert bodies[2]["scores"] == {"helpful": 6, "true": 3}
    assert bodies[3]["up"] is False
    assert bodies[4]["text"] == "a good one"
    assert bodies[5]["flags"] == ["personal data"]
    assert bodies[6]["labels"] == ["a", "i"]
    marks = [(TEXT[mark["begin"] : mark["end"]], mark["label"]) for mark in bodies[7]["spans"]]
    assert marks == [("Marie 🗼 Curie", "person"), ("Warsaw", "place")]
    assert anna.complaints() == []


def test_an_answer_is_taken_back_changed_and_sent_again(store: Store, anna: Browser, url: str) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    anna.press("1", ENTER)
    anna.shows("prompt 1")
    anna.press("u")
    anna.shows("prompt 0")
    anna.shows("Taken back", "#status")
    assert anna.text("[aria-pressed=true]").split("\n")[-1] == "A much better"
    anna.press("3", ENTER)
    anna.shows("prompt 1")
    anna.press("s")
    anna.shows("All done")
    anna.press("h")
    anna.shows("skipped", "#earlier")
    anna.press("u")
    anna.shows("prompt 1")
    history = [one.body and one.body.model_dump().get("preference") for one in store.judgements.history(1, 1)]
    assert [abs(one) if one is not None else None for one in history] == [2, None, 0]


def test_what_is_typed_is_there_after_a_reload(store: Store, anna: Browser, url: str) -> None:
    add(store, [pair(0)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    anna.press("2", "c", "half a thou")
    anna.shows("Draft saved", "#status")
    assert store.queue.next(1).draft["comment"] == "half a thou"
    anna.press("ght")
    anna.driver.refresh()
    anna.shows("prompt 0")
    assert anna.find("#comment").get_property("value") == "half a thought"
    assert anna.text(".choice[aria-pressed=true]").endswith("A better")


def test_an_answer_without_a_connection_is_kept_and_sent_once(store: Store, anna: Browser, url: str) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    anna.connected(yes=False)
    anna.press("2", "c", "kept", Keys.ESCAPE, ENTER)
    anna.shows("No connection", "#banner")
    assert said(store) == []
    anna.connected(yes=True)
    anna.shows("prompt 1")
    assert [(body["preference"], body["comment"]) for body in said(store)] == [(1, "kept")]
    assert anna.run("return Object.keys(localStorage).filter((key) => key.startsWith('proxtune/'))") == []


def test_an_answer_whose_receipt_was_lost_is_one_judgement(store: Store, anna: Browser, url: str) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    anna.run(
        """const real = window.fetch; let lost = false;
        window.fetch = async (path, given) => {
          const answer = await real(path, given);
          if (given.method === "POST" && !lost) { lost = true; throw new TypeError("connection reset"); }
          return answer;
        };"""
    )
    anna.press("1", ENTER)
    anna.shows("prompt 1")
    assert len(list(store.judgements.events())) == 1


@pytest.mark.parametrize(("error", "says"), [(StoreBusyError, "busy"), (StoreFullError, "disk is full")])
def test_a_store_that_fails_for_a_while_loses_nothing(
    store: Store, anna: Browser, url: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception], says: str
) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    with monkeypatch.context() as broken:
        broken.setattr(store.judgements, "submit", lambda *_, **__: (_ for _ in ()).throw(error("no")))
        anna.press("4", ENTER)
        anna.shows(says, "#banner")
        anna.driver.refresh()
        anna.shows(says, "#banner")
    anna.shows("prompt 1")
    assert [body["preference"] for body in said(store)] == [-1]


def test_what_the_store_says_stands_beneath_the_meaning_in_the_readers_language(
    store: Store, anna: Browser, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, [pair(0)])
    anna.driver.get(f"{url}/login?language=zh")
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    for error, meaning in ((StoreBusyError("<b>no turn"), "服务器繁忙"), (DataError("<b>no such"), "内容不符合要求")):
        with monkeypatch.context() as broken:
            broken.setattr(store.judgements, "submit", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
            anna.press("4", ENTER)
            anna.shows(meaning, "#banner")
            anna.shows(str(error), "#banner .detail[lang=en]")
        if isinstance(error, StoreBusyError):
            anna.shows("全部完成")
            add(store, [pair(1)])
            anna.driver.refresh()
            anna.shows("prompt 1")


def test_a_change_in_another_window_is_shown_and_the_reader_decides(store: Store, anna: Browser, url: str) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    elsewhere = {"kind": "pair", "preference": -2, "comment": "elsewhere"}
    store.judgements.submit(1, 1, elsewhere, revision=1, request="elsewhere")
    anna.press("1", ENTER)
    anna.shows("another window", "#banner")
    anna.shows("B much better", "#banner")
    anna.find("#banner button").click()
    anna.shows("prompt 1")
    assert [body["preference"] for body in said(store)] == [2]


def test_who_is_logged_out_meanwhile_loses_nothing(store: Store, anna: Browser, url: str, hashed: str) -> None:
    add(store, [pair(0), pair(1)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 0")
    store.people.change(1, password=hashed)  # ends every session
    anna.press("2", ENTER)
    anna.shows("logged out", "#banner")
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("prompt 1")
    assert [body["preference"] for body in said(store)] == [1]


def test_spans_are_marked_with_the_mouse_in_code_points(store: Store, anna: Browser, url: str) -> None:
    add(store, [EVERY_KIND[-1]])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("Marie")
    for word in ("Curie ", "巴黎"):
        anna.run(
            """const body = document.querySelector(".markable"), range = document.createRange();
            for (const node of body.childNodes) {
              const text = node.nodeType === 3 ? node : node.firstChild, at = text.data.indexOf(arguments[0]);
              if (at < 0) continue;
              range.setStart(text, at); range.setEnd(text, at + arguments[0].length);
              getSelection().removeAllRanges(); getSelection().addRange(range);
            }""",
            word,
        )
        anna.find(".choice[aria-keyshortcuts='2']").click()
    anna.press(*[Keys.ARROW_RIGHT] * 2, "1", Keys.ARROW_LEFT, Keys.ARROW_LEFT, "1", Keys.ARROW_RIGHT)
    anna.find(".marks li:first-child button").click()
    anna.press(ENTER)
    anna.shows("All done")
    marks = [(TEXT[mark["begin"] : mark["end"]], mark["label"]) for mark in said(store)[0]["spans"]]
    assert marks == [("Curie", "person"), ("巴黎", "place")]


def test_two_answers_are_compared_word_by_word(store: Store, anna: Browser, url: str) -> None:
    add(
        store,
        [
            item("pair", "The cat sat on the mat.", "The cat lay on a mat."),
            item("pair", "今天天气很好", "今天天气很坏"),
        ],
    )
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("The cat")
    anna.press("d")
    marked = anna.run("return [...document.querySelectorAll('mark.differs')].map((mark) => mark.textContent)")
    assert sorted(marked) == ["a", "lay", "sat", "the"]
    anna.press("d")
    assert anna.run("return document.querySelectorAll('mark.differs').length") == 0
    anna.press("3", ENTER)
    anna.shows("天气")
    anna.press("d")
    marked = anna.run("return [...document.querySelectorAll('mark.differs')].map((mark) => mark.textContent)")
    assert all("今天" not in mark for mark in marked)
    assert {mark[-1] for mark in marked} == {"好", "坏"}


def test_a_long_text_folds(store: Store, anna: Browser, url: str) -> None:
    add(store, [item("thumb", "line\n" * 200)])
    anna.log_in(url, "anna", PASSWORD)
    anna.shows("Show all")
    height = "return document.querySelector('.answer .text').offsetHeight"
    folded = anna.run(height)
    anna.press("f")
    assert anna.run(height) > 3 * folded
    anna.press("f")
    assert anna.run(height) == folded


def test_no_two_keys_of_a_page_are_the_same_and_each_is_printed(store: Store, anna: Browser, url: str) -> None:
    add(store, EVERY_KIND)
    anna.log_in(url, "anna", PASSWORD)
    for one in EVERY_KIND:
        anna.until(lambda kind=one.kind: anna.driver.find_elements("css selector", f".task.{kind}-kind"))
        keys = anna.run(
            """return [...document.querySelectorAll("[aria-keyshortcuts]")].map((button) =>
              [button.getAttribute("aria-keyshortcuts"), button.querySelector("kbd").textContent])"""
        )
        names = [name for name, _ in keys]
        assert len(set(names)) == len(names), one.kind
        assert {"s", "u", "g", "h", "?", "Enter"} <= set(names)
        for name, printed in keys:
            assert printed == name.replace("Shift+", "⇧").replace("Enter", "↵")
        assert anna.run(
            "return [...document.querySelectorAll('button')].every((one) => one.innerText || one.ariaLabel)"
        )
        anna.press("s")
    anna.shows("All done")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_every_page_fits_its_screen_in_both_languages(
    store: Store, browser: Browser, url: str, hashed: str, width: int
) -> None:
    add(store, [*EVERY_KIND, item("pair", "x" * 3000, "W" * 500, batch="b" * 200)])
    store.people.add("root" + "x" * 100, "admin", hashed)
    store.write_guidelines("# " + "long" * 100)
    browser.log_in(url, "root" + "x" * 100, PASSWORD)
    browser.size(width, 800)
    pages = ["/work", "/guidelines", "/review", "/admin", "/admin/people", "/admin/guidelines", "/admin/import"]
    for path, language in itertools.product([*pages, "/account", "/admin/export", "/admin/log"], ("en", "zh")):
        browser.driver.get(f"{url}{path}?language={language}")
        wide = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, (path, language, wide)
    browser.driver.get(f"{url}/work?language=zh")
    for _ in range(9):
        browser.until(lambda: browser.driver.find_elements("css selector", "#task .task"))
        assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        heading = browser.text("#task h1")
        assert not heading.isascii()
        browser.run("document.querySelector('#task .task').dataset.seen = 1")
        browser.press("s")
        browser.until(lambda: not browser.driver.find_elements("css selector", "[data-seen]"))


def test_light_and_dark_are_chosen_and_stay(store: Store, anna: Browser, url: str) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    anna.driver.get(f"{url}/login")
    light = anna.run(ground)
    anna.find("[data-switch-theme]").click()
    dark = anna.run(ground)
    assert dark != light
    anna.driver.refresh()
    assert anna.run(ground) == dark
    anna.find("[data-switch-theme]").click()
    assert anna.run(ground) == light


def test_a_reviewer_decides_and_an_admin_imports(
    store: Store, browser: Browser, url: str, hashed: str, tmp_path: Path
) -> None:
    add(store, [pair(0, overlap=2)])
    for name, preference in (("b", 2), ("c", -2)):
        person = store.people.add(name, "annotator").id
        lease = store.queue.next(person)
        body = {"kind": "pair", "preference": preference if lease.order[0] == 0 else -preference}
        store.judgements.submit(person, lease.id, body, revision=1, request=name)
    store.people.add("root", "admin", hashed)
    browser.log_in(url, "root", PASSWORD)
    browser.driver.get(f"{url}/review")
    browser.find("a[href='/review/1']").click()
    browser.shows("What was said")
    browser.shows("A much better", ".said-card")
    browser.shows("B much better", ".said-card")
    browser.press("2", ENTER)
    browser.shows("Nobody disagrees", "main")
    assert [one.final for one in next(store.judgements.all()).judgements] == [True]
    file = tmp_path / "new.jsonl"
    file.write_text('{"kind": "thumb"}\n')
    browser.driver.get(f"{url}/admin/import")
    browser.find("input[type=file]").send_keys(str(file))
    browser.shows("new.jsonl:1: prompt", "#found")
    file.write_text('{"kind": "thumb", "prompt": "p", "candidates": [{"text": "t"}], "batch": "new"}\n')
    browser.driver.refresh()
    browser.find("input[type=file]").send_keys(str(file))
    browser.shows("Items in the file: 1", "#found")
    browser.find("button[value=add]").click()
    browser.shows("Items added: 1", "main")
    assert store.queue.batches()["new"].items == 1
    browser.driver.get(f"{url}/admin/export")
    browser.find("[data-format=events]").click()
    assert browser.run("return document.getElementById('export').getAttribute('action')") == "/admin/export/events"
    assert browser.complaints() == []
