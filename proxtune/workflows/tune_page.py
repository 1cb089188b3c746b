"""The page of a search: which trials were good, which options mattered, why trials ended early. It loads nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, TypeAlias

from proxtune.charts import STYLE, Point, bar_chart, line_chart, number, table
from proxtune.workflows.compare import PAGE

Direction: TypeAlias = Literal["minimize", "maximize"]
AXES_TOP, AXES_BOTTOM, AXIS_ROOM = 56, 226, 130


@dataclass(frozen=True)
class Ended:
    """A trial that is over: `value` where it finished, `why` where it did not."""

    number: int
    values: Mapping[str, Any]
    value: float | None
    state: str  # finished, pruned, failed
    why: str
    seconds: float

    @property
    def cells(self) -> tuple[Any, ...]:
        """A row of a table: trial, each option, figure, state, why, minutes."""
        options = map(shown, self.values.values())
        return self.number, *options, self.value, self.state, self.why, round(self.seconds / 60, 2)


def shown(value: object) -> str:
    """A value of an option as it is read best."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "–" if value is None else str(value)


def best_of(ended: Sequence[Ended], direction: Direction) -> Ended | None:
    """The trial with the best value, the first of equal ones; None where none has a value."""
    sign = 1 if direction == "minimize" else -1
    finished = [(sign * each.value, each.number, each) for each in ended if each.value is not None]
    return min(finished, key=lambda one: one[:2])[2] if finished else None


def page(name: str, metric: str, direction: Direction, ended: Sequence[Ended], importance: Mapping[str, float]) -> str:
    """One HTML page. `importance`: the share of each option in how the value varies, {} where that is not known."""
    best = best_of(ended, direction)
    told = f"{direction} <code>{escape(metric)}</code>: "
    told += f"trial {best.number} is the best with {number(best.value or 0.0)}." if best else "no trial has a value."
    states = [each.state for each in ended]
    told += f" {len(ended)} trials" + "".join(
        f", {states.count(state)} {state}" for state in ("finished", "pruned", "failed")
    )
    parts = [f"<p>{told}.</p>", f'<div class="grid">{_figure(_progress(ended, metric, direction))}']
    if importance:
        bars = bar_chart(importance, title="Importance", label="share of the variance of the value (functional ANOVA)")
        parts.append(f"{_figure(bars)}</div>")
    else:
        parts.append("<p>Importance is left out: it needs four finished trials, and values that differ.</p></div>")
    parts.append(f'<h2>Options and values</h2><div class="wide">{parallel(ended, metric, best)}</div>')
    columns = ("trial", *(ended[0].values if ended else ()), metric, "state", "why", "minutes")
    parts.append(f'<h2>Trials</h2><div class="wide">{table([each.cells for each in ended], columns)}</div>')
    title = f"Search {escape(name)}"
    return PAGE.format(title=title, style=STYLE) + "".join(parts) + "</body></html>\n"


def parallel(ended: Sequence[Ended], metric: str, best: Ended | None) -> str:
    """Parallel coordinates: an axis for each option and one for the value, a line for each trial that has a value."""
    rows = [each for each in ended if each.value is not None and each is not best]
    if best is None:
        return "<p>No trial has a value.</p>"
    rows.append(best)  # the last one drawn is on top
    columns = {key: [each.values[key] for each in rows] for key in best.values} | {metric: [r.value for r in rows]}
    width = AXIS_ROOM * len(columns)
    heights, body = [], []
    for place, (key, values) in enumerate(columns.items()):
        x = AXIS_ROOM * (place + 0.5)
        at, ends = _scale(values)
        heights.append([(x, at[value]) for value in values])
        short = key if len(key) <= 20 else f"…{key[-19:]}"
        name = f'<text x="{x:g}" y="{AXES_TOP - 14}" class="middle"><title>{escape(key)}</title>{escape(short)}</text>'
        body.append(f'<path class="axis" d="M{x:g} {AXES_TOP}V{AXES_BOTTOM}"/>{name}')
        body += [f'<text x="{x + 6:g}" y="{at[end] + 4:g}" class="dim">{escape(shown(end))}</text>' for end in ends]
    body += [_path(each, points, is_best=each is best) for each, *points in zip(rows, *heights, strict=True)]
    return (
        f'<svg class="chart" viewBox="0 0 {width} 250" style="max-width:{2 * width}px" role="img" '
        'aria-label="Parallel coordinates"><text x="0" y="14" class="title">A line is a trial; the best one stands '
        f"out</text>{''.join(body)}</svg>"
    )


def _progress(ended: Sequence[Ended], metric: str, direction: Direction) -> str:
    """The value of each trial, as a dot, and the best so far."""
    dots: list[Point] = []
    best: list[Point] = []
    for place, each in enumerate(ended):
        if each.value is not None:
            dots += [(each.number, each.value), (each.number, math.nan)]  # the gap keeps dots apart
            so_far = best_of(ended[: place + 1], direction)
            assert so_far is not None
            assert so_far.value is not None
            best.append((each.number, so_far.value))
    return line_chart(
        {"trials": dots, "best so far": best}, title="Values over trials", x_label="trial", y_label=metric
    )


def _scale(values: Sequence[Any]) -> tuple[dict[Any, float], list[Any]]:
    """Where each value stands on its axis, and which ones are written there: of numbers the lowest and the highest."""
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    known = sorted(set(values), key=None if is_numeric else str)
    places = [float(value) for value in known] if is_numeric else [float(place) for place in range(len(known))]
    if is_numeric and places[0] > 0 and places[-1] / places[0] > 50:
        places = [math.log(place) for place in places]
    span = places[-1] - places[0]
    shares = [(place - places[0]) / span if span else 0.5 for place in places]
    heights = [round(AXES_BOTTOM - share * (AXES_BOTTOM - AXES_TOP), 1) for share in shares]
    ends = list(dict.fromkeys([known[0], known[-1]])) if is_numeric else known
    return dict(zip(known, heights, strict=True)), ends


def _path(each: Ended, points: Sequence[Point], *, is_best: bool) -> str:
    look = 'class="line stroke-1" style="stroke-width:3"' if is_best else 'class="line stroke-0" stroke-opacity=".45"'
    told = ", ".join(f"{key} {shown(value)}" for key, value in each.values.items())
    title = f"trial {each.number}: {told}: {shown(each.value)}"
    return f'<path {look} d="M{"L".join(f"{x:g} {y:g}" for x, y in points)}"><title>{escape(title)}</title></path>'


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"
