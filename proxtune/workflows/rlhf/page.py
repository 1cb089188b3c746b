"""The loop's page: what it does now, what people have judged, and what each iteration found."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from proxtune.charts import PAGE_STYLE, line_chart, table
from proxtune.feedback.store import Store
from proxtune.runs import Run, write_atomic
from proxtune.workflows.rlhf.design import Findings
from proxtune.workflows.rlhf.schema import RLHFRun

CSS = ".now { font-size: 18px }"
REFRESH = 10  # seconds


def path_of(run: Run) -> Path:
    """Where the page is."""
    return run.path / "status.html"


def sentence(found: Findings) -> str:
    """What an iteration found, for the terminal."""
    return (
        f"judged {found.judged} · reward model right {_share(found.accuracy)} of held-out judgements "
        f"(ceiling {_percent(found.ceiling)}) · new policy preferred {_share(found.win)} · KL {_plain(found.kl)}"
    )


def write(run: Run, config: RLHFRun, store: Store, doing: str) -> None:
    """Write the page anew, whole."""
    rounds = finished(run)
    done = "" if doing == "finished" else f'<meta http-equiv="refresh" content="{REFRESH}">'
    batches = [[name, p.items, p.closed, p.judgements] for name, p in store.queue.batches().items()]
    number = min(len(rounds) + 1, config.iterations)
    body = [
        f"<h1>{escape(config.name)}</h1>",
        f'<p class="now">iteration {number} of {config.iterations}: {escape(doing)}</p>',
        "<h2>Questions</h2>",
        table(batches, ["batch", "items", "done", "answers"]) if batches else "<p>None yet.</p>",
        "<h2>Iterations</h2>",
        table([_row(r) for r in rounds], COLUMNS) if rounds else "<p>None is finished.</p>",
        *_curves(rounds),
        "<h2>What was changed, and why</h2>",
        *(f"<p>After iteration {r['iteration']}: {escape(reason)}.</p>" for r in rounds for reason in r["reasons"]),
        "" if any(r["reasons"] for r in rounds) else "<p>Nothing.</p>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{done}'
    head += f"<title>{escape(config.name)}</title><style>{PAGE_STYLE}{CSS}</style>"
    html = f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"
    write_atomic(path_of(run), html)


def finished(run: Run) -> list[dict[str, Any]]:
    """What the finished iterations found, in order."""
    paths = sorted((run.path / "iterations").glob("*/finding.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


COLUMNS = ["iteration", "judged", "reward model", "ceiling", "policy preferred", "reward", "KL", "goes on from"]


def _row(found: dict[str, Any]) -> list[object]:
    score = found["score"]
    return [
        found["iteration"],
        found["judged"],
        _share(found["accuracy"]),
        _percent(found["ceiling"]),
        _share(found["win"]),
        "" if score is None else f"{score[0]:+.2f} → {score[1]:+.2f}",
        _plain(found["kl"]),
        Path(found["policy"]).parent.name if "/iterations/" in found["policy"] else found["policy"],
    ]


def _curves(rounds: list[dict[str, Any]]) -> list[str]:
    """Accuracy against the ceiling by the number of judgements, and how often the new policy is preferred."""
    right = {
        "reward model": [(r["judged"], r["accuracy"][0]) for r in rounds if r["accuracy"] is not None],
        "ceiling": [(r["judged"], r["ceiling"]) for r in rounds if r["ceiling"] is not None],
    }
    win = [(r["iteration"], r["win"][0]) for r in rounds if r["win"] is not None]
    charts = []
    if any(right.values()):
        title = "Right on held-out judgements"
        charts.append(line_chart(right, title=title, x_label="judged pairs", y_label="share"))
    if win:
        title = "How often people prefer the new policy"
        charts.append(line_chart({"preferred": win}, title=title, x_label="iteration", y_label="share"))
    return charts


def _share(value: Sequence[float] | None) -> str:
    return "too few" if value is None else f"{value[0]:.0%} [{value[1]:.0%}, {value[2]:.0%}]"


def _percent(value: float | None) -> str:
    return "too few" if value is None else f"{value:.0%}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
