"""The formats of a row: its keys say which, and what record it becomes.

| format            | keys                                                              | record     |
|-------------------|-------------------------------------------------------------------|------------|
| chosen/rejected   | chosen, rejected, and prompt, conversations or neither            | Preference |
| rated             | scores, ratings or rating, with text, prompt/completion, messages | Rated      |
| messages          | messages (or conversations), the last turn the assistant's        | Completion |
| messages/prompt   | messages (or conversations), the last turn not the assistant's    | Prompt     |
| alpaca            | instruction, output, and perhaps input                            | Completion |
| prompt/completion | prompt with completion or response; or question and answer        | Completion |
| tokens/tags       | tokens, tags                                                      | Tagged     |
| context/question  | context, question, perhaps answers                                | Answered   |
| prompt            | prompt                                                            | Prompt     |
| relation          | text, head, tail, relation                                        | Labelled   |
| text/label        | text, or a pair of texts, with label or labels                    | Labelled   |
| text              | text, or a pair of texts that is still to be labelled             | Text       |

The first line of the table that fits a row decides. Keys that a format does not name become the record's `columns`.
A message is {"role", "content"} or {"from", "value"}. Scores are a number or a list of numbers, tokens and tags
lists of strings, labels a list of names. A pair is text and text_pair, sentence1 and sentence2, or premise and
hypothesis. Head and tail are [begin, end) in characters; answers are a list of texts or of {"text", "start"}, or
SQuAD's two lists. In a table's cell all these are JSON.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from proxtune.data.cells import MalformedRowError, Row, from_cell, kind_of, others, string_of, value_of
from proxtune.data.marked import LABELS, answered, labelled, relation, tagged, text_keys
from proxtune.data.records import (
    Completion,
    Message,
    Preference,
    Prompt,
    PromptLike,
    Rated,
    Record,
    Text,
)

__all__ = ["FORMATS", "Format", "MalformedRowError", "Row", "detect", "parse"]

Format = Literal[
    "chosen/rejected",
    "rated",
    "messages",
    "messages/prompt",
    "alpaca",
    "prompt/completion",
    "tokens/tags",
    "context/question",
    "prompt",
    "relation",
    "text/label",
    "text",
]
FORMATS: tuple[Format, ...] = get_args(Format)

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",  # from here on the names of ShareGPT and of what followed it
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
}
CALLS = ("tool_calls", "function_call")  # keys of a message
RATABLE: tuple[Format, ...] = ("messages", "prompt/completion", "text")  # what scores may be about
CONVERSATIONS = ("messages", "conversations")
RATINGS = ("scores", "ratings", "rating")
PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
MARKED: dict[Format, Callable[[Row, str], Record]] = {
    "tokens/tags": tagged,
    "context/question": answered,
    "relation": relation,
    "text/label": labelled,
}
# Stanford Alpaca's own words, for models without a chat template.
ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)


def detect(row: Row) -> Format:
    """The format that a row's keys say, and a conversation's last turn. Raises MalformedRowError if none fits."""
    keys = row.keys()
    if keys >= {"chosen", "rejected"}:
        return "chosen/rejected"
    kind = _unrated(row)
    return "rated" if kind in RATABLE and any(key in keys for key in RATINGS) else kind


def _unrated(row: Row) -> Format:
    keys = row.keys()
    if any(key in keys for key in CONVERSATIONS):
        return "messages" if _turns(row, _conversation_key(row))[-1].role == "assistant" else "messages/prompt"
    if keys >= {"instruction", "output"}:
        return "alpaca"
    if any(keys >= set(pair) for pair in PAIRS):
        return "prompt/completion"
    if keys >= {"tokens", "tags"}:
        return "tokens/tags"
    if keys >= {"context", "question"}:
        return "context/question"
    if "prompt" in keys:
        return "prompt"
    if keys >= {"text", "head", "tail", "relation"}:
        return "relation"
    if text_keys(row) and any(key in keys for key in LABELS):
        return "text/label"
    if text_keys(row):
        return "text"
    found = ", ".join(map(repr, row)) or "none"
    raise MalformedRowError(f"no known format has the keys found ({found}); the formats are {', '.join(FORMATS)}")


def parse(row: Row, kind: Format, where: str, *, chat: bool = False) -> Record:
    """Turn a row into the record of its format.

    `chat` makes a plain prompt the user's turn of a conversation, for a model that has a chat template.
    Raises MalformedRowError: a key is missing, or a value is of the wrong type.
    """
    match kind:
        case "chosen/rejected":
            return _preference(row, where, chat)
        case "rated":
            return _rated(row, where, chat)
        case "messages" | "messages/prompt":
            return _conversation(row, kind, where)
        case "alpaca":
            columns = others(row, "instruction", "input", "output")
            return Completion(_alpaca_prompt(row, chat), string_of(row, "output"), where, columns)
        case "prompt/completion":
            question, answer = next((pair for pair in PAIRS if row.keys() >= set(pair)), PAIRS[0])
            prompt = _prompt(row, question, chat)
            return Completion(prompt, _answer(row, answer), where, others(row, question, answer))
        case "prompt":
            return Prompt(_prompt(row, "prompt", chat), where, others(row, "prompt"))
        case "tokens/tags" | "context/question" | "relation" | "text/label":
            return MARKED[kind](row, where)
        case "text":
            texts = text_keys(row) or ("text",)
            text, *pair = (string_of(row, name) for name in texts)
            return Text(text, where, others(row, *texts), pair[0] if pair else None)


def _rated(row: Row, where: str, chat: bool) -> Rated:
    key = next((key for key in RATINGS if key in row), RATINGS[0])
    scores, kind = _scores(row, key), _unrated(others(row, key))
    record = parse(others(row, key), kind, where, chat=chat)
    match record:
        case Completion(prompt, completion):
            return Rated(prompt, completion, scores, where, record.columns)
        case Text(text, pair=None):
            return Rated("", text, scores, where, record.columns)
        case Text():
            raise MalformedRowError(f"{key}: got scores of a pair of texts, whose number is a label; name it so")
    raise MalformedRowError(f"got scores for a row of format {kind}, expected one of {', '.join(RATABLE)}")


def _scores(row: Row, key: str) -> tuple[float, ...]:
    given = value_of(row, key)
    value = from_cell(given)
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(_is_finite(number) for number in numbers):
        raise MalformedRowError(f"{key}: got {kind_of(given)}, expected a finite number, or a list of one or more")
    return tuple(float(number) for number in numbers)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # false for NaN, and for an integer too large for a float


def _message(value: object, key: str) -> Message:
    if not isinstance(value, Mapping):
        raise MalformedRowError(f"{key}: got {kind_of(value)}, expected a message with role and content")
    names = ("from", "value") if "from" in value else ("role", "content")
    role = string_of(value, names[0])
    if role == "function_call" or any(value.get(call) for call in CALLS):
        raise MalformedRowError(
            f"{key}: a call of a tool, which only a model's own template can write out; "
            "give it as the text that the assistant should write"
        )
    content = string_of(value, names[1])
    if role not in ROLES:
        raise MalformedRowError(f"{key}: role {role!r}, expected one of {', '.join(ROLES)}")
    return Message(ROLES[role], content)


def _turns(row: Row, key: str) -> tuple[Message, ...]:
    value = value_of(row, key)
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list) or not listed:
        expected = (
            "a list of one message or more" if key in CONVERSATIONS else "a string, or a list of one message or more"
        )
        raise MalformedRowError(f"{key}: got {kind_of(value)}, expected {expected}")
    return tuple(_message(message, f"{key}[{index}]") for index, message in enumerate(listed))


def _conversation_key(row: Row) -> str:
    return "messages" if "messages" in row else "conversations"


def _conversation(row: Row, kind: Format, where: str) -> Completion | Prompt:
    key = _conversation_key(row)
    turns, columns = _with_system(row, _turns(row, key)), others(row, key, "system")
    answered = turns[-1].role == "assistant"
    if answered != (kind == "messages"):
        expected = "the assistant's" if kind == "messages" else "the user's"
        raise MalformedRowError(f"{key}: the last turn is of {turns[-1].role!r}, expected {expected}")
    if not answered:
        return Prompt(turns, where, columns)
    if len(turns) == 1:
        raise MalformedRowError(f"{key}: got one turn of the assistant, expected a turn before it")
    return Completion(turns[:-1], turns[-1].content, where, columns)


def _with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns after the row's own `system`, as ShareGPT files have it; null and "" are none."""
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise MalformedRowError(f"system: got {kind_of(system)}, expected a string")
    if system and turns[0].role == "system":
        raise MalformedRowError("system: the conversation begins with a system turn too; expected one of the two")
    return (Message("system", system), *turns) if system else turns


