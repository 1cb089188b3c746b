"""Tags of tokens: the entities they mark, and where they break their own rules."""

import pytest

from proxtune.data.tags import Entity, entities, orphans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER B-PER I-LOC", [("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4)]),  # IOB1
        ("B-A E-A S-A U-B B-A L-A", [("A", 0, 2), ("A", 2, 3), ("B", 3, 4), ("A", 4, 6)]),  # IOBES, BILOU
        ("O I-A O", [("A", 1, 2)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("E-A I-A", [("A", 0, 1), ("A", 1, 2)]),
        ("B-x-y I-x-y", [("x-y", 0, 2)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_are_those_of_the_scorer_of_conll(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == [Entity(*entity) for entity in expected]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O I-PER", [3]),
        ("B-PER I-LOC I-LOC", [1]),
        ("S-A I-A", [1]),
        ("B-A E-A E-A", [2]),
        ("B-A I-A E-A O", []),
    ],
)
def test_a_tag_that_goes_on_with_nothing_is_found(tags: str, expected: list[int]) -> None:
    assert orphans(tags.split()) == expected
