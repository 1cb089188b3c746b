"""What leaves the store: every format, read back as training reads it."""

import csv
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from proxtune.data.records import Completion, Labelled, Message, Preference, Prompt, Rated, Tagged
from proxtune.data.sources import read
from proxtune.errors import DataError
from proxtune.feedback.export import FORMATS, export, side_of
from proxtune.feedback.export_files import exported, write_export
from proxtune.feedback.records import Candidate, Item, Options, SpanMark, Turn
from proxtune.feedback.rows import tagged
from proxtune.feedback.store import Store
from tests.feedback.conftest import Clock, pair
from tests.feedback.said import all_said, preference, said

MANY = 20  # people that an item may be asked of
TURNS = (Turn(role="system", content="Be brief."), Turn(role="user", content="Why?"))


def answers(*texts: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(text=text, source=f"model {place}") for place, text in enumerate(texts))


def of_each_kind(batch: str = "imported") -> list[Item]:
    """One item of each kind; the pair's prompt is a conversation."""
    marks = Options(labels=("PER", "LOC"))
    asked = [
        Item(kind="pair", prompt=TURNS, candidates=answers("yes", "no"), columns={"topic": "life", "scores": 3}),
        Item(kind="ranking", prompt="rank", candidates=answers("one", "two", "three")),
        Item(kind="rating", prompt="rate", candidates=answers("so"), options=Options(criteria=("true", "kind"))),
        Item(kind="thumb", prompt="thumb", candidates=answers("up?")),
        Item(kind="rewrite", prompt="rewrite", candidates=answers("worse")),
        Item(kind="flags", prompt="flag", candidates=answers("mine")),
        Item(kind="label", prompt="a good film", options=Options(labels=("good", "bad"))),
        Item(kind="spans", prompt="Jane Smith saw 北京.", options=marks),
    ]
    return [item.model_copy(update={"overlap": MANY, "batch": batch}) for item in asked]


def filled(store: Store) -> Store:
    """Two people have answered an item of each kind, and changed and taken back something."""
    pairs, ranking, rating, thumb, rewrite, flags, label, spans = store.queue.add(of_each_kind())
    store.write_guidelines("Be fair.")
    person, place = {"begin": 0, "end": 10, "label": "PER"}, {"begin": 15, "end": 17, "label": "LOC"}
    one = {
        pairs: preference(-2),
        ranking: {"kind": "ranking", "ranks": [2, 1, 3]},
        rating: {"kind": "rating", "scores": {"true": 4, "kind": 5}},
        thumb: {"kind": "thumb", "up": True, "flags": ["unsafe"]},
        rewrite: {"kind": "rewrite", "text": "better"},
        flags: {"kind": "flags", "flags": ["broken"]},
        label: {"kind": "label", "labels": ["good"]},
        spans: {"kind": "spans", "spans": [person, place]},
    }
    other = one | {pairs: preference(-1), rating: {"kind": "rating", "scores": {"true": 2, "kind": 2}}}
    first = said(store, one, "anna")
    said(store, other, "berta")
    store.judgements.withdraw(first, thumb, revision=2, request="withdraw")
    again = {"kind": "thumb", "up": True, "comment": "+1"}
    store.judgements.submit(first, thumb, again, revision=3, request="again")
    return store


def decided(store: Store, preferences: list[int | None], policy: str = "majority") -> list[tuple[str, float]]:
    """What is chosen of a pair, and the margin, after these preferences (None: both bad)."""
    (item,) = store.queue.add([pair(0, overlap=MANY)])
    all_said(store, item, [preference(one or 0, both_bad=one is None) for one in preferences])
    return [(row["chosen"], row["margin"]) for row in export(store, "reward", policy=policy)]


