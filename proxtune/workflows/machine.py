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
    free = _field(Path("/proc/meminfo"), "MemAvailable")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if free is not None and limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text) - int(used.read_text()))
    return None if free is None else free + resident()


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


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
