"""What may be in a YAML file, and what may not, however it was meant."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from proxtune.config import Section, load, source
from proxtune.errors import ConfigError


class Anything(Section):
    values: dict[str, Any] = Field({})
    number: int = 0


def read(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(Anything, [path]).values


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("1_000_000", 1_000_000),
        ("007", 7),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ("1.2.3", "1.2.3"),
        ("0x1F", "0x1F"),
        ("-.inf", float("-inf")),
        ("[1, [2]]", [1, [2]]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    [read_value] = read(tmp_path, f"values: {{x: {text}}}").values()
    assert read_value == value
    assert type(read_value) is type(value)


def test_an_alias_stands_for_its_anchor(tmp_path: Path) -> None:
    assert read(tmp_path, "values: {a: &x [1, 2], b: *x}") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("values: {a: [1, 2\nnumber: 3\n", "run.yaml:2: not valid YAML: "),
        ("a: b: c", "run.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("values:\n\t- 1", "run.yaml:2: not valid YAML: found character '\\t'"),
        ("values: {}\n---\nnumber: 1\n", "run.yaml:2: not valid YAML: but found another document"),
        ("number: 1\nname: \x00", "run.yaml:2: not valid YAML: special characters are not allowed"),
        ("values: *x", "run.yaml:1: not valid YAML: found undefined alias 'x'"),
        (b"values: \xff", "run.yaml: cannot be read: 'utf-8' codec"),
        ('values: {x: "\\ud800"}', "run.yaml:1: values.x: !!str is not supported"),
        ("values:\n  when: !!timestamp 2026-11-22", "run.yaml:2: values.when: !!timestamp is not supported"),
        (f"number: {'9' * 5000}", "run.yaml:1: number: !!int is not supported"),
        ("? [a]\n: 1\n", "run.yaml:1: got a list or mapping as a key, expected plain text"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch x']", "!!python/name:os.system", "!run x"])
def test_se2_a_tag_that_names_code_is_refused(tmp_path: Path, tag: str) -> None:
    assert "is not supported; write plain text, numbers, lists or keys" in refusal(tmp_path, f"values:\n  x: {tag}")


def test_se2_a_file_of_more_than_a_megabyte_is_refused_unread(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, "#" * 1_000_001) == "run.yaml: larger than 1,000,000 bytes; a config holds options, not data"
    )
    assert read(tmp_path, "#" * 1_000_000) == {}


def test_se2_an_alias_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    """Ten aliases a line, nine lines: 400 bytes that stand for 10**9 values."""
    lines = ["l0: &l0 [x]"] + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert refusal(tmp_path, "\n".join(lines)) == "run.yaml: more than 100,000 values once its aliases are expanded"


def test_se2_a_long_text_repeated_by_alias_is_a_bomb_too(tmp_path: Path) -> None:
    """100 kB of text, 1000 times: 100 MB."""
    text = f"values:\n  a: &a {'x' * 100_000}\n  b: [{', '.join(['*a'] * 1000)}]"
    assert "once its aliases are expanded" in refusal(tmp_path, text)


def test_se2_an_alias_inside_its_own_anchor_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "values: &a {b: *a}") == "run.yaml: an alias stands inside its own anchor"


def test_se2_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"values: {'[' * 1000}{']' * 1000}") == "run.yaml: nested too deeply for a config"


def test_se2_an_override_is_under_the_same_limits() -> None:
    with pytest.raises(
        ConfigError, match=r"command line: number=!!python/none: number: !!python/none is not supported"
    ):
        load(Anything, [], ["number=!!python/none"])
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(Anything, [], ["values=" + "[" * 1000])


def test_a_recipe_is_found_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RECIPES", tmp_path / "recipes")
    for name in ("summarise", "dialogue"):
        (tmp_path / "recipes" / name).mkdir(parents=True)
        (tmp_path / "recipes" / name / "config.yaml").write_text("number: 5")
    assert load(Anything, ["recipe:summarise"]).number == 5
    (tmp_path / "recipes" / "summarise" / "teacher.yaml").write_text("number: 6")
    assert load(Anything, ["recipe:summarise/teacher"]).number == 6
    with pytest.raises(ConfigError, match=r"did you mean summarise/teacher\?$"):
        load(Anything, ["recipe:summarise/techer"])
    with pytest.raises(ConfigError, match=r"^recipe:sumarise: no such recipe; did you mean summarise\?$"):
        load(Anything, ["recipe:sumarise"])
    with pytest.raises(
        ConfigError, match=r"^recipe:\.\./x: no such recipe; there are: dialogue, summarise, summarise/teacher$"
    ):
        load(Anything, ["recipe:../x"])


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Anything, [tmp_path])
