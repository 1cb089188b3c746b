"""All that a store holds about one person, for that person to read."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, or_, select

from proxtune.feedback.records import as_shown, stored_body
from proxtune.feedback.store.database import Database
from proxtune.feedback.store.tables import audit, invites, judgements, leases, people, resets, sessions


def personal_data(db: Database, person: int) -> dict[str, Any]:
    """Who a person is to the store, and what they did, as JSON can hold it; no hash and no token.

    Answers speak of candidates by the places in which the person saw them.
    """
    with db.read() as connection:
        who = connection.execute(select(people).where(people.c.id == person)).one()
        return {
            "person": {"id": who.id, "name": who.name, "role": who.role, "active": who.active, "since": _time(who.at)},
            "invitations": _invitations(connection, person),
            "password_links": [
                {"expires": _time(at)}
                for at in connection.scalars(select(resets.c.expires).where(resets.c.person == person))
            ],
            "sessions": _sessions(connection, person),
            "judgements": _judgements(connection, person),
            "shown": _shown(connection, person),
            "log": _log(connection, person),
        }


def _invitations(connection: Connection, person: int) -> list[dict[str, Any]]:
    query = select(invites.c.role, invites.c.expires).where(invites.c.used_by == person)
    return [{"role": row.role, "expires": _time(row.expires)} for row in connection.execute(query)]


def _sessions(connection: Connection, person: int) -> list[dict[str, Any]]:
    query = select(sessions.c.began, sessions.c.seen).where(sessions.c.person == person).order_by(sessions.c.began)
    return [{"began": _time(row.began), "seen": _time(row.seen)} for row in connection.execute(query)]


def _judgements(connection: Connection, person: int) -> list[dict[str, Any]]:
    """Every answer, change and withdrawal, in the order they came; the body of a withdrawal is null."""
    query = select(judgements).where(judgements.c.person == person).order_by(judgements.c.id)
    return [
        {
            "item": row.item,
            "revision": row.revision,
            "at": _time(row.at),
            "body": None if row.body is None else as_shown(stored_body(row.body), row.order).model_dump(mode="json"),
            "seconds": row.seconds,
            "guideline_version": row.guideline,
            "final": row.final,
            "stands": row.latest and row.body is not None,
        }
        for row in connection.execute(query)
    ]


def _shown(connection: Connection, person: int) -> list[dict[str, Any]]:
    """What waits for the person's answer, and its draft."""
    query = select(leases).where(leases.c.person == person).order_by(leases.c.shown)
    return [{"item": row.item, "at": _time(row.shown), "draft": row.draft} for row in connection.execute(query)]


def _log(connection: Connection, person: int) -> list[dict[str, Any]]:
    """What they did, and what was done to them."""
    theirs = or_(audit.c.person == person, audit.c.detail["person"].as_integer() == person)
    return [
        {"at": _time(row.at), "what": row.what, "detail": row.detail}
        for row in connection.execute(select(audit).where(theirs).order_by(audit.c.id))
    ]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
