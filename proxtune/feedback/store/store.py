"""A store of judgements: the people, what they are asked, and what they said."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, insert, select

from proxtune.errors import StoreError
from proxtune.feedback.store.database import Database, is_postgresql
from proxtune.feedback.store.judgements import Judgements
from proxtune.feedback.store.people import People
from proxtune.feedback.store.personal import personal_data
from proxtune.feedback.store.queue import Queue
from proxtune.feedback.store.tables import guidelines, metadata


class Store:
    """An open store. `people`, `queue` and `judgements` are its parts."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.people = People(db)
        self.queue = Queue(db)
        self.judgements = Judgements(db)

    @classmethod
    def create(cls, url: str | Path, *, now: Callable[[], float] = time.time) -> Self:
        """A new store, or the one that is there: a SQLite file, or postgresql://user@host/database.

        Raises StoreError: its place cannot hold one.
        """
        return cls(Database(str(url), now=now))

    @classmethod
    def open(cls, url: str | Path, *, now: Callable[[], float] = time.time) -> Self:
        """A store that is there. Raises StoreError: none is."""
        if not is_postgresql(str(url)) and not Path(url).is_file():
            raise StoreError(f"{url}: there is no store; make one with `proxtune label init DATA --store {url}`")
        return cls.create(url, now=now)

    def about(self, person: int) -> dict[str, Any]:
        """All that the store holds about a person, for that person."""
        return personal_data(self.db, person)

    def write_guidelines(self, text: str) -> int:
        """Give people other guidelines, in Markdown; returns their version. The same text stays the same version."""
        version, now = self.guidelines()
        if text == now:
            return version
        with self.db.write() as connection:
            version = (connection.scalar(select(func.max(guidelines.c.version))) or 0) + 1
            connection.execute(insert(guidelines).values(version=version, text=text, at=self.db.now()))
        return version

    def guidelines(self, version: int | None = None) -> tuple[int, str]:
        """(version, Markdown) of the newest guidelines, or of a version; (0, "") where there are none."""
        query = select(guidelines.c.version, guidelines.c.text).order_by(guidelines.c.version.desc()).limit(1)
        if version is not None:
            query = query.where(guidelines.c.version == version)
        with self.db.read() as connection:
            row = connection.execute(query).first()
        return (row.version, row.text) if row else (0, "")

    def copy_to(self, other: "Store") -> dict[str, int]:
        """Copy all to an empty store; returns the number of rows of each table. Raises StoreError: it is not empty."""
        counts = {}
        with self.db.read() as source, other.db.write() as target:
            for table in metadata.sorted_tables:
                if target.scalar(select(func.count()).select_from(table)):
                    raise StoreError(f"{other.db} holds rows already (in {table.name}); give an empty one")
                rows = [dict(row) for row in source.execute(select(table)).mappings()]
                for begin in range(0, len(rows), 500):
                    target.execute(insert(table), rows[begin : begin + 500])
                counts[table.name] = len(rows)
            other.db.continue_numbers(target, metadata.sorted_tables)
        return counts

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
