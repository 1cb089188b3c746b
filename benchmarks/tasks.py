"""The classic tasks, each by an encoder, a decoder and a model from scratch, beside a simple baseline.

    python -m benchmarks.tasks results                    every task and model that has no record yet
    python -m benchmarks.tasks results --task ner topic   some tasks, measured again
    python -m benchmarks.tasks results --seeds 1 2 3      several seeds each (hours)

Each model is trained by the recipe's own command in a process of its own, and measured on test data that nothing was
chosen by. What is in data/ comes from `make data`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.tasks_baselines import baseline_of
from proxtune import config as configs
from proxtune.data.records import Record
from proxtune.data.sources import in_turns, read
from proxtune.evaluation.metrics import Measure, rises
from proxtune.evaluation.record import write_record
from proxtune.evaluation.tasks import TASKS
from proxtune.evaluation.tasks.writing import HEADLINES
from proxtune.runs import Run
from proxtune.workflows import outcome
from proxtune.workflows.evaluate import language_measure
from proxtune.workflows.jobs import sft_job
from proxtune.workflows.schemas import SFTRun

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "tasks"
RUNS = ROOT / "runs" / "tasks"
MODELS = {  # what is given after a recipe
    "encoder": [],
    "decoder": ["recipe:task-models/decoder"],
    "scratch": ["recipe:task-models/lstm"],
}
MEASURES = [
    "proxtune/algorithms/task.py",
    "proxtune/models/rows.py",
    "proxtune/data/labels.py",
    "proxtune/evaluation/tasks",
]


# Where rows are many or long, as a decoder reads some 300 tokens a second on one core.
ONE_PASS = ("training.epochs=1", "training.eval_every=0")
# The top eight blocks, at the recipe's rates, come to no more than 0.60 in three passes over pairs of texts.
ALL_BLOCKS = (
    "tuning.top_layers=null",
    "training.epochs=1",
    "training.eval_every=60",
    "sft.batch_size=16",
    "sft.head_learning_rate=1e-3",
    "optim.learning_rate=5e-4",
)


class Task(NamedTuple):
    """A recipe, the data that its models are measured on, which models there are, and what its decoder is given."""

    recipe: str
    test: str
    models: tuple[str, ...] = tuple(MODELS)
    decoder: tuple[str, ...] = ()

    def config(self, *overrides: str) -> SFTRun:
        """The recipe's."""
        return configs.load(SFTRun, [f"recipe:{self.recipe}"], overrides)

    @property
    def is_language(self) -> bool:
        """Whether the likelihood of given text is all that is measured."""
        task = self.config().task
        return task.kind == "language" and task.answers is None


ALL = {
    task.recipe: task
    for task in (
        Task("sentiment", "bundled:film-sentiment-test"),
        Task("topic", "bundled:bbc-news-test"),
        Task("intent", "bundled:intents-en-test"),
        Task("slots", "bundled:slots-en-test"),
        Task("ner", "bundled:conll2003-test", decoder=ONE_PASS),
        Task("ner-zh", "bundled:newspaper-zh-test", ("scratch",)),
        Task("pairs", "bundled:bbc-pairs-test", decoder=ALL_BLOCKS),
        Task("ratings", "bundled:chitchat-scores-test"),
        Task("relation", "data/relations/test.jsonl", decoder=ONE_PASS),
        Task("questions", "data/questions/test.jsonl", decoder=ONE_PASS),
        Task("headlines", "bundled:bbc-headlines-test", ("decoder",)),
        Task("summaries", "data/summaries/test.jsonl", ("scratch",)),
        Task("answers", "data/answers/test.jsonl", ("decoder",)),
        Task("triples", "data/triples/test.jsonl", ("decoder",)),
        Task("dialogue", "bundled:chitchat-dialogues-test", ("decoder",)),
        Task("translation", "data/translation/test.jsonl", ("scratch",)),
    )
}


class Trained(NamedTuple):
    """A run, and what it took."""

    path: Path
    minutes: float
    gib: float


def train(task: Task, model: str, seed: int) -> Trained:
    """The recipe's command; a finished run is not trained again."""
    path = RUNS / f"{task.recipe}-{model}-{seed}"
    own = len(task.models) == 1
    given = [f"recipe:{task.recipe}", *([] if own else MODELS[model])]
    if model == "decoder":
        given += task.decoder
    if not (path / "model").exists():
        subprocess.run(["rm", "-rf", str(path)], check=True)
        command = [sys.executable, "-m", "proxtune", "sft", *given, f"runs={RUNS}", f"name={path.name}", f"seed={seed}"]
        print(" ".join(command[2:]), flush=True)
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{path.name} failed")
        took = f"{(time.monotonic() - began) / 60} {used.ru_maxrss / 2**20}"
        (path / "took").write_text(took)
    minutes, gib = map(float, (path / "took").read_text().split())
    return Trained(path, minutes, gib)


