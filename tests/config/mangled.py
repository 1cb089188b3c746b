"""Config files with one mistake each; some name the line, and the key that must be suggested."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from proxtune.config import load, recipes
from proxtune.config.schema import Section, fields
from proxtune.errors import ConfigError
from proxtune.workflows.schemas import PPORun, RewardRun, SFTRun

SCHEMAS: dict[str, type[Section]] = {"sft": SFTRun, "reward": RewardRun, "ppo": PPORun}
SOURCES = {name: recipes()[name].read_text(encoding="utf-8").splitlines() for name in SCHEMAS}
TYPOS = ("letter left out", "letter twice", "letters swapped", "letter wrong", "dash for underscore")
VALUES = (
    "[1, {a: b}]",
    "{x: {y: z}}",
    "'text where none belongs'",
    "~no",
    "1e999",
    ".nan",
    "-7",
    "0",
    "2000-01-01",
    "true",
)
LINES = (
    "\tindented: 1",
    "  : 3",
    "&a [*a]",
    "!!python/object/apply:os.system [ls]",
    "- item",
    "key: [",
    "'open",
    "\0",
    "a: 1: 2",
)


@dataclass(frozen=True)
class Mangled:
    """A config, what is wrong with it, and the line and the suggestion that a message must have, where known."""

    command: str
    text: str
    mistake: str
    line: int | None = None
    meant: str | None = None


def known_keys(schema: type[Section]) -> set[str]:
    """Every key that stands anywhere in a config of this schema, without its sections."""
    return {name.rpartition(".")[2] for name, _ in fields(schema)}


def misspelt(word: str, how: str, place: int, letter: str) -> str:
    """`word` with one slip of the fingers."""
    place %= len(word)
    match how:
        case "letter left out":
            return word[:place] + word[place + 1 :]
        case "letter twice":
            return word[:place] + word[place] + word[place:]
        case "letters swapped":
            place = min(place, len(word) - 2)
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        case "letter wrong":
            return word[:place] + letter + word[place + 1 :]
    return word.replace("_", "-")


def keyed(lines: Sequence[str]) -> list[int]:
    """Where the lines are that begin with a key."""
    return [i for i, line in enumerate(lines) if line.lstrip() and line.lstrip()[0].isalpha() and ":" in line]


@st.composite
def typos(draw: st.DrawFn) -> Mangled:
    """A key of at least four letters with one slip, which must be named with its line and what was meant."""
    command = draw(st.sampled_from(sorted(SCHEMAS)))
    lines, how = list(SOURCES[command]), draw(st.sampled_from(TYPOS))
    wide = [i for i in keyed(lines) if len(lines[i].split(":")[0].strip()) >= 4]
    if how == "dash for underscore":
        wide = [i for i in wide if "_" in lines[i].split(":")[0]]
    at = draw(st.sampled_from(wide))
    key = lines[at].split(":")[0].strip()
    wrong = misspelt(key, how, draw(st.integers(1, 20)), draw(st.sampled_from(string.ascii_lowercase)))
    lines[at] = lines[at].replace(key, wrong, 1)
    line = None if wrong in known_keys(SCHEMAS[command]) else at + 1  # a slip may make another key, or none at all
    return Mangled(command, "\n".join(lines) + "\n", how, line, key if line else None)


@st.composite
def wrong_values(draw: st.DrawFn) -> Mangled:
    """Something else where a value stood; it may even be allowed."""
    command = draw(st.sampled_from(sorted(SCHEMAS)))
    lines = list(SOURCES[command])
    at = draw(st.sampled_from([i for i in keyed(lines) if lines[i].split("#")[0].rstrip()[-1] != ":"]))
    lines[at] = lines[at].split(":")[0] + ": " + draw(st.sampled_from(VALUES))
    return Mangled(command, "\n".join(lines) + "\n", "another value")


@st.composite
def broken_lines(draw: st.DrawFn) -> Mangled:
    """A line put in, taken out, moved, doubled, or cut, or bytes anywhere."""
    command = draw(st.sampled_from(sorted(SCHEMAS)))
    lines = list(SOURCES[command])
    at = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["put in", "taken out", "moved", "indented", "twice", "garbled"]))
    match how:
        case "put in":
            lines.insert(at, draw(st.sampled_from(LINES)))
        case "taken out":
            del lines[at]
        case "moved":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        case "indented":
            lines[at] = " " * draw(st.integers(1, 5)) + lines[at]
        case "twice":
            at = draw(st.sampled_from(keyed(lines)))
            lines.insert(at + 1, lines[at])
        case "garbled":
            lines[at] += draw(st.text(max_size=20))
    return Mangled(command, "\n".join(lines) + "\n", how)


mangled_configs = typos() | wrong_values() | broken_lines()


def told(mangled: Mangled, folder: Path) -> bool:
    """Read it; whether a message has the right file and line, and the suggestion. Raises for what is no ConfigError."""
    path = folder / "run.yaml"
    path.write_text(mangled.text, encoding="utf-8", errors="surrogatepass")
    try:
        load(SCHEMAS[mangled.command], [path])
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        return mangled.line is None
    assert all(lines)
    if mangled.line is None:
        return True
    return any(f"{path}:{mangled.line}:" in line and f"{mangled.meant}" in line for line in lines)