def _prompt(row: Row, key: str, chat: bool) -> PromptLike:
    value = value_of(row, key)
    if not isinstance(value, str):
        return _turns(row, key)
    return (Message("user", value),) if chat and value.strip() else value


def _alpaca_prompt(row: Row, chat: bool) -> PromptLike:
    instruction, extra = string_of(row, "instruction"), row.get("input") or ""
    if not isinstance(extra, str):
        raise MalformedRowError(f"input: got {kind_of(extra)}, expected a string")
    if chat:
        return (Message("user", f"{instruction}\n\n{extra}" if extra else instruction),)
    paired = ", paired with an input that provides further context" if extra else ""
    return ALPACA.format(paired=paired, instruction=instruction, input=f"### Input:\n{extra}\n\n" if extra else "")


def _answer(row: Row, key: str) -> str:
    """An answer that is a string, or one turn of the assistant."""
    if isinstance(value_of(row, key), str):
        return string_of(row, key)
    turns = _turns(row, key)
    if [turn.role for turn in turns] != ["assistant"]:
        raise MalformedRowError(f"{key}: got {len(turns)} turns, expected a string or one turn of the assistant")
    return turns[0].content


def _preference(row: Row, where: str, chat: bool) -> Preference:
    key = "prompt" if "prompt" in row else _conversation_key(row)
    prompt = _prompt(row, key, chat) if key in row else ""
    columns = others(row, key, "chosen", "rejected")
    if key in CONVERSATIONS and not isinstance(prompt, str):
        prompt, columns = _with_system(row, prompt), others(columns, "system")
    if isinstance(value_of(row, "chosen"), str) or isinstance(value_of(row, "rejected"), str):
        return Preference(prompt, string_of(row, "chosen"), string_of(row, "rejected"), where, columns)
    chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise MalformedRowError(
            "chosen and rejected differ before their last turn; expected one conversation, two ends"
        )
    if {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        raise MalformedRowError("chosen and rejected: expected the last turn of each to be the assistant's")
    return Preference(_whole(prompt, chosen[:-1]), chosen[-1].content, rejected[-1].content, where, columns)


def _whole(prompt: PromptLike, shared: tuple[Message, ...]) -> PromptLike:
    """The prompt of two conversations that share the turns `shared`, which repeat the row's own prompt or follow it."""
    turns = ((Message("user", prompt),) if prompt else ()) if isinstance(prompt, str) else prompt
    if shared[: len(turns)] == turns:
        return shared or ""
    if turns[len(turns) - len(shared) :] == shared:
        return turns
    if not isinstance(prompt, str):
        return turns + shared
    if turns[0] in shared:
        return shared
    raise MalformedRowError(
        "prompt: not among the turns that chosen and rejected share; expected it there, or no prompt"
    )
