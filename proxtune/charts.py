"""Curves, bars and tables as inline SVG and HTML, for every page we write: no script, nothing loaded from elsewhere.

Charts take their colours from the page, light or dark: put `STYLE` into its <style> once. All text given is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple, TypeGuard, TypeVar

Point = tuple[float, float]
Band = tuple[float, float, float]  # x, lower, upper
P = TypeVar("P", Point, Band)

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 46, 36
CHARACTER = 6.3  # the mean width of one, at 11 px
MOST_POINTS, MOST_TITLES = 400, 50

# Okabe and Ito's palette, which colour-blind readers can tell apart; each colour in a shade for light and one for dark.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#a67c00", "#3d9bd1", "#6b4c9a", "#666666")
_DARK = ("#56b4e9", "#ff9a52", "#2fcf9f", "#e59ac4", "#f0e442", "#a5dcff", "#b9a3e3", "#bbbbbb")


def _palette(colours: Sequence[str]) -> str:
    return "".join(f"--series-{index}:{colour};" for index, colour in enumerate(colours))


STYLE = (
    f":root{{{_palette(_LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{{_palette(_DARK)}}}}}"
    ".chart{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}.chart text{fill:currentColor}"
    ".chart .title{font-size:13px;font-weight:600}.chart .dim{opacity:.62}.chart .middle{text-anchor:middle}"
    ".chart .end{text-anchor:end}.chart .grid{stroke:currentColor;stroke-opacity:.12}"
    ".chart .axis{stroke:currentColor;stroke-opacity:.5;fill:none}.chart .hit{fill:transparent}"
    ".chart .hit:hover{fill:currentColor;fill-opacity:.45}.chart .band{fill-opacity:.2}"
    ".chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}"
    ".chart .interval{stroke:currentColor;stroke-width:1.4;stroke-opacity:.75;fill:none}"
    ".chart .mark{stroke:currentColor;stroke-width:1.2;stroke-dasharray:3 3;stroke-opacity:.7}"
    + "".join(f".stroke-{i}{{stroke:var(--series-{i})}}.fill-{i}{{fill:var(--series-{i})}}" for i in range(len(_LIGHT)))
)

PAGE_STYLE = (
    STYLE
    + """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 0 auto; padding: 24px; color-scheme: light dark }
