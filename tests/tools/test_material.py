"""Rows of what tools/fetch.py fetches, from small literal files in the form of the large ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data.formats import detect, parse
from proxtune.evaluation.tasks.writing import triples as read_triples
from tools.material import Parts, answers, parts, questions, relations, summaries, translation, triples

NOUNS = """\
  1 This software and database is being provided to you under a licence.
00000001 15 n 02 city 0 metropolis 0 001 ~i 00000002 n 0000 | a large and densely populated urban area
00000002 15 n 02 Victoria 0 capital_of_BC 1 004 @i 00000001 n 0000 #p 00000003 n 0000 #p 00000004 n 0000 \
@ 00000005 v 0000 | capital City of the province of British Columbia; on an island; "Victoria is a metropolis in Canada"
00000003 15 n 02 Columbia 0 British_Columbia 0 000 | a province
00000004 15 n 01 Canada 0 000 | a country
00000005 15 n 01 dog 0 002 #p 00000006 n 0000 #m 00000006 n 0000 | a member of the pack
00000006 15 n 0b pack 0 p1 0 p2 0 p3 0 p4 0 p5 0 p6 0 p7 0 p8 0 p9 0 p0 0 000 | a group of dogs
00000007 15 n 01 packer 0 001 ;c 00000006 n 0000 | one who packs; a packman
"""

ENGLISH = """\
Package: fox
Description-md5: 01
Description-en: quick brown animal
 The fox is a
 quick animal. It jumps.
 .
 It jumps over the dog.
 .
  * over dogs
  * over logs

Package: fox-doc
Description-md5: 02
Description-en: quick brown animal (documentation)
 The fox is a quick animal. It jumps.
 .
 This package holds the documentation.

Package: hen
Description-md5: 03
Description-en: bird
 - lays eggs
 .
 It lays an egg.
"""

FRENCH = """\
Package: fox
Description-md5: 01
Description-fr: animal brun et rapide
 Le renard est un animal rapide. Il saute.
 .
 Il saute
 par-dessus le chien.
 .
  * des chiens

Package: fox-doc
Description-md5: 99
Description-fr: animal brun et rapide – documentation
 Le renard est un animal rapide. Il saute.
 .
 Ce paquet contient la documentation.

Package: hen
Description-md5: 03
Description-fr: oiseau
 Elle pond un œuf.
