"""Curves of a benchmark: stored beside its records, and drawn for a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxtune.charts import STYLE, bar_chart, line_chart

IMAGES = Path(__file__).parents[1] / "docs" / "images"
Curves = Mapping[str, Sequence[tuple[float, float]]]


def draw(name: str, curves: Curves, *, records: Path, title: str, x_label: str = "step", y_label: str) -> None:
    """Write `<records>/curves/<name>.jsonl` and docs/images/<name>.svg."""
    stored = records / "curves" / f"{name}.jsonl"
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text("".join(json.dumps({"curve": key, "points": points}) + "\n" for key, points in curves.items()))
    _save(name, line_chart(curves, title=title, x_label=x_label, y_label=y_label))


def bars(name: str, scores: Mapping[str, Sequence[float]], *, title: str, label: str) -> None:
    """docs/images/<name>.svg: a bar for each (value, low, high)."""
    ends = {key: (low, high) for key, (_, low, high) in scores.items()}
    _save(name, bar_chart({key: x[0] for key, x in scores.items()}, title=title, label=label, intervals=ends))


def _save(name: str, chart: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    styled = chart.replace(">", f"><style>{STYLE}</style>", 1)
    styled = styled.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    (IMAGES / f"{name}.svg").write_text(styled, encoding="utf-8")
