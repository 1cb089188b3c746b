"""The same fine-tuning by transformers' Trainer and by proxtune, in turns: score, time, memory.

    python -m benchmarks.tasks_trainer                   both tasks, on an idle machine
    python -m benchmarks.tasks_trainer --task ner --pairs 5   one of them, with more turns

Same model (MiniLM, all weights trained), rows, steps, batch size, rate, schedule and decay. The Trainer pads each
batch to its longest row, as it does by default, and once more with rows grouped by length.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from proxtune.data.bundled import resolve
from proxtune.data.records import Record
from proxtune.data.sources import read
from proxtune.evaluation import labels, spans
from proxtune.evaluation.metrics import paired
from proxtune.evaluation.record import write_record
from proxtune.evaluation.tasks.classification import name_of
from proxtune.evaluation.tasks.tagging import tags_of
from proxtune.models.load import resolve as folder_of

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / "peers" / "trainer_tasks.py"
RECORDS = ROOT / "results" / "tasks"
THREADS = 2
TASKS: dict[str, dict[str, Any]] = {
    "sentiment": {
        "kind": "classification",
        "train": "bundled:film-sentiment",
        "test": "bundled:film-sentiment-test",
        "learning_rate": 1e-4,
        "length": 128,
        "steps": 100,
    },
    "ner": {
        "kind": "tagging",
        "train": "bundled:conll2003",
        "test": "bundled:conll2003-test",
        "learning_rate": 2e-4,
        "length": 256,
        "steps": 100,
    },
}
COMMON: dict[str, Any] = {"batch_size": 32, "weight_decay": 0.01, "warmup": 5, "threads": THREADS, "seed": 1}
SIDES = ("trainer", "trainer, grouped", "proxtune")


def turn(name: str, side: str, seed: int) -> dict[str, Any]:
    """One training by one side, in a process of its own."""
    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        given = COMMON | task | {"model": folder_of("bundled:minilm"), "folder": folder, "seed": seed}
        given |= {"train": str(resolve(Path(task["train"]))), "test": str(resolve(Path(task["test"])))}
        given["grouped"] = side == "trainer, grouped"
        worker = ["-m", "benchmarks.tasks_ours"] if side == "proxtune" else [str(PEER)]
        command = [sys.executable, *worker, json.dumps(given)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def score(name: str, records: Sequence[Record], said: Sequence[Any]) -> Any:
    """The figures of predictions, as a measure."""
    if TASKS[name]["kind"] == "tagging":
        gold = list(map(tags_of, records))
        whole = [[*tags, *["O"] * (len(truth) - len(tags))] for tags, truth in zip(said, gold, strict=True)]
        return spans.entity_spans(gold, whole)
    return labels.classes(list(map(name_of, records)), said, sorted(set(map(name_of, records))))


def race(name: str, pairs: int) -> None:
    """All sides in turns, and the records."""
    records = read(TASKS[name]["test"], duplicates="keep").records
    turns = [{side: turn(name, side, seed) for side in SIDES} for seed in range(1, pairs + 1)]
    figure = "f1" if TASKS[name]["kind"] == "tagging" else "macro_f1"
    scores = {side: [score(name, records, each[side]["said"]).values()[figure] for each in turns] for side in SIDES}
    first = {side: score(name, records, turns[0][side]["said"]) for side in SIDES}
    gap = paired(first["trainer"], first["proxtune"], seed=0)[figure]
    ratios = [each["trainer"]["seconds"] / each["proxtune"]["seconds"] for each in turns]
    grouped = [each["trainer, grouped"]["seconds"] / each["proxtune"]["seconds"] for each in turns]
    memory = [each["proxtune"]["gib"] / each["trainer"]["gib"] for each in turns]
    raw: dict[str, Any] = {
        side: {key: [each[side][key] for each in turns] for key in ("seconds", "gib")} | {figure: scores[side]}
        for side in SIDES
    }
    raw |= {"difference": list(gap), "ratio_to_grouped": grouped, "memory_ratio": memory}
    rng = np.random.default_rng(0)
    medians = np.median(np.array(ratios)[rng.integers(0, pairs, (2000, pairs))], axis=1)
    low, high = map(float, np.percentile(medians, [2.5, 97.5]))
    value = median(ratios)
    write_record(
        RECORDS / f"trainer_{name}.json",
        claim=f"{name}: time of transformers' Trainer over ours, same model, rows and steps",
        value=value,
        unit="ratio",
        interval=(low, high),
        goal=">= 1.3",
        holds=value >= 1.3,
        against=f"transformers {version('transformers')}",
        seeds=list(range(1, pairs + 1)),
        command=f"python -m benchmarks.tasks_trainer --task {name}",
        measures=["proxtune/algorithms/task.py", "proxtune/models/rows.py", "proxtune/models/score.py"],
        raw=raw,
        bound=None if value >= 1.3 else "see raw: the ratio to rows grouped by length, and docs/tasks.md",
    )
    print(
        f"{name}: {value:.2f} times faster ({median(grouped):.2f} than grouped), memory {median(memory):.2f}, {figure}",
        end=" ",
    )
    print({side: round(median(found), 4) for side, found in scores.items()}, "difference", gap)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=2)
    given = parser.parse_args()
    for name in given.task:
        race(name, given.pairs)


if __name__ == "__main__":
    main()
