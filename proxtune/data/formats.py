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
| prompt            | prompt                                                            | Prompt     |
| text/label        | text, label                                                       | Labelled   |
| text              | text                                                              | Text       |

The first line of the table that fits a row decides. Keys that a format does not name become the record's `columns`.
A message is {"role", "content"} or {"from", "value"}. Scores are a number or a list of numbers, tokens and tags
lists of strings; in a table's cell they are JSON.
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from proxtune.data.records import (
    Completion,
    Labelled,
    Message,
    Preference,
    Prompt,
    PromptLike,
    Rated,
    Record,
    Tagged,
    Text,
)
from proxtune.data.tags import TAG

Format = Literal[
    "chosen/rejected",
    "rated",
    "messages",
    "messages/prompt",
    "alpaca",
    "prompt/completion",
    "tokens/tags",
    "prompt",
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
# Stanford Alpaca's own words, for models without a chat template.
ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)

Row: TypeAlias = Mapping[str, Any]


class MalformedRowError(ValueError):
    """A row that its format does not allow; the message says what was found and what was expected."""


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
    if "prompt" in keys:
        return "prompt"
    if "text" in keys:
        return "text/label" if "label" in keys else "text"
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
            columns = _others(row, "instruction", "input", "output")
            return Completion(_alpaca_prompt(row, chat), _string(row, "output"), where, columns)
        case "prompt/completion":
            question, answer = next((pair for pair in PAIRS if row.keys() >= set(pair)), PAIRS[0])
            prompt = _prompt(row, question, chat)
            return Completion(prompt, _answer(row, answer), where, _others(row, question, answer))
        case "tokens/tags":
            return _tagged(row, where)
        case "prompt":
            return Prompt(_prompt(row, "prompt", chat), where, _others(row, "prompt"))
        case "text/label":
            return Labelled(_string(row, "text"), _label(row), where, _others(row, "text", "label"))
        case "text":
            return Text(_string(row, "text"), where, _others(row, "text"))


def _others(row: Row, *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def _kind(value: object) -> str:
    """A value as an error message shows it: its JSON type, and itself if it is short."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    name = names.get(type(value), "a number")
    return name if value is None or len(repr(value)) > 40 else f"{name} ({value!r})"


def _value(row: Row, key: str) -> Any:
    if key not in row:
        raise MalformedRowError(f"no key {key!r}; found {', '.join(map(repr, row)) or 'none'}")
    return row[key]


def _string(row: Row, key: str) -> str:
    value = _value(row, key)
    if not isinstance(value, str):
        raise MalformedRowError(f"{key}: got {_kind(value)}, expected a string")
    return value


def _label(row: Row) -> str | int | float:
    value = _value(row, "label")
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if value.strip():
                return str(value)
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise MalformedRowError(f"label: got {_kind(value)}, expected a name or a finite number")


def _tagged(row: Row, where: str) -> Tagged:
    tokens, tags = _strings(row, "tokens"), _strings(row, "tags")
    if len(tokens) != len(tags):
        raise MalformedRowError(f"tags: got {len(tags)} for {len(tokens)} tokens, expected one each")
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
        if not TAG.fullmatch(tag):
            raise MalformedRowError(
                f"tags: got {tag!r} at token {number} ({token!r}), expected O, or B- or I- (E-, S-, L-, U-) "
                "and a type, as B-PER"
            )
    return Tagged(tokens, tags, where, _others(row, "tokens", "tags"))


def _strings(row: Row, key: str) -> tuple[str, ...]:
    value = _value(row, key)
    if isinstance(value, str):  # a cell of a table
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise MalformedRowError(f"{key}: got {_kind(value)}, expected a list of strings") from None
    odd = next((x for x in value if not isinstance(x, str)), None) if isinstance(value, list) else value
    if odd is not None:
        raise MalformedRowError(f"{key}: got {_kind(odd)}, expected a list of strings")
    return tuple(value)


def _rated(row: Row, where: str, chat: bool) -> Rated:
    key = next((key for key in RATINGS if key in row), RATINGS[0])
    scores, kind = _scores(row, key), _unrated(_others(row, key))
    record = parse(_others(row, key), kind, where, chat=chat)
    match record:
        case Completion(prompt, completion):
            return Rated(prompt, completion, scores, where, record.columns)
        case Text(text):
            return Rated("", text, scores, where, record.columns)
    raise MalformedRowError(f"got scores for a row of format {kind}, expected one of {', '.join(RATABLE)}")


def _scores(row: Row, key: str) -> tuple[float, ...]:
    given = _value(row, key)
    value = _from_cell(given) if isinstance(given, str) else given
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(_is_finite(number) for number in numbers):
        raise MalformedRowError(f"{key}: got {_kind(given)}, expected a finite number, or a list of one or more")
    return tuple(float(number) for number in numbers)


def _from_cell(text: str) -> Any:
    """A table's cell as JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # false for NaN, and for an integer too large for a float


def _message(value: object, key: str) -> Message:
    if not isinstance(value, Mapping):
        raise MalformedRowError(f"{key}: got {_kind(value)}, expected a message with role and content")
    names = ("from", "value") if "from" in value else ("role", "content")
    role = _string(value, names[0])
    if role == "function_call" or any(value.get(call) for call in CALLS):
        raise MalformedRowError(
            f"{key}: a call of a tool, which only a model's own template can write out; "
            "give it as the text that the assistant should write"
        )
    content = _string(value, names[1])
    if role not in ROLES:
        raise MalformedRowError(f"{key}: role {role!r}, expected one of {', '.join(ROLES)}")
    return Message(ROLES[role], content)


def _turns(row: Row, key: str) -> tuple[Message, ...]:
    value = _value(row, key)
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list) or not listed:
        expected = (
            "a list of one message or more" if key in CONVERSATIONS else "a string, or a list of one message or more"
        )
        raise MalformedRowError(f"{key}: got {_kind(value)}, expected {expected}")
    return tuple(_message(message, f"{key}[{index}]") for index, message in enumerate(listed))