@pytest.mark.parametrize(
    ("preferences", "majority", "mean"),
    [
        ([2], ("first 0", 2.0), ("first 0", 2.0)),
        ([1, 1, -2], ("first 0", 0.0), None),  # the mean is 0
        ([1, 1, 1, -2, -2], ("first 0", 0.0), ("second 0", 0.2)),  # the mean is −1/5
        ([1, -1], None, None),
        ([2, -1], None, ("first 0", 0.5)),
        ([-1, 0, 0], None, ("second 0", 1 / 3)),  # most say a tie
        ([-1, -2, None], ("second 0", 1.0), ("second 0", 1.0)),
        ([1, None, 0], None, ("first 0", 1 / 3)),
        ([None, None, None], None, None),
    ],
)
def test_several_people_become_one_pair_by_the_policy(
    store: Store,
    preferences: list[int | None],
    majority: tuple[str, float] | None,
    mean: tuple[str, float] | None,
) -> None:
    assert decided(store, preferences) == ([majority] if majority else [])
    found = [(row["chosen"], row["margin"]) for row in export(store, "reward", policy="mean")]
    assert found == ([(mean[0], pytest.approx(mean[1]))] if mean else [])


def test_each_judgement_can_be_a_row_without_ties(store: Store) -> None:
    assert decided(store, [2, -1, 0, None], "each") == [("first 0", 2.0), ("second 0", 1.0)]


def test_a_row_says_where_it_comes_from_and_names_nobody(store: Store) -> None:
    filled(store)
    (row,) = (row for row in export(store, "reward") if row["item"] == 1)
    assert (row["chosen"], row["rejected"], row["margin"]) == ("no", "yes", 1.5)
    assert (row["agreement"], row["guidelines"], row["batch"], row["final"]) == (1.0, [1], "imported", False)
    assert row["sources"] == ["model 1", "model 0"]
    assert row["columns"] == {"topic": "life", "scores": 3}
    assert len(set(row["annotators"])) == 2
    for kind in FORMATS:
        written = json.dumps(list(export(store, kind)))
        assert "anna" not in written
        assert "berta" not in written
    (kto,) = (row for row in export(store, "kto") if row["item"] == 4)
    assert kto["flags"] == {"unsafe": 1}  # of berta: anna took hers back


def test_pseudonyms_stay_in_a_store_and_its_copies_and_differ_in_others(store: Store, tmp_path: Path) -> None:
    filled(store)
    names = store.people.pseudonyms()
    with Store.create(tmp_path / "copy.db") as copy, Store.create(tmp_path / "other.db") as other:
        store.copy_to(copy)
        assert copy.people.pseudonyms() == names
        filled(other)
        assert set(other.people.pseudonyms().values()).isdisjoint(names.values())
    store.people.erase(1)
    assert store.people.pseudonyms() == names


def test_rankings_are_all_their_ordered_pairs(store: Store) -> None:
    item = Item(kind="ranking", prompt="p", candidates=answers("a", "b", "c", "d"), overlap=MANY)
    (number,) = store.queue.add([item])
    all_said(store, number, [{"kind": "ranking", "ranks": ranks} for ranks in ([1, 2, 2, 4], [1, 2, 3, 4])])
    left_out = Counter[str]()
    rows = list(export(store, "reward", left_out=left_out, policy="mean"))
    better = {(row["chosen"], row["rejected"]): row["margin"] for row in rows}
    sure = dict.fromkeys([("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")], 1.0)
    assert better == sure | {("b", "c"): 0.5}
    assert ("b", "c") not in {(row["chosen"], row["rejected"]) for row in export(store, "dpo")}  # 1 for b, 1 for a tie
    (ranking,) = export(store, "rankings")
    assert (ranking["responses"], ranking["ranks"]) == (["a", "b", "c", "d"], [1, 2, 3, 4])


def test_labels_and_spans_are_what_most_people_said(store: Store) -> None:
    options = Options(labels=("x", "y", "z"))
    one, several = store.queue.add(
        [
            Item(kind="label", prompt="one", options=options, overlap=MANY),
            Item(kind="label", prompt="several", options=options.model_copy(update={"multiple": True}), overlap=MANY),
        ]
    )
    (marked,) = store.queue.add([Item(kind="spans", prompt="ab cd", options=options, overlap=MANY)])
    all_said(store, one, [{"kind": "label", "labels": [label]} for label in "xxy"])
    all_said(store, several, [{"kind": "label", "labels": list(labels)} for labels in ("xy", "yz", "y")])
    spans = [{"begin": 0, "end": 2, "label": "x"}, {"begin": 3, "end": 5, "label": "y"}]
    all_said(store, marked, [{"kind": "spans", "spans": found} for found in (spans, spans[:1], [])])
    first, second = export(store, "labels")
    assert (first["label"], first["agreement"]) == ("x", pytest.approx(2 / 3))
    assert second["labels"] == ["y"]
    (row,) = export(store, "spans")
    assert (row["tokens"], row["tags"]) == (["ab", "cd"], ["B-x", "O"])


