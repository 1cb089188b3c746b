"""People, invitations, batches, guidelines, and the log of who did what."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from proxtune.feedback.store.people import INVITED, ROLES, Person, Role
from proxtune.feedback.web.auth import Admin, Here
from proxtune.feedback.web.pages import markdown, page, problem, wants_json
from proxtune.feedback.web.work import HIGHEST

router = APIRouter(prefix="/admin")
Change: TypeAlias = Literal["annotator", "reviewer", "admin", "lock", "unlock", "erase"]
PersonId: TypeAlias = Annotated[int, Form(ge=1, le=HIGHEST)]
NAMES = 200  # characters of a batch's name


@router.get("", response_model=None)
def batches_page(request: Request, session: Admin, here: Here) -> Response:
    """How far each batch is."""
    return page(request, "batches.html", session=session, batches=here.store.queue.batches())


@router.post("/batches/overlap", response_model=None)
def overlap(
    session: Admin,
    here: Here,
    batch: Annotated[str, Form(max_length=NAMES)],
    overlap: Annotated[int, Form(ge=1, le=1000)],
) -> Response:
    """Ask another number of people about each item of a batch."""
    count = here.store.queue.ask(batch, overlap)
    here.store.people.note(session.person.id, "overlap", {"batch": batch, "overlap": overlap, "items": count})
    return RedirectResponse("/admin", 303)


@router.get("/people", response_model=None)
def people_page(request: Request, session: Admin, here: Here) -> Response:
    """Who is here, and how much they have done."""
    return _people(request, session, here)


@router.post("/people", response_model=None)
def change_person(
    request: Request,
    session: Admin,
    here: Here,
    person: PersonId,
    change: Annotated[Change, Form()],
    sure: Annotated[bool, Form()] = False,
) -> Response:
    """Give a person another role, lock or unlock their account, or, if the admin is sure, forget who they were."""
    people = here.store.people
    if change == "erase" and not sure:
        return _ask_whether_sure(request, session, _person(here, person))
    if change in ROLES:
        people.change(person, role=change)
    else:
        people.change(person, active=change == "unlock")  # refuses to lock the last admin
    if change == "erase":
        people.erase(person)
    people.note(session.person.id, "person", {"person": person, "change": change})
    return RedirectResponse("/admin/people", 303)


@router.post("/invites", response_model=None)
def invite(request: Request, session: Admin, here: Here, role: Annotated[Role, Form()]) -> Response:
    """A link with which one person can join; it is shown once."""
    link = f"{request.base_url}join/{here.store.people.invite(role)}"
    here.store.people.note(session.person.id, "invite", {"role": role})
    if wants_json(request):
        return JSONResponse({"link": link}, 201)
    return _people(request, session, here, link=link)


@router.post("/resets", response_model=None)
def reset_link(request: Request, session: Admin, here: Here, person: PersonId) -> Response:
    """A link with which one person can choose a new password; it is shown once."""
    name = _person(here, person).name
    link = f"{request.base_url}reset/{here.store.people.reset(person)}"
    here.store.people.note(session.person.id, "reset link", {"person": person})
    if wants_json(request):
        return JSONResponse({"link": link}, 201)
    return _people(request, session, here, link=link, link_for=name)


@router.get("/guidelines", response_model=None)
def guidelines_page(
    request: Request, session: Admin, here: Here, version: Annotated[int | None, Query(ge=0, le=HIGHEST)] = None
) -> Response:
    """The guidelines to edit, and every earlier version to read."""
    newest, _ = here.store.guidelines()
    shown, text = here.store.guidelines(version)
    values: dict[str, Any] = {"newest": newest, "shown": shown, "text": text, "rendered": markdown(text)}
    return page(request, "edit_guidelines.html", session=session, **values)


@router.post("/guidelines", response_model=None)
def write_guidelines(session: Admin, here: Here, text: Annotated[str, Form(max_length=100_000)] = "") -> Response:
    """A new version."""
    version = here.store.write_guidelines(text.replace("\r\n", "\n"))
    here.store.people.note(session.person.id, "guidelines", {"version": version})
    return RedirectResponse("/admin/guidelines", 303)


@router.get("/log", response_model=None)
def log_page(request: Request, session: Admin, here: Here) -> Response:
    """Who did what, the newest first."""
    names = {person.id: person.name for person in here.store.people.all()}
    entries = [
        (_when(at), names.get(person or 0, "—"), what, ", ".join(f"{key} {value}" for key, value in detail.items()))
        for at, person, what, detail in here.store.people.log()
    ]
    return page(request, "log.html", session=session, entries=entries)


def _person(here: Here, number: int) -> Person:
    found = next((person for person in here.store.people.all() if person.id == number), None)
    if found is None:
        raise HTTPException(404, f"there is no person {number}; load the list again")
    return found


def _ask_whether_sure(request: Request, session: Admin, person: Person) -> Response:
    if wants_json(request):
        return problem(request, 422, "what is erased cannot be brought back; send sure=true with it")
    return page(request, "erase.html", session=session, person=person)


def _people(
    request: Request, session: Admin, here: Here, *, link: str | None = None, link_for: str | None = None
) -> Response:
    values: dict[str, Any] = {
        "people": here.store.people.all(),
        "counts": here.store.judgements.counts(),
        "roles": ROLES,
        "link": link,
        "link_for": link_for,
        "hours": round(INVITED / 3600),
    }
    return page(request, "people.html", session=session, **values)


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"
