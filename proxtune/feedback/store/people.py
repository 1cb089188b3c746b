"""Who may do what: people, invitations, sessions.

Of an invitation, of a link for a new password and of a session the store keeps the SHA-256, so that whoever reads the
database cannot use them.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from proxtune.errors import StoreError
from proxtune.feedback.store.database import Database
from proxtune.feedback.store.tables import audit, invites, leases, people, resets, sessions, settings

Role: TypeAlias = Literal["annotator", "reviewer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
INVITED = 72 * 3600.0  # seconds that an invitation, or a link for a new password, is good for
IDLE = 12 * 3600.0  # seconds after which an unused session ends
ABSOLUTE = 14 * 24 * 3600.0  # seconds after which any session ends
SEEN = 60.0  # seconds between two notes that a session is in use
PSEUDONYM_KEY = "pseudonym key"  # the setting that holds it


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who judges, reviews or administers."""

    id: int
    name: str
    role: Role
    active: bool

    def may(self, role: Role) -> bool:
        return self.active and ROLES.index(self.role) >= ROLES.index(role)


class People:
    """The people of a store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, name: str, role: Role, password: str | None = None) -> Person:
        """A new person; `password` is a hash. Raises StoreError: the name is empty, too long or taken."""
        with self._db.write() as connection:
            return self._added(connection, name, role, password)

    def all(self) -> list[Person]:
        with self._db.read() as connection:
            return [_person(row) for row in connection.execute(select(people).order_by(people.c.id))]

    def pseudonyms(self) -> dict[int, str]:
        """Another name for each person, for what leaves the store: the same in every export, copy and backup.

        It is keyed with a secret of the store, so that whoever knows all people cannot tell who is who.
        """
        key = bytes.fromhex(self._pseudonym_key())
        return {person.id: hmac.digest(key, str(person.id).encode(), "sha256").hex()[:12] for person in self.all()}

    def by_name(self, name: str) -> tuple[Person, str | None] | None:
        """A person and the hash of their password."""
        with self._db.read() as connection:
            row = connection.execute(select(people).where(people.c.name == name)).first()
        return (_person(row), row.password) if row else None

    def change(
        self, person: int, *, password: str | None = None, role: Role | None = None, active: bool | None = None
    ) -> None:
        """Change what is given, and end the person's sessions. Raises StoreError: no admin would be left."""
        given = {"password": password, "role": role, "active": active}
        values = {name: value for name, value in given.items() if value is not None}
        with self._db.write() as connection:
            connection.execute(update(people).where(people.c.id == person).values(values))
            admins = select(people.c.id).where(people.c.role == "admin", people.c.active)
            if (role or active is not None) and connection.scalar(admins.limit(1)) is None:
                raise StoreError("nobody would be left to administer; make another person admin first")
            connection.execute(delete(sessions).where(sessions.c.person == person))
            if password is not None:
                connection.execute(delete(resets).where(resets.c.person == person))
            self._note(
                connection, person, "changed", {name: value for name, value in values.items() if name != "password"}
            )

    def erase(self, person: int) -> None:
        """Forget who a person was: the name and the password go, the judgements stay under a number."""
        with self._db.write() as connection:
            name = f"person-{person}-{secrets.token_hex(4)}"  # which nobody can have taken
            gone = {"name": name, "password": None, "active": False}
            connection.execute(update(people).where(people.c.id == person).values(gone))
            for table in (sessions, resets, leases):
                connection.execute(delete(table).where(table.c.person == person))
            self._note(connection, person, "erased", {})

    def invite(self, role: Role) -> str:
        """A token with which one person can join, once, within `INVITED` seconds."""
        token = secrets.token_urlsafe(32)
        with self._db.write() as connection:
            values = {"token": digest(token), "role": role, "expires": self._db.now() + INVITED}
            connection.execute(insert(invites).values(values))
            self._note(connection, None, "invited", {"role": role})
        return token

    def invited(self, token: str) -> Role | None:
        """The role that an invitation is for; None: it is used, too old, or none of ours."""
        with self._db.read() as connection:
            return self._invited(connection, token)

    def join(self, token: str, name: str, password: str) -> Person:
        """Use an invitation; `password` is a hash. Raises StoreError: it is not good any more, or the name is taken."""
        with self._db.write() as connection:
            role = self._invited(connection, token)
            if role is None:
                raise StoreError("this invitation was used or is too old; ask for another")
            person = self._added(connection, name, role, password)
            connection.execute(update(invites).where(invites.c.token == digest(token)).values(used_by=person.id))
            return person

    def reset(self, person: int) -> str:
        """A token with which a person can choose a password, once, within `INVITED` seconds. It voids an earlier one.

        Raises StoreError: nobody could log in with it.
        """
        token = secrets.token_urlsafe(32)
        with self._db.write() as connection:
            if not connection.scalar(select(people.c.active).where(people.c.id == person)):
                raise StoreError(f"person {person} is locked, or is nobody here; unlock them first")
            connection.execute(delete(resets).where(resets.c.person == person))
            values = {"token": digest(token), "person": person, "expires": self._db.now() + INVITED}
            connection.execute(insert(resets).values(values))
        return token

    def resetting(self, token: str) -> Person | None:
        """Who can choose a new password with a token; None: it is used, too old, or none of ours."""
        with self._db.read() as connection:
            return self._resetting(connection, token)

    def use_reset(self, token: str, password: str) -> Person:
        """Give a person a new password, a hash, and end their sessions. Raises StoreError: the token is not good."""
        with self._db.write() as connection:
            person = self._resetting(connection, token)
            if person is None:
                raise StoreError("this link was used or is too old; ask an admin for another")
            connection.execute(update(people).where(people.c.id == person.id).values(password=password))
            for table in (sessions, resets):
                connection.execute(delete(table).where(table.c.person == person.id))
            self._note(connection, person.id, "password reset", {})
        return person

    def begin_session(self, person: int) -> str:
        """A token that says who its bearer is."""
        token, now = secrets.token_urlsafe(32), self._db.now()
        with self._db.write() as connection:
            values = {"token": digest(token), "person": person, "began": now, "seen": now}
            connection.execute(delete(sessions).where(sessions.c.began < now - ABSOLUTE))
            connection.execute(insert(sessions).values(values))
        return token

    def session(self, token: str) -> Person | None:
        """Whose session it is; None: it ended, or never was."""
        now, key = self._db.now(), digest(token)
        query = (
            select(people, sessions.c.seen)
            .join(sessions)
            .where(
                sessions.c.token == key,
                sessions.c.began > now - ABSOLUTE,
                sessions.c.seen > now - IDLE,
                people.c.active,
            )
        )
        with self._db.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.seen < now - SEEN:
            with self._db.write() as connection:
                connection.execute(update(sessions).where(sessions.c.token == key).values(seen=now))
        return _person(row)

    def end_session(self, token: str) -> None:
        with self._db.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.token == digest(token)))

    def note(self, person: int | None, what: str, detail: dict[str, object]) -> None:
        """Write to the audit log who did what."""
        with self._db.write() as connection:
            self._note(connection, person, what, detail)

    def log(self, count: int = 200) -> list[tuple[float, int | None, str, dict[str, object]]]:
        """The newest entries of the audit log: (time, person, what, detail)."""
        query = select(audit.c.at, audit.c.person, audit.c.what, audit.c.detail).order_by(audit.c.id.desc())
        with self._db.read() as connection:
            return [(row.at, row.person, row.what, row.detail) for row in connection.execute(query.limit(count))]

    def _pseudonym_key(self) -> str:
        query = select(settings.c.value).where(settings.c.name == PSEUDONYM_KEY)
        with self._db.read() as connection:
            known: str | None = connection.scalar(query)
        if known is not None:
            return known
        with self._db.write() as connection:
            known = connection.scalar(query)  # again: another may have made it before our turn
            if known is None:
                known = secrets.token_hex(32)
                connection.execute(insert(settings).values(name=PSEUDONYM_KEY, value=known))
        return known

    def _invited(self, connection: Connection, token: str) -> Role | None:
        query = select(invites.c.role).where(
            invites.c.token == digest(token), invites.c.used_by.is_(None), invites.c.expires > self._db.now()
        )
        role: Role | None = connection.scalar(query)
        return role

    def _resetting(self, connection: Connection, token: str) -> Person | None:
        good = (resets.c.token == digest(token), resets.c.expires > self._db.now(), people.c.active)
        row = connection.execute(select(people).join(resets).where(*good)).first()
        return _person(row) if row else None

    def _added(self, connection: Connection, name: str, role: Role, password: str | None) -> Person:
        name = name.strip()
        if not 0 < len(name) <= 200:
            raise StoreError(f"a name of {len(name)} characters; expected 1 to 200")
        values = {"name": name, "role": role, "password": password, "at": self._db.now(), "active": True}
        try:
            with connection.begin_nested():
                key = connection.execute(insert(people).values(values)).inserted_primary_key
        except IntegrityError as error:
            raise StoreError(f"the name {name!r} is taken; choose another") from error
        assert key is not None
        self._note(connection, key[0], "added", {"role": role})
        return Person(key[0], name, role, active=True)

    def _note(self, connection: Connection, person: int | None, what: str, detail: dict[str, object]) -> None:
        values = {"at": self._db.now(), "person": person, "what": what, "detail": detail}
        connection.execute(insert(audit).values(values))


def digest(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _person(row: Row[tuple[object, ...]]) -> Person:
    return Person(row.id, row.name, row.role, row.active)
