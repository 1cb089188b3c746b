"""One's own account: another password, and what the store holds of oneself."""

import json
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from proxtune.feedback.web.auth import Annotator, Anybody, Here, address_of
from proxtune.feedback.web.login import begin, refused, turned_away
from proxtune.feedback.web.pages import page
from proxtune.feedback.web.passwords import LEAST, MOST

router = APIRouter()
Secret: TypeAlias = Annotated[str, Form(max_length=MOST)]


@router.get("/account", response_model=None)
def account_page(request: Request, session: Annotator, changed: Annotated[bool, Query()] = False) -> Response:
    """The form for another password, and the link to all that is held of oneself."""
    return page(request, "account.html", session=session, message=None, changed=changed, least=LEAST)


@router.post("/account", response_model=None)
async def change_account(request: Request, session: Annotator, here: Here, old: Secret, password: Secret) -> Response:
    """Another password: every session of the person ends, and this browser gets a new one."""
    person, people = session.person, here.store.people
    if (away := turned_away(request, here, person.name)) is not None:
        return away
    found = await run_in_threadpool(people.by_name, person.name)
    shown = {"session": session, "changed": False, "least": LEAST}
    if found is None or not await here.passwords.verify(found[1], old, address_of(request)):
        return refused(request, "account.html", 422, "wrong_old", **shown)
    if len(password) < LEAST:
        return refused(request, "account.html", 422, "weak_password", **shown)
    hashed = await here.passwords.hash(password)
    await run_in_threadpool(people.change, person.id, password=hashed)
    return await run_in_threadpool(begin, request, here, person, to="/account?changed=true")


@router.get("/api/mine/all", response_model=None)
def my_data(session: Annotator, here: Here) -> Response:
    """All that the store holds of whoever asks, as a file."""
    told = json.dumps(here.store.about(session.person.id), ensure_ascii=False, indent=2)
    headers = {"Content-Disposition": 'attachment; filename="my-data.json"'}
    return Response(told, media_type="application/json", headers=headers)


@router.get("/reset/{token}", response_model=None)
def reset_page(request: Request, here: Here, session: Anybody, token: str) -> Response:
    """The form for a new password, for whoever got the link from an admin."""
    person = here.store.people.resetting(token)
    if person is None:
        raise HTTPException(404, "this link was used or is too old; ask an admin for another")
    return page(request, "reset.html", session=session, token=token, person=person, message=None, least=LEAST)


@router.post("/reset/{token}", response_model=None)
async def reset(request: Request, here: Here, session: Anybody, token: str, password: Secret) -> Response:
    """Use the link: the person has a new password, no other session, and is logged in."""
    people = here.store.people
    person = await run_in_threadpool(people.resetting, token)
    if person is None:
        raise HTTPException(404, "this link was used or is too old; ask an admin for another")
    if len(password) < LEAST:
        shown = {"session": session, "token": token, "person": person, "least": LEAST}
        return refused(request, "reset.html", 422, "weak_password", **shown)
    hashed = await here.passwords.hash(password)
    person = await run_in_threadpool(people.use_reset, token, hashed)
    if session:
        await run_in_threadpool(people.end_session, session.token)
    return await run_in_threadpool(begin, request, here, person)
