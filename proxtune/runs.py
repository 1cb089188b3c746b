"""The run folder: everything a run leaves behind, and the seeds it draws from.

runs/<name>/
├── config.yaml      the resolved config
├── manifest.json    environment, data, model hashes
├── metrics.jsonl    one line a step: {"step": 3, "kl": 0.02, ...}
├── samples.jsonl    what the model wrote, and when
├── checkpoints/     step-000120/ and so on
├── rollouts/        what PPO trained on, where it is kept
├── model/           the trained model
└── report.html
"""

import difflib
import fcntl
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proxtune import __version__
from proxtune.errors import CheckpointError, ConfigError, DataError

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
LOCK = ".lock"
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pydantic")

Row = dict[str, Any]


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A seed in [0, 2**63) from the run's seed, what it is for, and where (step, row, ...): equal on every machine.

    >>> derive_seed(7, "sample", 120, 3) != derive_seed(7, "sample", 120, 4)
    True
    """
    key = repr((int(seed), purpose, *map(int, indices)))  # int(): a numpy integer has another repr
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Run:
    """One run's folder. `create` makes it or goes on with it, and holds its lock; `open` only reads."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        self.config_path = path / CONFIG
        self.manifest_path = path / MANIFEST
        self.metrics_path = path / "metrics.jsonl"
        self.samples_path = path / "samples.jsonl"
        self.checkpoints = path / "checkpoints"
        self.rollouts = path / "rollouts"
        self.model = path / "model"
        self.report = path / "report.html"
        self._lock = lock

    @classmethod
    def create(cls, path: Path | str, *, resume: bool) -> Self:
        """Begin a run, or with `resume` go on with the one that is there (if none is, begin it).

        The folder stays locked against other processes until `close`, or until this process ends, however it ends.
        Raises ConfigError if the folder is taken, or another process is at work in it.
        """
        path = Path(path)
        _refuse_taken(path, resume=resume)
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            _refuse_taken(path, resume=resume)  # again: another process may have come and gone before we held the lock
            run = cls(path, lock)
            run.rewind(sys.maxsize)
        except BaseException:
            os.close(lock)
            raise
        return run

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """An existing run, to read. Raises ConfigError, naming near ones, if there is none at `path`."""
        path = Path(path)
        if not _is_run(path):
            siblings = path.parent.iterdir() if path.parent.is_dir() else ()
            runs = [sibling.name for sibling in siblings if _is_run(sibling)]
            near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, runs)]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"{path} is not a run folder (it has no {CONFIG}){hint}")
        return cls(path)

    def write_config(self, text: str) -> None:
        """Write the resolved config, whole or not at all."""
        self._assert_writable()
        write_atomic(self.config_path, text)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, whole or not at all."""
        self._assert_writable()
        write_atomic(self.manifest_path, json.dumps(manifest, indent=2) + "\n")

    def manifest(self) -> dict[str, Any]:
        """The manifest as last written; empty if the run ended before it wrote one."""
        if not self.manifest_path.exists():
            return {}
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.manifest_path} is not JSON: {error}") from error
        if not isinstance(manifest, dict):
            raise DataError(f"{self.manifest_path}: expected a JSON object, got {type(manifest).__name__}")
        return manifest

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics; it survives a kill of this process."""
        self._assert_writable()
        _append(self.metrics_path, step, [metrics])

    def log_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line for each sample."""
        self._assert_writable()
        _append(self.samples_path, step, rows)

    def metrics(self) -> list[Row]:
        """All lines of metrics, oldest first, each with its `step`. A last line torn by a kill is left out."""
        return _read_lines(self.metrics_path)

    def samples(self) -> list[Row]:
        """All samples, oldest first, each with its `step`. A last line torn by a kill is left out."""
        return _read_lines(self.samples_path)

    def rewind(self, step: int) -> None:
        """Drop metrics and samples of later steps than `step`, and a torn last line: the run goes on from `step`."""
        self._assert_writable()
        for path in (self.metrics_path, self.samples_path):
            if path.exists():
                kept = [row for row in _read_lines(path) if row["step"] <= step]
                write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Release the lock; after this the run can only be read."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assert_writable(self) -> None:
        assert self._lock is not None, f"{self.path} was opened to read, or is closed"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content so that a kill or a power cut leaves the old content or the new, never a mixture.

    Raises CheckpointError where the disk is full or fails; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritten(path, content, error) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, whole; the folder is made. Raises DataError: it cannot be written."""
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except (OSError, CheckpointError) as error:
        raise DataError(f"{path}: cannot be written: {error.__cause__ or error}") from error


def is_running(path: Path) -> bool:
    """Whether another process holds the lock of a run. (A process that holds it itself would lose it by asking.)"""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def cache_folder() -> Path:
    """Where what is made once from installed packages and GGUF files is kept; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxtune"


def environment() -> dict[str, str | int]:
    """What a result depends on besides config and data: machine, versions, commit. Loads none of the packages."""
    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "threads": _threads(),
        "proxtune": __version__,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit()
    return found | {"commit": commit} if commit else found


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / MANIFEST).is_file()


def _refuse_taken(path: Path, *, resume: bool) -> None:
    """Raise ConfigError if `path` holds a run that we are not to resume, or anything but a run."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; a run needs a folder of its own: choose another name")
    if not path.exists() or all(entry.name.startswith(".") for entry in path.iterdir()):
        return
    if not _is_run(path):
        raise ConfigError(f"{path} holds files that are not a run's (it has no {CONFIG}): choose another name")
    if not resume:
        raise ConfigError(f"{path} holds a run already: add `--resume` to go on with it, or choose another name")


def _lock(path: Path) -> int:
    """Take the folder's lock and write into it who we are; the descriptor holds it.

    A record lock belongs to one process: the kernel drops it when that process dies, though a forked worker live on.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        message = f"{path} is in use by another process ({holder}): wait for it, stop it, or choose another name"
        raise ConfigError(message) from error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"host {socket.gethostname()}, pid {os.getpid()}, since {now}\n".encode(), 0)
    return descriptor


def _unwritten(path: Path, content: str | bytes, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {path} ({len(content):,} bytes): {error}; make room, then go on with --resume"
    )


def _append(path: Path, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    except OSError as error:
        raise _unwritten(path, lines, error) from error


def _read_lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}): mend or delete the line") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f'{path}:{number}: expected an object with an integer "step", got {line[:80]}')
        rows.append(row)
    return rows


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _threads() -> int:
    """Threads that the numerical libraries will use: what OMP_NUM_THREADS says, else the machine's processors."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else os.cpu_count() or 1


def _commit() -> str | None:
    """The commit of the checkout that this package runs from ("-dirty" if it was edited), None outside of one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None  # asked from site-packages, git would answer for whatever repository lies around it
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 (no shell)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
