"""One short task by every kind of tuning: trained weights, score, time and memory in one table and one plot.

python -m benchmarks.tasks_peft       or `make peft`; a few minutes on an idle machine
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.plots import bars
from proxtune.data.sources import read
from proxtune.evaluation.record import write_record
from proxtune.runs import Run
from proxtune.workflows import outcome

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "tasks"
RUNS = ROOT / "runs" / "peft"
KINDS = {  # the learning rate of each, which was not searched
    "full": 1e-4,
    "lora": 1e-3,
    "adalora": 2e-3,
    "ia3": 1e-2,
    "prefix": 1e-2,
    "prompt": 3e-2,
    "ptuning": 3e-3,
    "adapter": 1e-3,
    "houlsby": 1e-3,
    "bitfit": 3e-3,
    "top_layers": 1e-4,
    "head": 5e-3,
}
OPTIONS = {  # where they are more than tuning.kind=
    "houlsby": ["tuning.kind=adapter", "tuning.adapter_placement=houlsby"],
    "top_layers": ["tuning.kind=full", "tuning.top_layers=2"],
}


def run(kind: str, rate: float, name: str, *more: str) -> float:
    """A run of the recipe; returns the highest memory of its process in GiB."""
    command = [sys.executable, "-m", "proxtune", "sft", "recipe:peft-comparison"]
    command += [
        *OPTIONS.get(kind, [f"tuning.kind={kind}"]),
        f"optim.learning_rate={rate}",
        f"runs={RUNS}",
        f"name={name}",
        *more,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} failed")
    return used.ru_maxrss / 2**20


def measured(kind: str, rate: float) -> dict[str, Any]:
    """What a kind came to, from a run of its own; a finished one is not trained again. Memory is that of five steps."""
    path = RUNS / kind
    if not (path / "model").exists():
        subprocess.run(["rm", "-rf", str(path)], check=True)
        run(kind, rate, kind)
    subprocess.run(["rm", "-rf", str(RUNS / "memory")], check=True)
    gib = run(kind, rate, "memory", "training.steps=5")
    finished, records = Run.open(path), read("bundled:film-sentiment-test").records
    interval = outcome.predict(outcome.open_model(str(path)), records).measured().intervals(seed=0)["macro_f1"]
    return {
        "trained": finished.manifest()["parameters"]["trained"],
        "macro_f1": list(interval),
        "seconds": sum(row["time/step"] for row in finished.metrics()),
        "gib": gib,
        "learning_rate": rate,
    }


def main() -> None:
    """All kinds, the table, the plot and the record."""
    raw = {kind: measured(kind, rate) for kind, rate in KINDS.items()}
    table = Table("kind", "trained weights", "macro F1", "95% interval", "seconds of 60 steps", "GiB")
    for kind, row in raw.items():
        mean, low, high = row["macro_f1"]
        cells = (f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]", f"{row['seconds']:.0f}", f"{row['gib']:.2f}")
        table.add_row(kind, f"{row['trained']:,}", *cells)
    Console().print(table)
    scores = {f"{kind} ({row['trained']:,})": row["macro_f1"] for kind, row in raw.items()}
    bars("peft", scores, title="60 steps of sentiment: macro F1, by what is trained", label="macro F1")
    full, lora = raw["full"], raw["lora"]
    write_record(
        RECORDS / "peft.json",
        claim="macro F1 of LoRA over that of full fine-tuning, after 60 steps of sentiment",
        value=lora["macro_f1"][0] / full["macro_f1"][0],
        unit="ratio",
        interval=None,
        goal=">= 0.95",
        holds=lora["macro_f1"][0] / full["macro_f1"][0] >= 0.95,
        against=None,
        seeds=[1],
        command="make peft",
        measures=["proxtune/models/peft.py", "proxtune/models/virtual.py", "proxtune/models/adapters.py"],
        raw=raw,
        bound=None if lora["macro_f1"][0] / full["macro_f1"][0] >= 0.95 else "one seed, 857 rows: see the intervals",
    )


if __name__ == "__main__":
    main()
