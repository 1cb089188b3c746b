"""Merging and validating: defaults, files, overrides; and every mistake as a sentence."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxtune.config.schema import Section, fields, filled
from proxtune.config.source import Draft, Dumper, KeyPath, dotted, indexed, show, value_at
from proxtune.errors import ConfigError

S = TypeVar("S", bound=Section)

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (in quotes if it looks like a number)",
    "none_required": "null",
    "model_type": "a section of keys",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}


def load(schema: type[S], files: Sequence[Path | str], overrides: Sequence[str] = ()) -> S:
    """Read a configuration: the schema's defaults, then the files left to right, then the overrides.

    Mappings are merged key by key, anything else is replaced. A file named `recipe:<name>` is the recipe of that name,
    `recipe:<name>/<file>` another file of it. An override is `section.key=value` (an item of a list by its index), its
    value read as YAML.

    Raises ConfigError, one line for each mistake found.
    """
    draft = Draft()
    for order, file in enumerate(files):
        draft.read_file(order, str(file))
    for override in overrides:
        draft.read_override(len(files), override)
    config = _validate(schema, draft)
    if config is None or draft.mistakes:
        ordered = sorted(draft.mistakes, key=lambda mistake: (mistake[0].order, mistake[0].line))
        raise ConfigError("\n".join(dict.fromkeys(f"{mark}: {text}" for mark, text in ordered)))
    return config


def dump(config: Section) -> str:
    """The configuration as YAML, which `load` reads back to an equal one."""
    text = yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return text


def _validate(schema: type[S], draft: Draft) -> S | None:
    """The configuration, as far as it can be built; every mistake goes to the draft.

    Wrong values are dropped and the rest is tried again, so that a wrong type does not hide an impossible combination.
    """
    values, missing_counts = draft.values, draft.complete
    while True:
        try:
            return schema.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            wrong = _explain(schema, draft, values, error.errors(include_url=False), missing_counts)
        pruned = values
        for path in wrong:
            pruned = _without(pruned, path)
        if pruned == values:
            return None
        values, missing_counts = pruned, False


def _explain(
    schema: type[Section], draft: Draft, values: Any, errors: Sequence[ErrorDetails], missing_counts: bool
) -> list[KeyPath]:
    """Add a sentence to the draft for each error; returns the places of the values that are wrong."""
    wrong: list[KeyPath] = []
    wishes: dict[KeyPath, list[str]] = {}  # several for one value where its type is a union
    for error in errors:
        path = _locate(error["loc"], values)
        if error["type"] == "missing":
            key = (*path, error["loc"][-1])
            if missing_counts:
                draft.add(key, f"missing key {dotted(key)}{_description(schema, key)}")
        elif error["type"] == "impossible":
            keys = [(*path, *indexed(name.split("."), value_at(values, path))) for name, _ in error["ctx"]["problems"]]
            for key, (_, message) in zip(keys, error["ctx"]["problems"], strict=True):
                draft.add(key, f"{draft.subject(key, values)}: {message}")
            wrong += keys
        elif error["type"] == "extra_forbidden":
            draft.add(path, f"unknown key {dotted(path)}; {_suggestion(schema, path)}")
            wrong.append(path)
        else:
            wishes.setdefault(path, []).append(_wish(error))
    for path, several in wishes.items():
        wish = " or ".join(dict.fromkeys(several)).replace(" or expected ", " or ")
        given = "" if draft.from_command_line(path) else f"got {show(value_at(values, path))}, "
        draft.add(path, f"{draft.subject(path, values)}: {given}{wish}")
    return wrong + list(wishes)


def _locate(loc: Sequence[str | int], values: Any) -> KeyPath:
    """The part of pydantic's location that exists in `values`: it names the members of a union too."""
    path: list[str | int] = []
    for part in loc:
        inside = part in values if isinstance(values, dict) else isinstance(values, list) and isinstance(part, int)
        if inside:
            path.append(part)
            values = value_at(values, (part,))
    return tuple(path)


def _without(values: Any, path: KeyPath) -> Any:
    """`values` with nothing at `path`; a list is dropped as a whole, for its other items must keep their index."""
    if not isinstance(values, dict) or not path or path[0] not in values:
        return values
    child = values[path[0]]
    if len(path) > 1 and isinstance(child, dict):
        return values | {path[0]: _without(child, path[1:])}
    return {key: value for key, value in values.items() if key != path[0]}


def _wish(error: ErrorDetails) -> str:
    if error["type"] in _EXPECTED:
        return f"expected {_EXPECTED[error['type']]}"
    if error["type"] in _BOUNDS:
        return f"must be {_BOUNDS[error['type']]} {next(iter(error['ctx'].values())):g}"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _suggestion(schema: type[Section], path: KeyPath) -> str:
    """The valid key most like an unknown one, by its whole name and by its last part; else all keys of its section."""
    name, last = dotted(path), str(path[-1])
    valid = [filled(key, path) for key, _ in fields(schema)]
    likeness = {key: _ratio(key.rpartition(".")[2], last) for key in valid}
    best = max(valid, key=lambda key: likeness[key] + _ratio(key, name), default="")
    if best and likeness[best] >= 0.6:
        return f"did you mean {best}?"
    section = name.rpartition(".")[0]
    return "valid here: " + ", ".join(key.rpartition(".")[2] for key in valid if key.rpartition(".")[0] == section)


def _description(schema: type[Section], path: KeyPath) -> str:
    found = [field.description for key, field in fields(schema) if filled(key, path) == dotted(path)]
    return f" ({found[0]})" if found and found[0] else ""


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
