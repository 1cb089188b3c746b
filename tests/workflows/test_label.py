"""`proxtune label`, from a data file to files to train on, as the command line runs it."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import proxtune.cli  # noqa: F401 (the commands join the application)
from proxtune.cli.app import app
from proxtune.data.sources import read
from proxtune.errors import ConfigError, DataError, StoreError
from proxtune.feedback.records import Item
from proxtune.feedback.store import Store
from proxtune.workflows import label_candidates
from proxtune.workflows.label_items import Asking, read_items
from tests.feedback.conftest import KINDS, address, postgresql  # noqa: F401 (fixtures)
from tests.feedback.said import preference, said
from tests.tiny import tiny_model

PAIRS = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "topic": i} for i in range(6)]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["label", *map(str, words)])


def done(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.output


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def asked(path: Path, **how: Any) -> list[Item]:
    return read_items(path, Asking(batch="b", **how))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return lines(tmp_path / "pairs.jsonl", PAIRS)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


def judge(at: object, answers: Mapping[int, Mapping[str, Any]], *names: str) -> None:
    with Store.open(str(at)) as store:
        for name in names:
            said(store, answers, name)


@pytest.mark.parametrize(
    ("row", "kind", "expected"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, None, ["pair"]),
        ({"prompt": "p", "responses": ["a", "b"]}, None, ["pair"]),
        ({"prompt": "p", "responses": ["a", "b", "c"]}, None, ["ranking"]),
        ({"prompt": "p", "responses": ["a", "b", "c"]}, "thumb", ["thumb"] * 3),
        ({"prompt": "p", "completion": "a"}, None, ["rating"]),
        ({"prompt": "p", "completion": "a"}, "rewrite", ["rewrite"]),
        ({"prompt": "p", "completion": "a", "scores": [1, 2]}, "flags", ["flags"]),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, None, ["rating"]),
        ({"messages": [{"role": "user", "content": "p"}], "responses": ["a", "b"]}, None, ["pair"]),
        ({"text": "t", "label": "x"}, None, ["label"]),
        ({"text": "t", "labels": ["x", "y"]}, None, ["label"]),
        ({"tokens": ["a", "b"], "tags": ["B-PER", "O"]}, None, ["spans"]),
        ({"kind": "thumb", "prompt": "p", "candidates": [{"text": "a"}]}, None, ["thumb"]),
    ],
)
def test_the_keys_of_a_row_say_what_is_asked(
    tmp_path: Path, row: dict[str, Any], kind: str | None, expected: list[str]
) -> None:
    items = asked(lines(tmp_path / "a.jsonl", [row]), kind=kind)
    assert [item.kind for item in items] == expected
    assert all(item.batch == "b" for item in items)


def test_an_item_has_the_answers_the_sources_and_the_other_columns_of_its_row(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "responses": ["a", {"text": "b", "source": "m2"}], "sources": ["m1", None], "topic": "x"},
        {"prompt": [{"role": "user", "content": "q"}], "responses": ["a", "b"], "topic": "y"},
    ]
    first, second = asked(lines(tmp_path / "a.jsonl", rows), overlap=3)
    assert [(one.text, one.source) for one in first.candidates] == [("a", "m1"), ("b", "m2")]
    assert (first.columns, first.overlap) == ({"topic": "x"}, 3)
    assert second.text == "user: q"
    (alone,) = asked(lines(tmp_path / "b.jsonl", [{"prompt": "p", "completion": "a", "source": "m"}]))
    assert alone.candidates[0].source == "m"


def test_labels_to_choose_from_are_those_of_the_file_or_of_the_command(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in ("good", "bad", "good")])
    assert {item.options.labels for item in asked(path)} == {("bad", "good")}
    assert asked(path, options={"labels": ["x"]})[0].options.labels == ("x",)
    assert asked(path)[0].columns == {"label": "good"}
    bare = lines(tmp_path / "b.jsonl", [{"text": "t"}])
    with pytest.raises(DataError, match="no labels to choose from"):
        asked(bare)


def test_a_table_holds_whole_items_too(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(
        "kind,prompt,candidates,gold,overlap\n"
        'pair,p,"[{""text"": ""a""}, {""text"": ""b""}]","{""kind"": ""pair"", ""preference"": 1}",2\n'
        'pair,[1],"[{""text"": ""a""}, {""text"": ""c""}]",,\n',
        encoding="utf-8",
    )
    with pytest.raises(DataError, match=r"items\.csv:3: prompt"):
        asked(path)
    path.write_text(path.read_text().replace("[1]", "q"), encoding="utf-8")
    first, second = asked(path)
    assert (first.overlap, first.gold) == (2, {"kind": "pair", "preference": 1})
    assert (second.overlap, second.gold) == (1, None)


def test_every_mistake_is_listed_by_its_line_and_nothing_is_written(tmp_path: Path, at: Path) -> None:
    path = tmp_path / "a.jsonl"
    wrong = [
        json.dumps(PAIRS[0]),
        "not json",
        json.dumps({"prompt": "p"}),
        json.dumps({"prompt": "p", "responses": ["only one"]}),
        json.dumps({"prompt": "p", "responses": [*"seven!!"]}),
        json.dumps({"prompt": "p", "responses": ["a", 3]}),
        json.dumps({"prompt": "p", "responses": ["a", "b"], "sources": ["m"]}),
        '{"prompt": "p", "chosen": "a", "rejected": "b", "x": NaN}',
        json.dumps({"kind": "pair", "prompt": "p", "candidates": []}),
        json.dumps({"kind": "pair", "prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}], "colour": 1}),
        json.dumps({"context": "c", "question": "q", "answers": []}),
        json.dumps({"prompt": "p", "completion": "a"}),
    ]
    path.write_text("\n".join(wrong), encoding="utf-8")
    for more in ([], ["--dry-run"]):
        result = run("init", path, "--store", at, "--kind", "pair", *more)
        assert isinstance(result.exception, DataError)
        listed = list(map(int, re.findall(r"a\.jsonl:(\d+): ", str(result.exception))))
        assert listed == list(range(2, 13))
        assert not at.exists()


def test_a_dry_run_shows_the_items_and_writes_nothing(pairs: Path, at: Path) -> None:
    output = done("init", pairs, "--store", at, "--dry-run")
    assert "6 items: 6 pair; nothing was written" in output
    assert '"good 0"' in output
    assert list(at.parent.iterdir()) == [pairs]
    done("init", pairs, "--store", at)
    more = lines(at.parent / "more.jsonl", [{"prompt": "new", "chosen": "a", "rejected": "b"}])
    done("add", more, "--store", at, "--dry-run")
    with Store.open(at) as store:
        assert list(store.queue.batches()) == ["pairs"]


@pytest.mark.parametrize("address", KINDS, indirect=True)
def test_the_way_from_a_file_to_files_to_train_on(address: str, tmp_path: Path, pairs: Path) -> None:  # noqa: F811
    guidelines = tmp_path / "guidelines.md"
    guidelines.write_text("Be *fair*.", encoding="utf-8")
    store = ["--store", address]
    output = done("init", pairs, "--overlap", 2, "--guidelines", guidelines, *store)
    assert "6 items in batch pairs" in output
    assert isinstance(run("init", pairs, *store).exception, StoreError)
    assert "6 items in batch pairs" in done("add", pairs, *store)  # asked once
    judge(address, {number: preference(1 if number % 3 else -2) for number in range(1, 7)}, "anna", "berta")
    status = done("status", *store)
    assert re.search(r"pairs\W+6\W+6\W+12\W+100%", status)
    assert "guidelines version 1" in status
    guidelines.write_text("Be fair, and quick.", encoding="utf-8")
    assert "version 2" in done("guidelines", guidelines, *store)
    people = done("people", *store)
    assert re.search(r"anna\W+annotator\W+6", people)
    out = tmp_path / "out" / "reward.jsonl"
    assert "6 rows" in done("export", "reward", out, *store)
    first = read(out).records[0]
    assert (first.chosen, first.columns["margin"], first.columns["columns"]) == ("good 0", 1.0, {"topic": 0})
    manifest = json.loads((tmp_path / "out" / "reward.manifest.json").read_text())
    assert (manifest["annotators"], manifest["files"]["reward.jsonl"]["rows"]) == (2, 6)
    done("export", "kto", tmp_path / "kto.csv", "--policy", "each", "--holdout", 0.5, *store)
    assert (tmp_path / "kto-held-out.csv").exists()
    page = tmp_path / "pages" / "quality.html"
    quality = done("quality", "--page", page, "--lang", "zh", *store)
    assert "too few overlaps (6)" in quality
    assert "评判质量" in page.read_text(encoding="utf-8")


def test_what_cannot_be_exported_is_refused_before_anything_is_written(pairs: Path, at: Path, tmp_path: Path) -> None:
    done("init", pairs, "--store", at)
    store = ["--store", at]
    assert isinstance(run("export", "rewards", tmp_path / "a.jsonl", *store).exception, ConfigError)
    assert isinstance(run("export", "reward", tmp_path / "a.txt", *store).exception, ConfigError)
    assert isinstance(run("export", "reward", tmp_path / "a.jsonl", *store).exception, DataError)
    assert isinstance(run("status", "--store", tmp_path / "none.db").exception, StoreError)
    assert not (tmp_path / "a.jsonl").exists()
    assert not (tmp_path / "none.db").exists()


def test_a_backup_and_an_invitation(pairs: Path, at: Path, tmp_path: Path) -> None:
    done("init", pairs, "--store", at)
    judge(at, {1: preference(1)}, "anna")
    done("backup", tmp_path / "backup.db", "--store", at)
    with Store.open(tmp_path / "backup.db") as copy:
        assert [judged.id for judged in copy.judgements.all()] == [1]
    assert isinstance(run("backup", tmp_path / "backup.db", "--store", at).exception, StoreError)
    output = done("invite", "--role", "reviewer", "--site", "https://judge.example/", "--store", at)
    link = re.search(r"https://judge\.example/join/(\S+)", output)
    assert link
    with Store.open(at) as store:
        assert store.people.invited(link[1]) == "reviewer"
    assert isinstance(run("invite", "--role", "boss", "--store", at).exception, ConfigError)


def test_who_forgot_a_password_gets_a_link_for_a_new_one(pairs: Path, at: Path) -> None:
    done("init", pairs, "--store", at)
    judge(at, {1: preference(1)}, "anna")
    link = re.search(
        r"https://judge\.example/reset/(\S+)", done("reset", "anna", "--site", "https://judge.example", "--store", at)
    )
    assert link
    with Store.open(at) as store:
        person = store.people.resetting(link[1])
        assert person is not None
        assert person.name == "anna"
    nobody = run("reset", "anne", "--store", at)
    assert isinstance(nobody.exception, StoreError)
    assert "anna" in str(nobody.exception)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_store_moves_to_postgresql_and_its_exports_stay_the_same(
    address: str,  # noqa: F811
    pairs: Path,
    at: Path,
    tmp_path: Path,
) -> None:
    done("init", pairs, "--store", at)
    judge(at, {number: preference(1) for number in range(1, 7)}, "anna")
    done("export", "reward", tmp_path / "before.jsonl", "--store", at)
    output = done("move", address, "--store", at)
    assert re.search(r"judgements\W+6", output)
    done("export", "reward", tmp_path / "after.jsonl", "--store", address)
    assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
    assert isinstance(run("move", address, "--store", at).exception, StoreError)
    assert isinstance(run("move", at, "--store", address).exception, StoreError)


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is a model of a few thousand weights."""
    monkeypatch.setattr(label_candidates, "resolve", lambda name: name)
    monkeypatch.setattr(label_candidates, "load", lambda config: tiny_model())


