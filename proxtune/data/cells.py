"""What a row holds under a key, checked: a string, a list of strings, JSON in a table's cell."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]


class MalformedRowError(ValueError):
    """A row that its format does not allow; the message says what was found and what was expected."""


def others(row: Row, *names: str) -> dict[str, Any]:
    """The columns: what a format does not name."""
    return {key: value for key, value in row.items() if key not in names}


def kind_of(value: object) -> str:
    """A value as an error message shows it: its JSON type, and itself if it is short."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    name = names.get(type(value), "a number")
    return name if value is None or len(repr(value)) > 40 else f"{name} ({value!r})"


def value_of(row: Row, key: str) -> Any:
    """Raises MalformedRowError if the row has no such key."""
    if key not in row:
        raise MalformedRowError(f"no key {key!r}; found {', '.join(map(repr, row)) or 'none'}")
    return row[key]


def string_of(row: Row, key: str) -> str:
    """Raises MalformedRowError if the row has no such key, or something else under it."""
    value = value_of(row, key)
    if not isinstance(value, str):
        raise MalformedRowError(f"{key}: got {kind_of(value)}, expected a string")
    return value


def strings_of(row: Row, key: str) -> tuple[str, ...]:
    """A list of strings, or JSON of one in a cell. Raises MalformedRowError."""
    given = value_of(row, key)
    value = from_cell(given)
    odd = next((x for x in value if not isinstance(x, str)), None) if isinstance(value, list) else given
    if odd is not None or not isinstance(value, list):
        raise MalformedRowError(f"{key}: got {kind_of(odd)}, expected a list of strings")
    return tuple(value)


def from_cell(value: Any) -> Any:
    """A table's cell as JSON, None if it is none; what is no string as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row under our keys: `columns` maps ours to the file's. Raises MalformedRowError if one is missing."""
    for ours, theirs in columns.items():
        if theirs not in row:
            found = ", ".join(map(repr, row)) or "none"
            raise MalformedRowError(f"no key {theirs!r}, which columns names for {ours!r}; found {found}")
    return others(row, *columns.values()) | {ours: row[theirs] for ours, theirs in columns.items()}
