"""TRL's PPO as a worker of a benchmark: run in a virtual environment of its own, with nothing of ours.

The trainer has one loop that nobody can step through, so this worker waits for the driver in its callback.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.peers.wire import THREADS, Wire, count_optimizer_steps, weights_hash


class RewardBackbone(nn.Module):
    """Where the reward model's backbone is expected: gives the reward of each row in the place of hidden states."""

    def __init__(self, rule: Callable[[list[list[int]]], list[float]]) -> None:
        super().__init__()
        self.rule, self.width = rule, 0
        self.tokens, self.scores = 0, Tensor()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        mask = attention_mask[:, self.width :].bool()
        answers = [ids[kept].tolist() for ids, kept in zip(input_ids[:, self.width :], mask, strict=True)]
        self.tokens, self.scores = int(mask.sum()), torch.tensor(self.rule(answers))
        states = self.scores[:, None, None].expand(*input_ids.shape, 1)
        return type("Output", (), {"hidden_states": (states,)})


class RewardModule(nn.Module):
    """A function of the response, in the shape of a sequence classifier."""

    base_model_prefix = "backbone"

    def __init__(self, rule: Callable[[list[list[int]]], list[float]]) -> None:
        super().__init__()
        self.backbone, self.score = RewardBackbone(rule), nn.Identity()


class Stepwise(TrainerCallback):
    """Waits for the driver before each step of the loop, and tells it of the step after."""

    def __init__(self, wire: Wire, backbone: RewardBackbone, facts: dict[str, Any]) -> None:
        self.wire, self.backbone, self.facts = wire, backbone, facts
        self.steps, self.logs = count_optimizer_steps(), dict[str, float]()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.wire.ready(**self.facts)
        self.go()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        self.logs = logs

    def on_step_end(self, *_: Any, **__: Any) -> None:
        scores = self.backbone.scores
        self.wire.done(
            samples=len(scores),
            tokens=self.backbone.tokens,
            optimizer_steps=self.steps(),
            reward=float(scores.mean()),
            reward_std=float(scores.std(unbiased=False)),
            kl=self.logs["objective/kl"],
            policy_loss=self.logs["loss/policy_avg"],
            value_loss=self.logs["loss/value_avg"],
        )
        self.go()

    def go(self) -> None:
        """Back into the loop for a step, or out of the process."""
        if not self.wire.wait():
            self.wire.end()


def rule(name: str, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[list[int]]], list[float]]:
    """The reward that the settings name, of token ids."""
    if name == "even":
        return lambda answers: [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in answers]
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415 -- takes a while

    lexicon = SentimentIntensityAnalyzer()
    return lambda answers: [
        lexicon.polarity_scores(tokenizer.decode(ids, skip_special_tokens=True))["compound"] for ids in answers
    ]


def models(folder: str, pad_token: str) -> tuple[Any, Any, Any, Any]:
    """Tokenizer, policy, reference and value model. The value head begins at 0, as ours does."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = pad_token  # in the vocabulary, and not EOS
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    nn.init.zeros_(value.score.weight)
    for model in (policy, reference, value):
        model.config.pad_token_id = tokenizer.pad_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, policy, reference, value


def config(settings: dict[str, Any]) -> PPOConfig:
    """The trainer at its best on a CPU: one whole minibatch, float32, nothing but training."""
    batch = len(settings["prompts"])
    return PPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        local_rollout_forward_batch_size=batch,
        total_episodes=100_000 * batch,
        num_ppo_epochs=settings["epochs"],
        response_length=settings["max_new_tokens"],
        stop_token="eos",  # noqa: S106 -- a token of text
        temperature=1.0,
        kl_coef=settings["kl_coef"],
        gamma=settings["gamma"],
        lam=settings["lam"],
        cliprange=settings["clip"],
        cliprange_value=settings["clip"],
        vf_coef=settings["value_coef"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )


def main() -> None:
    """Load, and train a step whenever the driver says so."""
    wire = Wire()
    settings = wire.settings
    torch.set_num_threads(THREADS)
    tokenizer, policy, reference, value = models(settings["model"], settings["pad_token"])
    reward = RewardModule(rule(settings["reward"], tokenizer))

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Left-padded prompts; the reward module learns where responses begin."""
        batch = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        reward.backbone.width = batch["input_ids"].shape[1]
        return {"input_ids": batch["input_ids"]}

    trainer = PPOTrainer(
        args=config(settings),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": settings["prompts"]}),
        data_collator=collate,
        callbacks=[Stepwise(wire, reward.backbone, {"weights": weights_hash(settings["model"])})],
    )
    trainer.train()


if __name__ == "__main__":
    main()
