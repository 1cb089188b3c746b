"""The quality of people's judgements on one page, in English or Chinese: one file that loads nothing else.

It names people: it is for whoever runs the project.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal, TypeAlias, get_args

from proxtune.charts import PAGE_STYLE, bar_chart, number, table
from proxtune.feedback.agreement import PairMatrix
from proxtune.feedback.figures import MINIMUM, Figure
from proxtune.feedback.quality import PersonQuality, Quality, quality
from proxtune.feedback.store import Store

Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Say: TypeAlias = Callable[[str], str]
ELO_POINTS = 400 / math.log(10)  # of one nat of odds
NOTE = (
    "0 is chance and 1 is agreement for α, κ and τ. Krippendorff asks for an α of 0.8, and of 0.667 for tentative "
    "conclusions. Intervals are 95%, by bootstrap over items."
)
FIGURES = {
    "percent": "same answer",
    "kappa": "Cohen's κ",
    "alpha": "Krippendorff's α",
    "kendall_w": "Kendall's W",
    "mean_tau": "mean τ",
    "f1": "F1 of spans",
}
CHINESE = {
    "Quality of judgements": "评判质量",
    "items": "条目",
    "judgements": "评判",
    "people": "人数",
    "Agreement": "一致性",
    "What is asked": "问题类型",
    "items with two people or more": "两人以上评判的条目",
    "same answer": "一致比例",
    "Cohen's κ": "Cohen κ",
    "Krippendorff's α": "Krippendorff α",
    "Kendall's W": "Kendall W",
    "mean τ": "平均 τ",
    "F1 of spans": "片段 F1",
    NOTE: "α、κ 与 τ：0 为随机水平，1 为完全一致。Krippendorff 建议 α 不低于 0.8，初步结论不低于 0.667。"
    "区间为对条目自助抽样的 95% 区间。",
    "Every two people": "两两一致性",
    "Habits": "作答习惯",
    "right on gold items": "金标题正确率",
    "the same on repeated items": "重复题自我一致率",
    "prefers the left answer": "偏向左侧答案",
    "prefers the longer answer": "偏向较长答案",
    "share": "比例",
    "People": "评判者",
    "person": "姓名",
    "with the majority": "与多数一致",
    "median seconds": "用时中位数（秒）",
    "suspiciously fast": "过快作答",
    "Models": "模型",
    "Strength in Elo points, their mean 0 (Bradley–Terry)": "实力（Elo 分，均值为 0，Bradley–Terry）",
    "points": "分",
    "model": "模型",
    "strength": "实力",
    "games": "对比数",
    "wins": "胜（平局计半）",
    "Elo, in the order of judging": "Elo（按评判顺序）",
    "To adjudicate": "待裁定",
    "item": "条目",
    "kind": "类型",
    "disagreement": "分歧",
    "said": "回答",
    "prompt": "提示",
    "too few overlaps": "重叠太少",
    "undefined: no variation": "无定义：回答没有差异",
    "Nothing is judged yet.": "尚无评判。",
    "pair": "成对比较",
    "ranking": "排序",
    "rating": "评分",
    "thumb": "赞踩",
    "flags": "标记",
    "label": "分类",
    "spans": "片段标注",
}
CSS = ".matrix td { padding: 6px 12px; text-align: right }"
SHADES = 10  # of a cell, as classes: a page under a strict policy may have no style attribute
CSS += "".join(
    f".shade-{step}{{background:rgb(46 126 160/{0.75 * step / SHADES:.3f})}}" for step in range(1, SHADES + 1)
)


def quality_page(store: Store, language: Language = "en", *, batch: str | None = None) -> str:
    """The page of a store, or of a batch, as HTML."""
    return page_of(quality(store, batch=batch), language)


def page_of(found: Quality, language: Language = "en") -> str:
    """The page of figures that are there already."""

    def say(text: str) -> str:
        return CHINESE[text] if language == "zh" else text

    title = say("Quality of judgements")
    counts = {"items": found.items, "judgements": found.judgements, "people": len(found.people)}
    parts = [f"<p>{' · '.join(f'{number(count)} {say(name)}' for name, count in counts.items())}</p>"]
    parts += _parts(found, say) if found.judgements else [f"<p>{say('Nothing is judged yet.')}</p>"]
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{PAGE_STYLE}{CSS}</style></head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def _parts(found: Quality, say: Say) -> list[str]:
    names = {one.person: one.name for one in found.people}
    sections = {
        "Agreement": _agreement(found, say),
        "Every two people": "".join(
            f"<h3>{escape(_kind(one.name, say))}</h3>{_matrix(one.matrix, names, say)}"
            for one in found.agreement
            if one.matrix is not None and len(one.matrix.people) > 2
        ),
        "Habits": _habits(found, say),
        "People": _people(found.people, say),
        "Models": _models(found, say),
        "To adjudicate": _disputed(found, say),
    }
    return [f'<h2>{say(title)}</h2><div class="wide">{html}</div>' for title, html in sections.items() if html]


def _agreement(found: Quality, say: Say) -> str:
    if not found.agreement:
        return ""
    columns = list(dict.fromkeys(name for one in found.agreement for name in one.figures))
    rows = [
        [
            _kind(one.name, say),
            one.items,
            *(shown(one.figures[name], say) if name in one.figures else None for name in columns),
        ]
        for one in found.agreement
    ]
    bars = {
        f"{_kind(one.name, say)} {say(FIGURES[name])}": figure
        for one in found.agreement
        for name, figure in one.figures.items()
        if name in ("alpha", "mean_tau", "f1")
    }
    head = [say("What is asked"), say("items with two people or more"), *(say(FIGURES[name]) for name in columns)]
    return _bars(bars, say("Agreement"), "") + table(rows, head) + f"<p>{say(NOTE)}</p>"


def _habits(found: Quality, say: Say) -> str:
    habits = found.habits
    figures = {
        say("right on gold items"): habits.gold,
        say("the same on repeated items"): habits.again,
        say("prefers the left answer"): habits.left,
        say("prefers the longer answer"): habits.longer,
    }
    rows = [[name, shown(figure, say), figure.count] for name, figure in figures.items()]
    return _bars(figures, say("Habits"), say("share")) + table(rows, ["", say("share"), say("judgements")])


def _people(people: Sequence[PersonQuality], say: Say) -> str:
    rows = [
        [
            one.name,
            one.judgements,
            *(
                shown(figure, say)
                for figure in (one.majority, one.habits.gold, one.habits.again, one.habits.left, one.habits.longer)
            ),
            None if one.speed is None else one.speed.median,
            None if one.speed is None else shown(one.speed.fast, say),
        ]
        for one in people
    ]
    head = [
        "person",
        "judgements",
        "with the majority",
        "right on gold items",
        "the same on repeated items",
        "prefers the left answer",
        "prefers the longer answer",
        "median seconds",
        "suspiciously fast",
    ]
    return table(rows, [say(name) for name in head])


def _models(found: Quality, say: Say) -> str:
    if not found.models:
        return ""
    points = {one.strength.model: _times(one.strength.strength, ELO_POINTS) for one in found.models}
    rows = [
        [
            one.strength.model,
            shown(points[one.strength.model], say, 0),
            one.strength.strength.count,
            one.strength.wins,
            round(one.elo),
        ]
        for one in found.models
    ]
    title = say("Strength in Elo points, their mean 0 (Bradley–Terry)")
    head = ["model", "strength", "games", "wins", "Elo, in the order of judging"]
    return _bars(points, title, say("points")) + table(rows, [say(name) for name in head])


def _disputed(found: Quality, say: Say) -> str:
    if not found.disputed:
        return ""
    rows = [
        [
            str(one.item),
            say(one.kind),
            f"{one.disagreement:.2f}",
            ", ".join(f"{answer}: {count}" for answer, count in one.said.items()),
            one.prompt[:120],
        ]
        for one in found.disputed
    ]
    return table(rows, [say(name) for name in ("item", "kind", "disagreement", "said", "prompt")])


def _matrix(matrix: PairMatrix, names: dict[int, str], say: Say) -> str:
    people = [str(names.get(person, person)) for person in matrix.people]  # type: ignore[call-overload]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["", *people])
    body = ""
    for name, row in zip(people, matrix.kappa, strict=True):
        body += f"<tr><th>{escape(name)}</th>{''.join(_shade(figure, say) for figure in row)}</tr>"
    return f'<table class="matrix"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _shade(figure: Figure, say: Say) -> str:
    told = f' title="{escape(shown(figure, say))}, {figure.count}"'
    if figure.value is None:
        return f"<td{told}>–</td>"
    return f'<td class="shade-{round(SHADES * max(0.0, figure.value))}"{told}>{figure.value:.2f}</td>'


def _bars(figures: dict[str, Figure], title: str, label: str) -> str:
    known = {name: figure.value for name, figure in figures.items() if figure.value is not None}
    if not known:
        return ""
    intervals = {
        name: (figure.low, figure.high)
        for name, figure in figures.items()
        if figure.low is not None and figure.high is not None
    }
    return bar_chart(known, title=title, label=label, intervals=intervals)


def _times(figure: Figure, factor: float) -> Figure:
    value, low, high = (None if x is None else x * factor for x in (figure.value, figure.low, figure.high))
    return Figure(value, low, high, figure.count)


def _kind(name: str, say: Say) -> str:
    """A kind, with the criterion that people were asked for as it is."""
    kind, colon, criterion = name.partition(": ")
    return f"{say(kind)}{colon}{criterion}"


def shown(figure: Figure, say: Say, digits: int = 2) -> str:
    """A figure with its interval, or why there is none."""
    if figure.value is None:
        few = f"{say('too few overlaps')} ({figure.count})"
        return few if figure.count < MINIMUM else say("undefined: no variation")
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
