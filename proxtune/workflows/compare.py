"""`proxtune runs`: the runs of a folder in a table, and several runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from proxtune.charts import STYLE, duration, line_chart, number, table
from proxtune.errors import ConfigError, ProxtuneError
from proxtune.evaluation.report import HEADLINES, METRICS, Metric, curves_of, family_of, flat, smoothed
from proxtune.runs import Row, Run, is_running, write_atomic

TRACES = ("config.yaml", "manifest.json", "metrics.jsonl", "checkpoints", "model")  # one of them makes a folder a run
PASSING = ("began", "finished", "seconds", "minutes", "verdicts")  # of the manifest: no condition of the run
FIGURES = 3  # headlines a row
COLUMNS = ("run", "command", "state", "last figures", "duration", "model", "began")
STYLES = {"finished": "green", "running": "bold yellow", "unreadable": "red"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title><style>{style}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 0 auto; padding: 24px }}
h2 {{ margin: 36px 0 8px; font-size: 20px }} table {{ border-collapse: collapse; font-size: 13.5px }}
th, td {{ text-align: left; padding: 6px 18px 6px 0; border-bottom: 1px solid #8884; overflow-wrap: anywhere }}
.num {{ text-align: right; font-variant-numeric: tabular-nums }} .wide {{ overflow-x: auto }}
.grid {{ display: grid; gap: 22px; grid-template-columns: repeat(auto-fill, minmax(min(380px, 100%), 1fr)) }}
figure {{ margin: 0 }} figcaption {{ font-size: 13px; opacity: .7 }}
</style></head><body><h1>{title}</h1>
"""


@dataclass(frozen=True)
class Overview:
    """One run in words, a field for each of COLUMNS."""

    name: str
    command: str
    state: str
    figures: str
    duration: str
    model: str
    began: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The fields in the order of COLUMNS."""
        return self.name, self.command, self.state, self.figures, self.duration, self.model, self.began


def list_runs(folder: Path, console: Console) -> None:
    """Show the runs in `folder`, the newest last. Raises ConfigError: there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {folder}; name the folder that holds runs, by default runs")
    found = [overview(path, str(path.relative_to(folder)) if path != folder else path.name) for path in _runs(folder)]
    if not found:
        console.print(f"no run in {folder}; `proxtune demo` or `proxtune sft` makes one")
        return
    widths = {"state": 9, "last figures": 18, "began": 10}
    columns = (Column(name, overflow="fold", min_width=widths.get(name), no_wrap=name == "began") for name in COLUMNS)
    shown = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for run in sorted(found, key=lambda run: (run.began, run.name)):
        style = STYLES.get(run.state.partition(",")[0], "yellow")
        shown.add_row(*(Text(cell, style if cell is run.state else "") for cell in run.cells))
    console.print(shown)


def compare(paths: Sequence[Path], console: Console, *, html: Path | None = None) -> Path:
    """Show in what several runs differ, and how they ended; returns the page with their curves in one chart each.

    Raises ConfigError or DataError: fewer than two runs, or one that cannot be read.
    """
    if len(paths) < 2:
        raise ConfigError("two runs or more can be compared; say `proxtune runs compare runs/a runs/b`")
    runs = [Run.open(path) for path in paths]
    names = _names(paths)
    conditions = [_conditions(run) for run in runs]
    curves = [curves_of(run.metrics()) for run in runs]
    differences = list(_differences(conditions))
    finals = [(name, *(_last(curve, name) for curve in curves)) for name in _ordered(curves)]
    _show(console, "in what they differ", names, differences)
    _show(console, "last figures", names, finals)
    page = PAGE.format(title=f"Runs compared: {', '.join(map(escape, names))}", style=STYLE)
    page += _block(
        "Runs", table([overview(path, name).cells for path, name in zip(paths, names, strict=True)], COLUMNS)
    )
    page += _block("In what they differ", table(differences, ("option", *names)))
    page += _block("Last figures", table(finals, ("figure", *names)))
    charts = "".join(_chart(name, names, curves) for name in _ordered(curves))
    page += f'<h2>Curves</h2><div class="grid">{charts}</div></body></html>\n'
    out = html or paths[0].parent / "compare.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    console.print(f"page  {out}", soft_wrap=True)
    return out


