"""Templates of commands: every sentence of one is drawn, and no other."""

from random import Random

import pytest

from proxtune.data.intents import Choice, Grammar, parsed

GRAMMAR = Grammar(
    rules={"turn": "(turn|switch) [it]", "now": "now|at once"},
    lists={
        "state": {"values": [{"in": "on", "out": "1"}, {"in": "(off|out)", "out": "0"}]},
        "level": {"range": {"from": 10, "to": 30, "step": 10}},
        "room": {"wildcard": True},
    },
    filled={"room": ["hall", "den"]},
)


def sentences(template: str) -> set[str]:
    """Of at most 12 sentences one in 500 draws is missed with a chance below 12 · (11/12)⁵⁰⁰ < 10⁻¹⁷."""
    random = Random(0)
    return {GRAMMAR.draw(template, random)[0] for _ in range(500)}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("lights", {"lights"}),
        ("light[s] (on|off)", {"light on", "light off", "lights on", "lights off"}),
        ("a|b", {"a", "b"}),
        ("[the [big]] lamp", {"lamp", "the lamp", "the big lamp"}),
        ("turn (volume;up) now", {"turn volume up now", "turn up volume now"}),
        (
            "<turn> {state}",
            {f"{a}{b} {c}" for a in ("turn", "switch") for b in ("", " it") for c in ("on", "off", "out")},
        ),
        ("go <now>", {"go now", "go at once"}),
        ("{level:brightness}%", {"10%", "20%", "30%"}),
        ("把{room}的灯打开", {"把hall的灯打开", "把den的灯打开"}),
    ],
)
def test_a_template_gives_all_its_sentences_and_no_other(template: str, expected: set[str]) -> None:
    assert sentences(template) == expected


def test_values_are_told_by_their_slots() -> None:
    text, slots = GRAMMAR.draw("set {room:area} to {level:brightness} and {state}", Random(1))
    assert set(slots) == {"area", "brightness", "state"}
    assert text == f"set {slots['area']} to {slots['brightness']} and {slots['state']}"


def test_groups_nest() -> None:
    assert parsed("a[(b;c)]") == Choice([["a", Choice([[], [Choice([["b"], ["c"]], in_any_order=True)]])]])
