"""What a configuration may hold: the base of every section, and what a schema says about itself."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, to_jsonable_python


class Section(BaseModel):
    """One part of a configuration. Unknown keys are refused, numbers are finite, and nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # what a field of type Any holds is dumped as it is
        protected_namespaces=(),
    )

    def problems(self) -> Iterable[tuple[str, str]]:
        """Combinations that cannot work, as (key relative to this section, what to set instead)."""
        return ()

    @model_validator(mode="after")
    def _refuse_problems(self) -> Self:
        found = list(self.problems())
        if found:
            text = "; ".join(f"{key}: {message}" for key, message in found)
            raise PydanticCustomError("impossible", "{text}", {"text": text, "problems": found})
        return self


def json_schema(schema: type[Section]) -> dict[str, Any]:
    """The JSON Schema of a configuration, for editors and forms."""
    return schema.model_json_schema()


class Key(NamedTuple):
    """One option of a schema; `default` is None where the key is required, else the value as JSON."""

    name: str
    type: str
    default: str | None
    description: str


def key_table(schema: type[Section]) -> list[Key]:
    """Every option of a schema, in order; in a name, `*` stands for a list's index or a mapping's key."""
    return [
        Key(name, _type_name(field.annotation), _default(field), field.description or "")
        for name, field in fields(schema)
        if not any(_sections(field.annotation))
    ]


_TYPE_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null"}


def fields(schema: type[Section], above: tuple[type[Section], ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a schema and of the sections in it, by dotted name."""
    for name, field in schema.model_fields.items():
        yield name, field
        for suffix, section in _sections(field.annotation):
            below = () if section in above else fields(section, (*above, schema))
            yield from ((f"{name}{suffix}.{key}", inner) for key, inner in below)


def _sections(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The sections a field may hold; the suffix has `.*` for each list or mapping around them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield suffix, annotation
    star = ".*" if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Iterable) else ""
    for inner in get_args(annotation):
        yield from _sections(inner, suffix + star)


def filled(name: str, path: Sequence[str | int]) -> str:
    """A dotted name with each `*` replaced by what `path` has in that position."""
    parts = name.split(".")
    return ".".join(str(path[i]) if part == "*" and i < len(path) else part for i, part in enumerate(parts))


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, inner))
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is dict:
        return f"mapping to {_type_name(inner[1])}"
    if origin in (list, tuple):
        return f"list of {_type_name(inner[0])}"
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return json.dumps(to_jsonable_python(value), ensure_ascii=False)
