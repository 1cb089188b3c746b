"""Checkpoints: exact, refused when anything in them changed, and removed only when newer good ones are there."""

import math
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxtune.errors import CheckpointError
from proxtune.training import checkpoint
from proxtune.training.checkpoint import State, latest, load, prune, save, verify
from tests.forked import exit_code, fork
from tests.training.saved import read_value, same, small_state

torch.set_num_threads(1)

FILES = ("tensors.safetensors", "state.json", "manifest.json")


# Exact


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    weight = torch.randn(3, 5)
    state: State = {
        "floats": [0.1, 1e-320, -0.0, math.nan, math.inf, -math.inf, 1.7976931348623157e308, 1.0],
        "ints": [1, 0, -(2**63), 10**40],
        "others": [None, True, False, "", "你好\n\udcff", {}, []],
        "nested": {"a": {"b": [{"c": weight[0]}]}, "a.b": torch.ones(2), "你": {"": torch.zeros(1)}},
        "weight": weight,
        "tied": weight,
        "transposed": weight.t(),
        "overlapping": [weight[:2], weight[1:]],
        "parameter": torch.nn.Parameter(weight).detach(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": [torch.empty(0), torch.empty(0, 4, dtype=torch.int64)],
        "special": torch.tensor([-0.0, 1e-45, 3e38]),
        "rng": torch.get_rng_state(),
        "dtypes": [torch.tensor([[1, 0, 1]]).to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.int64)]
        + [torch.tensor([True, False]), torch.tensor([7], dtype=torch.uint8)],
    }
    step, loaded = load(save(tmp_path, 120, state))
    assert step == 120
    assert same(loaded, state)


keys = st.text().filter(lambda key: key != "$tensor")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.dictionaries(keys, values, max_size=4))
def test_any_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: State) -> None:
    assert same(load(save(tmp_path_factory.getbasetemp() / "json", 1, state))[1], state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"optimizer": {"betas": (0.9, 0.99)}}, r"state\.optimizer\.betas is a tuple, .* make it a list"),
        ({"a": [1, {2}]}, r"state\.a\[1\] is a set, .* use tensors, numbers"),
        ({"a": {0: 1}}, r"state\.a has the key 0: a checkpoint needs strings"),
        ({"a": {"$tensor": "x"}}, r"state\.a has the key '\$tensor'"),
        ({"a": object}, r"state\.a is a type"),
        ({"a": [torch.tensor([1.0, math.nan])]}, r"state\.a\[0\] holds a number that is not finite: .* not saved"),
        ({"a": torch.tensor([-math.inf]).bfloat16()}, r"state\.a holds a number that is not finite"),
    ],
)
def test_what_would_not_come_back_is_refused_before_anything_is_written(
    tmp_path: Path, state: State, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "checkpoints", 1, state)
    assert not (tmp_path / "checkpoints").exists()


def test_writing_in_a_loaded_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, small_state(1))
    load(folder)[1]["weight"].fill_(9.0)
    assert read_value(folder) == 1


def test_a_folder_is_named_by_its_step_and_may_be_moved(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoints", 120, small_state(5))
    assert folder == tmp_path / "checkpoints" / "step-000120"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert load(folder.rename(tmp_path / "best"))[0] == 120


def test_latest_goes_by_number_not_by_spelling(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step, small_state(step))
    newest = latest(tmp_path)
    assert newest is not None
    assert newest.name == "step-1000000"


def test_latest_of_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "step-x").mkdir()
    assert latest(tmp_path / "missing") is None
    assert latest(tmp_path) is None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3, small_state(1))
    folder = save(tmp_path, 3, small_state(2))
    assert read_value(folder) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


# CK-4: rot


@pytest.mark.slow
def test_ck4_one_changed_byte_anywhere_is_found_and_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, small_state(1))
    rng = random.Random(0)
    for name in FILES:
        content = (folder / name).read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= rng.randrange(1, 256)
            (folder / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match="step-000001 is damaged"):
                verify(folder)
        (folder / name).write_bytes(content)
    verify(folder)


@pytest.mark.slow
def test_ck4_two_hundred_random_flips_are_each_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1, small_state(1))
    folder = save(tmp_path, 2, small_state(2))
    rng = random.Random(4)
    for _ in range(200):
        path = folder / rng.choice(FILES)
        content = path.read_bytes()
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        complaints: list[str] = []
        assert latest(tmp_path, complaints.append) == tmp_path / "step-000001"
        assert len(complaints) == 1
        path.write_bytes(content)
    assert latest(tmp_path) == folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "empty", "short", "longer", "missing", "folder"])