def measured(task: Task, name: str, records: Sequence[Record]) -> tuple[str, Measure]:
    """(the task's headline figure, all figures) of a model on test rows."""
    config, model = task.config(), outcome.open_model(name)
    if task.is_language:
        return "perplexity", language_measure(model.lm, records, config.data)
    tokens = config.task.answer_tokens if config.task.answers else None
    result = outcome.predict(model, list(records), task=config.task.answers, answer_tokens=tokens)
    headline = TASKS[result.kind].headline if result.kind in TASKS else HEADLINES[result.kind]
    return headline, result.measured()


def untuned(task: Task, records: Sequence[Record]) -> float:
    """The headline of the recipe's model before its first step: as it is, or a new head on pretrained states."""
    config = task.config()
    if config.task.kind == "language":
        headline, measure = measured(task, config.model.name, records)
        return float(measure.values()[headline])
    job = sft_job(task.config("training.steps=1"))
    algorithm: Any = job.algorithm
    examples, _ = algorithm.task.read(records, outcome.reading_of(algorithm.model))
    figures = algorithm.task.measure(records, algorithm.task.predict(algorithm.model, examples)).values()
    return float(figures[algorithm.task.headline])


def results(names: Sequence[str], models: Sequence[str], seeds: Sequence[int], *, again: bool) -> None:
    """Train, measure, and write the records."""
    for task in (ALL[name] for name in names):
        recorded = [] if again else [m for m in models if (RECORDS / f"{task.recipe}_{m}.json").exists()]
        wanted = [model for model in models if model in task.models and model not in recorded]
        if not wanted:
            continue
        records = in_turns(read(task.test, duplicates="keep"), task.config().data).records
        for model in wanted:
            runs = [train(task, model, seed) for seed in seeds]
            write(task, model, seeds, runs, records)


def write(task: Task, model: str, seeds: Sequence[int], runs: Sequence[Trained], records: Sequence[Record]) -> None:
    """The record of a task and model: the first seed with its interval, the others beside it."""
    found = [measured(task, str(run.path), records) for run in runs]
    headline, first = found[0]
    interval = first.intervals(seed=0)[headline]
    before = untuned(task, records) if model == "encoder" or task.models == ("decoder",) else None
    name, base = simple(task, records, before)
    several = f" --seeds {' '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    sign, wins = (">", interval.mean > base) if rises(headline) else ("<", interval.mean < base)
    write_record(
        RECORDS / f"{task.recipe}_{model}.json",
        claim=f"{task.recipe}, {headline} of the {model} on {len(first.rows)} test rows",
        value=interval.mean,
        unit=headline,
        interval=(interval.low, interval.high),
        goal=f"{sign} {base:.3f}, {name}",
        holds=wins,
        against=name,
        seeds=seeds,
        command=f"python -m benchmarks.tasks results --task {task.recipe} --model {model}{several}",
        measures=[*MEASURES, f"proxtune/recipes/{task.recipe}/config.yaml"],
        raw={
            "figures": first.values(),
            "seeds": {str(seed): m.values()[headline] for seed, (_, m) in zip(seeds, found, strict=True)},
            "baseline": base,
            "untuned": before,
            "minutes": median(run.minutes for run in runs),
            "memory": max(run.gib for run in runs),
            "steps": len(Run.open(runs[0].path).metrics()),
            "snapshot": snapshot(task),
            "parameters": Run.open(runs[0].path).manifest()["parameters"]["total"],
        },
        bound=None if wins else "loses to the simple baseline: shown as it is",
    )
    print(f"{task.recipe:10} {model:8} {headline} {interval}  {name} {base:.3f}  {runs[0].minutes:.1f} min", flush=True)


def simple(task: Task, records: Sequence[Record], before: float | None) -> tuple[str, float]:
    """(its name, its headline figure) of a simple baseline; of a perplexity it is the model before its first step."""
    config = task.config()
    if task.is_language:
        assert before is not None
        return "the untuned model", before
    train = read(config.data.train, duplicates=config.data.duplicates).records
    return baseline_of(config.task.answers or config.task.kind, train, records)


def snapshot(task: Task) -> dict[str, Any]:
    """Where `make data` has the rows from, file by file; nothing, where they are of an installed package."""
    if not task.test.startswith("data/"):
        return {}
    lines = json.loads((ROOT / "data" / "SNAPSHOT.json").read_text(encoding="utf-8"))
    return {name: line for name, line in lines.items() if name.startswith(f"{Path(task.test).parent.name}/")}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["results"])
    parser.add_argument("--task", nargs="+", choices=ALL)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    given = parser.parse_args()
    results(given.task or list(ALL), given.model, given.seeds, again=given.task is not None)


if __name__ == "__main__":
    main()
