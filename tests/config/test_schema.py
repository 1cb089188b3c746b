"""A schema describes itself: for the docs, for editors, for forms."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from proxtune.config import Key, Section, json_schema, key_table


class Node(Section):
    name: str = Field(description="its name")
    children: "list[Node]" = Field([], description="further nodes")


class Rule(Section):
    weight: float = Field(1.0, description="how much it counts")


class Schema(Section):
    model: Path = Field(description="hub id or folder")
    mode: Literal["fast", "exact"] | None = Field(None, description="how to run")
    rules: list[Rule] = Field([], description="what to reward")
    judges: dict[str, Rule] = Field({}, description="who judges")
    limits: dict[str, int] = Field(default_factory=lambda: {"steps": 3}, description="where to stop")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the moments")


def test_the_table_lists_every_option_once_with_type_default_and_description() -> None:
    assert key_table(Schema) == [
        Key("model", "path", None, "hub id or folder"),
        Key("mode", "fast | exact | null", "null", "how to run"),
        Key("rules.*.weight", "number", "1.0", "how much it counts"),
        Key("judges.*.weight", "number", "1.0", "how much it counts"),
        Key("limits", "mapping to integer", '{"steps": 3}', "where to stop"),
        Key("betas", "list of number", "[0.9, 0.95]", "decay of the moments"),
    ]


def test_a_section_that_holds_its_own_kind_is_followed_once() -> None:
    assert [key.name for key in key_table(Node)] == ["name", "children.*.name"]


def test_the_json_schema_refuses_unknown_keys_and_has_the_descriptions() -> None:
    schema = json_schema(Schema)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["model"]
    assert schema["properties"]["model"]["description"] == "hub id or folder"
