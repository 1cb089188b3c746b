"""The app: its routes, and how an error of the store becomes an answer."""

from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from proxtune.errors import ConflictError, DataError, StoreBusyError, StoreError, StoreFullError
from proxtune.feedback.records import Judgement
from proxtune.feedback.store import Store
from proxtune.feedback.web import account, admin, login, review, transfer, work
from proxtune.feedback.web.auth import refuse_forged
from proxtune.feedback.web.guard import Guard
from proxtune.feedback.web.pages import problem
from proxtune.feedback.web.site import DAILY, Site

STATIC = Path(__file__).parent / "static"


def create_app(store: Store, *, secret: bytes, secure: bool = False, daily: int = DAILY) -> FastAPI:
    """The web app of a store.

    Args:
        secret: signs the tokens of forms; keep it, so that an open page still works after a restart.
        secure: send cookies over TLS only.
        daily: answers a day that the progress bar is full at.
    """
    app = FastAPI(
        title="proxtune label", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(refuse_forged)]
    )
    app.state.site = Site(store, secret, secure, daily)
    app.add_middleware(Guard)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for part in (login, account, work, review, transfer, admin):
        app.include_router(part.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DataError, _wrong)
    app.add_exception_handler(StoreError, _store_failed)
    return app


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(request, error.status_code, str(error.detail), headers=error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    """Every mistake by its field; what was given is not repeated, for it may be a password."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors()[:5]]
    return problem(request, 422, "; ".join(found))


def _wrong(request: Request, error: Exception) -> Response:
    return problem(request, 422, str(error))


def _store_failed(request: Request, error: Exception) -> Response:
    match error:
        case StoreBusyError():
            return problem(request, 503, str(error), headers={"Retry-After": "2"})
        case StoreFullError():
            return problem(request, 507, str(error))
        case ConflictError(current=current):
            return problem(request, 409, str(error), more={"current": _stands(current)})
    return problem(request, 409, str(error))


def _stands(current: object) -> dict[str, object] | None:
    """How an answer stands now, in the words of its author."""
    if not isinstance(current, Judgement):
        return None
    body = None if current.body is None else work.as_said(current)
    return {"body": body, "revision": current.revision, "at": current.at}
