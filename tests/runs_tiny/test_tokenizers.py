"""DL-4: a tokenizer that lacks something trains right all the same, or is refused before the weights are read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from proxtune import config as configs
from proxtune.algorithms.ppo import PPO
from proxtune.data.tokenizer import train_tokenizer
from proxtune.errors import DataError, ModelError
from proxtune.models import load as loading
from proxtune.rewards.base import FunctionReward
from proxtune.workflows.jobs import Job, ppo_job, reward_job, sft_job
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun

WORDS = "the film was good and the film was bad"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def bare() -> PreTrainedTokenizerFast:
    """Distinct pad, beginning and end; no chat template."""
    return train_tokenizer([WORDS] * 4, 300)


def changed(**attributes: Any) -> Callable[[], PreTrainedTokenizerFast]:
    def make() -> PreTrainedTokenizerFast:
        tokenizer = bare()
        for name, value in attributes.items():
            setattr(tokenizer, name, value)
        return tokenizer

    return make


def with_turns(template: str, **attributes: Any) -> PreTrainedTokenizerFast:
    tokenizer = changed(**attributes)()
    turns = [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens(turns, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def that_ends_texts_itself() -> PreTrainedTokenizerFast:
    tokenizer = bare()
    eos = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos[0]}", pair=f"$A {eos[0]} $B {eos[0]}", special_tokens=[eos]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "whole": bare,
    "no pad": changed(pad_token=None),
    "pad is eos": changed(pad_token="<|eos|>"),
    "no bos": changed(bos_token=None),
    "no eos": changed(eos_token=None),
    "ends texts itself": that_ends_texts_itself,
    "chat, the turn ends otherwise than the text": lambda: with_turns(CHATML),
    "chat, pad is the end of a turn": lambda: with_turns(CHATML, pad_token="<|im_end|>"),
    "chat, no eos but an end of turn": lambda: with_turns(CHATML, eos_token=None),
    "chat, turns end in plain text": lambda: with_turns(PLAIN),
}
ANSWERS = ("response_ids", "chosen_ids", "rejected_ids")
REFUSED = {"no eos": (ModelError, "has no token that ends an answer: set its eos_token")}


def turn(words: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": words}]


def write_data(command: str, folder: Path, *, chat: bool) -> Path:
    asked = [turn(f"{WORDS} {i}") if chat else f"{WORDS} {i}" for i in range(8)]
    rows: dict[str, list[dict[str, Any]]] = {
        "sft": [{"prompt": each, "completion": "good"} for each in asked],
        "reward": [{"prompt": each, "chosen": "good", "rejected": "bad"} for each in asked],
        "ppo": [{"prompt": each} for each in asked],
    }
    path = folder / f"{command}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[command]))
    return path


def job(command: str, model: Path, data: Path) -> Job:
    common = [f"model.name={model}", "tuning.kind=full", f"data.train={data}", "data.eval_fraction=0"]
    if command == "sft":
        return sft_job(configs.load(SFTRun, [], [*common, "sft.batch_size=8"]))
    if command == "reward":
        return reward_job(configs.load(RewardRun, [], [*common, "reward_model.batch_size=8"]))
    options = ["rollout.max_new_tokens=6", "ppo={batch_size: 8, minibatch_size: 8, epochs: 1}"]
    reward = FunctionReward(lambda prompts, responses: [float(len(text)) for text in responses], "length")
    return ppo_job(configs.load(PPORun, [], [*common, *options]), [(reward, 1.0)])


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_dl4_a_tokenizer_is_right_or_refused_before_the_weights_are_read(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TOKENIZERS[name]()
    chat = tokenizer.chat_template is not None
    model, data = saved(tokenizer, tmp_path / "model"), write_data(command, tmp_path, chat=chat)
    if name in REFUSED:
        kind, message = REFUSED[name]
        monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read"))
        with pytest.raises(kind, match=message):
            job(command, model, data)
        return
    built = job(command, model, data)
    stops = stop_tokens(built)
    for example in built.batches._rows:
        answers = [
            getattr(example, key) for key in ("response_ids", "chosen_ids", "rejected_ids") if hasattr(example, key)
        ]
        assert all(ids[-1] in stops and not set(ids[:-1]) & set(stops) for ids in answers), answers
        assert len(answers) == {"sft": 1, "reward": 2, "ppo": 0}[command]
    figures = built.algorithm.step(next(built.batches))
    assert all(math.isfinite(figure) for figure in figures.values())


def stop_tokens(built: Job) -> tuple[int, ...]:
    algorithm: Any = built.algorithm
    model = algorithm.policy if isinstance(algorithm, PPO) else algorithm.model
    return tuple(getattr(model, "lm", model).stop_ids)


@pytest.mark.parametrize("command", ["sft", "reward", "ppo"])
def test_dl4_a_conversation_without_a_template_is_refused_with_its_line(command: str, tmp_path: Path) -> None:
    model, data = saved(bare(), tmp_path / "model"), write_data(command, tmp_path, chat=True)
    with pytest.raises(DataError, match=rf"{command}.jsonl:1: .*the tokenizer has no chat template"):
        job(command, model, data)
