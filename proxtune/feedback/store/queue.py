"""Which item a person is shown next.

An item is asked until `overlap` people have judged it. Whoever is shown one holds it for `LEASE` seconds, so that no
two people answer the last open place; who comes back later finds the draft, and the answer still counts. Nobody is
shown an item twice, nor what others said of it.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, exists, func, insert, or_, select, update

from proxtune.errors import ConflictError
from proxtune.feedback.records import Item
from proxtune.feedback.store.database import Database
from proxtune.feedback.store.tables import items, judgements, leases
from proxtune.runs import derive_seed

LEASE = 15 * 60.0
GOLD_EVERY = 20  # one item of so many has a known answer, as long as there are such items


@dataclass(frozen=True, slots=True)
class Lease:
    """An item that a person is shown."""

    id: int
    item: Item
    order: tuple[int, ...]  # order[i] is the candidate to show in place i
    draft: dict[str, Any] | None
    revision: int  # the one that an answer will be


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch, or all, is."""

    items: int
    closed: int  # judged by as many people as were asked for
    judgements: int
    overlap: tuple[int, int]  # people asked for: of the item that asks the fewest, and the most


class Queue:
    """The items of a store, and who is shown which."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, new: Iterable[Item], *, repeat: float = 0.0) -> list[int]:
        """Add items; returns the number of each, that of the one already there where the same is asked again.

        Args:
            repeat: the share of the new items that each of their judges is shown once more, to measure how steadily a
                person answers.
        """
        with self._db.write() as connection:
            found, numbers = list(new), []
            again: list[tuple[Item, int]] = []  # put in after all others, so that they are not shown right after
            for item in found:
                number, is_new = self._added(connection, item)
                numbers.append(number)
                if is_new and item.gold is None and random.Random(item.key).random() < repeat:  # noqa: S311 (no secret)
                    again.append((item, number))
            for item, number in again:
                self._insert(connection, item, f"again-{item.key[:58]}", number)
            return numbers

    def next(self, person: int) -> Lease | None:
        """The item to show: the one that the person holds, else the first that is open. None: nothing is left."""
        with self._db.write() as connection:
            held = connection.execute(self._held(person)).first()
            if held is not None:
                self._renew(connection, held.id, person)
                return _lease(held)
            row = self._open(connection, person)
            if row is None:
                return None
            return self._give(connection, row, person)

    def draft(self, item: int, person: int, draft: dict[str, Any]) -> None:
        """Keep what is not yet an answer. Raises ConflictError: the person does not hold the item."""
        with self._db.write() as connection:
            held = and_(leases.c.item == item, leases.c.person == person)
            expires = self._db.now() + LEASE
            if not connection.execute(update(leases).where(held).values(draft=draft, expires=expires)).rowcount:
                raise ConflictError(f"item {item} is answered, or is not yours; load the next one", None)

    def item(self, item: int) -> Item | None:
        with self._db.read() as connection:
            asked = connection.scalar(select(items.c.asked).where(items.c.id == item))
        return None if asked is None else Item.model_validate(asked)

    def items(self, numbers: Sequence[int]) -> dict[int, Item]:
        """What is asked, of each of a few items."""
        with self._db.read() as connection:
            rows = connection.execute(select(items.c.id, items.c.asked).where(items.c.id.in_(numbers))).all()
        return {row.id: Item.model_validate(row.asked) for row in rows}

    def reorder(self, priorities: dict[int, float]) -> None:
        """Give items another priority: the highest is asked first."""
        with self._db.write() as connection:
            for item, priority in priorities.items():
                connection.execute(update(items).where(items.c.id == item).values(priority=priority))

    def ask(self, batch: str, overlap: int) -> int:
        """Ask another number of people about each item of a batch; returns the number of items."""
        with self._db.write() as connection:
            return self._ask(connection, and_(items.c.batch == batch, ~items.c.gold), overlap)

    def reopen(self, numbers: Sequence[int], overlap: int) -> None:
        """Ask so many people about each of these items, closed or not."""
        with self._db.write() as connection:
            self._ask(connection, items.c.id.in_(numbers), overlap)

    def close(self, numbers: Sequence[int]) -> None:
        """Ask nobody any more about these items; what was said of them stays, and what still comes opens none."""
        with self._db.write() as connection:
            values = {"open": False, "overlap": items.c.done}
            connection.execute(update(items).where(items.c.id.in_(numbers)).values(values))

    def batches(self) -> dict[str, Progress]:
        """How far each batch is."""
        closed = func.sum(case((items.c.open, 0), else_=1))
        asked = (func.min(items.c.overlap), func.max(items.c.overlap))
        query = (
            select(items.c.batch, func.count(), closed, func.sum(items.c.done), *asked)
            .where(~items.c.gold)
            .group_by(items.c.batch)
        )
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(func.min(items.c.id))).all()
        return {batch: Progress(count, closed, done, (least, most)) for batch, count, closed, done, least, most in rows}

    def _ask(self, connection: Connection, which: ColumnElement[bool], overlap: int) -> int:
        """What a reviewer decided stays closed."""
        decision = and_(judgements.c.latest, judgements.c.final, judgements.c.body.is_not(None))
        decided = exists().where(judgements.c.item == items.c.id, decision)
        values = {"overlap": overlap, "open": and_(items.c.done < overlap, ~decided)}
        return connection.execute(update(items).where(which).values(values)).rowcount

    def _added(self, connection: Connection, item: Item) -> tuple[int, bool]:
        """(the number of an item, whether it was not there before)."""
        known: int | None = connection.scalar(select(items.c.id).where(items.c.key == item.key))
        return (self._insert(connection, item, item.key, None), True) if known is None else (known, False)

    def _insert(self, connection: Connection, item: Item, key: str, repeats: int | None) -> int:
        values = {
            "key": key,
            "kind": item.kind,
            "batch": item.batch,
            "asked": item.model_dump(mode="json"),
            "overlap": item.overlap,
            "priority": item.priority,
            "gold": item.gold is not None,
            "repeats": repeats,
            "done": 0,
            "open": True,
        }
        inserted = connection.execute(insert(items).values(values)).inserted_primary_key
        assert inserted is not None
        number: int = inserted[0]
        return number

    def _held(self, person: int) -> Select[Any]:
        mine = and_(leases.c.item == items.c.id, leases.c.person == person)
        last = select(func.coalesce(func.max(judgements.c.revision), 0)).where(
            judgements.c.item == items.c.id, judgements.c.person == person
        )
        columns = (items.c.id, items.c.asked, leases.c.order, leases.c.draft, last.scalar_subquery().label("last"))
        kept = or_(leases.c.expires > self._db.now(), items.c.open)
        return select(*columns).join(leases, mine).where(kept).order_by(leases.c.shown.desc()).limit(1)

    def _renew(self, connection: Connection, item: int, person: int) -> None:
        held = and_(leases.c.item == item, leases.c.person == person)
        connection.execute(update(leases).where(held).values(expires=self._db.now() + LEASE))

    def _open(self, connection: Connection, person: int) -> Row[Any] | None:
        """The first item that the person can be given; now and then one whose answer is known."""
        mine = and_(judgements.c.person == person, judgements.c.latest, judgements.c.counts)
        said = connection.scalar(select(func.count()).where(mine)) or 0
        if said % GOLD_EVERY == GOLD_EVERY // 4:
            gold = connection.execute(self._candidates(person, items.c.gold)).first()
            if gold is not None:
                return gold
        return connection.execute(self._candidates(person, ~items.c.gold)).first()

    def _candidates(self, person: int, which: ColumnElement[bool]) -> Select[Any]:
        def said(item: Any) -> ColumnElement[bool]:
            return exists().where(judgements.c.item == item, judgements.c.person == person, judgements.c.latest)

        others = (
            select(func.count())
            .where(leases.c.item == items.c.id, leases.c.person != person, leases.c.expires > self._db.now())
            .scalar_subquery()
        )
        return (
            select(items.c.id, items.c.asked)
            .where(items.c.open, which, ~said(items.c.id))
            .where(or_(items.c.repeats.is_(None), said(items.c.repeats)))
            .where(or_(items.c.gold, items.c.done + others < items.c.overlap))
            .order_by(items.c.priority.desc(), items.c.id)
            .limit(1)
        )

    def _give(self, connection: Connection, row: Row[Any], person: int) -> Lease:
        item = Item.model_validate(row.asked)
        order = list(range(len(item.candidates)))
        random.Random(derive_seed(row.id, "order", person)).shuffle(order)  # noqa: S311 (no secret)
        now = self._db.now()
        values = {"item": row.id, "person": person, "order": order, "shown": now, "expires": now + LEASE}
        connection.execute(insert(leases).values(values))
        return Lease(row.id, item, tuple(order), None, 1)


def _lease(row: Row[Any]) -> Lease:
    return Lease(row.id, Item.model_validate(row.asked), tuple(row.order), row.draft, row.last + 1)
