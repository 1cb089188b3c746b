"""Configuration: YAML files and `section.key=value` overrides in, one frozen pydantic model out.

A schema is a tree of `Section`s; each stands at the top of the file that uses it. This file only loads: it reads, merges and
validates, and reports every mistake of every source at once, with its file, line and dotted key.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError, to_jsonable_python

from proxtune.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
RECIPES = Path(__file__).parent / "recipes"
COMMAND_LINE = "command line"

KeyPath = tuple[str | int, ...]


class Section(BaseModel):
    """One part of a configuration. Unknown keys are refused, numbers are finite, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

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


S = TypeVar("S", bound=Section)


def load(schema: type[S], files: Sequence[Path | str], overrides: Sequence[str] = ()) -> S:
    """Read a configuration: the schema's defaults, then the files left to right, then the overrides.

    Mappings are merged key by key, anything else is replaced. A file named `recipe:<name>` is the recipe of that name.
    An override is `section.key=value` (an item of a list by its index), its value read as YAML.

    Raises ConfigError, one line for each mistake found.
    """
    draft = _Draft()
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
    text = yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return text


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
        for name, field in _fields(schema)
        if not any(_sections(field.annotation))
    ]


# ---- reading: YAML texts become one tree of plain values, and a mark for each of them --------------------------------


class _Mark(NamedTuple):
    """Where a value was written. `order` is the rank of its source, line 0 means the source as a whole."""

    order: int
    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line and self.source != COMMAND_LINE else self.source


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `1e-5` is a number, `no` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would take for something else, and writes no aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {  # tag: (pattern, first characters, reader)
    "tag:yaml.org,2002:null": (r"~|null|", "~n", lambda _: None),
    "tag:yaml.org,2002:bool": (r"true|True|false|False", "tTfF", lambda text: text.lower() == "true"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+(_[0-9]+)*", "-+0123456789", int),
    "tag:yaml.org,2002:float": (_FLOAT, "-+.0123456789", _float),
}
for _tag, (_pattern, _first, _) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), [*_first, ""])  # "" is the empty scalar
_SCALARS["tag:yaml.org,2002:str"] = ("", "", str)