def overview(path: Path, name: str) -> Overview:
    """A run in words; of a folder that cannot be read, why."""
    try:
        run = Run.open(path)
        manifest, rows = run.manifest(), run.metrics()
        seconds = manifest.get("seconds") or sum(row.get("time/step", 0.0) for row in rows)
        return Overview(
            name=name,
            command=str(manifest.get("command", "")),
            state=_state(path, manifest, rows[-1]["step"] if rows else 0),
            figures=_headlines(rows),
            duration=duration(seconds) if seconds else "",
            model=str(manifest.get("base", {}).get("name", "")),
            began=str(manifest.get("began", "")).partition("T")[0],
        )
    except (ProxtuneError, OSError) as error:
        why = str(error)
    except (ValueError, TypeError, AttributeError) as error:
        why = f"its manifest or metrics are not as proxtune writes them: {error}"
    return Overview(name, "", "unreadable", why, "", "", "")


def _runs(folder: Path) -> Iterator[Path]:
    """The runs in a folder, itself or the runs in a run among them."""
    if any((folder / trace).exists() for trace in TRACES):
        yield folder
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if any((path / trace).exists() for trace in TRACES):
            yield path
        yield from (inner for inner in sorted(path.iterdir()) if (inner / "config.yaml").exists())


def _state(path: Path, manifest: dict[str, Any], last: int) -> str:
    steps = manifest.get("steps")
    reached = f"step {last} of {steps}" if steps else ""
    if is_running(path):
        return f"running, {reached}".rstrip(", ")
    if manifest.get("finished") or manifest.get("verdicts"):
        return f"finished, {last} steps" if last else "finished"
    return f"stopped at {reached}" if steps else "stopped"


def _headlines(rows: Sequence[Row]) -> str:
    last = {name: points[-1][1] for name, points in curves_of(rows).items()}
    found = [f"{name} {number(last[name])}" for name in HEADLINES if name in last and not name.startswith("time/")]
    return "\n".join(found[:FIGURES])


def _names(paths: Sequence[Path]) -> list[str]:
    """What the runs are called in tables and legends: their folders' names, or their paths where two have one name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _conditions(run: Run) -> dict[str, str]:
    """All that a run was made with: its config, data, weights, rewards, machine and versions."""
    config = yaml.safe_load(run.config_path.read_text(encoding="utf-8")) if run.config_path.is_file() else {}
    if not isinstance(config, dict):
        raise ConfigError(f"{run.config_path} is not a config: expected keys with values")
    manifest = {name: value for name, value in run.manifest().items() if name not in PASSING}
    return dict(flat(config)) | dict(flat(manifest))


def _differences(conditions: Sequence[dict[str, str]]) -> Iterator[tuple[str, ...]]:
    keys = dict.fromkeys(key for each in conditions for key in each)
    for key in keys:
        values = [each.get(key, "–") for each in conditions]
        if len(set(values)) > 1 and key != "name":
            yield (key, *values)


def _ordered(curves: Sequence[dict[str, Any]]) -> list[str]:
    """Every figure that a run logged, the known ones in the report's order."""
    order = {name: place for place, name in enumerate(METRICS)}
    names = {name for curve in curves for name in curve}
    return sorted(names, key=lambda name: (order.get(family_of(name)[0], len(order)), name))


def _last(curve: dict[str, list[tuple[float, float]]], name: str) -> float | None:
    return curve[name][-1][1] if name in curve else None


def _show(console: Console, title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    shown = Table(title, *names)
    for row in rows:
        shown.add_row(*(Text(_text(cell)) for cell in row))
    console.print(shown if rows else f"{title}: nothing")


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return number(cell) if isinstance(cell, int | float) else str(cell)


def _block(title: str, html: str) -> str:
    return f'<h2>{title}</h2><div class="wide">{html}</div>'


def _chart(name: str, names: Sequence[str], curves: Sequence[dict[str, Any]]) -> str:
    """One figure of all runs that have it."""
    family, kind = family_of(name)
    metric = METRICS.get(family, Metric(name, "value", ""))
    drawn = {run: smoothed(curve[name]) for run, curve in zip(names, curves, strict=True) if name in curve}
    chart = line_chart(
        {run: line for run, (line, _) in drawn.items()},
        bands={run: band for run, (_, band) in drawn.items()},
        title=metric.title if kind == "training" else f"{metric.title}, {kind}",
        x_label="step",
        y_label=metric.unit,
    )
    return f"<figure>{chart}<figcaption><code>{escape(name)}</code> {escape(metric.definition)}</figcaption></figure>"
