"""TRL's SFT and reward trainer as workers of a benchmark: run in a virtual environment of its own, nothing of ours.

The driver is waited for in a callback, before each step of the trainer's loop.
"""

import math
import tempfile
from collections import deque
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.peers.wire import THREADS, Wire, count_optimizer_steps, weights_hash


class Stepwise(TrainerCallback):
    """Waits for the driver before each step, and tells it of the step. `sizes` are (samples, tokens) of batches."""

    def __init__(self, wire: Wire, sizes: deque[tuple[int, int]], facts: dict[str, Any]) -> None:
        self.wire, self.sizes, self.facts = wire, sizes, facts
        self.made = count_optimizer_steps()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" not in logs:
            return
        samples, tokens = self.sizes.popleft()
        self.wire.done(samples=samples, tokens=tokens, optimizer_steps=self.made(), loss=logs["loss"])

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.wire.ready(**self.facts)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.wire.wait():
            self.wire.end()


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The trainers at their best on a CPU: float32, activations kept, batches in the order given."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": settings["batch_size"],
        "gradient_accumulation_steps": 1,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": settings["max_grad_norm"],
        "weight_decay": 0.0,
        "num_train_epochs": 1000,
        "max_length": settings["max_length"],
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def sft(settings: dict[str, Any], tokenizer: Any) -> SFTTrainer:
    """Fine-tuning on the responses; packed into rows of `pack` tokens if that is above 0."""
    rows = [row for batch in settings["batches"] for row in batch]
    ids = [row["prompt_ids"] + row["response_ids"] for row in rows]
    masks = [[0] * len(row["prompt_ids"]) + [1] * len(row["response_ids"]) for row in rows]
    options = arguments(settings)
    if settings["pack"]:
        rows_packed = settings["batch_size"] * settings["max_length"] // settings["pack"]
        options |= {"packing": True, "max_length": settings["pack"], "per_device_train_batch_size": rows_packed}
    return SFTTrainer(
        settings["model"],
        args=SFTConfig(**options, completion_only_loss=True, model_init_kwargs={"dtype": torch.float32}),
        train_dataset=Dataset.from_dict({"input_ids": ids, "completion_mask": masks}),
        processing_class=tokenizer,
    )


def reward_model(settings: dict[str, Any], tokenizer: Any) -> RewardTrainer:
    """Bradley-Terry on pairs; the head begins where ours does, at cosines."""
    model = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        width = model.config.hidden_size
        model.score.weight.copy_(torch.arange(width).cos()[None] / math.sqrt(width))
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = [row for batch in settings["batches"] for row in batch]
    return RewardTrainer(
        model,
        args=RewardConfig(**arguments(settings)),
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [row["prompt_ids"] + row["chosen_ids"] for row in rows],
                "rejected_ids": [row["prompt_ids"] + row["rejected_ids"] for row in rows],
            }
        ),
        processing_class=tokenizer,
    )


def counted(trainer: Any, samples: Any) -> deque[tuple[int, int]]:
    """Where the trainer's collator will write down the size of each batch that it makes."""
    collate, sizes = trainer.data_collator, deque[tuple[int, int]]()

    def collate_and_count(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        tokens = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
        sizes.append((sum(map(samples, rows)), int(tokens)))
        return batch

    trainer.data_collator = collate_and_count
    return sizes


def main() -> None:
    """Load, and train a step whenever the driver says so."""
    wire = Wire()
    settings = wire.settings
    torch.set_num_threads(THREADS)
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.pad_token = settings["pad_token"]  # in the vocabulary, and not EOS
    trainer = {"sft": sft, "reward_model": reward_model}[settings["worker"]](settings, tokenizer)
    sizes = counted(trainer, lambda row: len(row.get("seq_lengths", [0])))
    trainer.add_callback(Stepwise(wire, sizes, {"weights": weights_hash(settings["model"])}))
    trainer.train()


if __name__ == "__main__":
    main()
