"""A conversation in the terminal."""

import sys
from pathlib import Path

from proxtune.data.records import Message
from proxtune.data.template import encode_prompt
from proxtune.errors import ConfigError
from proxtune.models.heads import head_of
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load, resolve
from proxtune.rollouts.engine import decode
from proxtune.rollouts.sampling import SamplingConfig, row_uniforms


def talk(name: str, config: SamplingConfig, *, plain: bool, seed: int) -> None:
    """Read lines from standard input and stream the answers, until an empty line or the end of input.

    An answer has at most as many tokens as the model's context leaves it.
    """
    source = resolve(name)
    model = load(ModelConfig(name=source))
    if not model.causal or "task" in head_of(Path(source)):
        raise ConfigError(f"{name} labels text and writes none; say `proxtune predict {name} FILE`")
    plain = plain or not model.tokenizer.chat_template
    turns: list[Message] = []
    while line := _ask():
        turns.append(Message("user", line))
        prompt = encode_prompt(model.tokenizer, line if plain else tuple(turns))
        room = max(1, model.context - len(prompt))
        fitting = config.model_copy(update={"max_new_tokens": min(config.max_new_tokens, room)})
        answer = answer_aloud(model, prompt, fitting, seed=seed, turn=len(turns))
        turns.append(Message("assistant", answer))


def answer_aloud(model: LanguageModel, prompt: list[int], config: SamplingConfig, *, seed: int, turn: int) -> str:
    """Print an answer as it is sampled, and return it."""
    uniforms = row_uniforms(seed, "chat", turn, [0], config.max_new_tokens)
    ids: list[int] = []
    shown = ""
    for token in decode(model, prompt, config, uniforms=uniforms[0]):
        ids.append(token)
        text = model.text(ids)
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    sys.stdout.write("\n")
    return shown


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
