"""The report of an evaluation: one HTML file that loads nothing else, in English or Chinese."""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal

from proxtune.charts import PAGE_STYLE, bar_chart, table
from proxtune.evaluation.metrics import Difference, Interval
from proxtune.evaluation.task import Table
from proxtune.runs import write_atomic

Tongue = Literal["en", "zh"]
CHINESE = {
    "figures": "指标",
    "figure": "指标",
    "value": "数值",
    "95% interval": "95% 置信区间",
    "settings": "设置",
    "setting": "设置项",
    "classes": "各类别",
    "confusion": "混淆矩阵",
    "calibration": "校准",
    "entities": "各实体类型",
    "tags": "各标签（B-/I-/O）",
    "first rows": "前几行",
    "largest errors": "误差最大的行",
    "signatures": "sacreBLEU 签名",
    "signature": "签名",
    "label": "类别",
    "entity": "实体",
    "tag": "标签",
    "precision": "精确率",
    "recall": "召回率",
    "f1": "F1",
    "support": "样本数",
    "probability": "概率",
    "rows": "行数",
    "mean probability": "平均概率",
    "accuracy": "准确率",
    "true \\ said": "真实 \\ 预测",
    "row": "行",
    "question": "问题",
    "true": "真实",
    "said": "预测",
    "comparison": "比较",
    "difference": "差值",
    "p": "p 值",
    "evaluation": "评测",
}
CSS = ".heat td { padding: 6px 12px; text-align: right }"
HEATED = 40  # classes of a confusion matrix that is shown; a larger one is left to the file of predictions


def write_page(
    path: Path,
    title: str,
    figures: Mapping[str, Interval],
    tables: Sequence[Table],
    settings: Mapping[str, Any],
    *,
    tongue: Tongue = "en",
) -> None:
    """Figures with their intervals, the task's own tables, and what they were measured with."""
    said = partial(_said, tongue)
    rows = [(name, value.mean, f"[{value.low:.4f}, {value.high:.4f}]") for name, value in figures.items()]
    parts = [
        _section(said("figures"), table(rows, [said(x) for x in ("figure", "value", "95% interval")])),
        *(_section(said(part.title), _drawn(part, tongue)) for part in tables),
        _section(said("settings"), table([(k, str(v)) for k, v in settings.items()], [said("setting"), said("value")])),
    ]
    _write(path, f"{said('evaluation')}: {title}", parts, tongue)


def write_comparison(
    path: Path, names: tuple[str, str], rows: Mapping[str, tuple[float, float, Difference]], *, tongue: Tongue = "en"
) -> None:
    """Two models on the same rows, figure by figure."""
    said = partial(_said, tongue)
    shown = [
        (name, a, b, gap.difference, f"[{gap.low:+.4f}, {gap.high:+.4f}]", gap.p) for name, (a, b, gap) in rows.items()
    ]
    header = [said("figure"), *names, said("difference"), said("95% interval"), said("p")]
    _write(
        path, f"{said('comparison')}: {', '.join(names)}", [_section(said("comparison"), table(shown, header))], tongue
    )


def _said(tongue: Tongue, text: str) -> str:
    return CHINESE.get(text, text) if tongue == "zh" else text


def _drawn(part: Table, tongue: Tongue) -> str:
    """A table, with a chart where one says more: F1 of each class, a confusion matrix in shades."""
    if part.title == "confusion":  # its header has the names of classes, which stay as they are
        corner, *names = part.header
        return _heat(part, [_said(tongue, corner), *names]) if len(part.rows) <= HEATED else f"{len(names)} classes"
    html = table(part.rows, [_said(tongue, name) for name in part.header])
    if "f1" in part.header:
        at = part.header.index("f1")
        bars = {str(row[0]): float(row[at]) for row in part.rows if not str(row[0]).endswith(("avg", "accuracy"))}
        html = bar_chart(bars, title="F1", label="") + html
    return html


def _heat(part: Table, header: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = ""
    for name, *counts in part.rows:
        whole = sum(map(float, counts)) or 1.0
        cells = "".join(
            f'<td style="background:rgb(46 126 160 / {0.75 * float(count) / whole:.2f})">{count}</td>'
            for count in counts
        )
        body += f"<tr><th>{escape(str(name))}</th>{cells}</tr>"
    return f"<table class=heat><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _section(title: str, html: str) -> str:
    return f'<h2>{escape(title)}</h2><div class="wide">{html}</div>'


def _write(path: Path, title: str, parts: Sequence[str], tongue: Tongue) -> None:
    page = (
        f'<!doctype html><html lang="{tongue}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}{CSS}</style></head><body><h1>{escape(title)}</h1>"
        f"{''.join(parts)}</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
