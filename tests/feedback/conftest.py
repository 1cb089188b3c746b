"""A store of each kind. PostgreSQL is a server of the session's own, from Debian's package, on a socket in a folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a server, without the name of a database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        message = "PostgreSQL is not installed: apt-get install postgresql"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    bin_folder = programs[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user: str | None = None
    if os.geteuid() == 0:  # the server refuses to run as root
        user = "postgres"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data, log = folder / "data", folder / "log"

    def run(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}"

    run(f"{bin_folder}/initdb", "-D", str(data), "-U", "proxtune", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
    run(f"{bin_folder}/pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start")
    yield f"postgresql://proxtune@/{{name}}?host={folder}"
    run(f"{bin_folder}/pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a new store may be made; parametrised by the kinds."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        yield str(tmp_path / "labels.db")
        return
    import psycopg

    template = request.getfixturevalue("postgresql")
    name = f"t{os.getpid()}_{abs(hash(tmp_path)) % 10**9}"
    with psycopg.connect(template.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield template.format(name=name)
    with psycopg.connect(template.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def store(address: str, clock: Clock) -> Iterator[Store]:
    with Store.create(address, now=clock) as store:
        yield store


def pair(number: int, **more: object) -> Item:
    """A pairwise item."""
    answers = (Candidate(text=f"first {number}", source="a"), Candidate(text=f"second {number}", source="b"))
    return Item(kind="pair", prompt=f"prompt {number}", candidates=answers, **more)