def test_a_span_begins_and_ends_a_token() -> None:
    text = "in New-York 北京市!"
    spans = [SpanMark(begin=3, end=11, label="LOC"), SpanMark(begin=12, end=14, label="LOC")]
    tokens, tags = tagged(text, spans)
    assert tokens == ["in", "New", "-", "York", "北", "京", "市", "!"]
    assert tags == ["O", "B-LOC", "I-LOC", "I-LOC", "B-LOC", "I-LOC", "O", "O"]
    assert tagged("unbelievable", [SpanMark(begin=2, end=9, label="X")]) == (
        ["un", "believa", "ble"],
        ["O", "B-X", "O"],
    )


def test_gold_and_repeats_are_left_out_and_counted(store: Store) -> None:
    gold, *plain = store.queue.add([pair(9, gold=preference(1)), *map(pair, range(6))], repeat=1.0)
    said(store, {number: preference(1) for number in range(1, 20)}, "anna")
    left_out = Counter[str]()
    assert {row["item"] for row in export(store, "reward", left_out=left_out)} == set(plain)
    assert left_out == {"repeated": 6, "gold": 1}
    assert {event["item"] for event in export(store, "events")} >= {gold, *plain}


def test_a_decision_counts_alone(store: Store) -> None:
    (item,) = store.queue.add([pair(0, overlap=MANY)])
    all_said(store, item, [preference(2)] * 3)
    reviewer = store.people.add("reviewer", "reviewer").id
    store.judgements.submit(reviewer, item, preference(-1), revision=1, request="final", final=True)
    (row,) = export(store, "reward")
    assert (row["chosen"], row["margin"], row["final"], row["agreement"]) == ("second 0", 1.0, True, None)


def test_training_reads_every_format(store: Store, tmp_path: Path) -> None:
    filled(store)

    def records(kind: str, suffix: str) -> list[object]:
        made = exported(store, kind, suffix=suffix, stem=f"{kind}-{suffix}")
        path, *_ = write_export(tmp_path / f"{kind}-{suffix}.{suffix}", made)
        return list(read(path).records)

    turns = (Message("system", "Be brief."), Message("user", "Why?"))
    for kind in ("reward", "dpo"):
        first, *others = records(kind, "jsonl")
        assert isinstance(first, Preference)
        assert (first.prompt, first.chosen, first.rejected) == (turns, "no", "yes")
        assert [(one.chosen, one.rejected) for one in others] == [("two", "one"), ("one", "three"), ("two", "three")]
        assert all(isinstance(one, Preference) for one in records(kind, "csv"))
    kto = records("kto", "jsonl")
    assert all(isinstance(one, Completion) for one in kto)
    assert [(one.completion, one.columns["label"]) for one in kto] == [("no", True), ("yes", False), ("up?", True)]
    (ranking,) = records("rankings", "jsonl")
    assert isinstance(ranking, Prompt)
    assert ranking.columns["responses"] == ["two", "one", "three"]
    (sft,) = records("sft", "jsonl")
    assert isinstance(sft, Completion)
    assert (sft.prompt, sft.completion) == ("rewrite", "better")
    for suffix in ("jsonl", "csv"):
        (rated,) = records("ratings", suffix)
        assert isinstance(rated, Rated)
        assert (rated.completion, rated.scores, rated.rating) == ("so", (4.5, 2.0), 3.25)
        (label,) = records("labels", suffix)
        assert isinstance(label, Labelled)
        assert (label.text, label.label) == ("a good film", "good")
        (spans,) = records("spans", suffix)
        assert isinstance(spans, Tagged)
        assert spans.tags == ("B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O")