h2 { margin: 36px 0 8px; font-size: 20px } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13.5px } th, td { text-align: left; padding: 5px 16px 5px 0;
border-bottom: 1px solid #8884; overflow-wrap: anywhere } .chart { max-width: 600px }
.num { text-align: right; font-variant-numeric: tabular-nums }
"""
)
"""`STYLE` with that of a page of text and tables."""


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    bands: Mapping[str, Sequence[Band]] | None = None,
    marks: Mapping[float, str] | None = None,
) -> str:
    """One SVG with a curve for each named series; a point that is not finite leaves a gap.

    `bands` shade an area (an interval, a spread) in the colour of the series of that name; `marks` are places on the
    x axis, with what happened there. A curve of more than MOST_POINTS points is drawn through the extremes of its
    stretches, so that no spike is lost.
    """
    bands = bands or {}
    ends = [(x, y) for name in bands for x, low, high in bands[name] for y in (low, high)]
    shown = [point for points in (*series.values(), ends) for point in points if _drawable(*point)]
    if not shown:
        return _svg(title, HEIGHT, _text(WIDTH / 2, HEIGHT / 2, "no figures yet", "dim middle"))
    legend, top = _legend(list(series)) if len(series) > 1 else ("", TOP)
    x_axis = _Axis.around([x for x, _ in shown], LEFT, WIDTH - RIGHT)
    y_axis = _Axis.around([y for _, y in shown], HEIGHT - BOTTOM, top, rounded=True)
    body = [legend, _axes(x_axis, y_axis, x_label, y_label)]
    for index, name in enumerate(series):
        body += [_band(part, x_axis, y_axis, index) for part in _unbroken(bands.get(name, ()))]
    for index, points in enumerate(series.values()):
        body += [_line(part, x_axis, y_axis, index) for part in _unbroken(points)]
    body += [_mark(x_axis(x), y_axis, text) for x, text in (marks or {}).items() if x_axis.low <= x <= x_axis.high]
    for name, points in series.items():
        body.append(_titles(name if len(series) > 1 else y_label, points, x_axis, y_axis, x_label))
    return _svg(title, HEIGHT, "".join(body))


def bar_chart(
    bars: Mapping[str, float], *, title: str, label: str, intervals: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """One SVG with a horizontal bar for each named value, and a whisker where `intervals` has (lower, upper) for it."""
    intervals = intervals or {}
    finite = {name: value for name, value in bars.items() if _drawable(value)}
    if not finite:
        return _svg(title, HEIGHT, _text(WIDTH / 2, HEIGHT / 2, "no figures yet", "dim middle"))
    left = LEFT + min(max(map(len, bars)), 20) * CHARACTER
    height = max(HEIGHT, TOP + BOTTOM + 26 * len(bars))
    ends = [end for name in finite for end in intervals.get(name, ()) if _drawable(end)]
    axis = _Axis.around([0.0, *finite.values(), *ends], left - 30, WIDTH - 60, rounded=True)
    room = (height - TOP - BOTTOM) / len(bars)
    body = [_x_axis(axis, label, TOP, height - BOTTOM)]
    for index, name in enumerate(bars):
        body.append(_bar(name, finite.get(name), intervals.get(name), axis, index, TOP + room * (index + 0.5)))
    return _svg(title, height, "".join(body))


def table(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> str:
    """An HTML table; numbers are shortened by `number`, and their columns have the class `num`."""
    rows = list(rows)
    numeric = [bool(rows) and all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    head = "".join(f"<th{_NUM * right}>{escape(column)}</th>" for column, right in zip(columns, numeric, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def number(value: float) -> str:
    """A number in at most four significant digits: 0.1235, 12.35, 1,235, 1.235e-06; whole numbers in full."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that enclose `low` < `high`, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(math.log(step / raw)))
    return [
        float(f"{index * step:.12g}")
        for index in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ]


class _Axis(NamedTuple):
    """A linear map of values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    marks: list[float]

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, *, rounded: bool = False) -> "_Axis":
        """The axis on which all values lie; `rounded` widens it to its outer ticks."""
        low, high = min(values), max(values)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            margin = abs(low) / 10 or 1.0
            low, high = low - margin, high + margin
        marks = ticks(low, high)
        if rounded:
            low, high = marks[0], marks[-1]
        return cls(low, high, start, end, [mark for mark in marks if low <= mark <= high])

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def labels(self) -> list[tuple[float, str]]:
        """The pixel and the text of each tick."""
        return [(self(mark), number(mark)) for mark in self.marks]


def _drawable(*values: float) -> bool:
    return all(abs(value) < 1e100 for value in values)  # False for NaN as well


def _svg(title: str, height: float, body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{_text(0, 14, title, 'title')}{body}</svg>"
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(text)}</text>'


def _axes(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> str:
    grid = "".join(
        f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>{_text(LEFT - 6, y + 4, text, "dim end")}'
        for y, text in y_axis.labels()
    )
    return grid + _text(0, 30, y_label, "dim") + _x_axis(x_axis, x_label, y_axis.start, y_axis.start)


def _x_axis(axis: _Axis, label: str, top: float, bottom: float) -> str:
    """The axis at `bottom`, its ticks drawn up to `top`."""
    marks = "".join(
        f'<path class="grid" d="M{x} {bottom + 4:g}V{top:g}"/>{_text(x, bottom + 16, text, "dim middle")}'
        for x, text in axis.labels()
    )
    line = f'<path class="axis" d="M{axis.start:g} {bottom:g}H{axis.end:g}"/>'
    return marks + line + _text((axis.start + axis.end) / 2, bottom + 31, label, "dim middle")


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """The legend in rows under the title, and where the plot below it begins."""
    parts: list[str] = []
    x, y = float(LEFT), TOP
    for index, name in enumerate(names):
        width = 22 + len(name) * CHARACTER
        if x > LEFT and x + width > WIDTH:
            x, y = float(LEFT), y + 15
        parts.append(f'<path class="line stroke-{index % len(_LIGHT)}" d="M{x:g} {y - 4}h12"/>')
        parts.append(_text(x + 16, y, name, ""))
        x += width + 6
    return "".join(parts), y + 12.0


def _unbroken(points: Sequence[P]) -> list[list[P]]:
    """The points in runs, parted where one is not finite."""
    runs: list[list[P]] = [[]]
    for point in points:
        if _drawable(*point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """The lowest and the highest point of each stretch, where there are more than MOST_POINTS; always both ends."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    stretches = [range(start, min(start + size, len(points))) for start in range(0, len(points), size)]
    kept = {0, len(points) - 1}
    for stretch in stretches:
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _line(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis, index: int) -> str:
    colour = index % len(_LIGHT)
    if len(points) == 1:
        [(x, y)] = points
        return f'<circle class="fill-{colour}" cx="{x_axis(x)}" cy="{y_axis(y)}" r="2.5"/>'
    path = "L".join(f"{x_axis(x)} {y_axis(y)}" for x, y in _thinned(points))
    return f'<path class="line stroke-{colour}" d="M{path}"/>'


def _band(points: Sequence[Band], x_axis: _Axis, y_axis: _Axis, index: int) -> str:
    upper = [f"{x_axis(x)} {y_axis(high)}" for x, _, high in points]
    lower = [f"{x_axis(x)} {y_axis(low)}" for x, low, _ in reversed(points)]
    outline = "L".join(upper + lower)
    return f'<path class="band fill-{index % len(_LIGHT)}" d="M{outline}Z"/>'


def _mark(x: float, y_axis: _Axis, text: str) -> str:
    line = f'<path class="mark" d="M{x} {y_axis.start:g}V{y_axis.end:g}"/>'
    return f"<g>{line}<title>{escape(text)}</title></g>"


def _titles(name: str, points: Sequence[Point], x_axis: _Axis, y_axis: _Axis, x_label: str) -> str:
    """Unseen discs that tell their values when pointed at, on at most MOST_TITLES points."""
    finite = [point for point in points if _drawable(*point)]
    chosen = finite[:: max(1, math.ceil(len(finite) / MOST_TITLES))]
    return "".join(
        f'<circle class="hit" cx="{x_axis(x)}" cy="{y_axis(y)}" r="5">'
        f"<title>{escape(f'{x_label} {number(x)}: {name} {number(y)}')}</title></circle>"
        for x, y in chosen
    )


def _bar(
    name: str, value: float | None, interval: tuple[float, float] | None, axis: _Axis, index: int, middle: float
) -> str:
    shown = name if len(name) <= 20 else f"{name[:19]}…"
    parts = [f"<title>{escape(name)}</title>", _text(axis.start - 8, middle + 4, shown, "end")]
    if value is not None:
        zero, end = sorted((axis(0.0), axis(value)))
        shape = f'x="{zero}" y="{middle - 8:g}" width="{end - zero:g}" height="16" rx="2"'
        parts.append(f'<rect class="fill-{index % len(_LIGHT)}" {shape}/>')
    if interval and _drawable(*interval):
        low, high = axis(interval[0]), axis(interval[1])
        whisker = f"M{low} {middle - 4:g}v8m0 -4H{high}m0 -4v8"
        parts.append(f'<path class="interval" d="{whisker}"/>')
    text = "–" if value is None else number(value)
    parts.append(_text(WIDTH - 4, middle + 4, text, "end"))
    return f"<g>{''.join(parts)}</g>"


_NUM = ' class="num"'


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if _is_number(value):
        return f"<td{_NUM}>{number(value)}</td>"
    return f"<td>{'–' if value is None else escape(str(value))}</td>"
