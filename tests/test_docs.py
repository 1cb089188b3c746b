"""What README and docs say is so: the tree, the figures, the Chinese twins, and nothing of anybody's machine."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.records import language, pages, read, render

ROOT = Path(__file__).parents[1]
ZH = ROOT / "docs" / "zh"
RECORDS = sorted((ROOT / "results").glob("*/*.json"))
WITH_TWIN = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/algorithms/*.md"))]
# The @ keeps this file from naming them.
PLACES = "pypi@.org python@hosted npmjs@. deb.@debian /opt/@wheels /opt/@pypi /root@/ /work@/".replace("@", "").split()


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def listed(page: Path) -> set[str]:
    """The folders and Python files that a page lists between `<!-- tree -->` and `<!-- /tree -->`.

    One name a line, two spaces deeper than its folder; what follows the name is prose, and so are lines without a name.
    """
    block = re.search(r"<!-- tree -->(.*)<!-- /tree -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block, f"{show(page)} has no <!-- tree --> ... <!-- /tree -->"
    found: set[str] = set()
    above: list[str] = []
    for indent, name in re.findall(r"^( *)([\w./-]+(?:/|\.py))(?:\s|$)", block[1], re.MULTILINE):
        above[len(indent) // 2 :] = [name]
        found.add("".join(above))
    return found


def headings(page: Path) -> list[int]:
    """The levels of a page's headings, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def twin(page: Path) -> Path:
    return ZH / (page.relative_to(ROOT / "docs") if page.is_relative_to(ROOT / "docs") else page.name)


def test_the_tree_in_readme_lists_the_folders_and_files_that_exist() -> None:
    files = [path for path in (ROOT / "proxtune").rglob("*.py") if path.name != "__init__.py"]
    folders = {file.parent for file in files} | {ROOT / "proxtune" / "recipes"}
    expected = {show(file) for file in files} | {f"{show(folder)}/" for folder in folders}
    assert listed(ROOT / "README.md") == expected


@pytest.mark.parametrize("page", WITH_TWIN, ids=show)
def test_a_page_has_a_chinese_twin_with_the_same_headings(page: Path) -> None:
    assert headings(twin(page)) == headings(page)


def test_both_readmes_list_the_same_tree() -> None:
    assert listed(ZH / "README.md") == listed(ROOT / "README.md")


@pytest.mark.parametrize("page", list(pages()), ids=show)
def test_the_figures_of_a_page_are_those_of_the_records(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert render(text, ROOT / "results", language(page)) == text, "run `make tables`"


@pytest.mark.parametrize("path", RECORDS, ids=show)
def test_a_record_is_whole(path: Path) -> None:
    record = read(path)
    assert record["claim"]
    assert record["command"]
    assert record["raw"]
    assert record["holds"] or record["bound"], "a missed goal says what stands in the way"
    assert [file for file in record["measures"] if not (ROOT / file).exists()] == []
    assert record["measures"]


@pytest.mark.parametrize("place", PLACES)
def test_no_committed_file_names_a_registry_or_a_path_of_somebodys_machine(place: str) -> None:
    found = subprocess.run(["git", "-C", ROOT, "grep", "-lIF", place], capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == []
