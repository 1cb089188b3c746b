"""`proxtune label simulate`, as the command line runs it, against a running app."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import proxtune.cli  # noqa: F401 (the commands join the application)
from proxtune.cli.app import app
from proxtune.errors import ConfigError
from proxtune.feedback.export import export
from proxtune.feedback.simulated import Adversarial, Lazy
from proxtune.workflows.label_simulate import person_of, taste_of
from tests.feedback.test_simulated import Served

TASTE = """
def likes(prompt, text):
    return len(text)

def broken(prompt, text):
    return float("nan")
"""


@pytest.fixture
def taste(tmp_path: Path) -> Path:
    (tmp_path / "taste.py").write_text(TASTE)
    return tmp_path / "taste.py"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "labels.db")
    yield served
    served.stop()
    served.store.close()


def simulate(served: Served, taste: str, *words: str) -> str:
    command = ["label", "simulate", "--url", served.url, "--store", str(served.store.db.path), "--taste", taste, *words]
    result = CliRunner().invoke(app, command)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.output


@pytest.mark.slow
def test_people_join_answer_all_and_others_may_follow(served: Served, taste: Path) -> None:
    said = simulate(served, f"{taste}:likes", "--people", "1")
    assert said == "simulated 1  34 answers\n"
    said = simulate(served, f"{taste}:likes", "--people", "2", "--temperament", "adversarial,lazy", "--share", "1")
    names = [line.split("  ")[0] for line in said.splitlines()]
    assert names == ["simulated 2", "simulated 3"]
    assert len(list(export(served.store, "events"))) >= 2 * 33
    rows = list(export(served.store, "reward", policy="each"))
    right = [row for row in rows if row["prompt"].startswith("pair") and row["chosen"] == "aa"]
    assert 30 <= len(right) < 60  # all of the first person's; none of the adversary's, some of the lazy one's


@pytest.mark.slow
def test_a_taste_that_gives_no_number_is_named(served: Served, taste: Path) -> None:
    with pytest.raises(ConfigError, match=r"gave nan for the answer 'aa'|gave nan for the answer 'b'"):
        simulate(served, f"{taste}:broken")


def test_a_taste_is_a_function_of_a_file(taste: Path) -> None:
    assert taste_of(f"{taste}:likes")("p", "abc") == 3.0
    with pytest.raises(ConfigError, match="no function 'like'; it has broken, likes"):
        taste_of(f"{taste}:like")
    with pytest.raises(ConfigError, match="no such file"):
        taste_of("nowhere.py:likes")


def test_options_go_to_the_temperaments_that_have_them(taste: Path) -> None:
    likes = taste_of(f"{taste}:likes")
    assert person_of("lazy", likes, {"share": 0.2, "first": 1.0}) == Lazy(likes, share=0.2)
    assert person_of("adversarial", likes, {"temperature": 2.0}) == Adversarial(likes, 2.0)
    with pytest.raises(ConfigError, match="expected some of noisy"):
        person_of("kind", likes, {})


def test_an_option_that_nobody_has_is_refused(taste: Path) -> None:
    words = ["label", "simulate", "--taste", f"{taste}:likes", "--first", "1", "--temperament", "noisy,lazy"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, ConfigError)
    assert "--first is nothing to noisy, lazy" in str(result.exception)