def test_events_are_every_row_of_the_database(store: Store) -> None:
    filled(store)
    rows = list(export(store, "events"))
    assert len(rows) == len(list(store.judgements.events())) == 18
    assert [row["withdrawn"] for row in rows] == [False] * 16 + [True, False]
    assert rows[-1]["body"]["comment"] == "+1"
    assert rows[0]["asked"]["columns"]["topic"] == "life"
    assert {row["item"] for row in export(store, "events", batch="another")} == set()


@pytest.mark.slow
def test_a_prompt_is_on_one_side_in_every_format_and_stays_there(store: Store) -> None:
    shown = [
        Item(kind="pair", prompt=f" prompt  {i % 40} ", candidates=answers(f"a{i}", f"b{i}")) for i in range(80)
    ] + [Item(kind="thumb", prompt=f"prompt {i}", candidates=answers("c")) for i in range(40)]
    numbers = store.queue.add(shown)
    bodies = [preference(1)] * 80 + [{"kind": "thumb", "up": True}] * 40
    said(store, dict(zip(numbers, bodies, strict=True)), "anna")
    sides: dict[str, set[str]] = {}
    for kind in ("reward", "dpo", "kto"):
        for row in export(store, kind, fraction=0.25, seed=3):
            sides.setdefault(" ".join(row["prompt"].split()), set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    held_out = sum(side == {"held-out"} for side in sides.values())
    assert 1 <= held_out <= 25  # the seed is fixed: no chance
    assert {side_of(item, 0.0, 3) for item in shown} == {"train"}
    assert "split" not in next(export(store, "reward"))


@pytest.mark.slow
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_same_store_gives_the_same_bytes_whatever_the_database(store: Store, tmp_path: Path, suffix: str) -> None:
    with Store.create(tmp_path / "small.db", now=Clock()) as small:
        filled(small)
        small.people.pseudonyms()
        small.copy_to(store)
        for kind in FORMATS:
            for policy in ("majority", "mean", "each"):
                made = exported(small, kind, suffix=suffix, policy=policy)
                assert exported(store, kind, suffix=suffix, policy=policy) == made


def test_the_manifest_holds_the_hashes_of_the_files(store: Store, tmp_path: Path) -> None:
    numbers = store.queue.add([pair(i) for i in range(60)])
    said(store, {number: preference(number % 2) for number in numbers}, "anna")
    made = exported(store, "reward", stem="pairs", fraction=0.3)
    places = write_export(tmp_path / "new" / "pairs.jsonl", made)
    assert [place.name for place in places] == ["pairs.jsonl", "pairs-held-out.jsonl", "pairs.manifest.json"]
    manifest = json.loads(places[-1].read_text())
    assert manifest == made.manifest
    for place in places[:2]:
        described = manifest["files"][place.name]
        assert described["sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
        assert described["rows"] == len(place.read_text().splitlines()) > 0
    assert manifest["left out"] == {"tied or both bad": 30}
    assert manifest["items"] == 30
    with pytest.raises(DataError, match="there already"):
        write_export(tmp_path / "new" / "pairs.jsonl", made)


def test_what_gives_no_row_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match="nothing is judged"):
        exported(store, "sft")
    numbers = store.queue.add([pair(0), pair(1)])
    said(store, {number: preference(1) for number in numbers}, "anna")
    with pytest.raises(DataError, match="2 another kind"):
        exported(store, "sft")
    with pytest.raises(DataError, match="would be empty"):
        exported(store, "reward", fraction=1e-9)
    with pytest.raises(DataError, match="expected one of reward"):
        export(store, "rewards")
    with pytest.raises(DataError, match="less than 1"):
        export(store, "reward", fraction=1.0)


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_wa10_a_cell_of_csv_is_no_formula(store: Store, formula: str) -> None:
    thumb = Item(kind="thumb", prompt=formula, candidates=answers(formula), columns={"c": formula}, batch="=b")
    (number,) = store.queue.add([thumb])
    said(store, {number: {"kind": "thumb", "up": False, "comment": formula}}, "=anna")
    for kind in ("kto", "events"):
        text = exported(store, kind, suffix="csv").files[f"{kind}.csv"].decode()
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]
    (row,) = export(store, "kto")
    assert row["completion"] == formula  # as it was: only CSV is changed
