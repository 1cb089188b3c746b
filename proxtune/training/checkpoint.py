"""Checkpoints that survive a kill at any instant, and are trusted only after their checksums agree.

checkpoints/
├── step-000120/
│   ├── tensors.safetensors
│   ├── state.json             the rest; {"$tensor": name} stands where a tensor stood
│   └── manifest.json          size and sha256 of those two
├── step-000120.old/           the same step as saved before, for the moment in which it is replaced
├── .partial-step-000130/      being written, or left by a killed writer
├── .trash-step-000110/        being removed
├── .tries-step-000120         restores of that step that began and did not end well
└── .failed-step-000120/       set aside, because the second of them did not either

A checkpoint is written under another name, synced to the disk, and only then renamed: what is listed is complete.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from proxtune.errors import CheckpointError

TENSORS = "tensors.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
LISTED = re.compile(r"step-([0-9]{6,})(\.old)?")
TENSOR_KEY = "$tensor"
SPARE_BYTES = 2**20  # for the manifest, folders and file headers
TRIES = 2  # restores that may fail before a checkpoint is set aside

logger = logging.getLogger(__name__)

# A nested dict with string keys; its leaves are tensors, None, bool, int, float, str, and lists of these.
State = dict[str, Any]


def save(root: Path, step: int, state: State) -> Path:
    """Write `state` to `root`/step-<step> and return that folder, which is then on the disk for good.

    Floats (NaN and infinities too), integers, dtypes and shapes come back exactly; tensors come back on the CPU, and
    tensors that shared memory come back apart. A checkpoint of the same step is replaced.
    Raises CheckpointError if `state` holds anything else or a tensor that is not finite, or the disk is full or fails;
    what was saved before stays.
    """
    assert step >= 0, step
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"step": step, "state": _split(state, "state", tensors)})
    needed = sum(tensor.nbytes for tensor in tensors.values()) + len(text) + SPARE_BYTES
    final = folder_of(root, step)
    partial = root / f".partial-{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        _require_space(root, needed)
        _write(partial, tensors, text)
        _commit(partial, final)
    except (OSError, SafetensorError) as error:
        _remove(partial)
        message = f"cannot save {final} ({needed:,} bytes): {error}; the checkpoints saved before are untouched"
        raise CheckpointError(message) from error
    return final


def load(folder: Path) -> tuple[int, State]:
    """The step and state of one checkpoint. Raises CheckpointError unless its checksums agree. Runs no stored code."""
    verify(folder)
    try:
        tensors = load_file(folder / TENSORS)
        document = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return int(document["step"]), {key: _join(value, tensors) for key, value in document["state"].items()}
    except (
        OSError,
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise CheckpointError(f"{folder} was not written by proxtune: {error!r}") from error


def verify(folder: Path) -> None:
    """Raise CheckpointError unless every file of a checkpoint is there and has the content that was written."""
    try:
        missing = [name for name in (TENSORS, STATE, MANIFEST) if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} is incomplete: it has no {', '.join(missing)}; use another checkpoint")
        written = (folder / MANIFEST).read_text(encoding="utf-8", errors="replace")
        found = _checksums(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}; use another checkpoint") from error
    if written != _manifest(found):
        damaged = [name for name, file in found.items() if file["sha256"] not in written] or [MANIFEST]
        raise CheckpointError(f"{folder} is damaged: {', '.join(damaged)} is not as written; use another checkpoint")


def latest(root: Path, report: Callable[[str], None] = logger.warning) -> Path | None:
    """The newest checkpoint that verifies, None if there is none; every newer one that does not goes to `report`."""
    for _, folder in _listed(root):
        try:
            verify(folder)
        except CheckpointError as error:
            report(str(error))
        else:
            return folder
    return None


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Around all that a restore of `folder` does: remembers, over kills and crashes, when it does not end well.

    A CheckpointError is an answer (another config, other data), not a crash: it goes up and is not counted.
    """
    tries = _tries(folder)
    tries.write_bytes(b"x" * (_count(tries) + 1))
    try:
        yield
    except CheckpointError:
        tries.unlink()
        raise
    tries.unlink()


def set_aside(root: Path, report: Callable[[str], None] = logger.warning) -> None:
    """Take what failed to be restored `TRIES` times off the list, where an older one is there to go on from."""
    folders = [folder for _, folder in _listed(root)]
    for number, folder in enumerate(folders):
        if _count(_tries(folder)) < TRIES or not any(_is_valid(older) for older in folders[number + 1 :]):
            continue
        aside = folder.with_name(f".failed-{folder.name}")
        _remove(aside)
        folder.rename(aside)
        _tries(folder).unlink()
        report(f"{folder} could not be restored in {TRIES} tries: the one before it is used, and it is kept as {aside}")


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return root / f"step-{step:06d}"


