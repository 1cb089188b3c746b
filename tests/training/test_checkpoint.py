"""Checkpoints: exact, complete or absent, and never trusted without their checksums.

The tests that kill or crash fork a child, which inherits torch as already imported here.
"""

import errno
import itertools
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxtune.errors import CheckpointError
from proxtune.training import checkpoint
from proxtune.training.checkpoint import State, latest, load, prune, save, verify

torch.set_num_threads(1)

NO_ROOM = re.compile(r"cannot save /.*/step-00000\d \(1,04\d,\d{3} bytes\): .*No space left.*; .* are untouched")
FILES = ("tensors.safetensors", "state.json", "manifest.json")


def small_state(value: int) -> State:
    return {"weight": torch.full((64,), float(value)), "optimizer": {"count": value, "lr": 0.1}}


def read_value(folder: Path) -> int:
    """The `value` of the `small_state` in a checkpoint, after a check that all of it is there."""
    _, state = load(folder)
    value: int = state["optimizer"]["count"]
    assert same(state, small_state(value))
    return value


def same(left: Any, right: Any) -> bool:
    """Equal in type, order and every bit: NaN equals itself, 0.0 is not -0.0, 1 is not 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        described = [(x.dtype, x.shape, x.reshape(-1).view(torch.uint8).tolist()) for x in (left, right)]
        return described[0] == described[1]
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a child process and return its id; the child's exit code is 1 if `body` raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_operation(k: int, act: Callable[[], None]) -> None:
    """From now on, in this process: `act` before its k-th operation on files (k from 0). It cannot be undone: fork."""
    operations = itertools.count()

    def count() -> None:
        if next(operations) == k:
            act()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            count()
            return function(*args)

        return call

    events = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}
    sys.addaudithook(lambda event, _: count() if event in events else None)
    os.fsync = counted(os.fsync)  # these two raise no audit event
    checkpoint.save_file = counted(checkpoint.save_file)


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
        "special": torch.tensor([math.nan, -math.inf, -0.0, 1e-45]),
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


# CK-1, CK-2: killed while writing


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.nightly)])
def test_ck1_after_a_kill_at_any_moment_the_newest_listed_checkpoint_is_good(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    step = 0

    def save_without_end() -> None:
        for later in itertools.count(step + 1):
            save(tmp_path, later, small_state(-later))
            save(tmp_path, later, small_state(later))  # once more, as a resumed run does
            prune(tmp_path, keep=2)

    for _ in range(kills):
        pid = fork(save_without_end)
        deadline = time.monotonic() + 30
        while not (tmp_path / f"step-{step + 2:06d}").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL

        complaints: list[str] = []
        newest = latest(tmp_path, complaints.append)
        assert newest is not None
        assert complaints == []
        assert load(newest)[0] >= step + 2
        step = abs(read_value(newest))


def test_ck2_after_a_crash_at_any_operation_a_good_checkpoint_is_found(tmp_path: Path) -> None:
    template = tmp_path / "template"
    for step in (1, 2):
        save(template, step, small_state(step))
    shutil.copytree(template / "step-000002", template / "step-000002.old")

    def life(root: Path, k: int) -> None:
        at_operation(k, lambda: os._exit(137))
        save(root, 2, small_state(20))
        save(root, 3, small_state(3))
        prune(root, keep=2)

    for k in itertools.count():
        root = tmp_path / f"crash-{k}"
        shutil.copytree(template, root)
        code = exit_code(fork(lambda root=root, k=k: life(root, k)))  # type: ignore[misc]
        assert code in {0, 137}
        newest = latest(root)
        assert newest is not None, k
        assert read_value(newest) in {2, 20, 3}, k
        for listed in root.glob("step-*"):
            verify(listed)

        save(root, 3, small_state(3))  # the next life goes on, and sweeps up
        prune(root, keep=2)
        names = [path.name.removesuffix(".old") for path in root.iterdir()]
        assert sorted(names) == ["step-000002", "step-000003"], k
        if code == 0:
            break
    assert k > 40  # as many operations were tried


def test_ck2_a_crash_between_the_two_renames_of_a_replacement_leaves_the_old_one_listed(tmp_path: Path) -> None:
    save(tmp_path, 7, small_state(7)).rename(tmp_path / "step-000007.old")
    newest = latest(tmp_path)
    assert newest is not None
    assert load(newest)[0] == 7


def test_ck2_all_content_is_synced_before_the_rename_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        journal.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> Path:
        journal.append(f"rename to {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    save(tmp_path, 4, small_state(4))
    contents = [f"sync {name}" for name in (*FILES, ".partial-step-000004")]
    assert journal == [*contents, "rename to step-000004", f"sync {tmp_path.name}"]


# CK-3: no room


def test_ck3_a_disk_too_small_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, small_state(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 12_345))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"needs 5,\d{3},\d{3} bytes and 12,345 are free; make room") as caught:
        save(tmp_path, 2, {"weight": torch.zeros(2**20)})  # 4 MiB, and a MiB to spare
    assert str(tmp_path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_ck3_a_disk_that_fills_at_any_operation_spoils_nothing(tmp_path: Path) -> None:
    template = tmp_path / "template"
    save(template, 1, small_state(1))
    save(template, 2, small_state(2))

    def life(root: Path, k: int) -> None:
        filled = False

        def fill() -> None:
            nonlocal filled
            filled = True
            raise OSError(errno.ENOSPC, "No space left on device")

        at_operation(k, fill)
        try:
            save(root, 2, small_state(20))
            save(root, 3, small_state(3))
        except CheckpointError as error:
            os._exit(28 if NO_ROOM.search(str(error)) else 1)
        os._exit(29 if filled else 0)

    codes = []
    while 0 not in codes:
        k = len(codes)
        root = tmp_path / f"full-{k}"
        shutil.copytree(template, root)
        codes.append(exit_code(fork(lambda root=root, k=k: life(root, k))))  # type: ignore[misc]
        assert codes[-1] in {28, 29, 0}, k  # reported, did not matter, never came
        complaints: list[str] = []
        newest = latest(root, complaints.append)
        assert newest is not None, k
        assert complaints == [], k
        assert read_value(newest) in {2, 20, 3}, k
        assert not list(root.glob(".partial-*")), k
    assert codes.count(28) > 15


def test_ck3_a_write_cut_short_by_the_system_is_reported_and_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, 1, small_state(1))

    def life() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # the disk takes 5000 bytes of a file, and no more
        with pytest.raises(CheckpointError, match=r"cannot save .*/step-000002 \(1,448,\d{3} bytes\): .*large"):
            save(tmp_path, 2, {"weight": torch.zeros(100_000)})

    assert exit_code(fork(life)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


# CK-4: rot


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
