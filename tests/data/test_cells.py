"""A file's own keys under ours."""

import json
from pathlib import Path

import pytest

from proxtune.data.cells import MalformedRowError, renamed
from proxtune.data.records import Labelled
from proxtune.data.sift import Sieve
from proxtune.data.sources import DataConfig, load, read
from proxtune.errors import DataError

ROW = {"review": "fine", "sentiment": "good", "text": "an index", "id": 7}


def test_a_row_is_read_under_our_keys_and_the_rest_stay_as_they_are() -> None:
    assert renamed(ROW, {"text": "review", "label": "sentiment"}) == {"id": 7, "text": "fine", "label": "good"}
    assert renamed(ROW, {}) == ROW
    assert renamed(ROW, {"text": "review", "review": "text"}) == ROW | {"text": "fine", "review": "an index"}


def test_a_key_that_a_row_lacks_is_named_with_those_found() -> None:
    with pytest.raises(MalformedRowError, match=r"no key 'stars', which columns names for 'label'; found 'review', "):
        renamed(ROW, {"label": "stars"})


def test_a_sieve_keeps_the_row_as_it_stands_in_the_file() -> None:
    sifted = Sieve(Path("a"), columns={"text": "review", "label": "sentiment"}).sift(1, ROW)
    assert sifted.row == ROW
    assert sifted.record == Labelled("fine", "good", "a:1", {"id": 7})


def test_dl1_the_columns_of_a_config_hold_for_both_files(tmp_path: Path) -> None:
    for name, lines in (("train", ["a,1", "b,0"]), ("eval", ["c,1"])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["review,stars", *lines]), encoding="utf-8")
    columns = {"text": "review", "label": "stars"}
    config = DataConfig(train=tmp_path / "train.csv", eval=tmp_path / "eval.csv", columns=columns)
    train, held_out = load(config, seed=1)
    assert held_out is not None
    found = [(r.text, r.label) for r in (*train.records, *held_out.records) if isinstance(r, Labelled)]
    assert found == [("a", 1), ("b", 0), ("c", 1)]


def test_dl1_a_row_without_a_mapped_key_is_malformed(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, ({"review": "a"}, {"other": "b"}))), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2: no key 'review', which columns names for 'text'; found 'other'"):
        read(file, columns={"text": "review"})
    assert len(read(file, columns={"text": "review"}, on_error="skip").records) == 1