def prompts(tmp_path: Path) -> Path:
    return lines(tmp_path / "prompts.jsonl", [{"prompt": f"why {letter}", "n": letter} for letter in "abcde"])


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("models", "options", "kind", "sources"),
    [
        (["m"], [], "pair", {"m at 0.7", "m at 1"}),
        (["m", "n"], ["--temperatures", "1", "--answers", 2], "ranking", {"m at 1", "n at 1"}),
        (["m"], ["--temperatures", "1", "--kind", "thumb"], "thumb", {"m at 1"}),
    ],
)
def test_answers_are_sampled_and_asked_about(
    tmp_path: Path, at: Path, models: list[str], options: list[object], kind: str, sources: set[str]
) -> None:
    told = done("candidates", *models, prompts(tmp_path), "--store", at, "--max-new-tokens", 8, *options)
    left_out = re.search(r"left out: (\d+)", told)
    with Store.open(at) as store:
        items = [judged.item for judged in store.judgements.all(unjudged=True)]
    assert {item.kind for item in items} <= ({"pair", "ranking"} if kind == "ranking" else {kind})
    assert {candidate.source for item in items for candidate in item.candidates} <= sources
    assert len(items) == 5 - (int(left_out[1]) if left_out else 0) >= 3
    assert items[-1].prompt == "why e"
    assert items[-1].columns == {"n": "e"}
    again = at.with_name("again.db")
    done("candidates", *models, prompts(tmp_path), "--store", again, "--max-new-tokens", 8, *options)
    with Store.open(again) as store:
        assert [judged.item for judged in store.judgements.all(unjudged=True)] == items


