"""What a person is asked and answers."""

import json
from datetime import datetime
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, HTTPException, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from proxtune.feedback.records import Judgement, Kind, Options, Turn, as_shown
from proxtune.feedback.store.people import Role
from proxtune.feedback.web.auth import Annotator, Here
from proxtune.feedback.web.language import LANGUAGES
from proxtune.feedback.web.pages import language_of, markdown, page
from proxtune.feedback.web.site import Site

router = APIRouter()
MOST_DRAFT = 200_000  # characters
HIGHEST = 2**31 - 1  # that a column of the store holds
ItemId: TypeAlias = Annotated[int, Path(ge=1, le=HIGHEST)]


class Me(BaseModel):
    """Whoever is logged in."""

    id: int
    name: str
    role: Role
    csrf: str  # to send as X-CSRF-Token with everything that changes something
    judged: int  # answers that stand
    today: int  # those given since midnight
    daily: int  # what is wanted of a day


class Shown(BaseModel):
    """An item as a person sees it: no sources, nothing that others said."""

    id: int
    kind: Kind
    prompt: str | tuple[Turn, ...]
    candidates: list[str]  # in the order to show
    options: Options
    draft: dict[str, Any] | None
    revision: int  # the one that an answer will be
    guideline: str  # Markdown
    guideline_version: int


class Attempt(BaseModel):
    """One attempt to change an answer; sent again under the same name it changes nothing more."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(ge=1, le=HIGHEST)
    request: str = Field(pattern=r"^[!-~]{1,64}$")


class Answer(Attempt):
    """An answer, of the item's kind or a skip; it speaks of candidates by the places they are shown in."""

    body: dict[str, Any]


class Recorded(BaseModel):
    """An answer that is on disk."""

    revision: int


class Said(BaseModel):
    """An earlier answer of one's own."""

    id: int
    kind: Kind
    title: str  # how the prompt begins
    body: dict[str, Any]
    revision: int
    at: float


@router.get("/")
def start() -> RedirectResponse:
    """Go to work."""
    return RedirectResponse("/work", 303)


@router.get("/work", response_model=None)
def work_page(request: Request, session: Annotator, here: Here) -> Response:
    """The page that asks."""
    return page(request, "work.html", session=session, review=None, **work_values(request, here))


@router.get("/guidelines", response_model=None)
def guidelines_page(request: Request, session: Annotator, here: Here) -> Response:
    """The guidelines alone."""
    version, text = here.store.guidelines()
    return page(request, "guidelines.html", session=session, guideline=markdown(text), version=version)


@router.get("/api/me")
def me(session: Annotator, here: Here) -> Me:
    """Who is logged in, and how much they have done."""
    person, counts = session.person, here.store.judgements.counts
    judged, today = (counts(since=since).get(person.id, 0) for since in (0.0, _midnight(here)))
    return Me(
        id=person.id,
        name=person.name,
        role=person.role,
        csrf=session.csrf,
        judged=judged,
        today=today,
        daily=here.daily,
    )


@router.get("/api/next", response_model=Shown, responses={204: {"description": "Nothing is left."}})
def next_item(session: Annotator, here: Here) -> Shown | Response:
    """What to judge next."""
    lease = here.store.queue.next(session.person.id)
    if lease is None:
        return Response(status_code=204)
    version, text = here.store.guidelines()
    return Shown(
        id=lease.id,
        kind=lease.item.kind,
        prompt=lease.item.prompt,
        candidates=[lease.item.candidates[place].text for place in lease.order],
        options=lease.item.options,
        draft=lease.draft,
        revision=lease.revision,
        guideline=text,
        guideline_version=version,
    )


@router.put("/api/items/{item}/draft", status_code=204)
def draft(session: Annotator, here: Here, item: ItemId, draft: Annotated[dict[str, Any], Body()]) -> None:
    """Keep what is not yet an answer."""
    if len(in_store(draft)) > MOST_DRAFT:
        raise HTTPException(413, f"a draft of more than {MOST_DRAFT} characters; shorten it")
    here.store.queue.draft(item, session.person.id, draft)


@router.post("/api/items/{item}/judgement", status_code=201)
def submit(session: Annotator, here: Here, item: ItemId, answer: Answer) -> Recorded:
    """Answer, or change an answer."""
    in_store(answer.body)
    said = here.store.judgements.submit(
        session.person.id, item, answer.body, revision=answer.revision, request=answer.request
    )
    return Recorded(revision=said.revision)


@router.delete("/api/items/{item}/judgement")
def withdraw(session: Annotator, here: Here, item: ItemId, attempt: Attempt) -> Recorded:
    """Take an answer back: the item is asked again, with the answer as its draft."""
    said = here.store.judgements.withdraw(session.person.id, item, revision=attempt.revision, request=attempt.request)
    return Recorded(revision=said.revision)


@router.get("/api/mine")
def mine(session: Annotator, here: Here) -> list[Said]:
    """One's own last answers, the newest first."""
    return [_said(here, judgement) for judgement in here.store.judgements.of_person(session.person.id)]


def work_values(request: Request, here: Site) -> dict[str, Any]:
    """What the page that asks is made with."""
    version, text = here.store.guidelines()
    return {"words": LANGUAGES[language_of(request)], "guideline": markdown(text), "version": version}


def as_said(judgement: Judgement) -> dict[str, Any]:
    """A body that speaks of the places in which its author saw the candidates."""
    assert judgement.body is not None
    return as_shown(judgement.body, judgement.order).model_dump(mode="json")


def in_store(given: dict[str, Any]) -> str:
    """JSON that every store can keep and every browser can read; else 422."""
    try:
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:
        raise HTTPException(422, f"a number or a character that is none ({error}); leave it out") from error
    return text


def _said(here: Site, judgement: Judgement) -> Said:
    item = here.store.queue.item(judgement.item)
    assert item is not None
    return Said(
        id=judgement.item,
        kind=item.kind,
        title=item.text[:200],
        body=as_said(judgement),
        revision=judgement.revision,
        at=judgement.at,
    )


def _midnight(here: Site) -> float:
    now = datetime.fromtimestamp(here.store.db.now()).astimezone()
    return now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
