"""Where judges disagree, and the reviewer's last word."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from proxtune.feedback.quality import most_disputed
from proxtune.feedback.records import Item, as_shown
from proxtune.feedback.web.auth import Here, Reviewer
from proxtune.feedback.web.pages import page
from proxtune.feedback.web.site import Site
from proxtune.feedback.web.work import Answer, ItemId, Recorded, Shown, in_store, work_values

router = APIRouter()
LISTED = 100  # items on a page


class Disputed(Shown):
    """An item with what was said of it, in the places in which the reviewer sees the candidates."""

    said: list[dict[str, Any]]


@router.get("/review", response_model=None)
def review_page(request: Request, session: Reviewer, here: Here) -> Response:
    """The items that wait for a decision, the most disputed first."""
    disputed, count = most_disputed(here.store, LISTED)
    return page(request, "review.html", session=session, disputed=disputed, count=count)


@router.get("/review/{item}", response_model=None)
def decide_page(request: Request, session: Reviewer, here: Here, item: ItemId) -> Response:
    """One of them, asked as it was asked of the others."""
    _asked(here, item)
    return page(request, "work.html", session=session, review=item, **work_values(request, here))


@router.get("/api/items/{item}/review")
def disputed_item(session: Reviewer, here: Here, item: ItemId) -> Disputed:
    """An item, and what was said of it; not who said it."""
    asked = _asked(here, item)
    order, revision = here.store.judgements.place(session.person.id, item)
    version, text = here.store.guidelines()
    said = here.store.judgements.of_item(item)
    return Disputed(
        id=item,
        kind=asked.kind,
        prompt=asked.prompt,
        candidates=[asked.candidates[place].text for place in order],
        options=asked.options,
        draft=None,
        revision=revision,
        guideline=text,
        guideline_version=version,
        said=[as_shown(one.body, order).model_dump(mode="json") for one in said if one.body is not None],
    )


@router.post("/api/items/{item}/final", status_code=201)
def decide(session: Reviewer, here: Here, item: ItemId, answer: Answer) -> Recorded:
    """Decide: this counts instead of what others said, and nobody is asked about the item any more."""
    in_store(answer.body)
    person = session.person.id
    said = here.store.judgements.submit(
        person, item, answer.body, revision=answer.revision, request=answer.request, final=True
    )
    here.store.people.note(person, "decided", {"item": item, "revision": said.revision})
    return Recorded(revision=said.revision)


def _asked(here: Site, number: int) -> Item:
    item = here.store.queue.item(number)
    if item is None:
        raise HTTPException(404, f"there is no item {number}; load the list again")
    return item
