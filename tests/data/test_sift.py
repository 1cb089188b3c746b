import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data.formats import MalformedRowError
from proxtune.data.records import Completion, Preference, Text
from proxtune.data.sift import Digests, Known, Sieve, digest_of


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=50), st.binary(min_size=16, max_size=16))
def test_digests_are_a_set(given: list[bytes], other: bytes) -> None:
    digests, expected = Digests(), set[bytes]()
    for digest in [*given, *given]:
        assert digests.add(digest) == (digest not in expected)
        expected.add(digest)
    assert len(digests) == len(expected)
    assert all(digest in digests for digest in given)
    assert (other in digests) == (other in expected)


def test_dl7_a_digest_takes_a_fifth_of_its_place_in_a_set() -> None:
    digests = Digests()
    for i in range(200_000):
        digests.add(digest_of(str(i)))
    # a bytearray a bucket, and room to grow
    stored = sum(sys.getsizeof(bucket) for bucket in digests.buckets.values())
    assert stored / len(digests) < 16 * 1.3 + 65536 * 57 / len(digests)


def test_a_sieve_says_what_becomes_of_each_row() -> None:
    sieve = Sieve(Path("a.jsonl"))
    rows = [{"text": "t"}, MalformedRowError("not JSON"), {"text": " "}, {"text": "t"}, {"prompt": "p"}]
    sifted = [sieve.sift(line, row) for line, row in enumerate(rows, start=1)]
    assert [row.fate for row in sifted] == ["kept", "rejected", "filtered", "duplicate", "rejected"]
    assert [row.where for row in sifted] == [f"a.jsonl:{line}" for line in range(1, 6)]
    assert sifted[0].record == Text("t", "a.jsonl:1")
    assert all(row.record is None for row in sifted[1:])
    assert [row.reason for row in sifted[1:4]] == ["not JSON", "empty text", "equal to an earlier row in every key"]


@pytest.mark.parametrize(
    ("record", "held"),
    [
        (Completion("p", "a", "elsewhere", {"id": 1}), True),
        (Completion("p", "other"), True),  # its prompt is known
        (Completion("r", "a"), False),
        (Preference("q", "good", "bad"), True),
    ],
)
def test_dl6_a_record_is_known_whole_or_by_its_prompt(record: Completion | Preference, held: bool) -> None:
    known = Known()
    assert known.add(Completion("p", "a"))
    assert known.add(Completion("q", "a"))
    assert not known.add(Completion("q", "b"))
    assert known.holds(record) == held


def test_dl6_one_prompt_for_all_is_an_instruction() -> None:
    known = Known()
    known.add(Completion("Review:", "good"))
    known.add(Completion("Review:", "bad"))
    assert known.holds(Completion("Review:", "bad"))
    assert not known.holds(Completion("Review:", "fine"))
