"""One database, SQLite or PostgreSQL, behind two verbs: `read` and `write`.

Writers take turns, over all processes: on SQLite by a lock on a file beside the database, on PostgreSQL by an advisory
lock. SQLite before 3.51.3 can corrupt its log where two connections write at once
(https://www.sqlite.org/wal.html#walresetbug), and turns are taken by every version alike. A transaction is short, so
that twenty people at work wait milliseconds.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.exc import DataError as ValueRefused
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from proxtune.errors import DataError, StoreBusyError, StoreError, StoreFullError
from proxtune.feedback.store.tables import migrate, newer_than_known

WAIT = 10.0  # seconds that a writer waits for its turn
TURN = 7_206_651_874  # PostgreSQL's advisory lock of our writers
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs")  # WAL needs memory that all processes share


class Database:
    """An open database. `now` gives the time in seconds since 1970."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.path = None if is_postgresql(url) else Path(url)
        if self.path is not None:
            refuse_network(self.path)
            self.engine = _sqlite(self.path)
            self._turn: AbstractContextManager[object] = _FileTurn(self.path)
        else:
            self.engine = _postgresql(url)
            self._turn = nullcontext()
        with self.write() as connection:
            migrate(connection)
            if newer_than_known(connection):
                raise StoreError(f"{self} was changed by a later proxtune; open it with that one")

    def __str__(self) -> str:
        return str(self.path or self.engine.url)  # SQLAlchemy writes *** for a password

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database. Raises StoreBusyError."""
        with self._mapped(), self.engine.connect() as connection:
            if self.path is None:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when it ends, or leaves nothing.

        Raises StoreBusyError: others wrote for `WAIT` seconds. StoreFullError: no room on the disk, or it is read-only.
        """
        with self._turn, self._mapped(), self.engine.connect() as connection:
            writer = connection.execution_options(writes=True)
            with writer.begin():
                if self.path is None:
                    writer.execute(text(f"SELECT pg_advisory_xact_lock({TURN})"))
                yield writer

    def backup(self, path: Path) -> None:
        """Copy to a new SQLite file all that was acknowledged before the call, while others go on writing."""
        if self.path is None:
            raise StoreError(f"{self} is PostgreSQL; back it up with pg_dump, or copy it with `label move`")
        if path.exists():
            raise StoreError(f"{path} exists; choose another name for the backup")
        path.touch(mode=0o600)  # it holds names and hashes of passwords
        with sqlite3.connect(self.path) as source, sqlite3.connect(path) as target:
            source.backup(target)
        target.close()
        source.close()

    def continue_numbers(self, connection: Connection, tables: Sequence[Table]) -> None:
        """After rows were written with their numbers: let PostgreSQL count on from the highest."""
        if self.path is None:
            for table in tables:
                if "id" in table.c:
                    highest = f"(SELECT COALESCE(MAX(id), 0) + 1 FROM {table.name})"  # noqa: S608 (our own names)
                    connection.execute(
                        text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {highest}, false)")
                    )

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """A driver's error as one that says what to do."""
        try:
            yield
        except (OperationalError, PoolTimeoutError) as error:
            raise self._explained(error) from error
        except ValueRefused as error:
            raise DataError(f"{self} cannot keep this: {error.orig}; leave such characters and numbers out") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise self._explained(error) from error
            raise

    def _explained(self, error: Exception) -> StoreError:
        said = str(getattr(error, "orig", None) or error).strip()
        if any(word in said for word in ("is full", "disk I/O", "readonly", "read-only", "No space", "unable to open")):
            return StoreFullError(f"cannot write to {self}: {said}; make room on the disk, or make it writable")
        return StoreBusyError(f"{self} did not answer: {said}; try again")


class _FileTurn:
    """The turn of a writer: a lock that threads of a process and processes of a machine take in turns."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-turn")
        self._threads = threading.Lock()
        self._held = -1

    def __enter__(self) -> None:
        deadline = time.monotonic() + WAIT
        if not self._threads.acquire(timeout=WAIT):
            raise StoreBusyError(f"others wrote to {self._path} for {WAIT:g} s; try again")
        try:
            self._held = self._locked(deadline)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._held)
        self._threads.release()

    def _locked(self, deadline: float) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreFullError(f"cannot write beside the store: {error}; make the folder writable") from error
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise StoreBusyError(f"another process wrote for {WAIT:g} s; try again") from None
                time.sleep(0.002)
            else:
                return descriptor


def refuse_network(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise StoreError if `path` lies on a network file system, where SQLite's log is not safe."""
    if not mounts.exists():
        return
    fields = [line.split() for line in mounts.read_text().splitlines()]
    above = [(point, kind) for _, point, kind, *_ in fields if path.resolve().is_relative_to(point)]
    kind = max(above, key=lambda mount: len(mount[0]), default=("", ""))[1]
    if kind in NETWORK:
        raise StoreError(
            f"{path} lies on a network file system ({kind}), where SQLite can lose what was written; "
            "put it on a local disk, or use PostgreSQL: --store postgresql://…"
        )


def is_postgresql(url: str) -> bool:
    """Whether a store's address is a server's."""
    return url.startswith(("postgresql://", "postgres://"))


def _sqlite(path: Path) -> Engine:
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist; make it first")
    existed = path.exists()
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": WAIT}, pool_size=16, max_overflow=16)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver would begin its transactions when it likes
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    if not existed:
        path.touch(mode=0o600)  # judgements and password hashes are nobody else's
    return engine


def _postgresql(url: str) -> Engine:
    try:
        return create_engine(
            "postgresql+psycopg://" + url.split("://", 1)[1],
            pool_size=16,
            max_overflow=16,
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs psycopg: pip install 'proxtune[label-postgresql]'") from error
