"""What is there is left alone, what is not is made, and what fails stops nothing else. Nothing is fetched here."""

import json
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from proxtune.errors import DataError
from tools.fetch import SOURCES, Fetched, Source, fetch_all, run
from tools.material import Parts

ROWS = b'{"text": "\xc3\xa9t\xc3\xa9"}\n'


def source(fetch: Callable[[Path], Fetched] = lambda folder: Fetched("1.0", {"all": b"\xc3\xa9t\xc3\xa9"})) -> Source:
    def parts(files: Mapping[str, bytes]) -> Parts:
        return {"train": [{"text": files["all"].decode()}] * 2, "test": [{"text": files["all"].decode()}]}

    return Source("elsewhere", fetch, parts)


def fails(folder: Path) -> Fetched:
    raise DataError("there is no network")


def test_files_are_written_with_their_line_in_the_snapshot(tmp_path: Path) -> None:
    assert fetch_all(tmp_path, {"pets": source()}) == []
    assert (tmp_path / "pets" / "train.jsonl").read_bytes() == ROWS * 2
    assert (tmp_path / "pets" / "test.jsonl").read_bytes() == ROWS
    text = (tmp_path / "SNAPSHOT.json").read_text(encoding="utf-8")
    lines = json.loads(text)
    assert len(text.splitlines()) == 2 + len(lines)
    assert set(lines) == {"pets/train.jsonl", "pets/test.jsonl"}
    line = lines["pets/train.jsonl"]
    assert line.pop("date").count("-") == 2
    assert line == {"source": "elsewhere", "version": "1.0", "sha256": sha256(ROWS * 2).hexdigest(), "rows": 2}
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_and_whole_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_all(tmp_path, {"pets": source(), "plants": source()})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert fetch_all(tmp_path, {"pets": source(fails), "plants": source(fails)}) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "pets: is there" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["pets/train.jsonl", "pets/test.jsonl", "SNAPSHOT.json"])
@pytest.mark.parametrize("gone", [True, False])
def test_what_was_changed_or_removed_is_made_again(tmp_path: Path, changed: str, gone: bool) -> None:
    fetch_all(tmp_path, {"pets": source()})
    made = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    if gone:
        (tmp_path / changed).unlink()
    else:
        (tmp_path / changed).write_text("{}\n", encoding="utf-8")
    fetch_all(tmp_path, {"pets": source()})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == made


def test_what_fails_says_why_and_stops_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Source("elsewhere", lambda folder: Fetched("2.0", {}), lambda files: {"train": [], "test": []})
    odd = source(lambda folder: Fetched("1.0", {}))
    assert fetch_all(tmp_path, {"a": source(fails), "b": empty, "c": odd, "d": source()}) == ["a", "b", "c"]
    said = capsys.readouterr().err
    assert "a: there is no network" in said
    assert "b: no rows for train; is 2.0 of another form than expected?" in said
    assert "c: elsewhere: not of the form that was expected (KeyError('all'))" in said
    assert set(json.loads((tmp_path / "SNAPSHOT.json").read_bytes())) == {"d/train.jsonl", "d/test.jsonl"}


def test_all_sources_get_one_empty_folder(tmp_path: Path) -> None:
    seen = list[Path]()

    def fetch(folder: Path) -> Fetched:
        assert list(folder.iterdir()) == []
        seen.append(folder)
        return Fetched("1.0", {"all": b""})

    fetch_all(tmp_path, {"pets": source(fetch), "plants": source(fetch)})
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert not seen[0].exists()


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", "import os; print(os.getcwd())", folder=tmp_path).decode().strip() == str(tmp_path)
    with pytest.raises(DataError, match=r"^no-such-command: no such command; this part needs Debian or Ubuntu$"):
        run("no-such-command", folder=tmp_path)
    with pytest.raises(DataError, match=r"failed with exit code 3; it said\nno space left$"):
        run(sys.executable, "-c", "import sys; print('no space left', file=sys.stderr); sys.exit(3)", folder=tmp_path)


def test_the_names_are_those_of_the_tasks() -> None:
    assert list(SOURCES) == ["relations", "triples", "questions", "answers", "translation", "summaries"]
