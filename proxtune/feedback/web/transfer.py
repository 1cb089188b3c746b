"""Items in; rows, and what can be said of them, out."""

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import HTMLResponse, JSONResponse, Response

from proxtune.errors import DataError
from proxtune.feedback.export import FORMATS, POLICIES, Format
from proxtune.feedback.export_files import SUFFIXES, Suffix, exported
from proxtune.feedback.quality_page import quality_page
from proxtune.feedback.records import Item, item_of
from proxtune.feedback.rows import Policy
from proxtune.feedback.web.auth import Admin, Here
from proxtune.feedback.web.guard import HEADERS, POLICY
from proxtune.feedback.web.pages import language_of, page, wants_json

router = APIRouter()
AT_ONCE = 200  # items in one turn of the store, so that people at work wait for no import
MENTIONED = 50  # mistakes


@dataclass(slots=True)
class Read:
    """The items of a file, and what is wrong with its other lines."""

    items: list[Item] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


async def upload(request: Request, _: Admin) -> FormData:
    """The one file of a form, which is on disk where it is large."""
    return await request.form(max_files=1, max_fields=20)


@router.get("/admin/import", response_model=None)
def import_page(request: Request, session: Admin) -> Response:
    """The form for a file."""
    return page(request, "import.html", session=session, read=None, added=None)


@router.post("/admin/import", response_model=None)
def import_items(request: Request, session: Admin, here: Here, form: Annotated[FormData, Depends(upload)]) -> Response:
    """Look through a file (`action` is check), or add its items (add), which a single mistake prevents."""
    file, action = form.get("file"), form.get("action")
    if not isinstance(file, UploadFile) or action not in ("check", "add"):
        raise HTTPException(422, "expected a form with `file`, a .jsonl, and `action`, check or add")
    read = read_items(file.file.read(), file.filename or "the file")
    added = None
    if action == "add" and not read.mistakes:
        before = sum(batch.items for batch in here.store.queue.batches().values())
        for begin in range(0, len(read.items), AT_ONCE):
            here.store.queue.add(read.items[begin : begin + AT_ONCE])
        added = sum(batch.items for batch in here.store.queue.batches().values()) - before
        here.store.people.note(session.person.id, "imported", {"file": file.filename, "added": added})
    status = 422 if action == "add" and read.mistakes else 200
    if wants_json(request):
        found = {"items": len(read.items), "added": added, "mistakes": read.mistakes[:MENTIONED]}
        return JSONResponse({**found, "more": max(0, len(read.mistakes) - MENTIONED)}, status)
    return page(request, "import.html", status=status, session=session, read=read, added=added)


@router.get("/admin/export", response_model=None)
def export_page(request: Request, session: Admin, here: Here) -> Response:
    """What can be exported, and how."""
    batches = list(here.store.queue.batches())
    given: dict[str, Any] = {"formats": FORMATS, "policies": POLICIES, "suffixes": SUFFIXES, "batches": batches}
    return page(request, "export.html", session=session, **given)


@router.get("/admin/export/{format}", response_model=None)
def export_rows(
    session: Admin,
    here: Here,
    format: Format,  # noqa: A002 (the user's word for it)
    suffix: Suffix = "jsonl",
    policy: Policy = "majority",
    batch: Annotated[str, Query(max_length=200)] = "",
    fraction: Annotated[float, Query(ge=0, lt=1, allow_inf_nan=False)] = 0.0,
    seed: Annotated[int, Query(ge=0, le=2**31 - 1)] = 1,
) -> Response:
    """The rows, those held out, and how they were made, as one zip."""
    made = exported(here.store, format, suffix=suffix, batch=batch or None, policy=policy, fraction=fraction, seed=seed)
    here.store.people.note(session.person.id, "exported", {"format": format, "batch": batch, "policy": policy})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in made.files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without a time: equal bytes
    headers = {"Content-Disposition": f'attachment; filename="{format}.zip"'}
    return Response(packed.getvalue(), media_type="application/zip", headers=headers)


@router.get("/admin/quality", response_model=None)
def quality_of_work(request: Request, session: Admin, here: Here) -> Response:  # noqa: ARG001 (for admins)
    """How far the answers can be trusted: a page of its own, with one style sheet inside, which alone is allowed."""
    shown = quality_page(here.store, "zh" if language_of(request) == "zh" else "en")
    styles = "".join(f" 'sha256-{_hash(style)}'" for style in re.findall(r"<style>(.*?)</style>", shown, re.DOTALL))
    return HTMLResponse(shown, headers={POLICY: HEADERS[POLICY].replace("style-src 'self'", f"style-src{styles}")})


def read_items(content: bytes, name: str) -> Read:
    """Items from JSON lines of `Item`'s keys; each mistake names its line."""
    read = Read()
    for where, line in _lines(content, name):
        try:
            read.items.append(item_of(_row(line, where), where))
        except DataError as error:
            read.mistakes.append(str(error))
    if not read.items and not read.mistakes:
        read.mistakes.append(f"{name}: no line with an item; expected one JSON object a line")
    return read


def _hash(style: str) -> str:
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _lines(content: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"{name}:{number}", line


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}; expected an object with kind, prompt, candidates")
    return row