def _conversation_key(row: Row) -> str:
    return "messages" if "messages" in row else "conversations"


def _conversation(row: Row, kind: Format, where: str) -> Completion | Prompt:
    key = _conversation_key(row)
    turns, columns = _with_system(row, _turns(row, key)), _others(row, key, "system")
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
        raise MalformedRowError(f"system: got {_kind(system)}, expected a string")
    if system and turns[0].role == "system":
        raise MalformedRowError("system: the conversation begins with a system turn too; expected one of the two")
    return (Message("system", system), *turns) if system else turns


def _prompt(row: Row, key: str, chat: bool) -> PromptLike:
    value = _value(row, key)
    if not isinstance(value, str):
        return _turns(row, key)
    return (Message("user", value),) if chat and value.strip() else value


def _alpaca_prompt(row: Row, chat: bool) -> PromptLike:
    instruction, extra = _string(row, "instruction"), row.get("input") or ""
    if not isinstance(extra, str):
        raise MalformedRowError(f"input: got {_kind(extra)}, expected a string")
    if chat:
        return (Message("user", f"{instruction}\n\n{extra}" if extra else instruction),)
    paired = ", paired with an input that provides further context" if extra else ""
    return ALPACA.format(paired=paired, instruction=instruction, input=f"### Input:\n{extra}\n\n" if extra else "")


def _answer(row: Row, key: str) -> str:
    """An answer that is a string, or one turn of the assistant."""
    if isinstance(_value(row, key), str):
        return _string(row, key)
    turns = _turns(row, key)
    if [turn.role for turn in turns] != ["assistant"]:
        raise MalformedRowError(f"{key}: got {len(turns)} turns, expected a string or one turn of the assistant")
    return turns[0].content


def _preference(row: Row, where: str, chat: bool) -> Preference:
    key = "prompt" if "prompt" in row else _conversation_key(row)
    prompt = _prompt(row, key, chat) if key in row else ""
    columns = _others(row, key, "chosen", "rejected")
    if key in CONVERSATIONS and not isinstance(prompt, str):
        prompt, columns = _with_system(row, prompt), _others(columns, "system")
    if isinstance(_value(row, "chosen"), str) or isinstance(_value(row, "rejected"), str):
        return Preference(prompt, _string(row, "chosen"), _string(row, "rejected"), where, columns)
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