class _Unreadable(Exception):
    """A source that cannot be read at all: what is wrong, and on which line if that is known."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.text, self.line = text, line


class _Draft:
    """The merged values of all sources, where each was written, and the mistakes found so far."""

    def __init__(self) -> None:
        self.values: Any = {}
        self.marks: dict[KeyPath, _Mark] = {}
        self.mistakes: list[tuple[_Mark, str]] = []

    def read_file(self, order: int, name: str) -> None:
        source = _Mark(order, name)
        try:
            values = self._parse(_read_text(name), source, ())
        except _Unreadable as error:
            self.mistakes.append((source._replace(line=error.line), error.text))
            return
        if isinstance(values, dict):
            self.values = _merge(self.values, values)
        elif values is not None:
            self.mistakes.append((source, f"got {_show(values)}, expected a mapping of sections and keys"))

    def read_override(self, order: int, override: str) -> None:
        source = _Mark(order, COMMAND_LINE)
        name, equals, text = override.partition("=")
        parts = [part.strip() for part in name.split(".")]
        if not equals or not all(parts):
            self.mistakes.append((source, f"got {_show(override)}, expected section.key=value"))
            return
        path = _indexed(parts, self.values)
        for end in range(len(path)):
            self.marks.setdefault(path[:end], source)
        try:
            value = self._parse(text, source, path)
        except _Unreadable as error:
            self.mistakes.append((source, f"{override}: {error.text}"))
            return
        for part in reversed(path):
            value = {part: value}
        self.values = _merge(self.values, value)

    def add(self, path: KeyPath, text: str) -> None:
        """Record a mistake in the value at `path`, or in the nearest section that was written."""
        written = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in self.marks), None)
        self.mistakes.append((_Mark(-1, "config") if written is None else self.marks[written], text))

    def subject(self, path: KeyPath, values: Any) -> str:
        """How a mistake names its value: the dotted key; on the command line with the value, as it was typed."""
        return f"{_dotted(path)}={_show(_at(values, path))}" if self.from_command_line(path) else _dotted(path)

    def from_command_line(self, path: KeyPath) -> bool:
        return path in self.marks and self.marks[path].source == COMMAND_LINE

    def _parse(self, text: str, source: _Mark, path: KeyPath) -> Any:
        """The plain value of a YAML text that will stand at `path`."""
        if len(text.encode(errors="replace")) > MAX_BYTES:
            raise _Unreadable(f"larger than {MAX_BYTES:,} bytes; a config holds options, not data")
        try:
            node = yaml.compose(text, Loader=_Loader)
            if node is None:
                return None
            _count(node, {})
            return self._value(node, source, path)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise _Unreadable(f"not valid YAML: {error.problem}", line) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise _Unreadable(f"not valid YAML: {error.reason}", line) from error
        except RecursionError as error:
            raise _Unreadable("nested too deeply for a config") from error

    def _value(self, node: yaml.Node, source: _Mark, path: KeyPath) -> Any:
        self.marks[path] = source._replace(line=node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, source, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(child, source, (*path, index)) for index, child in enumerate(node.value)]
        try:
            value = _SCALARS[node.tag][2](node.value)
            json.dumps(value, ensure_ascii=False).encode()
        except (KeyError, TypeError, ValueError):
            self.add(
                path, f"{_dotted(path)}: {node.tag} is not supported here; write plain text, numbers, lists or keys"
            )
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, source: _Mark, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            mark = source._replace(line=key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append((mark, f"{_dotted(path)}: got a list or mapping as a key, expected plain text"))
                continue
            key = key_node.value
            below = (*path, key)
            if key in values:
                self.mistakes.append((mark, f"duplicate key {_dotted(below)}; it was set on line {lines[key]} already"))
            values[key] = self._value(value_node, source, below)
            lines[key] = mark.line
            self.marks[below] = mark
        return values


def _read_text(name: str) -> str:
    recipe = name.removeprefix("recipe:")
    if recipe != name:
        recipes = [folder.parent.name for folder in sorted(RECIPES.glob("*/config.yaml"))]
        if recipe not in recipes:
            raise _Unreadable(f"no such recipe; {_near(recipe, recipes) or 'there are: ' + ', '.join(recipes)}")
        name = str(RECIPES / recipe / "config.yaml")
    path = Path(name)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Unreadable(f"larger than {MAX_BYTES:,} bytes; a config holds options, not data")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = _near(path.name, [each.name for each in sorted(path.parent.glob("*.y*ml"))])
        raise _Unreadable(f"no such file; {near or 'give the path of a YAML file'}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _Unreadable(f"cannot be read: {error}") from error


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes `node` is once its aliases are expanded; `known` holds 0 for a node that is being counted."""
    if id(node) not in known:
        known[id(node)] = 0
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    size = known[id(node)]
    if size == 0:
        raise _Unreadable("an alias stands inside its own anchor")
    if size > MAX_NODES:
        raise _Unreadable(f"more than {MAX_NODES:,} values once its aliases are expanded")
    return size


def _merge(base: Any, new: Any) -> Any:
    """`new` laid over `base`: mappings key by key, the items of a list by integer keys, anything else replaced."""
    if isinstance(new, dict) and isinstance(base, dict):
        return base | {key: _merge(base.get(key), value) for key, value in new.items()}
    if isinstance(new, dict) and isinstance(base, list) and all(isinstance(key, int) for key in new):
        return [_merge(item, new[index]) if index in new else item for index, item in enumerate(base)]
    return new


def _indexed(parts: Sequence[str], values: Any) -> KeyPath:
    """The parts of a dotted key, as integers where `values` has a list with such an item."""
    path: list[str | int] = []
    for part in parts:
        in_list = isinstance(values, list) and part.isdecimal() and int(part) < len(values)
        path.append(int(part) if in_list else part)
        values = _at(values, tuple(path[-1:]))
    return tuple(path)


def _at(values: Any, path: KeyPath) -> Any:
    """The value at `path`, None where there is none."""
    for part in path:
        if isinstance(values, dict):
            values = values.get(part)
        else:
            values = values[part] if isinstance(values, list) and isinstance(part, int) else None
    return values


# ---- validating: pydantic's complaints become sentences ---------------------------------------------------------------

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (in quotes if it looks like a number)",
    "path_type": "a path",
    "none_required": "null",
    "model_type": "a section of keys",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}


