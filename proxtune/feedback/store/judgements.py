"""What people said: every answer, change and withdrawal is a row that stays."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Text, and_, cast, distinct, func, insert, or_, select, update

from proxtune.errors import ConflictError, DataError
from proxtune.feedback.records import Body, Item, Judgement, SkipBody, as_asked, as_shown, body_of, stored_body
from proxtune.feedback.store.database import Database
from proxtune.feedback.store.queue import LEASE
from proxtune.feedback.store.tables import guidelines, items, judgements, leases

PAGE = 500  # items read at once


@dataclass(frozen=True, slots=True)
class Judged:
    """An item with what stands about it."""

    id: int
    item: Item
    judgements: tuple[Judgement, ...]
    repeats: int | None = None  # the item that this one asks again


@dataclass(frozen=True, slots=True)
class Differing:
    """An item of which people said different things."""

    id: int
    scale: int  # the highest rating that it asks for
    bodies: list[Body]


class Judgements:
    """The answers in a store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def submit(
        self, person: int, item: int, body: dict[str, Any], *, revision: int, request: str, final: bool = False
    ) -> Judgement:
        """Record an answer, or a change of it: `revision` is one more than that of the answer that stands.

        Args:
            body: speaks of candidates by the places they were shown in, as the person does. The judgement speaks of
                them by their place in the item.
            request: names this attempt; sent again, it gives the same judgement and no second one.
            final: a reviewer's decision. It counts instead of what others said, and closes the item; what changes it
                is one too.

        Raises:
            ConflictError: the answer has another revision by now, or the person was never shown the item.
            DataError: `body` is no answer to this item, or a decision to skip it.
        """
        return self._write(person, item, body, revision, request, final=final)

    def withdraw(self, person: int, item: int, *, revision: int, request: str) -> Judgement:
        """Take an answer back: the item is the person's again, the answer its draft. Raises ConflictError."""
        return self._write(person, item, None, revision, request, final=False)

    def history(self, item: int, person: int) -> list[Judgement]:
        """All that a person said of an item, oldest first."""
        query = select(judgements).where(judgements.c.item == item, judgements.c.person == person)
        with self._db.read() as connection:
            return [_judgement(row) for row in connection.execute(query.order_by(judgements.c.revision))]

    def of_item(self, item: int) -> list[Judgement]:
        """What stands of an item, of each person their own; skips are left out."""
        query = select(judgements).where(judgements.c.item == item, judgements.c.latest, judgements.c.counts)
        with self._db.read() as connection:
            return [_judgement(row) for row in connection.execute(query.order_by(judgements.c.id))]

    def of_person(self, person: int, count: int = 20) -> list[Judgement]:
        """A person's newest standing answers, skips among them, the newest first."""
        mine = and_(judgements.c.person == person, judgements.c.latest, judgements.c.body.is_not(None))
        with self._db.read() as connection:
            rows = connection.execute(select(judgements).where(mine).order_by(judgements.c.id.desc()).limit(count))
            return [_judgement(row) for row in rows]

    def place(self, person: int, item: int) -> tuple[tuple[int, ...], int]:
        """How a person sees an item: the order of its candidates, and the revision that their next answer will be.

        Raises ConflictError: there is no such item.
        """
        with self._db.read() as connection:
            asked = connection.scalar(select(items.c.asked).where(items.c.id == item))
            if asked is None:
                raise ConflictError(f"there is no item {item}; load the list again", None)
            stands = self._latest(connection, item, person)
            lease = self._lease(connection, item, person)
            return _order(Item.model_validate(asked), lease, stands), stands.revision + 1 if stands else 1

    def counts(self, *, since: float = 0.0) -> dict[int, int]:
        """Standing answers of each person, or those that were given since a time."""
        stands = and_(judgements.c.latest, judgements.c.counts, judgements.c.at >= since)
        query = select(judgements.c.person, func.count()).where(stands)
        with self._db.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(judgements.c.person))}

    def all(self, *, batch: str | None = None, unjudged: bool = False) -> Iterator[Judged]:
        """Every item that was judged, in order, with the judgements that stand.

        A final judgement stands alone. Skips are left out. `unjudged`: items nobody has judged too.
        """
        after = 0
        while True:
            with self._db.read() as connection:
                page = self._page(connection, after, batch)
            for judged in page:
                if judged.judgements or unjudged:
                    yield judged
            if len(page) < PAGE:
                return
            after = page[-1].id

    def differing(self) -> list[Differing]:
        """The items of which not all said the very same and that no reviewer decided, with what each said.

        Gold and repeated items are left out. The database chooses: nothing else is read.
        """
        said = and_(judgements.c.latest, judgements.c.counts)
        answers = func.count(distinct(cast(judgements.c.body, Text)))
        several = select(judgements.c.item).where(said).group_by(judgements.c.item).having(answers > 1)
        decided = select(judgements.c.item).where(
            judgements.c.latest, judgements.c.final, judgements.c.body.is_not(None)
        )
        plain = and_(~items.c.gold, items.c.repeats.is_(None))
        which = and_(plain, items.c.id.in_(several), items.c.id.not_in(decided))
        scales = select(items.c.id, items.c.asked["options"]["scale"].as_integer().label("scale")).where(which)
        bodies = select(judgements.c.item, judgements.c.body).join(items).where(said, which).order_by(judgements.c.id)
        with self._db.read() as connection:
            found = {
                row.id: Differing(row.id, row.scale, []) for row in connection.execute(scales.order_by(items.c.id))
            }
            for row in connection.execute(bodies):
                found[row.item].bodies.append(stored_body(row.body))
        return list(found.values())

    def events(self) -> Iterator[Judgement]:
        """Every row: answers, changes and withdrawals, in the order they came."""
        after = 0
        while True:
            query = select(judgements).where(judgements.c.id > after).order_by(judgements.c.id).limit(PAGE)
            with self._db.read() as connection:
                rows = connection.execute(query).all()
            yield from map(_judgement, rows)
            if len(rows) < PAGE:
                return
            after = rows[-1].id

    def _write(
        self, person: int, item: int, given: dict[str, Any] | None, revision: int, request: str, *, final: bool
    ) -> Judgement:
        with self._db.write() as connection:
            earlier = connection.execute(select(judgements).where(judgements.c.request == request)).first()
            if earlier is not None:
                if (earlier.person, earlier.item) != (person, item):
                    raise ConflictError(f"the request {request!r} was another's; send a new one", None)
                return _judgement(earlier)
            asked = connection.scalar(select(items.c.asked).where(items.c.id == item))
            lease = self._lease(connection, item, person)
            stands = self._latest(connection, item, person)
            if asked is None or not (lease or stands or final):
                raise ConflictError(f"you were not shown item {item}; load the next one", None)
            _refuse_stale(item, stands, revision, withdraws=given is None)
            shown = Item.model_validate(asked)
            places = _order(shown, lease, stands)
            body = None if given is None else as_asked(body_of(given, shown), places)
            final = final or (stands is not None and stands.final)  # a decision that is changed stays one
            if final and isinstance(body, SkipBody):
                raise DataError(f"a decision on item {item} cannot be a skip; leave it undecided instead")
            now = self._db.now()
            judgement = Judgement(
                item,
                person,
                revision,
                body=body,
                order=places,
                seconds=max(0.0, now - lease.shown) if lease else 0.0,
                guideline=self._guideline(connection),
                at=now,
                final=final,
            )
            self._insert(connection, judgement, request)
            self._settle(connection, judgement, stands)
            return judgement

    def _insert(self, connection: Connection, judgement: Judgement, request: str) -> None:
        where = and_(judgements.c.item == judgement.item, judgements.c.person == judgement.person)
        connection.execute(update(judgements).where(where, judgements.c.latest).values(latest=False))
        values = {
            "item": judgement.item,
            "person": judgement.person,
            "revision": judgement.revision,
            "latest": True,
            "body": None if judgement.body is None else judgement.body.model_dump(mode="json"),
            "counts": _counts(judgement.body) and not judgement.final,
            "order": list(judgement.order),
            "seconds": judgement.seconds,
            "guideline": judgement.guideline,
            "final": judgement.final,
            "at": judgement.at,
            "request": request,
        }
        connection.execute(insert(judgements).values(values))

    def _settle(self, connection: Connection, judgement: Judgement, before: Judgement | None) -> None:
        """The lease is over, or begins anew with a withdrawal; the item knows how many have judged it."""
        item, person = judgement.item, judgement.person
        connection.execute(leases.delete().where(leases.c.item == item, leases.c.person == person))
        if judgement.body is None and before is not None and before.body is not None:
            values = {
                "item": item,
                "person": person,
                "order": list(judgement.order),
                "shown": judgement.at,
                "expires": judgement.at + LEASE,
                "draft": as_shown(before.body, judgement.order).model_dump(mode="json"),
            }
            connection.execute(insert(leases).values(values))
        standing = and_(judgements.c.item == item, judgements.c.latest)
        done = select(func.count()).where(standing, judgements.c.counts).scalar_subquery()
        final = select(func.count()).where(standing, judgements.c.final, judgements.c.body.is_not(None))
        unsettled = final.scalar_subquery() == 0
        values = {"done": done, "open": and_(or_(items.c.gold, done < items.c.overlap), unsettled)}
        connection.execute(update(items).where(items.c.id == item).values(values))

    def _latest(self, connection: Connection, item: int, person: int) -> Judgement | None:
        mine = and_(judgements.c.item == item, judgements.c.person == person, judgements.c.latest)
        row = connection.execute(select(judgements).where(mine)).first()
        return _judgement(row) if row else None

    def _lease(self, connection: Connection, item: int, person: int) -> Row[Any] | None:
        return connection.execute(select(leases).where(leases.c.item == item, leases.c.person == person)).first()

    def _guideline(self, connection: Connection) -> int:
        return connection.scalar(select(func.max(guidelines.c.version))) or 0

    def _page(self, connection: Connection, after: int, batch: str | None) -> list[Judged]:
        which = items.c.id > after if batch is None else and_(items.c.id > after, items.c.batch == batch)
        columns = (items.c.id, items.c.asked, items.c.repeats)
        rows = connection.execute(select(*columns).where(which).order_by(items.c.id).limit(PAGE)).all()
        numbers = [row.id for row in rows]
        stands = and_(judgements.c.item.in_(numbers), judgements.c.latest, or_(judgements.c.counts, judgements.c.final))
        said: dict[int, list[Judgement]] = {number: [] for number in numbers}
        for row in connection.execute(select(judgements).where(stands).order_by(judgements.c.id)):
            judgement = _judgement(row)
            if judgement.body is not None:
                said[row.item].append(judgement)
        return [Judged(row.id, Item.model_validate(row.asked), _standing(said[row.id]), row.repeats) for row in rows]


