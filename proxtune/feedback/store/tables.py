"""The tables, and how an older store becomes one of today."""

from collections.abc import Callable, Sequence

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    select,
    text,
)

metadata = MetaData()

people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("password", Text),  # a hash; null: nobody can log in by this name
    Column("at", Double, nullable=False),
    Column("active", Boolean, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256 of what the link holds
    Column("role", String(20), nullable=False),
    Column("expires", Double, nullable=False),
    Column("used_by", ForeignKey("people.id")),
)

resets = Table(
    "resets",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256 of what the link holds
    Column("person", ForeignKey("people.id"), nullable=False, unique=True),  # the newest link alone is good
    Column("expires", Double, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256 of what the cookie holds
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("began", Double, nullable=False),
    Column("seen", Double, nullable=False),
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("at", Double, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("batch", String(200), nullable=False),
    Column("asked", JSON, nullable=False),  # the Item
    Column("overlap", Integer, nullable=False),
    Column("priority", Double, nullable=False),
    Column("gold", Boolean, nullable=False),
    Column("repeats", ForeignKey("items.id")),  # the item that this one asks again
    Column("done", Integer, nullable=False),  # judgements that stand, skips not among them
    Column("open", Boolean, nullable=False),  # done < overlap, and nobody closed it
)
Index("items_next", items.c.open, items.c.gold, items.c.priority.desc(), items.c.id)
Index("items_batch", items.c.batch)

leases = Table(
    "leases",
    metadata,
    Column("item", ForeignKey("items.id"), primary_key=True),
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("order", JSON, nullable=False),  # the candidates as they were shown
    Column("shown", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("draft", JSON),
)
Index("leases_person", leases.c.person)

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item", ForeignKey("items.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("latest", Boolean, nullable=False),
    Column("body", JSON(none_as_null=True)),  # null: taken back
    Column("counts", Boolean, nullable=False),  # neither taken back, nor a skip, nor final
    Column("order", JSON, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("guideline", Integer, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("at", Double, nullable=False),
    Column("request", String(64), nullable=False, unique=True),  # what makes a second click no second judgement
    UniqueConstraint("item", "person", "revision"),
)
Index("judgements_person", judgements.c.person, judgements.c.latest)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("person", Integer),
    Column("what", String(40), nullable=False),
    Column("detail", JSON, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)


def _first(connection: Connection) -> None:
    metadata.create_all(connection)


def _settings(connection: Connection) -> None:
    settings.create(connection, checkfirst=True)  # a new store has it from the first migration


def _resets(connection: Connection) -> None:
    resets.create(connection, checkfirst=True)


# Applied in order, each once and in a transaction; what is listed is never changed, only added to.
MIGRATIONS: Sequence[Callable[[Connection], None]] = (_first, _settings, _resets)

versions = Table("versions", MetaData(), Column("version", Integer, primary_key=True))


def migrate(connection: Connection) -> int:
    """Bring the store to the newest version; returns the number of migrations applied."""
    versions.create(connection, checkfirst=True)
    done = set(connection.scalars(select(versions.c.version)))
    for version, migration in enumerate(MIGRATIONS, start=1):
        if version not in done:
            migration(connection)
            connection.execute(versions.insert().values(version=version))
    return len(MIGRATIONS) - len(done)


def newer_than_known(connection: Connection) -> bool:
    """Whether a later proxtune has changed this store."""
    known = connection.scalar(text("SELECT MAX(version) FROM versions"))
    return known is not None and known > len(MIGRATIONS)
