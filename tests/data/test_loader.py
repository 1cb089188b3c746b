import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.data.loader import Loader
from proxtune.errors import CheckpointError, ConfigError, DataError


def given_rows(loader: Loader[int], batches: int) -> list[int]:
    return [row for _ in range(batches) for row in next(loader)]


def test_dl2_every_row_comes_exactly_once_an_epoch() -> None:
    rows = given_rows(Loader(range(7), 3, seed=1), 14)  # 42 rows: six epochs
    for epoch in range(6):
        assert sorted(rows[7 * epoch : 7 * epoch + 7]) == list(range(7))


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    rows = given_rows(Loader(range(50), 50, seed=1), 2)
    assert rows[:50] != rows[50:] != list(range(50))
    assert given_rows(Loader(range(50), 50, seed=2), 1) != rows[:50]
    assert given_rows(Loader(range(50), 50, seed=1), 2) == rows


def test_without_shuffling_the_order_is_the_files() -> None:
    assert given_rows(Loader(range(3), 2, seed=1, shuffle=False), 3) == [0, 1, 2, 0, 1, 2]


def test_fewer_rows_than_a_batch_fill_it_over_and_over() -> None:
    loader = Loader(range(3), 8, seed=1)
    assert loader.batches_per_epoch == 1
    batch = next(loader)
    assert len(batch) == 8
    assert Counter(batch[:6]) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(("rows", "size", "batches"), [(7, 3, 3), (6, 3, 2), (1, 1, 1), (1, 4, 1)])
def test_batches_per_epoch_is_rounded_up(rows: int, size: int, batches: int) -> None:
    assert Loader(range(rows), size, seed=0).batches_per_epoch == batches


@pytest.mark.parametrize("size", [1, 3, 4, 11, 12, 25])
def test_dl2_resuming_after_every_batch_changes_nothing(size: int) -> None:
    straight = given_rows(Loader(range(11), size, seed=3), 20)
    state = Loader(range(11), size, seed=3).state()
    resumed: list[int] = []
    for _ in range(20):
        loader = Loader(range(11), size, seed=3)
        loader.load_state(json.loads(json.dumps(state)))
        resumed += next(loader)
        state = loader.state()
    assert resumed == straight


def test_a_position_is_never_at_an_epochs_end() -> None:
    loader = Loader(range(4), 2, seed=0)
    assert loader.state() == {"epoch": 0, "position": 0}
    given_rows(loader, 2)
    assert loader.state() == {"epoch": 1, "position": 0}


@pytest.mark.parametrize(
    "state", [{"epoch": 0, "position": 4}, {"epoch": 0, "position": -1}, {"epoch": -1, "position": 0}]
)
def test_dl3_a_position_that_the_data_does_not_have_is_refused(state: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="the data has 4 rows: resume with the data the run began with"):
        Loader(range(4), 2, seed=0).load_state(state)


def test_no_rows_and_no_batch_are_errors() -> None:
    with pytest.raises(DataError, match="no row"):
        Loader([], 2, seed=0)
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        Loader([1], 0, seed=0)


@given(
    rows=st.integers(1, 30),
    size=st.integers(1, 9),
    resumes=st.sets(st.integers(0, 40), min_size=3),
    stopped=st.booleans(),
)
def test_dl2_over_many_resumes_every_row_comes_exactly_once_an_epoch(
    rows: int, size: int, resumes: set[int], stopped: bool
) -> None:
    """A batch that was drawn and then given up, as by a signal, is drawn again."""
    loader = Loader(range(rows), size, seed=5)
    seen: list[int] = []
    for batch in range(40):
        if batch in resumes:
            state = loader.state()
            if stopped:
                next(loader)
            loader = Loader(range(rows), size, seed=5)
            loader.load_state(state)
        seen += next(loader)
    epochs = [seen[start : start + rows] for start in range(0, len(seen) - rows + 1, rows)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    assert seen == given_rows(Loader(range(rows), size, seed=5), 40)