@pytest.mark.usefixtures("tiny_models")
def test_too_many_answers_are_refused_and_equal_ones_left_out(tmp_path: Path, at: Path) -> None:
    path = prompts(tmp_path)
    refused = run("candidates", "m", path, "--store", at, "--answers", 4)
    assert isinstance(refused.exception, ConfigError)
    assert "8 answers to a prompt" in str(refused.exception)
    same = run("candidates", "m", path, "--store", at, "--temperatures", "0,0", "--max-new-tokens", 4)
    assert isinstance(same.exception, DataError)
    assert "left out: 5 prompts" in same.output
    assert isinstance(run("candidates", "m", path, "--temperatures", "hot").exception, ConfigError)
    texts = lines(tmp_path / "t.jsonl", [{"text": "t"}])
    assert "no prompt to answer" in str(run("candidates", "m", texts, "--store", at).exception)
    assert not at.exists()


COMMANDS = ["init", "add", "candidates", "serve", "status", "guidelines", "people", "invite", "export", "quality"]
COMMANDS += ["backup", "move", "reset"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: proxtune label {command}" in " ".join(done(command, "--help").split())


def test_a_missing_extra_is_named_with_the_line_that_installs_it(tmp_path: Path, at: Path) -> None:
    code = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "sqlalchemy" else found(name, *more)
sys.argv = ["proxtune", "label", "status"]
from proxtune.cli import main
main()
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "pip install 'proxtune[label]'" in told.stderr
    assert not at.exists()


@pytest.mark.slow
def test_serve_shows_the_address_and_the_link_of_the_first_admin(pairs: Path, at: Path) -> None:
    done("init", pairs, "--store", at)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "proxtune", "label", "serve", "--store", str(at), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout
            told = served.stdout.readline() + served.stdout.readline()
            link = re.search(rf"http://127\.0\.0\.1:{port}/join/\S+", told)
            assert link, told
            shown = opened(link[0], seconds=60)
            assert "<html" in shown
        finally:
            served.terminate()


def opened(link: str, seconds: float) -> str:
    """A page, as soon as its server listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(link, timeout=10) as answer:
                return str(answer.read(), "utf-8")
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail(f"{link} did not answer within {seconds} s")


def test_no_command_but_candidates_loads_torch(pairs: Path, at: Path) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from proxtune.cli.app import app
import proxtune.cli.label
for words in (["init", {str(pairs)!r}], ["status"], ["people"], ["quality"]):
    done = CliRunner().invoke(app, ["label", *words, "--store", {str(at)!r}])
    assert done.exit_code == 0, done.output
print({{"torch", "transformers"}} & set(sys.modules))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "set()\n", shown.stderr
