"""Reading YAML safely: texts become one tree of plain values, with a mark that says where each of them was written."""

import difflib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
RECIPES = Path(__file__).parents[1] / "recipes"
COMMAND_LINE = "command line"

KeyPath = tuple[str | int, ...]


class Mark(NamedTuple):
    """Where a value was written. `order` is the rank of its source, line 0 means the source as a whole."""

    order: int
    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line and self.source != COMMAND_LINE else self.source


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `1e-5` is a number, `no` and `12:30` are text."""


class Dumper(yaml.SafeDumper):
    """Quotes all text that version 1.1 or 1.2 would take for something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Text with line breaks and the like has them escaped: PyYAML's other styles lose some of Unicode's."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


Dumper.add_representer(str, Dumper.represent_str)


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {  # tag: (pattern, first characters, reader)
    "tag:yaml.org,2002:null": (r"~|null|", "~n", lambda _: None),
    "tag:yaml.org,2002:bool": (r"true|True|false|False", "tTfF", lambda text: text.lower() == "true"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+(_[0-9]+)*", "-+0123456789", int),
    "tag:yaml.org,2002:float": (_FLOAT, "-+.0123456789", _float),
}
_Loader.yaml_implicit_resolvers = {}  # those of version 1.1
for _tag, (_pattern, _first, _) in _SCALARS.items():
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), [*_first, ""])  # "" is the empty scalar
_SCALARS["tag:yaml.org,2002:str"] = ("", "", str)


class UnreadableError(Exception):
    """A source that cannot be read at all: what is wrong, and on which line if that is known."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.text, self.line = text, line


class Draft:
    """The merged values of all sources, where each was written, and the mistakes found so far."""

    def __init__(self) -> None:
        self.values: Any = {}
        self.marks: dict[KeyPath, Mark] = {}
        self.mistakes: list[tuple[Mark, str]] = []
        self.complete = True  # False once a source could not be read: a missing key may be there

    def read_file(self, order: int, name: str) -> None:
        source = Mark(order, name)
        try:
            values = self._parse(_read_text(name), source, ())
        except UnreadableError as error:
            self.complete = False
            self.mistakes.append((source._replace(line=error.line), error.text))
            return
        if isinstance(values, dict):
            self.values = _merge(self.values, values)
        elif values is not None:
            self.mistakes.append((source, f"got {show(values)}, expected a mapping of sections and keys"))

    def read_override(self, order: int, override: str) -> None:
        source = Mark(order, COMMAND_LINE)
        name, equals, text = override.partition("=")
        parts = [part.strip() for part in name.split(".")]
        if not equals or not all(parts):
            self.mistakes.append((source, f"got {show(override)}, expected section.key=value"))
            return
        path = indexed(parts, self.values)
        for end in range(len(path)):
            self.marks.setdefault(path[:end], source)
        try:
            value = self._parse(text, source, path)
        except UnreadableError as error:
            self.complete = False
            self.mistakes.append((source, f"{override}: {error.text}"))
            return
        for part in reversed(path):
            value = {part: value}
        self.values = _merge(self.values, value)

    def add(self, path: KeyPath, text: str) -> None:
        """Record a mistake in the value at `path`, or in the nearest section that was written."""
        written = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in self.marks), None)
        self.mistakes.append((Mark(-1, "config") if written is None else self.marks[written], text))

    def subject(self, path: KeyPath, values: Any) -> str:
        """How a mistake names its value: the dotted key; on the command line with the value, as it was typed."""
        return f"{dotted(path)}={show(value_at(values, path))}" if self.from_command_line(path) else dotted(path)

    def from_command_line(self, path: KeyPath) -> bool:
        return path in self.marks and self.marks[path].source == COMMAND_LINE

    def _parse(self, text: str, source: Mark, path: KeyPath) -> Any:
        """The plain value of a YAML text that will stand at `path`."""
        if len(text.encode(errors="replace")) > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES:,} bytes; a config holds options, not data")
        try:
            node = yaml.compose(text, Loader=_Loader)
            if node is None:
                return None
            _count(node, {})
            return self._value(node, source, path)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UnreadableError(f"not valid YAML: {error.problem}", line) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise UnreadableError(f"not valid YAML: {error.reason}", line) from error
        except RecursionError as error:
            raise UnreadableError("nested too deeply for a config") from error

    def _value(self, node: yaml.Node, source: Mark, path: KeyPath) -> Any:
        self.marks[path] = source._replace(line=node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, source, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(child, source, (*path, index)) for index, child in enumerate(node.value)]
        try:
            node.value.encode()  # an escaped half of a surrogate pair is no text
            return _SCALARS[node.tag][2](node.value)
        except (KeyError, ValueError, AttributeError) as error:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            text = f"{dotted(path)}: {tag} is not supported; write plain text, numbers, lists or keys"
            raise UnreadableError(text, node.start_mark.line + 1) from error

    def _mapping(self, node: yaml.MappingNode, source: Mark, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            mark = source._replace(line=key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append((mark, "got a list or mapping as a key, expected plain text"))
                continue
            key = key_node.value
            below = (*path, key)
            if key in values:
                self.mistakes.append((mark, f"duplicate key {dotted(below)}; it was set on line {lines[key]} already"))
            values[key] = self._value(value_node, source, below)
            lines[key] = mark.line
            self.marks[below] = mark
        return values


def recipes() -> dict[str, Path]:
    """The package's recipes: `<name>` is its config.yaml, `<name>/<file>` another file beside it."""
    files = sorted(RECIPES.glob("*/*.yaml"))
    return {str(path.relative_to(RECIPES).with_suffix("")).removesuffix("/config"): path for path in files}


