"""The records of results/<area>/<name>.json: which are stale, and the figures that README and docs take from them.

    python -m tools.records stale      list the records that are older than a file they measure
    python -m tools.records tables     write the figures in README and docs again

In a page, both kinds of figure stand between a marker and its end, and only what is between is written:

    <!-- record: road/demo#value:.2f -->0.31<!-- /record -->    one field (`raw.0.loss` is a nested one)
    <!-- records: road -->                                      a table of all records of one area
    <!-- /records -->
    <!-- tasks -->                                              the tasks of results/tasks, each by its models
    <!-- /tasks -->
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/**/*.md", "proxtune/recipes/*/README.md")
FIELD = re.compile(r"(<!-- record: ([\w/-]+)#([\w., ]+)(?::([\w.,+%]+))? -->).*?(<!-- /record -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- records: ([\w-]+) -->\n).*?(<!-- /records -->)", re.DOTALL)
TASKS = re.compile(r"(<!-- tasks -->\n).*?(<!-- /tasks -->)", re.DOTALL)
MODELS = ("encoder", "decoder", "scratch")
MATRIX = {
    "en": "| task | figure | simple baseline | untuned | encoder | decoder | from scratch |",
    "zh": "| 任务 | 指标 | 简单基线 | 未微调 | 编码器 | 解码器 | 从零开始 |",
}
TOOK = {"en": "{:.1f} min, {:.1f} GiB", "zh": "{:.1f} 分钟，{:.1f} GiB"}
HEADERS = {
    "en": "| claim | measured | goal | holds | against | command |",
    "zh": "| 结论 | 实测 | 目标 | 达成 | 对照 | 命令 |",
}
HOLDS = {"en": {True: "yes", False: "no"}, "zh": {True: "是", False: "否"}}


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Every page that may hold figures."""
    for pattern in PAGES:
        yield from sorted(root.glob(pattern))


def read(path: Path) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def render(text: str, results: Path, language: str) -> str:
    """The page with every figure as the records have it now. Raises KeyError or OSError where a marker names none."""

    def field(match: re.Match[str]) -> str:
        start, name, keys, form, end = match.groups()
        value: Any = read(results / f"{name}.json")
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return start + figure(value, form or "") + end

    def table(match: re.Match[str]) -> str:
        start, area, end = match.groups()
        records = [read(path) for path in sorted((results / area).glob("*.json"))]
        if not records:
            raise KeyError(f"no records in results/{area}")
        rows = [HEADERS[language], "|---|---|---|---|---|---|", *(row(record, language) for record in records)]
        return start + "\n".join(rows) + "\n" + end

    def tasks(match: re.Match[str]) -> str:
        return match[1] + "\n".join(matrix(results / "tasks", language)) + "\n" + match[2]

    return TASKS.sub(tasks, TABLE.sub(table, FIELD.sub(field, text)))


def matrix(folder: Path, language: str) -> Iterator[str]:
    """A row for each task with a record of one of its models; where one loses to the baseline, the baseline is bold."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        task, _, model = path.stem.rpartition("_")
        if model in MODELS:
            found.setdefault(task, {})[model] = read(path)
    yield MATRIX[language]
    yield "|---|---|---|---|---|---|---|"
    for task, models in found.items():
        record = next(models[model] for model in MODELS if model in models)
        base, untuned = record["raw"]["baseline"], record["raw"]["untuned"]
        beaten = all(one["holds"] for one in models.values())
        simple = f"{base:.3f}" if beaten else f"**{base:.3f}**"
        before = "—" if untuned is None else f"{untuned:.3f}"
        cells = [f"`{task}`", record["unit"], simple, before, *(_cell(models.get(model), language) for model in MODELS)]
        yield "| " + " | ".join(cells) + " |"


def _cell(record: dict[str, Any] | None, language: str) -> str:
    if record is None:
        return "—"
    low, high = record["interval"]
    took = TOOK[language].format(record["raw"]["minutes"], record["raw"]["memory"])
    seeds = record["raw"]["seeds"].values()
    others = f" ({', '.join(f'{value:.3f}' for value in seeds)})" if len(seeds) > 1 else ""
    return f"{record['value']:.3f} [{low:.3f}, {high:.3f}]{others}<br>{took}"


def row(record: dict[str, Any], language: str) -> str:
    """A record as a row of the table; a missed goal is followed by what stands in the way."""
    measured = figure(record["value"])
    if record["interval"] is not None:
        measured += f" ({figure(record['interval'])})"
    holds = HOLDS[language][record["holds"]]
    if "bound" in record:
        holds += f": {record['bound']}"
    command = f"`{record['command']}`"
    cells = (record["claim"], f"{measured} {record['unit']}", record["goal"], holds, record["against"] or "—", command)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def figure(value: Any, form: str = "") -> str:
    """A value as a page shows it: numbers to four digits unless the marker has a format of its own."""
    if isinstance(value, list):
        return " – ".join(figure(item, form) for item in value)
    if isinstance(value, float):
        return format(value, form or (".4g" if abs(value) < 10_000 else ",.0f"))
    return format(value, form)


def stale(root: Path = ROOT) -> Iterator[tuple[Path, list[str]]]:
    """Records that are older than files they measure, with those files. A file edited since, or gone, is newer."""
    edited = set(git(root, "diff", "--name-only", "HEAD").splitlines())
    for path in sorted((root / "results").glob("*/*.json")):
        commit = git(root, "log", "-1", "--format=%H", "--", str(path))
        if not commit or str(path.relative_to(root)) in edited:
            continue  # just written
        newer = [file for file in read(path)["measures"] if file in edited or changed_since(root, commit, file)]
        if newer:
            yield path, newer


def changed_since(root: Path, commit: str, file: str) -> bool:
    """Whether the file was committed after `commit`, or is not there at all."""
    return not (root / file).exists() or bool(git(root, "log", "-1", "--format=%H", f"{commit}..HEAD", "--", file))


def git(root: Path, *command: str) -> str:
    """What git prints."""
    return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout.strip()


def main(command: str) -> None:
    """Run one of the two commands."""
    if command == "stale":
        for path, files in stale():
            print(f"{path.relative_to(ROOT)}: {read(path)['command']}  (older than {', '.join(files)})")
    elif command == "tables":
        for page in pages():
            text = page.read_text(encoding="utf-8")
            page.write_text(render(text, ROOT / "results", language(page)), encoding="utf-8")
    else:
        sys.exit(f"{command}: unknown; say `stale` or `tables`")


def language(page: Path) -> str:
    """The language that a page is written in."""
    return "zh" if page.is_relative_to(ROOT / "docs" / "zh") else "en"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