"""


def whole(found: Parts) -> list[dict[str, Any]]:
    """The rows of both parts, in an order of their own, each of a format that proxtune reads."""
    rows = [row for part in found.values() for row in part]
    for row in rows:
        parse(row, detect(row), "")
    return sorted(rows, key=repr)


KEYS = st.lists(st.text("abc", max_size=2), max_size=99)


@given(KEYS, KEYS)
def test_a_key_is_in_one_part_and_stays_there(keys: list[str], more: list[str]) -> None:
    few = parts([{"k": key} for key in keys], lambda row: str(row["k"]), percent=50, train=99, test=99)
    many = parts([{"k": key} for key in more + keys], lambda row: str(row["k"]), percent=50, train=9999, test=9999)
    assert sorted(row["k"] for row in few["train"] + few["test"]) == sorted(keys)
    assert not {row["k"] for row in many["train"]} & {row["k"] for row in few["test"]}
    assert not {row["k"] for row in many["test"]} & {row["k"] for row in few["train"]}


@pytest.mark.slow
def test_parts_have_their_share_up_to_their_most() -> None:
    rows = [{"n": n} for n in range(10_000)]
    found = parts(rows, lambda row: str(row["n"]), percent=20, train=10_000, test=10_000)
    assert abs(len(found["test"]) - 2000) < 160  # 4 · √(10,000 · 0.2 · 0.8); fixed by a hash: it never fails by chance
    cut = parts(rows, lambda row: str(row["n"]), percent=20, train=30, test=20)
    assert cut == {"train": found["train"][:30], "test": found["test"][:20]}
    assert [row["n"] for row in cut["train"]] != sorted(row["n"] for row in cut["train"])


def test_an_entry_is_related_to_the_words_of_its_gloss() -> None:
    found = [
        (row["text"][slice(*row["head"])], row["relation"], row["text"][slice(*row["tail"])], row["text"])
        for row in whole(relations(NOUNS.encode()))
    ]
    victoria = "Victoria: capital City of the province of British Columbia; on an island"
    assert found == [
        ("Victoria", "instance_of", "City", victoria),  # in whatever case
        ("Victoria", "part_of", "British Columbia", victoria),  # and not Columbia; Canada is in an example alone
    ]  # the dog's "pack" has two relations; a packer "packs" is not the word "pack"; a verb is no entry


@pytest.mark.slow
def test_no_entry_is_in_both_parts_and_none_is_there_too_often() -> None:
    made = [f"{10 + i:08} 15 n 01 town_{i % 2500} 0 001 @i 00000001 n 0000 | city {i}" for i in range(4000)]
    city = "00000001 15 n 01 city 0 000 | a large town"
    found = relations("\n".join([city, *made]).encode())
    heads = [{row["text"][slice(*row["head"])] for row in found[part]} for part in ("train", "test")]
    assert not heads[0] & heads[1]
    assert (len(found["train"]), len(found["test"])) == (2000, 500)


def test_the_triples_of_a_gloss_stand_one_a_line_in_the_order_of_their_tails() -> None:
    victoria = "Victoria: capital City of the province of British Columbia; on an island"
    (row,) = whole(triples(NOUNS.encode()))  # of the others none has two
    assert row["prompt"] == f"Text: {victoria}\nTriples:\n"
    assert row["completion"] == "Victoria | instance_of | City\nVictoria | part_of | British Columbia"


def test_what_is_written_of_a_gloss_is_read_as_its_relations() -> None:
    (row,) = whole(triples(NOUNS.encode()))
    marked = whole(relations(NOUNS.encode()))
    spans = {(m["text"][slice(*m["head"])], m["relation"], m["text"][slice(*m["tail"])]) for m in marked}
    assert read_triples(row["completion"]) == spans


def asked(text: str, answer: str) -> str:
    return json.dumps({"input": [{"role": "user", "content": text}], "ideal": answer})


def test_an_answer_is_a_word_of_the_story() -> None:
    story = "Ann is in the hall. The hat is in the box. Ann moved it to the boxroom. Ben put the box down. Ben likes it"
    lines = [
        asked(f"{story} Where was the hat at the beginning?", "box"),
        asked(f"{story} Where was the hat at the beginning?", "box"),
        asked(f"{story} Where is the hat really?", "cellar"),
        asked(f"{story} Where is Ann really?", "the hall"),
    ]
    assert whole(questions("\n".join(lines).encode())) == [
        {
            "context": story,
            "question": "Where was the hat at the beginning?",
            "answers": [{"text": "box", "start": 38}, {"text": "box", "start": story.index("box down")}],
        }
    ]


def test_a_question_is_answered_in_writing_by_the_word_that_its_span_holds() -> None:
    lines = [asked("The hat is in the box. Where is the hat really?", "box")]
    lines += [asked(f"The hat is in the {i}. Where is the hat really?", str(i)) for i in range(50)]
    written, spans = answers("\n".join(lines).encode()), questions("\n".join(lines).encode())
    for part, rows in spans.items():
        assert written[part] == [
            {
                "prompt": f"{row['context']}\n{row['question']}\nAnswer:\n",
                "completion": row["answers"][0]["text"],
            }
            for row in rows
        ]
    assert {"prompt": "The hat is in the box.\nWhere is the hat really?\nAnswer:\n", "completion": "box"} in whole(
        written
    )


def test_paragraphs_are_aligned_where_both_languages_have_as_many() -> None:
    assert whole(translation(ENGLISH.encode(), FRENCH.encode())) == [
        {"prompt": "It jumps over the dog.", "completion": "Il saute par-dessus le chien."},
        {"prompt": "quick brown animal", "completion": "animal brun et rapide"},
    ]  # not: two sentences, a list, another version (fox-doc), another count (hen)


def test_what_is_not_translated_is_no_translation() -> None:
    same = ENGLISH.replace("Description-en", "Description-fr")
    assert whole(translation(ENGLISH.encode(), same.encode())) == []


@pytest.mark.parametrize(("words", "kept"), [(2, 0), (3, 1), (20, 1), (21, 0)])
def test_a_translation_has_3_to_20_words(words: int, kept: int) -> None:
    english, french = (f"Package: a\nDescription-md5: 1\nDescription-{x}: {f'{x} ' * words}\n" for x in ("en", "fr"))
    assert len(whole(translation(english.encode(), french.encode()))) == kept


def test_a_first_paragraph_is_summed_up_by_the_shortest_of_its_synopses() -> None:
    for index in (ENGLISH, "\n\n".join(reversed(ENGLISH.strip().split("\n\n")))):
        assert whole(summaries(index.encode())) == [
            {"prompt": "The fox is a quick animal. It jumps.", "completion": "quick brown animal"}
        ]
