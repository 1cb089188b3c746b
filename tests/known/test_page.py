"""docs/known-failures.md is complete: it lists every test here and no other, and no report is forgotten."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "known-failures.md", ROOT / "docs" / "zh" / "known-failures.md")
TESTS = sorted(path for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name)
TOLD = """
AReaL PR#1426, Logic-RL#58, miles PR#1827, miles PR#3229, NeMo-RL PR#4158, NeMo-RL#2958, open-instruct#1473,
OpenRLHF PR#1289, OpenRLHF PR#634, OpenRLHF PR#718, OpenRLHF#1250, OpenRLHF#217, OpenRLHF#238, prime-rl PR#2562,
prime-rl PR#2979, prime-rl PR#3235, prime-rl#2358, RAGEN#58, RLHF-Reward-Modeling#49, rllm PR#272, ROLL PR#447,
ROLL#475, SkyRL#1635, SkyRL#1737, slime PR#2235, slime#1928, slime#2114, torchtitan PR#4681, trl PR#1536, trl
PR#5281, trl PR#5303, trl PR#5338, trl PR#5813, trl#1066, trl#1702, trl#2596, trl#2657, trl#2808, trl#3293,
trl#3750, trl#4, trl#5645, trl#6120, trl#6789, trlx PR#361, trlx PR#441, trlx#107, trlx#508, verl PR#3332, verl
PR#3821, verl PR#5220, verl PR#5635, verl PR#5641, verl PR#5839, verl PR#906, verl#2996, verl#5625, verl#6280,
verl#6719, verl#6957, verl#7110, verl#7495, vime#64, vllm#42259
"""
PENDING = {
    "several ranks": "多进程",
    "group methods": "分组方法",
    "preference methods": "偏好方法",
    "external samplers": "外部采样器",
}

each_page = pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])


def rows(page: Path) -> list[tuple[str, str, str]]:
    """(told in, what went wrong, our test) of every row of every table."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    return [row for row in cells if len(row) == 3 and row[0] not in {"told in", "出处"}]


def listed(page: Path) -> set[str]:
    """The tests that a page names, each linked to the file it is in."""
    found = re.findall(r"\[`(test_\w+\.py)::(test_\w+)`\]\((?:\.\./)+tests/known/(test_\w+\.py)\)", page.read_text())
    assert all(file == target for file, _, target in found)
    return {f"{file}::{name}" for file, name, _ in found}


def defined() -> set[str]:
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in TESTS}
    functions = ((file, node) for file, tree in trees.items() for node in tree.body)
    return {f"{f}::{n.name}" for f, n in functions if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


@each_page
def test_the_page_lists_the_tests_that_exist_and_no_other(page: Path) -> None:
    assert listed(page) == defined()


@each_page
def test_no_report_is_forgotten(page: Path) -> None:
    told = {name for row in rows(page) for name in row[0].split(", ") if "#" in name}
    assert told == {" ".join(name.split()) for name in TOLD.split(",")}


@each_page
def test_every_row_has_a_test_or_says_what_it_waits_for(page: Path) -> None:
    waiting = {f"pending: {what}" for what in PENDING} | {f"待做：{what}" for what in PENDING.values()}
    for told, wrong, tests in rows(page):
        assert told
        assert wrong
        for cell in tests.split("<br>"):
            assert cell in waiting or cell.startswith("[`test_"), told


@each_page
def test_a_test_that_names_a_report_stands_beside_it(page: Path) -> None:
    for told, _, tests in rows(page):
        for name, number in re.findall(r"::test_([a-z_]+?)_(\d+)_", tests):
            reports = re.sub(r"[ -]", "_", told.replace(" PR", "")).lower()
            assert f"{name}#{number}" in reports, f"{name}#{number} beside {told}"


def test_both_pages_have_the_same_rows() -> None:
    english, chinese = (rows(page) for page in PAGES)
    translated = [
        [PENDING[cell[9:]] if cell.startswith("pending: ") else cell for cell in row[2].split("<br>")]
        for row in english
    ]
    other = [[cell.removeprefix("待做：") for cell in row[2].split("<br>")] for row in chinese]
    assert [row[0] for row in english] == [row[0] for row in chinese]
    assert [[c.replace("../", "") for c in row] for row in translated] == [
        [c.replace("../", "") for c in row] for row in other
    ]
