"""Data, tried to destruction: damaged files, and a file of a gigabyte.

python -m benchmarks.trust data      both; about half an hour on two cores
"""

import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis

from proxtune.evaluation.record import write_record
from tests.data.damaged import Damaged, damaged_files, named_rightly

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "trust"
FILES, GIGABYTE, MIB = 2_000, 10**9, 2**20
READING = [
    f"proxtune/data/{name}.py" for name in ("lines", "files", "parquet", "formats", "records", "sift", "sources")
]
CHECKING = "proxtune/workflows/data_check.py"
WORDS_IN_ROW = {"long_rows": 120, "short_rows": 12}
IN_A_CHILD = """
import sys
from pathlib import Path
from proxtune.{module} import {function}
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
held = {function}(Path(sys.argv[1]))
print(before, peak())
"""


def data() -> None:
    """Both records."""
    files()
    memory()


def files(seed: int = 1) -> None:
    """Read damaged files in every way that there is, and count the messages that name the right file and line."""
    tried: Counter[str] = Counter()
    right: Counter[str] = Counter()
    must: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=FILES, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(damaged=damaged_files)
    def read(damaged: Damaged) -> None:
        named = named_rightly(damaged, folder)
        tried[damaged.defect] += 1
        must[damaged.defect] += damaged.line is not None
        right[damaged.defect] += damaged.line is not None and named

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        read()
    seconds = time.perf_counter() - began
    write_record(
        RECORDS / "data_files.json",
        claim=f"damaged data files: 0 of {tried.total()} raise anything but a DataError or lose a row, and where the "
        "damaged line is known, the message names file and line",
        value=right.total() / must.total(),
        unit="share of the files whose line is known",
        interval=None,
        goal=">= 1",
        holds=right.total() == must.total() and tried.total() >= FILES,
        against=None,
        seeds=[seed],
        command="python -m benchmarks.trust data",
        measures=[*READING, CHECKING],
        raw={
            "files": tried.total(),
            "known": must.total(),
            "right": right.total(),
            "seconds": round(seconds),
            "defects": {
                name: {"files": n, "known": must[name], "right": right[name]} for name, n in sorted(tried.items())
            },
        },
    )


def memory(size: int = GIGABYTE, read_size: int = GIGABYTE // 10) -> None:
    """Peak memory of `data check` on a file of `size` bytes, and of reading a smaller one whole, as training does.

    `read_bytes_a_row` is what a row takes in memory beside the bytes it has in the file.
    """
    raw: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, words in WORDS_IN_ROW.items():
            path = Path(temporary) / "rows.jsonl"
            rows = write_rows(path, size, words)
            began = time.perf_counter()
            _, peak = peaks("workflows.data_check", "check", path)
            seconds = time.perf_counter() - began
            raw[name] = {"rows": rows, "check_mib": round(peak / MIB), "check_seconds": round(seconds)}
            rows = write_rows(path, read_size, words)
            before, peak = peaks("data.sources", "read", path)
            raw[name]["read_bytes_a_row"] = round((peak - before - read_size) / rows)
    worst = max(figures["check_mib"] for figures in raw.values())
    write_record(
        RECORDS / "data_memory.json",
        claim="peak resident memory of `proxtune data check` on a JSONL file of 1 GB",
        value=worst,
        unit="MiB",
        interval=None,
        goal="<= 600",
        holds=worst <= 600,
        against=None,
        seeds=[1],
        command="python -m benchmarks.trust data",
        measures=[*READING, CHECKING],
        raw=raw,
    )


def write_rows(path: Path, size: int, words: int) -> int:
    """Write rows of random words until the file has `size` bytes; no two are equal. Returns how many there are."""
    rng = random.Random(1)  # noqa: S311 (text, no secret)
    known = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 10))) for _ in range(5_000)]
    rows = written = 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            text = " ".join(rng.choices(known, k=words))
            written += file.write(json.dumps({"prompt": f"{rows} {text[: len(text) // 4]}", "completion": text}) + "\n")
            rows += 1
    return rows


def peaks(module: str, function: str, path: Path) -> tuple[int, int]:
    """Bytes of peak resident memory of a fresh process before and after it called a function with a file."""
    code = IN_A_CHILD.format(module=module, function=function)
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    return before, after
