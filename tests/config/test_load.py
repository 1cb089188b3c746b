"""Whatever is wrong with a configuration, one run says all of it, in words, with its place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from proxtune.config import Section, dump, load
from proxtune.errors import ConfigError


class Ppo(Section):
    clip: float = Field(0.2, gt=0)
    clip_high: float | None = None
    epochs: int = Field(4, ge=1)
    truncation: Literal["none", "mask"] = "none"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.clip_high is not None and self.clip_high < self.clip:
            yield "clip_high", f"must be at least clip ({self.clip:g})"


class Optim(Section):
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)


class Rule(Section):
    name: str = Field(description="which rule")
    weight: float = 1.0


class Remote(Section):
    kind: Literal["remote"]
    url: str


class Local(Section):
    kind: Literal["local"]
    path: Path


class Schema(Section):
    seed: int = 0
    save: bool = True
    name: str = "run"
    folder: Path | None = None
    size: int | Literal["auto"] = "auto"
    ppo: Ppo = Ppo()
    optim: Optim = Optim()
    warmup: Optim | None = None
    rules: list[Rule] = Field([])
    judges: dict[str, Optim] = Field({})
    judge: Remote | Local | None = Field(None, discriminator="kind")
    tags: dict[str, Any] = Field({})

    @field_validator("seed")
    @classmethod
    def _seed(cls, seed: int) -> int:
        if seed == 13:
            raise ValueError("13 brings bad luck; take another seed")
        return seed

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ppo.epochs == 7 and self.seed == 7:
            yield "ppo.epochs", "set it to 6, or the seed to 8"


class Required(Section):
    model: str = Field(description="hub id or folder")
    ppo: Ppo = Ppo()


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistakes(*files: str, overrides: tuple[str, ...] = (), schema: type[Section] = Schema) -> list[str]:
    """What `load` complains about, the files by their bare names."""
    with pytest.raises(ConfigError) as caught:
        load(schema, files, overrides)
    folders = {f"{Path(file).parent}/" for file in files}
    text = str(caught.value)
    for folder in folders:
        text = text.replace(folder, "")
    return text.split("\n")


def test_nothing_given_is_the_defaults() -> None:
    assert load(Schema, []) == Schema()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load(Schema, [write(tmp_path, text)]) == Schema()


def test_later_files_win_key_by_key_and_overrides_win_over_files(tmp_path: Path) -> None:
    first = write(tmp_path, "seed: 1\nppo: {clip: 0.1, epochs: 2}\njudges: {a: {learning_rate: 1}}", "a.yaml")
    second = write(tmp_path, "ppo:\n  clip: 0.3\njudges: {b: {learning_rate: 2}}", "b.yaml")
    config = load(Schema, [first, Path(second)], ["ppo.clip=0.5", "optim.learning_rate=3e-4"])
    assert (config.seed, config.ppo.clip, config.ppo.epochs, config.optim.learning_rate) == (1, 0.5, 2, 3e-4)
    assert {name: judge.learning_rate for name, judge in config.judges.items()} == {"a": 1, "b": 2}
    assert load(Schema, [first], ["seed=2", "seed=3"]).seed == 3


def test_a_list_is_replaced_and_one_of_its_items_is_overridden_by_index(tmp_path: Path) -> None:
    first = write(tmp_path, "rules: [{name: a}, {name: b, weight: 2}]", "a.yaml")
    second = write(tmp_path, "rules: [{name: c}]", "b.yaml")
    assert [rule.name for rule in load(Schema, [first, second]).rules] == ["c"]
    assert load(Schema, [first], ["rules.1.weight=5"]).rules == [Rule(name="a"), Rule(name="b", weight=5)]


def test_override_values_are_yaml(tmp_path: Path) -> None:
    config = load(
        Schema,
        [],
        ["folder=runs/x", "optim.betas=[0.8, 0.9]", "save=false", "name=a=b", "warmup={learning_rate: 1e-3}"],
    )
    assert (config.folder, config.optim.betas, config.save, config.name) == (Path("runs/x"), (0.8, 0.9), False, "a=b")
    assert config.warmup == Optim(learning_rate=1e-3)
    assert load(Schema, [write(tmp_path, "warmup: {learning_rate: 1}")], ["warmup=null"]).warmup is None


def test_every_mistake_of_every_source_is_listed_at_once_in_order(tmp_path: Path) -> None:
    first = write(tmp_path, "ppo:\n  clp: 0.1\n  epochs: four\nsave: 3\n", "a.yaml")
    second = write(tmp_path, "optim:\n  learning_rate: fast\n  learning_rate: slow\n", "b.yaml")
    assert mistakes(first, second, str(tmp_path / "bb.yaml"), overrides=("ppo.truncation=msk", "seed")) == [
        "a.yaml:2: unknown key ppo.clp; did you mean ppo.clip?",
        'a.yaml:3: ppo.epochs: got "four", expected an integer',
        "a.yaml:4: save: got 3, expected true or false",
        "b.yaml:3: duplicate key optim.learning_rate; it was set on line 2 already",
        'b.yaml:3: optim.learning_rate: got "slow", expected a number',
        "bb.yaml: no such file; did you mean b.yaml?",
        'command line: got "seed", expected section.key=value',
        "command line: ppo.truncation=\"msk\": expected 'none' or 'mask'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {clip: 0}", "ppo.clip: got 0, must be > 0"),
        ("ppo: {epochs: 0.5}", "ppo.epochs: got 0.5, expected an integer"),
        ("ppo: {epochs: true}", "ppo.epochs: got true, expected an integer"),
        ("ppo: {clip: '0.1'}", 'ppo.clip: got "0.1", expected a number'),
        ("optim: {learning_rate: .nan}", "optim.learning_rate: got NaN, expected a finite number"),
        ("optim: {learning_rate: 1e999}", "optim.learning_rate: got Infinity, expected a finite number"),
        ("name: 12", "name: got 12, expected text (in quotes if it looks like a number)"),
        ("name:", "name: got null, expected text (in quotes if it looks like a number)"),
        ("ppo: 3", "ppo: got 3, expected a section of keys"),
        ("ppo:", "ppo: got null, expected a section of keys"),
        ("rules: {}", "rules: got {}, expected a list"),
        ("rules: [{name: 3}]", "rules.0.name: got 3, expected text (in quotes if it looks like a number)"),
        ("judges: [1]", "judges: got [1], expected a mapping of keys to values"),
        ("judges: {a: {learning_rate: x}}", 'judges.a.learning_rate: got "x", expected a number'),
        ("size: large", "size: got \"large\", expected an integer or 'auto'"),
        ("seed: 13", "seed: got 13, 13 brings bad luck; take another seed"),
        ("judge: {kind: local, path: 3}", "judge.path: got 3, expected text (in quotes if it looks like a number)"),
        ("ppo: {clip: 0.3, clip_high: 0.1}", "ppo.clip_high: must be at least clip (0.3)"),
        ("- 1", "got [1], expected a mapping of sections and keys"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    [line] = mistakes(write(tmp_path, text))
    assert line in (f"run.yaml:1: {message}", f"run.yaml: {message}")


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("ppo.clp", "did you mean ppo.clip?"),
        ("ppo.learning_rate", "did you mean optim.learning_rate?"),
        ("learning_rate", "did you mean optim.learning_rate?"),
        ("pp", "did you mean ppo?"),
        ("judges.mine.learning_rat", "did you mean judges.mine.learning_rate?"),
        ("ppo.zzz", "valid here: clip, clip_high, epochs, truncation"),
    ],
)
def test_an_unknown_key_comes_with_a_known_one(key: str, advice: str) -> None:
    assert mistakes(overrides=(f"{key}=1",)) == [f"command line: unknown key {key}; {advice}"]


def test_a_key_misspelt_in_a_list_is_found_there(tmp_path: Path) -> None:
    text = "rules:\n- name: a\n- name: b\n  wieght: 1\n"
    assert mistakes(write(tmp_path, text)) == ["run.yaml:4: unknown key rules.1.wieght; did you mean rules.1.weight?"]


def test_a_missing_key_says_what_belongs_there(tmp_path: Path) -> None:
    empty = write(tmp_path, "ppo: {}\n")
    assert mistakes(empty, schema=Required) == ["run.yaml:1: missing key model (hub id or folder)"]
    assert mistakes(schema=Required) == ["config: missing key model (hub id or folder)"]
    assert mistakes(write(tmp_path, "rules:\n- weight: 1\n")) == ["run.yaml:2: missing key rules.0.name (which rule)"]


def test_what_an_unreadable_file_may_hold_is_not_called_missing(tmp_path: Path) -> None:
    [line] = mistakes(str(tmp_path / "nothing.yaml"), schema=Required)
    assert line == "nothing.yaml: no such file; give the path of a YAML file"


def test_impossible_combinations_show_beside_wrong_values_of_the_same_section(tmp_path: Path) -> None:
    text = "seed: 7\nppo:\n  epochs: 7\n  clip: 0.3\n  clip_high: 0.1\n  truncation: msk\noptim: {learning_rate: x}\n"
    assert mistakes(write(tmp_path, text)) == [
        "run.yaml:3: ppo.epochs: set it to 6, or the seed to 8",
        "run.yaml:5: ppo.clip_high: must be at least clip (0.3)",
        "run.yaml:6: ppo.truncation: got \"msk\", expected 'none' or 'mask'",
        'run.yaml:7: optim.learning_rate: got "x", expected a number',
    ]


def test_a_combination_that_the_command_line_made_impossible_is_laid_there() -> None:
    assert mistakes(overrides=("ppo.clip_high=0.1",)) == [
        "command line: ppo.clip_high=0.1: must be at least clip (0.2)"
    ]


def test_a_section_made_in_python_cannot_be_impossible_either_nor_change() -> None:
    with pytest.raises(ValidationError, match="clip_high: must be at least clip"):
        Ppo(clip_high=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        Ppo().clip = 1.0  # type: ignore[misc]


def test_dump_is_read_back_equal(tmp_path: Path) -> None:
    config = load(Schema, [], ["rules=[{name: 'no'}]", "folder=a/b", "judge={kind: local, path: x}", "warmup={}"])
    assert load(Schema, [write(tmp_path, dump(config))]) == config
    assert "learning_rate: 1.0e-05" in dump(config)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), plain, max_size=4))
def test_any_plain_value_survives_dump_and_load(tmp_path_factory: pytest.TempPathFactory, tags: dict[str, Any]) -> None:
    config = Schema(tags=tags)
    path = tmp_path_factory.mktemp("dump") / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(Schema, [path]).tags == tags
