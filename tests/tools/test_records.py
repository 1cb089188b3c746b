import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools.records import render, stale

RECORD: dict[str, Any] = {
    "claim": "judge score",
    "value": 0.3149,
    "unit": "probability",
    "interval": [0.24, 0.38],
    "goal": ">= 0.2",
    "holds": True,
    "against": None,
    "command": "make demo",
    "measures": ["ppo.py"],
    "raw": [{"score": 0.25, "tokens": 31_250.4}, {"score": 0.38}],
}


def record(root: Path, name: str, **changes: object) -> Path:
    path = root / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**RECORD, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        ("road/demo#value", "0.3149"),
        ("road/demo#value:.1%", "31.5%"),
        ("road/demo#interval", "0.24 – 0.38"),
        ("road/demo#raw.1.score:.1f", "0.4"),
        ("road/demo#raw.0.tokens", "31,250"),
        ("road/demo#command", "make demo"),
    ],
)
def test_a_field_of_a_record_is_written_between_its_markers(tmp_path: Path, marker: str, shown: str) -> None:
    record(tmp_path, "road/demo")
    page = f"It rose by <!-- record: {marker} -->?<!-- /record --> (before)."
    expected = f"It rose by <!-- record: {marker} -->{shown}<!-- /record --> (before)."
    assert render(page, tmp_path / "results", "en") == expected
    assert render(expected, tmp_path / "results", "en") == expected


def test_a_table_has_a_row_for_each_record_of_its_area(tmp_path: Path) -> None:
    record(tmp_path, "speed/b", value=2, interval=None, unit="x", goal=">= 3", holds=False, bound="sampling is 63%")
    record(tmp_path, "speed/a", against="TRL 1.12.0")
    assert render("<!-- records: speed -->\n<!-- /records -->", tmp_path / "results", "en") == "\n".join(
        [
            "<!-- records: speed -->",
            "| claim | measured | goal | holds | against | command |",
            "|---|---|---|---|---|---|",
            "| judge score | 0.3149 (0.24 – 0.38) probability | >= 0.2 | yes | TRL 1.12.0 | `make demo` |",
            "| judge score | 2 x | >= 3 | no: sampling is 63% | — | `make demo` |",
            "<!-- /records -->",
        ]
    )


def test_a_marker_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    record(tmp_path, "road/demo")
    with pytest.raises(FileNotFoundError, match="missing"):
        render("<!-- record: road/missing#value --><!-- /record -->", tmp_path / "results", "en")
    with pytest.raises(KeyError, match="valeu"):
        render("<!-- record: road/demo#valeu --><!-- /record -->", tmp_path / "results", "en")
    with pytest.raises(KeyError, match="no records in results/empty"):
        render("<!-- records: empty -->\n<!-- /records -->", tmp_path / "results", "en")


def test_a_record_is_stale_once_a_file_that_it_measures_has_changed(tmp_path: Path) -> None:
    def commit() -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
        subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "-m", "."], check=True)

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    code = tmp_path / "ppo.py"
    code.write_text("1", encoding="utf-8")
    path = record(tmp_path, "road/demo")
    commit()
    assert list(stale(tmp_path)) == []

    code.write_text("2", encoding="utf-8")
    assert list(stale(tmp_path)) == [(path, ["ppo.py"])]
    commit()
    assert list(stale(tmp_path)) == [(path, ["ppo.py"])]

    record(tmp_path, "road/demo", value=0.4)
    assert list(stale(tmp_path)) == []
    commit()
    assert list(stale(tmp_path)) == []

    code.unlink()
    assert list(stale(tmp_path)) == [(path, ["ppo.py"])]


def test_tasks_are_a_row_each_with_what_their_models_reach_and_take(tmp_path: Path) -> None:
    """A model that the baseline beats makes the baseline bold; other records of the area are no tasks."""
    raw = {"baseline": 0.3, "untuned": 0.1, "minutes": 2.04, "memory": 1.26, "seeds": {"1": 0.3149}}
    record(tmp_path, "tasks/ner_encoder", unit="f1", raw=raw)
    record(tmp_path, "tasks/ner_scratch", unit="f1", raw={**raw, "seeds": {"1": 0.3149, "2": 0.33}})
    record(tmp_path, "tasks/topic_decoder", unit="f1", holds=False, raw={**raw, "baseline": 0.4, "untuned": None})
    record(tmp_path, "tasks/peft")
    once = "0.315 [0.240, 0.380]<br>2.0 min, 1.3 GiB"
    page = render("<!-- tasks -->\nold\n<!-- /tasks -->", tmp_path / "results", "en")
    assert page.splitlines()[3:] == [
        f"| `ner` | f1 | 0.300 | 0.100 | {once} | — | 0.315 [0.240, 0.380] (0.315, 0.330)<br>2.0 min, 1.3 GiB |",
        f"| `topic` | f1 | **0.400** | — | — | {once} | — |",
        "<!-- /tasks -->",
    ]
