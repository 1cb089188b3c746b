"""What a chart shows is what it was given: every point, every gap, every character."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxtune.charts import MOST_POINTS, STYLE, bar_chart, duration, line_chart, number, table, ticks

AXES = {"title": "Score", "x_label": "step", "y_label": "mean"}


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    """All elements of a class, in order; fails if the SVG is not well-formed."""
    return [each for each in ElementTree.fromstring(svg).iter() if name in each.get("class", "").split()]


def corners(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-.\d]+) ([-.\d]+)", path.get("d", ""))]


def titles(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter("title")]


def test_a_line_goes_left_to_right_and_up_where_values_rise() -> None:
    [line] = elements(line_chart({"a": [(0, 0), (5, 1), (10, 4)]}, **AXES), "line")
    (x0, y0), (x1, y1), (x2, y2) = corners(line)
    assert (x0, x2) == (52, 406)  # the plot's edges
    assert x1 == (x0 + x2) / 2
    assert (y0, y2) == (214, 46)  # 0 and 4 are the outer ticks
    assert y1 == 172  # a quarter of the way up


def test_a_point_that_is_not_finite_leaves_a_gap() -> None:
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 3.0), (4, math.inf), (5, 2.0), (6, 1.0)]
    svg = line_chart({"a": points}, **AXES)
    assert [len(corners(line)) for line in elements(svg, "line")] == [2, 2]
    assert len(elements(svg, "fill-0")) == 1  # the lone point between two gaps is a dot


def test_values_are_told_when_pointed_at() -> None:
    assert titles(line_chart({"a": [(1, 0.12345), (2, 7)]}, **AXES)) == ["step 1: mean 0.1235", "step 2: mean 7"]
    assert titles(line_chart({"a": [(1, 2)], "b": [(1, 3)]}, **AXES)) == ["step 1: a 2", "step 1: b 3"]


def test_several_series_have_a_legend_and_a_colour_each() -> None:
    svg = line_chart({"policy": [(0, 1), (1, 2)], "reference": [(0, 2), (1, 1)]}, **AXES)
    assert "policy</text>" in svg
    assert "reference</text>" in svg
    assert [line.get("class") for line in elements(svg, "line")] == ["line stroke-0", "line stroke-1"] * 2
    assert "only</text>" not in line_chart({"only": [(0, 1), (1, 2)]}, **AXES)


def test_a_band_is_drawn_around_its_series_and_counts_for_the_axis() -> None:
    svg = line_chart({"a": [(0, 1), (1, 1)]}, bands={"a": [(0, -3, 5), (1, -3, 5)]}, **AXES)
    [band] = elements(svg, "band")
    [line] = elements(svg, "line")
    ys = [y for _, y in corners(band)]
    assert min(ys) < corners(line)[0][1] < max(ys)
    assert max(ys) <= 214


def test_a_long_curve_keeps_its_spikes_and_its_ends() -> None:
    points = [(float(step), 0.0) for step in range(50_000)]
    points[33_333] = (33_333.0, 100.0)
    [line] = elements(line_chart({"a": points}, **AXES), "line")
    drawn = corners(line)
    assert len(drawn) <= MOST_POINTS + 2
    assert (drawn[0][0], drawn[-1][0]) == (52, 406)
    assert min(y for _, y in drawn) == 46
    assert len(titles(line_chart({"a": points}, **AXES))) <= 50


@pytest.mark.parametrize("points", [[], [(0, math.nan)], [(1, math.inf), (2, -math.inf)]])
def test_a_chart_of_nothing_says_so(points: list[tuple[float, float]]) -> None:
    assert "no figures yet" in line_chart({"a": points}, **AXES)
    assert "no figures yet" in bar_chart({"a": math.nan}, title="t", label="l")


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=30))
def test_any_numbers_make_a_well_formed_chart_within_its_frame(points: list[tuple[float, float]]) -> None:
    svg = line_chart({"a": points}, bands={"a": [(x, y, y) for x, y in points]}, **AXES)
    for line in elements(svg, "line"):
        assert all(52 <= x <= 406 and 46 <= y <= 214 for x, y in corners(line))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")))
def test_any_text_is_escaped(text: str) -> None:
    svg = line_chart({text: [(0, 1), (1, 2)], "b": [(0, 1)]}, title=text, x_label=text, y_label=text)
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == text
    assert sum((each.text or "") == text for each in root.iter("text")) >= 3
    assert ElementTree.fromstring(bar_chart({text: 1.0}, title=text, label=text)).get("aria-label") == text
    assert [each.text or "" for each in ElementTree.fromstring(table([[text]], ["c"])).iter("td")] == [text]


def test_bars_start_at_zero_and_whiskers_span_their_interval() -> None:
    svg = bar_chart({"before": -1, "after": 3}, title="t", label="l", intervals={"after": (2, 4)})
    before, after = (each for each in ElementTree.fromstring(svg).iter("rect"))
    zero = float(after.get("x", ""))
    assert float(before.get("x", "")) + float(before.get("width", "")) == pytest.approx(
        zero, abs=0.11
    )  # pixels have one digit
    assert float(after.get("width", "")) == pytest.approx(3 * float(before.get("width", "")), abs=0.4)
    [whisker] = elements(svg, "interval")
    low = float(re.findall(r"^M([.\d]+)", whisker.get("d", ""))[0])
    high = float(re.findall(r"H([.\d]+)", whisker.get("d", ""))[0])
    assert (low - zero, high - zero) == (
        pytest.approx(2 * float(before.get("width", "")), abs=0.4),
        pytest.approx(4 * float(before.get("width", "")), abs=0.4),
    )


def test_a_bar_without_a_number_is_named_with_a_dash() -> None:
    svg = bar_chart({"a": 1, "missing": math.nan}, title="t", label="l")
    assert "missing</text>" in svg
    assert "–</text>" in svg


def test_a_table_aligns_columns_of_numbers() -> None:
    assert table([["a", 0.123456, None], ["b", 2, "<i>"]], ["name", "x", "note"]) == (
        '<table><thead><tr><th>name</th><th class="num">x</th><th>note</th></tr></thead><tbody>'
        '<tr><td>a</td><td class="num">0.1235</td><td>–</td></tr>'
        '<tr><td>b</td><td class="num">2</td><td>&lt;i&gt;</td></tr></tbody></table>'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.0, "3"),
        (1234567, "1,234,567"),
        (1234.56, "1,235"),
        (12.3456, "12.35"),
        (0.000012345, "1.234e-05"),
        (-0.5, "-0.5"),
        (1e12, "1e+12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_has_at_most_four_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.03, 0.98, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 1e-5, [0, 2e-6, 4e-6, 6e-6, 8e-6, 1e-5]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_charts_load_nothing_and_run_nothing() -> None:
    page = STYLE + line_chart({"a": [(0, 1)]}, **AXES) + bar_chart({"a": 1}, title="t", label="l")
    assert not re.search(r"script|href|url\(|https?:|@import|\son\w+=", page)


def test_the_palette_has_a_dark_and_a_light_shade_of_each_series() -> None:
    light, dark = STYLE.split("prefers-color-scheme:dark")
    assert re.findall(r"--series-(\d):", light) == re.findall(r"--series-(\d):", dark) == list("01234567")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3540, "59 min"), (3599, "1 h 00 min"), (11_100, "3 h 05 min")],
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
