"""CK-2, CK-3, CK-6 on a whole run: it is restored from what a crash left, and no bad checkpoint is tried for ever."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from proxtune.errors import CheckpointError
from proxtune.runs import Run
from proxtune.training import checkpoint
from proxtune.training.loop import restore
from tests.forked import exit_code, fork
from tests.training.saved import small_state
from tests.training.test_checkpoint_crash import at_operation
from tests.training.test_loop import Sum, figures, loader, train

torch.set_num_threads(1)


# CK-2


@pytest.mark.slow
def test_ck2_a_run_that_crashes_at_any_operation_on_files_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """In the lock, the restore, the lines of the log, a save, and the removal of an old checkpoint."""
    train(tmp_path / "template", Sum(), steps=2, save_every=1)
    whole = train(tmp_path / "whole", Sum(), steps=3, save_every=1)

    def life(path: Path, k: int) -> None:
        at_operation(k, lambda: os._exit(137))
        train(path, Sum(), steps=3, save_every=1)

    codes = []
    while 0 not in codes:
        k = len(codes)
        path = tmp_path / f"crash-{k}"
        shutil.copytree(tmp_path / "template", path)
        codes.append(exit_code(fork(lambda path=path, k=k: life(path, k))))  # type: ignore[misc]
        resumed = train(path, Sum(), steps=3, save_every=1)
        assert torch.equal(resumed.total, whole.total), k
        assert figures(path) == figures(tmp_path / "whole"), k
        shutil.rmtree(path)
    assert codes[-1] == 0
    assert set(codes[:-1]) == {137}
    assert len(codes) > 60


# CK-3


def test_ck3_a_small_disk_that_fills_stops_the_run_with_a_sentence_and_loses_no_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system; the operations one by one: test_checkpoint_crash.py")
    try:
        root = disk / "checkpoints"
        checkpoint.save(root, 1, small_state(1))
        checkpoint.save(root, 2, {"weight": torch.zeros(200_000)})
        (disk / "other").write_bytes(b"x" * 2**20)
        with pytest.raises(CheckpointError, match=r"needs 1,\d{3},\d{3} bytes and 1,2\d\d,\d{3} are free; make room"):
            checkpoint.save(root, 3, {"weight": torch.zeros(200_000)})
        shutil.disk_usage, asked = (lambda _: shutil._ntuple_diskusage(0, 0, 10**9)), shutil.disk_usage  # type: ignore[attr-defined]
        try:  # the room went after it was asked for
            with pytest.raises(CheckpointError, match=r"cannot save .*step-000003 \(2,\d{3},\d{3} bytes\): .*No space"):
                checkpoint.save(root, 3, {"weight": torch.zeros(400_000)})
        finally:
            shutil.disk_usage = asked
        assert sorted(path.name for path in root.iterdir()) == ["step-000001", "step-000002"]
        newest = checkpoint.latest(root)
        assert newest is not None
        assert checkpoint.load(newest)[0] == 2
    finally:
        subprocess.run(["umount", disk], check=True)


# CK-6


class Breaking(Sum):
    """Its state cannot be loaded where it holds a given step: as by a bug, or for want of memory."""

    def __init__(self, breaks_at: int, how: Callable[[], None]) -> None:
        super().__init__()
        self.breaks_at, self.how = breaks_at, how

    def load_state(self, state: Any) -> None:
        if state["steps"] == self.breaks_at:
            self.how()
        super().load_state(state)


def no_memory() -> None:
    raise MemoryError("12 GB")


def dies() -> None:
    os._exit(139)


@pytest.mark.parametrize("how", [no_memory, dies])
def test_ck6_a_checkpoint_that_breaks_two_restores_is_set_aside_and_the_one_before_it_used(
    how: Callable[[], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(tmp_path / "whole", Sum())
    path = tmp_path / "run"
    train(path, Sum(), steps=8)  # leaves checkpoints at 6 and 8
    for _ in range(2):
        assert exit_code(fork(lambda: train(path, Breaking(8, how)) and None)) != 0
    assert caplog.text == ""
    assert torch.equal(train(path, Breaking(8, how)).total, whole.total)
    assert figures(path) == figures(tmp_path / "whole")
    assert "step-000008 could not be restored in 2 tries: the one before it is used" in caplog.text
    kept = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    assert kept == [".failed-step-000008", "step-000009", "step-000010"]


def test_ck6_the_last_one_left_is_never_set_aside(tmp_path: Path) -> None:
    """Else a run of days would begin anew for an error that can be mended."""
    train(tmp_path, Sum(), steps=3)
    for _ in range(4):
        with pytest.raises(MemoryError):
            train(tmp_path, Breaking(3, no_memory), steps=6)
    assert train(tmp_path, Sum(), steps=6).steps == 6


def test_ck6_a_restore_that_ends_well_forgets_the_failures(tmp_path: Path) -> None:
    train(tmp_path, Sum(), steps=8)
    for algorithm in (Breaking(8, no_memory), Sum(), Breaking(8, no_memory)):
        try:
            train(tmp_path, algorithm, steps=8)
        except MemoryError:
            assert isinstance(algorithm, Breaking)
    assert (tmp_path / "checkpoints" / ".tries-step-000008").stat().st_size == 1
    with Run.create(tmp_path, resume=True) as run:
        assert restore(Sum(), loader(), run) == (8, None)


def test_ck6_another_config_is_said_each_time_and_never_worked_around(tmp_path: Path) -> None:
    def refuses() -> None:
        raise CheckpointError("the checkpoint holds other weights than this run trains")

    train(tmp_path, Sum(), steps=8)
    for _ in range(4):
        with pytest.raises(CheckpointError, match="other weights"):
            train(tmp_path, Breaking(8, refuses))
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir()) == ["step-000006", "step-000008"]