def _validate(schema: type[S], draft: _Draft) -> S | None:
    """The configuration, as far as it can be built; every mistake goes to the draft.

    Wrong values are dropped and the rest is tried again, so that a wrong type does not hide an impossible combination.
    """
    values, missing_counts = draft.values, True
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
    schema: type[Section], draft: _Draft, values: Any, errors: Sequence[ErrorDetails], missing_counts: bool
) -> list[KeyPath]:
    """Add a sentence to the draft for each error; returns the places of the values that are wrong."""
    wrong: list[KeyPath] = []
    wishes: dict[KeyPath, list[str]] = {}  # several for one value where its type is a union
    for error in errors:
        path = _locate(error["loc"], values)
        if error["type"] == "missing":
            key = (*path, error["loc"][-1])
            if missing_counts:
                draft.add(key, f"missing key {_dotted(key)}{_description(schema, key)}")
        elif error["type"] == "impossible":
            keys = [(*path, *_indexed(name.split("."), _at(values, path))) for name, _ in error["ctx"]["problems"]]
            for key, (_, message) in zip(keys, error["ctx"]["problems"], strict=True):
                draft.add(key, f"{draft.subject(key, values)}: {message}")
            wrong += keys
        elif error["type"] == "extra_forbidden":
            draft.add(path, f"unknown key {_dotted(path)}; {_suggestion(schema, path)}")
            wrong.append(path)
        else:
            wishes.setdefault(path, []).append(_wish(error))
    for path, several in wishes.items():
        wish = " or ".join(dict.fromkeys(several)).replace(" or expected ", " or ")
        given = "" if draft.from_command_line(path) else f"got {_show(_at(values, path))}, "
        draft.add(path, f"{draft.subject(path, values)}: {given}{wish}")
    return wrong + list(wishes)


def _locate(loc: Sequence[str | int], values: Any) -> KeyPath:
    """The part of pydantic's location that exists in `values`: it names the members of a union too."""
    path: list[str | int] = []
    for part in loc:
        inside = part in values if isinstance(values, dict) else isinstance(values, list) and isinstance(part, int)
        if inside:
            path.append(part)
            values = _at(values, (part,))
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
        return f"must be {_BOUNDS[error['type']]} {next(iter(error['ctx'].values()))}"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _suggestion(schema: type[Section], path: KeyPath) -> str:
    """The valid key most like an unknown one, by its whole name and by its last part; else all keys of its section."""
    name, last = _dotted(path), str(path[-1])
    valid = [_filled(key, path) for key, _ in _fields(schema)]
    likeness = {key: _ratio(key.rpartition(".")[2], last) for key in valid}
    best = max(valid, key=lambda key: likeness[key] + _ratio(key, name), default="")
    if best and likeness[best] >= 0.6:
        return f"did you mean {best}?"
    section = name.rpartition(".")[0]
    return "valid here: " + ", ".join(key.rpartition(".")[2] for key in valid if key.rpartition(".")[0] == section)


def _description(schema: type[Section], path: KeyPath) -> str:
    found = [field.description for key, field in _fields(schema) if _filled(key, path) == _dotted(path)]
    return f" ({found[0]})" if found and found[0] else ""


def _near(name: str, names: Sequence[str]) -> str:
    return "".join(f"did you mean {near}?" for near in difflib.get_close_matches(name, names, n=1))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- what a schema says about itself ---------------------------------------------------------------------------------

_TYPE_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null"}


def _fields(schema: type[Section], above: tuple[type[Section], ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a schema and of the sections in it, by dotted name."""
    for name, field in schema.model_fields.items():
        yield name, field
        for suffix, section in _sections(field.annotation):
            below = () if section in above else _fields(section, (*above, schema))
            yield from ((f"{name}{suffix}.{key}", inner) for key, inner in below)


def _sections(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The sections a field may hold; the suffix has `.*` for each list or mapping around them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield suffix, annotation
    star = ".*" if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Iterable) else ""
    for inner in get_args(annotation):
        yield from _sections(inner, suffix + star)


def _filled(name: str, path: KeyPath) -> str:
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
    value = field.default_factory() if field.default_factory else field.default
    return json.dumps(to_jsonable_python(value), ensure_ascii=False)
