"""What this machine has: memory that is held, was held at most, and is free; disk that is free."""

import shutil
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

GIB = 2**30


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _status("VmRSS") or _largest()


def peak(device: torch.device) -> int:
    """The most bytes that this process has held, or PyTorch on a CUDA device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _largest()


def available(device: torch.device) -> int | None:
    """Bytes that a device has for a run: those free now, and those that this process holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    here = memory()
    return None if here is None else here[1] + resident()


def memory() -> tuple[int, int] | None:
    """(total, free) bytes, of the machine or of the container that limits it more; None where no system says."""
    total, free = (_field(Path("/proc/meminfo"), name) for name in ("MemTotal", "MemAvailable"))
    if total is None or free is None:
        return None
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total, free = min(total, int(text)), min(free, int(text) - int(used.read_text()))
    return total, free


def existing(folder: Path) -> Path:
    """`folder`, or the folder above it in which it will be made."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    return shutil.disk_usage(existing(folder)).free


def gib(size: float) -> str:
    """Bytes as GiB, or as MiB where they are few."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _largest() -> int:
    """Of a process that another one started by fork, this is at least what that one held: hence /proc where it is."""
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int | None:
    return _field(Path("/proc/self/status"), field)


def _field(file: Path, field: str) -> int | None:
    """A field of a file in /proc, in bytes; None where there is no such file."""
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines() if line.startswith(f"{field}:"))
    return next((int(words[1]) * 1024 for words in lines), None)