def prune(root: Path, keep: int, *, also: int | None = None) -> None:
    """Remove what is older than the newest `keep` (at least 2) steps that verify, and what killed writers left.

    The step `also` stays. A damaged checkpoint counts for nothing: it goes only when `keep` good ones are newer.
    """
    if keep < 2:
        raise CheckpointError(f"keep={keep}: at least 2 checkpoints must be kept, for the newest may turn out damaged")
    kept: set[int] = set()
    try:
        for step, folder in _listed(root):
            if step in kept or (step != also and len(kept - {also}) == keep):
                _discard(folder)
            elif _is_valid(folder):
                kept.add(step)
        for leftover in [*root.glob(".partial-step-*"), *root.glob(".trash-step-*")]:
            _remove(leftover)
        for tries in root.glob(".tries-step-*"):
            tries.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot remove old checkpoints in {root}: {error}") from error


def _split(value: object, key: str, tensors: dict[str, Tensor]) -> object:
    """`value` as JSON, its tensors moved into `tensors` and replaced by their names there."""
    if isinstance(value, Tensor):
        if not _is_finite(value):
            raise CheckpointError(
                f"{key} holds a number that is not finite: the training has diverged, and is not saved"
            )
        name = f"{len(tensors)}:{key}"  # the number keeps names apart: {"a.b": x} and {"a": {"b": x}} have one key
        tensors[name] = value.detach().cpu().contiguous()
        return {TENSOR_KEY: name}
    if isinstance(value, dict):
        for child in value:
            if not isinstance(child, str) or child == TENSOR_KEY:
                raise CheckpointError(
                    f"{key} has the key {child!r}: a checkpoint needs strings other than {TENSOR_KEY!r}"
                )
        return {child: _split(inner, f"{key}.{child}", tensors) for child, inner in value.items()}
    if isinstance(value, list):
        return [_split(inner, f"{key}[{index}]", tensors) for index, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    hint = "make it a list" if isinstance(value, tuple) else "use tensors, numbers, strings, None, lists and dicts"
    raise CheckpointError(f"{key} is a {type(value).__name__}, which would not come back as it was: {hint}")


def _is_finite(tensor: Tensor) -> bool:
    """Ten times as fast as `isfinite().all()`: the extremes of a tensor with a NaN are NaN."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor.detach()))


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR_KEY}:
            return tensors[value[TENSOR_KEY]]
        return {key: _join(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_join(inner, tensors) for inner in value]
    return value


def _write(folder: Path, tensors: dict[str, Tensor], text: str) -> None:
    """Write a whole checkpoint and sync it; the manifest comes last."""
    folder.mkdir()
    save_file(_apart(tensors), folder / TENSORS)
    (folder / STATE).write_text(text, encoding="utf-8")
    with ThreadPoolExecutor(1) as pool:  # the disk writes while the processor hashes
        synced = pool.submit(_sync, folder / TENSORS)
        manifest = _manifest(_checksums(folder))
        synced.result()
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    for path in (folder / STATE, folder / MANIFEST, folder):
        _sync(path)


def _commit(partial: Path, final: Path) -> None:
    """Give a synced folder its final name. At every instant either it or its predecessor is listed."""
    old = final.with_name(f"{final.name}.old")
    if final.exists():
        _discard(old)
        final.rename(old)
    partial.rename(final)
    _sync(final.parent)
    _discard(old)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where two share memory (tied weights, slices of a buffer): safetensors refuses those."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    checksums = {}
    for name in (TENSORS, STATE):
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            checksums[name] = {"bytes": file.tell(), "sha256": digest}
    return checksums


def _manifest(checksums: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"files": checksums}, indent=2) + "\n"


def _is_valid(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _listed(root: Path) -> list[tuple[int, Path]]:
    """Steps and folders that may be checkpoints, newest first; a replaced one stands after its successor."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    matches = [match for match in map(LISTED.fullmatch, names) if match]
    matches.sort(key=lambda match: (int(match[1]), match[2] is None), reverse=True)
    return [(int(match[1]), root / match[0]) for match in matches]


def _tries(folder: Path) -> Path:
    return folder.with_name(f".tries-{folder.name}")


def _count(tries: Path) -> int:
    """One byte a try: what a kill leaves of it is a smaller number, never nonsense."""
    return tries.stat().st_size if tries.exists() else 0


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        message = f"cannot save a checkpoint in {root}: it needs {needed:,} bytes and {free:,} are free; make room"
        raise CheckpointError(message)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    """Remove a listed folder, if there: first from the list, then from the disk."""
    trash = folder.with_name(f".trash-{folder.name}")
    _remove(trash)
    if folder.exists():
        folder.rename(trash)
    _remove(trash)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what resists stays hidden, and the next `prune` tries again
