"""The other worker of `benchmarks.tasks_trainer`: the same by proxtune's own classes."""

import json
import resource
import sys
import time

import torch

from proxtune.algorithms.sft import SFTConfig
from proxtune.algorithms.task import TaskTrainer
from proxtune.data.labels import Reading
from proxtune.data.loader import Loader
from proxtune.data.sources import read
from proxtune.evaluation.task import TaskConfig
from proxtune.evaluation.tasks import TASKS
from proxtune.models.heads import LinearHead, TaskModel
from proxtune.models.load import ModelConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.training.optim import OptimConfig


def main() -> None:
    """The command line."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    train, test = (read(given[part], duplicates="keep").records for part in ("train", "test"))
    task = TASKS[given["kind"]].learn(train, test, TaskConfig(kind=given["kind"]))
    lm = tune(load(ModelConfig(name=given["model"])), TuningConfig(kind="full"))
    model = TaskModel(lm, LinearHead(lm.hidden_size, task.outputs, dropout=0.1), given["length"], task.meta())
    reading = Reading(lm.tokenizer, lm.causal, given["length"], "truncate")
    examples, _ = task.encode(train, reading)
    steps = given["steps"]
    optim = OptimConfig(
        learning_rate=given["learning_rate"],
        weight_decay=given["weight_decay"],
        beta2=0.999,
        eps=1e-8,
        warmup=given["warmup"] / steps,
    )
    trainer = TaskTrainer(model, task, SFTConfig(batch_size=given["batch_size"]), optim=optim, total_steps=steps)
    batches = Loader(examples, given["batch_size"], seed=given["seed"])
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step(next(batches))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = task.predict(model, task.read(test, reading)[0])
    said = [row["tags"] if "tags" in row else row["label"] for row in rows]
    print(json.dumps({"seconds": seconds, "gib": peak, "said": said}))


if __name__ == "__main__":
    main()
