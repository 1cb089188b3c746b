"""A worker of `benchmarks.tasks_trainer`: transformers' Trainer on a classification or a tagging task.

    python benchmarks/peers/trainer_tasks.py '{"kind": "classification", "model": FOLDER, "train": FILE, …}'

Prints one JSON object: seconds of training alone, the highest memory of the process, and the predictions on test rows.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def rows_of(path: str) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def encoded(rows: list[dict[str, Any]], tokenizer: Any, names: dict[str, int], length: int) -> list[dict[str, Any]]:
    """Token ids and labels; a word's label stands at its first token, −100 at the others."""
    found = []
    for row in rows:
        if "text" in row:
            found.append({**tokenizer(row["text"], truncation=True, max_length=length), "labels": names[row["label"]]})
            continue
        read = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=length)
        words, before, labels = read.word_ids(), None, []
        for word in words:
            labels.append(-100 if word is None or word == before else names[row["tags"][word]])
            before = word
        found.append({**read, "labels": labels})
    return found


def main() -> None:
    """The command line."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    train, test = rows_of(given["train"]), rows_of(given["test"])
    tagging = given["kind"] == "tagging"
    labels = sorted({tag for row in train for tag in (row["tags"] if tagging else [row["label"]])})
    names = {name: i for i, name in enumerate(labels)}
    kind: Any = AutoModelForTokenClassification if tagging else AutoModelForSequenceClassification
    model = kind.from_pretrained(given["model"], num_labels=len(labels))
    collator: Any = DataCollatorForTokenClassification if tagging else DataCollatorWithPadding
    arguments = TrainingArguments(
        output_dir=given["folder"],
        max_steps=given["steps"],
        per_device_train_batch_size=given["batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=given["learning_rate"],
        weight_decay=given["weight_decay"],
        lr_scheduler_type="linear",
        warmup_steps=given["warmup"],
        train_sampling_strategy="group_by_length" if given["grouped"] else "random",
        save_strategy="no",
        report_to="none",
        logging_steps=10**6,
        disable_tqdm=True,
        seed=given["seed"],
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=encoded(train, tokenizer, names, given["length"]),
        data_collator=collator(tokenizer),
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    arguments.train_sampling_strategy = "random"  # grouped, it would predict the rows in another order too
    found = trainer.predict(
        encoded(
            test,
            tokenizer,
            {name: names.get(name, 0) for row in test for name in (row["tags"] if tagging else [row["label"]])},
            given["length"],
        )
    )
    best = np.argmax(found.predictions, axis=-1)
    if tagging:
        said = [
            [labels[i] for i, label in zip(row, truth, strict=True) if label != -100]
            for row, truth in zip(best, found.label_ids, strict=True)
        ]
    else:
        said = [labels[i] for i in best]
    print(json.dumps({"seconds": seconds, "gib": peak, "said": said}))


if __name__ == "__main__":
    main()
