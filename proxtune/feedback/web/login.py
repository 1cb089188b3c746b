"""Logging in and out, and joining by an invitation."""

import math
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from proxtune.errors import StoreError
from proxtune.feedback.store.people import Person
from proxtune.feedback.web.auth import Anybody, Here, address_of, csrf_token, set_session
from proxtune.feedback.web.language import LANGUAGES
from proxtune.feedback.web.pages import COOKIE, language_of, page, problem, wants_json
from proxtune.feedback.web.passwords import LEAST, MOST
from proxtune.feedback.web.site import Site

router = APIRouter()
Field: TypeAlias = Annotated[str, Form(max_length=MOST)]


@router.get("/login", response_model=None)
def login_page(request: Request, session: Anybody) -> Response:
    """The form; whoever is logged in goes to work."""
    return _to("/work") if session else page(request, "login.html", message=None)


@router.post("/login", response_model=None)
async def login(request: Request, here: Here, session: Anybody, name: Field, password: Field) -> Response:
    """Begin a session. Wrong: 401. Too many tries: 429."""
    name, address = name.strip(), address_of(request)
    if (away := turned_away(request, here, name)) is not None:
        return away
    found = await run_in_threadpool(here.store.people.by_name, name)
    person, hashed = found or (None, None)
    if not await here.passwords.verify(hashed, password, address) or person is None or not person.active:
        return refused(request, "login.html", 401, "wrong_login")
    if session:
        await run_in_threadpool(here.store.people.end_session, session.token)
    return await run_in_threadpool(begin, request, here, person)


@router.post("/logout", response_model=None)
def logout(request: Request, here: Here, session: Anybody) -> Response:
    """End the session, here and in the store."""
    if session is None:
        raise HTTPException(401, "nobody is logged in")
    here.store.people.end_session(session.token)
    response = Response(status_code=204) if wants_json(request) else _to("/login")
    response.delete_cookie(COOKIE)
    return response


@router.get("/join/{token}", response_model=None)
def join_page(request: Request, here: Here, session: Anybody, token: str) -> Response:
    """The form for a name and a password."""
    role = here.store.people.invited(token)
    if role is None:
        raise HTTPException(404, "this invitation was used or is too old; ask for another")
    return page(request, "join.html", session=session, token=token, role=role, message=None, least=LEAST)


@router.post("/join/{token}", response_model=None)
async def join(request: Request, here: Here, session: Anybody, token: str, name: Field, password: Field) -> Response:
    """Use an invitation: the person is made, and logged in."""
    role = await run_in_threadpool(here.store.people.invited, token)
    if role is None:
        raise HTTPException(404, "this invitation was used or is too old; ask for another")
    if not name.isprintable() or len(password) < LEAST:
        return refused(request, "join.html", 422, "weak_login", token=token, role=role, session=session, least=LEAST)
    hashed = await here.passwords.hash(password)
    try:
        person = await run_in_threadpool(here.store.people.join, token, name, hashed)
    except StoreError as error:
        if type(error) is not StoreError:  # busy or full
            raise
        return refused(request, "join.html", 409, "name_taken", token=token, role=role, session=session, least=LEAST)
    if session:
        await run_in_threadpool(here.store.people.end_session, session.token)
    return await run_in_threadpool(begin, request, here, person)


def turned_away(request: Request, here: Site, name: str) -> Response | None:
    """The answer to whoever tries a password too often (429), or while too many do (503); None: let them try."""
    wait = here.throttle.wait(name, address_of(request))
    if wait:
        seconds = str(math.ceil(wait))
        detail = f"too many tries for this name, or from this address; wait {seconds} seconds"
        return problem(request, 429, detail, headers={"Retry-After": seconds})
    if here.passwords.busy:
        return problem(request, 503, "many are logging in; try again in a moment", headers={"Retry-After": "5"})
    return None


def begin(request: Request, here: Site, person: Person, *, to: str = "/work") -> Response:
    """Begin a session of a person, and lead them on."""
    token = here.store.people.begin_session(person.id)
    if wants_json(request):
        about = {"name": person.name, "role": person.role, "csrf": csrf_token(here.secret, token)}
        response: Response = JSONResponse(about)
    else:
        response = _to(to)
    set_session(request, response, token)
    return response


def refused(request: Request, template: str, status: int, why: str, **values: object) -> Response:
    """The form again, with what was wrong."""
    message = LANGUAGES[language_of(request)][why]
    if wants_json(request):
        return problem(request, status, message)
    return page(request, template, status=status, message=message, **values)


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)