def _read_text(name: str) -> str:
    recipe = name.removeprefix("recipe:")
    if recipe != name:
        known = recipes()
        if recipe not in known:
            raise UnreadableError(f"no such recipe; {_near(recipe, [*known]) or 'there are: ' + ', '.join(known)}")
        name = str(known[recipe])
    path = Path(name)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableError(f"larger than {MAX_BYTES:,} bytes; a config holds options, not data")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = _near(path.name, [each.name for each in sorted(path.parent.glob("*.y*ml"))])
        raise UnreadableError(f"no such file; {near or 'give the path of a YAML file'}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"cannot be read: {error}") from error


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values `node` holds once its aliases are expanded; a long text counts for one per 64 characters.

    `known` has the sizes of the nodes seen, 0 for one that is being counted.
    """
    if id(node) not in known:
        known[id(node)] = 0
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        text = len(node.value) // 64 if isinstance(node, yaml.ScalarNode) else 0
        known[id(node)] = 1 + text + sum(_count(child, known) for child in children)
    size = known[id(node)]
    if size == 0:
        raise UnreadableError("an alias stands inside its own anchor")
    if size > MAX_NODES:
        raise UnreadableError(f"more than {MAX_NODES:,} values once its aliases are expanded")
    return size


def _merge(base: Any, new: Any) -> Any:
    """`new` laid over `base`: mappings key by key, the items of a list by integer keys, anything else replaced."""
    if isinstance(new, dict) and isinstance(base, dict):
        return base | {key: _merge(base.get(key), value) for key, value in new.items()}
    if isinstance(new, dict) and isinstance(base, list) and all(isinstance(key, int) for key in new):
        return [_merge(item, new[index]) if index in new else item for index, item in enumerate(base)]
    return new


def indexed(parts: Sequence[str], values: Any) -> KeyPath:
    """The parts of a dotted key, as integers where `values` has a list with such an item."""
    path: list[str | int] = []
    for part in parts:
        in_list = isinstance(values, list) and part.isdecimal() and int(part) < len(values)
        path.append(int(part) if in_list else part)
        values = value_at(values, tuple(path[-1:]))
    return tuple(path)


def value_at(values: Any, path: KeyPath) -> Any:
    """The value at `path`, None where there is none."""
    for part in path:
        if isinstance(values, dict):
            values = values.get(part)
        else:
            values = values[part] if isinstance(values, list) and isinstance(part, int) else None
    return values


def _near(name: str, names: Sequence[str]) -> str:
    return "".join(f"did you mean {near}?" for near in difflib.get_close_matches(name, names, n=1))


def dotted(path: KeyPath) -> str:
    """The key as it is written in messages and overrides."""
    return ".".join(map(str, path))


def show(value: Any) -> str:
    """A value as a message quotes it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