def _order(item: Item, lease: Row[Any] | None, stands: Judgement | None) -> tuple[int, ...]:
    """The candidates as a person was shown them; in the item's order where they never were."""
    return tuple(lease.order if lease else stands.order if stands else range(len(item.candidates)))


def _refuse_stale(item: int, stands: Judgement | None, revision: int, *, withdraws: bool) -> None:
    """Raise ConflictError where an answer is not the next to the one that stands."""
    last = stands.revision if stands else 0
    if revision != last + 1:
        raise ConflictError(
            f"the answer to item {item} was changed meanwhile, in another window perhaps: it is at revision {last}, "
            f"and yours would be {revision}; look at both and send again",
            stands,
        )
    if withdraws and (stands is None or stands.body is None):
        raise ConflictError(f"there is no answer to item {item} to take back", stands)


def _standing(said: list[Judgement]) -> tuple[Judgement, ...]:
    return tuple([judgement for judgement in said if judgement.final][-1:] or said)


def _counts(body: Body | None) -> bool:
    return body is not None and not isinstance(body, SkipBody)


def _judgement(row: Row[Any]) -> Judgement:
    body = None if row.body is None else stored_body(row.body)
    return Judgement(
        row.item, row.person, row.revision, body, tuple(row.order), row.seconds, row.guideline, row.at, row.final
    )
