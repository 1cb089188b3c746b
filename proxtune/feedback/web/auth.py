"""Who a request is from, what they may do, and whether they meant to send it."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends, HTTPException, Request
from starlette.responses import Response

from proxtune.feedback.store.people import ABSOLUTE, Person, Role
from proxtune.feedback.web.guard import SAFE_METHODS
from proxtune.feedback.web.pages import COOKIE
from proxtune.feedback.web.site import Site, site

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in."""

    person: Person
    token: str
    csrf: str  # what their forms and scripts send along


def current(request: Request, here: Annotated[Site, Depends(site)]) -> Session | None:
    """Whoever is logged in."""
    token = request.cookies.get(COOKIE)
    person = here.store.people.session(token) if token else None
    return Session(person, token, csrf_token(here.secret, token)) if person and token else None


Anybody: TypeAlias = Annotated[Session | None, Depends(current)]
Here: TypeAlias = Annotated[Site, Depends(site)]


async def refuse_forged(request: Request, session: Anybody) -> None:
    """Refuse what changes something for somebody, and does not hold the token of their session."""
    if session is None or request.method in SAFE_METHODS:
        return
    given = request.headers.get("x-csrf-token")
    if given is None and request.headers.get("content-type", "").startswith(FORMS):
        field = (await request.form(max_files=1, max_fields=50)).get("csrf")
        given = field if isinstance(field, str) else None
    if given is None or not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise HTTPException(
            403, "the token of this form is missing or older than your login; load the page again, then send it"
        )


def needs(role: Role) -> Callable[[Session | None], Session]:
    """Whoever is logged in and may do what a role may; else 401 or 403."""

    def allowed(session: Anybody) -> Session:
        if session is None:
            raise HTTPException(401, "nobody is logged in; log in first")
        if not session.person.may(role):
            raise HTTPException(403, f"this is for the role {role}, and yours is {session.person.role}; ask an admin")
        return session

    return allowed


Annotator: TypeAlias = Annotated[Session, Depends(needs("annotator"))]
Reviewer: TypeAlias = Annotated[Session, Depends(needs("reviewer"))]
Admin: TypeAlias = Annotated[Session, Depends(needs("admin"))]


def csrf_token(secret: bytes, token: str) -> str:
    """What only a page of ours knows of a session."""
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()


def set_session(request: Request, response: Response, token: str) -> None:
    """Give a browser its session; over TLS, and to that alone, unless this is the reader's own machine."""
    secure = site(request).secure or request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age=int(ABSOLUTE), httponly=True, samesite="lax", secure=secure)


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""
