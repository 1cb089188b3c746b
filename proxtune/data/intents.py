"""Commands to a home with their intents, drawn from the templates of the installed package `home-assistant-intents`.

In a template (a|b) is one of two, [a] is a or nothing, (a;b) both in any order, `<rule>` another template, and
`{list:slot}` a value of a list: `<turn> [the] {name} (on|off)` gives "switch the lamp on".

Lists that a home fills in (its rooms, its devices) and free text get a few fixed values.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias

from proxtune.data.corpora import Part, labelled_part, package_folder
from proxtune.runs import derive_seed

INSTALL = "pip install --no-deps home-assistant-intents==2026.10.27"
DRAWS = 200  # of each intent, its templates in turn
PIECE = re.compile(r"[()\[\]|;]|<[^>]*>|\{[^}]*\}|[^()\[\]|;<{]+")

FILLED: dict[str, dict[str, list[str]]] = {
    "en": {
        "name": [
            "bedroom lamp",
            "ceiling fan",
            "front door",
            "kitchen blinds",
            "coffee maker",
            "garage door",
            "heater",
        ],
        "area": ["kitchen", "living room", "bedroom", "office", "bathroom", "garage"],
        "floor": ["ground floor", "first floor", "basement", "attic"],
        "message": ["dinner is ready", "the bus leaves in ten minutes", "please come down"],
        "search_query": ["the Beatles", "piano music", "a comedy"],
        "zone": ["work", "school", "home"],
        "timer_name": ["pizza", "laundry", "tea"],
        "timer_command": ["open the blinds", "turn off the heater", "lock the front door"],
        "shopping_list_item": ["apples", "milk", "two loaves of bread"],
        "todo_list_item": ["call the plumber", "water the plants", "pay the rent"],
    },
    "zh-CN": {
        "name": ["台灯", "吊扇", "前门", "厨房窗帘", "咖啡机", "车库门", "暖气"],
        "area": ["厨房", "客厅", "卧室", "书房", "浴室", "车库"],
        "floor": ["一楼", "二楼", "地下室", "阁楼"],
        "message": ["饭做好了", "十分钟后出发", "请下楼"],
        "search_query": ["钢琴曲", "喜剧", "周杰伦"],
        "zone": ["公司", "学校", "家"],
        "timer_name": ["披萨", "洗衣", "泡茶"],
        "timer_command": ["打开窗帘", "关掉暖气", "锁上前门"],
        "shopping_list_item": ["苹果", "牛奶", "两袋面包"],
        "todo_list_item": ["打电话给水管工", "浇花", "交房租"],
    },
}


def commands(language: Literal["en", "zh-CN"], part: Part) -> Iterator[dict[str, Any]]:
    """Commands, each with its intent as the label and the values in it as `slots`; a fifth is the test.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    file = package_folder("home_assistant_intents", INSTALL) / "data" / f"{language}.json"
    return labelled_part(_drawn(json.loads(file.read_text(encoding="utf-8")), FILLED[language]), part, percent=20)


def _drawn(known: Mapping[str, Any], filled: Mapping[str, list[str]]) -> Iterator[dict[str, Any]]:
    grammar = Grammar(known["expansion_rules"], known["lists"], filled)
    for intent, blocks in known["intents"].items():
        templates = [template for block in blocks["data"] for template in block["sentences"]]
        random = Random(derive_seed(0, f"commands {intent}"))  # noqa: S311 (no secret)
        for i in range(DRAWS):
            text, slots = grammar.draw(templates[i % len(templates)], random)
            yield {"text": text, "label": intent, "slots": slots}


@dataclass
class Choice:
    """One of several sequences, or all of them in any order."""

    options: list[list["Node"]] = field(default_factory=lambda: [[]])
    in_any_order: bool = False


Node: TypeAlias = str | Choice


@dataclass
class Grammar:
    """What the templates of a language name: rules, and lists, of which `filled` are given values here."""

    rules: Mapping[str, str]
    lists: Mapping[str, Any]
    filled: Mapping[str, list[str]]

    def draw(self, template: str, random: Random) -> tuple[str, dict[str, str]]:
        """A sentence of the template at random, and the values in its slots."""
        slots = dict[str, str]()
        return " ".join(self._draw(parsed(template), random, slots).split()), slots

    def _draw(self, node: Node, random: Random, slots: dict[str, str]) -> str:
        if isinstance(node, str):
            return self._named(node, random, slots) if node[0] in "<{" else node
        options = random.sample(node.options, len(node.options) if node.in_any_order else 1)
        return " ".join("".join(self._draw(inner, random, slots) for inner in option) for option in options)

    def _named(self, reference: str, random: Random, slots: dict[str, str]) -> str:
        name, _, slot = reference[1:-1].partition(":")
        if reference[0] == "<":
            return self._draw(parsed(self.rules[name]), random, slots)
        slots[slot or name] = value = self._value(name, random)
        return value

    def _value(self, name: str, random: Random) -> str:
        if name in self.filled:
            return random.choice(self.filled[name])
        if "range" in self.lists[name]:
            span = self.lists[name]["range"]
            return str(random.randrange(span["from"], span["to"] + 1, span.get("step", 1)))
        value = random.choice(self.lists[name]["values"])
        return " ".join(self._draw(parsed(value["in"] if isinstance(value, dict) else value), random, {}).split())


def parsed(template: str) -> Choice:
    """The template as nested choices of texts, `<rule>` and `{list:slot}`."""
    open_ones = [Choice()]
    for piece in PIECE.findall(template):
        options = open_ones[-1].options
        match piece:
            case "(" | "[":
                inner = Choice([[]] if piece == "(" else [[], []])  # nothing is the first option of [a]
                options[-1].append(inner)
                open_ones.append(inner)
            case ")" | "]":
                open_ones.pop()
            case "|" | ";":
                open_ones[-1].in_any_order = piece == ";"
                options.append([])
            case _:
                options[-1].append(piece)
    return open_ones[0]