def test_ck4_a_damaged_newest_is_named_and_the_one_before_it_is_used(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1, small_state(1))
    path = save(tmp_path, 2, small_state(2)) / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        changed = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes({"changed": changed, "empty": b"", "short": content[:-1], "longer": content + b" "}[damage])

    with pytest.raises(CheckpointError, match=name if damage != "empty" or name != FILES[2] else "damaged"):
        load(path.parent)
    complaints: list[str] = []
    newest = latest(tmp_path, complaints.append)
    assert newest is not None
    assert read_value(newest) == 1
    assert len(complaints) == 1
    assert "step-000002" in complaints[0]


def test_ck4_without_a_reporter_the_damage_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (save(tmp_path, 1, small_state(1)) / "state.json").unlink()
    assert latest(tmp_path) is None
    assert "step-000001 is incomplete: it has no state.json" in caplog.text


def test_ck4_right_checksums_over_foreign_content_are_an_error_of_ours(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, small_state(1))
    for text in (
        "[]",
        "{}",
        '{"step": 1, "state": {"a": {"$tensor": "gone"}}}',
        '{"step": 1, "state": 5}',
        "[" * 10**5,
    ):
        (folder / "state.json").write_text(text)
        (folder / "manifest.json").write_text(checkpoint._manifest(checkpoint._checksums(folder)))
        with pytest.raises(CheckpointError, match="step-000001 was not written by proxtune"):
            load(folder)


# CK-5: which ones go


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("good"), 1, small_state(1))


def place(folder: Path, good: Path, kind: str) -> None:
    """Put a checkpoint of one kind at `folder`."""
    if kind == "empty":
        folder.mkdir()
        return
    shutil.copytree(good, folder)
    if kind == "no manifest":
        (folder / "manifest.json").unlink()
    if kind == "rotten":
        (folder / "tensors.safetensors").write_bytes(b"rot")


@settings(max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(["good", "good", "rotten", "no manifest", "empty"]), max_size=6),
    leftovers=st.sets(st.sampled_from([".partial-step-000009", ".trash-step-000001", ".trash-step-000002.old"])),
    keep=st.integers(2, 3),
)
def test_ck5_the_newest_good_ones_stay_and_only_what_is_older_goes(
    tmp_path_factory: pytest.TempPathFactory, good: Path, kinds: list[str], leftovers: set[str], keep: int
) -> None:
    root = tmp_path_factory.mktemp("mix")
    for step, kind in enumerate(kinds):
        place(root / f"step-{step:06d}", good, kind)
    for name in leftovers:
        place(root / name, good, "no manifest")
    good_steps = [step for step, kind in enumerate(kinds) if kind == "good"]
    oldest_kept = good_steps[-keep] if len(good_steps) >= keep else 0

    prune(root, keep)

    assert {path.name for path in root.iterdir()} == {f"step-{step:06d}" for step in range(oldest_kept, len(kinds))}
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("final", "old", "stays"),
    [("good", "good", {"step-000009"}), ("rotten", "good", {"step-000009", "step-000009.old"})],
)
def test_ck5_a_replaced_one_goes_once_its_successor_is_good(
    tmp_path: Path, good: Path, final: str, old: str, stays: set[str]
) -> None:
    place(tmp_path / "step-000008", good, "good")
    place(tmp_path / "step-000009", good, final)
    place(tmp_path / "step-000009.old", good, old)
    prune(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == stays | {"step-000008"}


def test_ck5_keeping_fewer_than_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="keep=1: at least 2"):
        prune(tmp_path, keep=1)


# CK-7: no code


def test_ck7_neither_saving_nor_loading_touches_pickle_or_starts_anything(tmp_path: Path) -> None:
    forbidden = (
        "pickle.find_class",
        "marshal.loads",
        "exec",
        "compile",
        "os.system",
        "subprocess.Popen",
        "socket.connect",
    )

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event in forbidden:
            os._exit(66)

    def life() -> None:
        sys.addaudithook(watch)
        load(save(tmp_path, 1, small_state(1)))

    assert exit_code(fork(life)) == 0
