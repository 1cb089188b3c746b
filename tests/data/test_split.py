"""Parts of a data set: what stays together, and how labels are spread."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data.split import assign
from proxtune.errors import DataError

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def single(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_each_part_gets_its_share_of_every_label() -> None:
    labels = ["good"] * 60 + ["bad"] * 30 + ["odd"] * 10
    parts = assign(single(100), labels, SHARES, seed=1)
    assert Counter(zip(parts, labels, strict=True)) == {
        ("train", "good"): 48,
        ("train", "bad"): 24,
        ("train", "odd"): 8,
        ("dev", "good"): 6,
        ("dev", "bad"): 3,
        ("dev", "odd"): 1,
        ("test", "good"): 6,
        ("test", "bad"): 3,
        ("test", "odd"): 1,
    }


@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=30, max_size=120),
    seed=st.integers(0, 5),
)
def test_a_group_is_never_parted(rows: list[tuple[int, str]], seed: int) -> None:
    groups = [str(group) for group, _ in rows]
    try:
        parts = assign(groups, [label for _, label in rows], {"train": 0.5, "test": 0.5}, seed=seed)
    except DataError:
        assert len(set(groups)) < 4  # of so few groups one side may stay empty
        return
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=40, max_size=200),
    seed=st.integers(0, 5),
)
def test_single_rows_are_within_one_of_their_share(labels: list[str], seed: int) -> None:
    parts = assign(single(len(labels)), labels, SHARES, seed=seed)
    for label, count in Counter(labels).items():
        got = Counter(part for part, mine in zip(parts, labels, strict=True) if mine == label)
        for part, share in SHARES.items():
            assert abs(got[part] - share * count) <= 1


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    labels = ["a", "b"] * 50
    one, again, other = (assign(single(100), labels, SHARES, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    backwards = assign(single(100)[::-1], labels[::-1], SHARES, seed=1)
    assert backwards[::-1] == one


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"the part 'dev' would have no row: 2 groups"):
        assign(["a", "a", "b"], [""] * 3, SHARES, seed=1)
