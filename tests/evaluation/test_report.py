"""A report shows what the run's folder holds, all of it escaped, and reads nothing from elsewhere."""

import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from proxtune.evaluation.health import CHECKS
from proxtune.evaluation.report import HEADLINES, METRICS, Block, write_report
from proxtune.runs import Run


class Page(HTMLParser):
    """A page's text by the class of the element around it, its tags and its addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self._label: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.addresses += [named[key] or "" for key in ("href", "src", "srcset", "action", "data") if key in named]
        if tag == "td" and "data-label" in named:
            self._label = named["data-label"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._label = None

    def handle_data(self, data: str) -> None:
        if self._label is not None:
            self.cells.append((self._label, data))


def make_run(path: Path, rows: list[dict[str, float]], samples: Sequence[dict[str, Any]] = ()) -> Run:
    with Run.create(path, resume=False) as run:
        run.write_config("ppo:\n  clip: 0.2  # <as given>\n")
        run.write_manifest({"environment": {"torch": "2.13", "threads": 2}, "data": {"files": ["a.jsonl"]}})
        for step, row in enumerate(rows, start=1):
            run.log(step, row)
        for sample in samples:
            run.log_samples(sample["step"], [sample])
    return Run.open(path)


def report(run: Run, **options: Any) -> str:
    path = write_report(run, **options)
    assert path == run.path / "report.html"
    return path.read_text(encoding="utf-8")


def charts(html: str) -> list[str]:
    return re.findall(r"<figcaption><code>(.*?)</code>", html)


def test_every_metric_has_a_chart_the_known_ones_first_with_title_and_definition(tmp_path: Path) -> None:
    row = {"strange/thing": 1.0, "entropy": 2.0, "score/mean": 0.5, "kl/sequence": 0.1, "another": 3.0}
    html = report(make_run(tmp_path / "run", [row, row]))
    assert charts(html) == ["score/mean", "kl/sequence", "entropy", "another", "strange/thing"]
    for name in ("score/mean", "kl/sequence", "entropy"):
        assert METRICS[name].title in html
        assert METRICS[name].definition.replace("'", "&#39;") in html


def test_training_and_held_out_share_a_chart_and_so_do_the_gradients(tmp_path: Path) -> None:
    row = {
        "loss": 2.0,
        "eval/loss": 2.1,
        "score/mean": 0.1,
        "eval/score": 0.2,
        "gradient/policy": 1.0,
        "gradient/critic": 2.0,
        "gradient/skipped": 0.0,
    }
    html = report(make_run(tmp_path / "run", [row, row]))
    assert charts(html) == ["score/mean", "loss", "gradient", "gradient/skipped"]
    for curve in ("training", "held out", "policy", "critic"):
        assert f">{curve}</text>" in html


def test_tiles_show_the_last_figure_and_the_first_one(tmp_path: Path) -> None:
    html = report(
        make_run(tmp_path / "run", [{"score/mean": -0.25, "time/step": 50.0}, {"score/mean": 1.75, "time/step": 20.0}])
    )
    assert re.search(r"Reward score</div><b>1\.75 <span>mean</span></b><div class=\"soft\">-0\.25 at step 1<", html)
    assert "2 steps, 1 min 10 s" in html


def test_every_headline_has_a_title(tmp_path: Path) -> None:
    html = report(make_run(tmp_path / "run", [dict.fromkeys(HEADLINES, 1.0)]))
    assert html.count('<div class="tile"') == len(HEADLINES)
    assert "Accuracy, held out" in html


def test_findings_stand_on_the_page_and_on_their_curve(tmp_path: Path) -> None:
    rows = [{"entropy": 2.0, "loss": 1.0}] * 10 + [{"entropy": 0.1, "loss": 1.0}] * 10
    html = report(make_run(tmp_path / "run", rows))
    assert re.search(r'<span class="badge">sick</span> <b>entropy collapse</b> <span class="soft">step 13</span>', html)
    assert "the entropy fell from 2 to 0.1 nats a token." in html
    assert "Found when: entropy below 25% (watch) or 10% (sick)" in html
    [mark] = re.findall(r'<path class="mark"[^>]*/><title>(.*?)</title>', html)
    assert mark == "step 13: entropy collapse"


def test_a_page_without_findings_says_how_many_checks_there_were(tmp_path: Path) -> None:
    html = report(make_run(tmp_path / "run", [{"entropy": 2.0}] * 20))
    assert f"{len(CHECKS)} checks: nothing found in 20 steps." in html
    assert 'class="mark"' not in html


def test_samples_are_escaped_and_keep_their_columns(tmp_path: Path) -> None:
    hostile = '</td></table><script>alert("x")</script><img src=http://evil.example/x>'
    sample = {
        "step": 3,
        "prompt": hostile,
        "before": "bad",
        "response": "good\n\nvery",
        "score": 0.51239,
        "kl": 2.0,
        "extra": True,
    }
    html = report(make_run(tmp_path / "run", [{"loss": 1.0}], [sample]))
    page = Page(html)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.cells == [
        ("step", "3"),
        ("prompt", hostile),
        ("before", "bad"),
        ("response", "good\n\nvery"),
        ("score", "0.5124"),
        ("kl", "2"),
        ("extra", "yes"),
    ]


def test_samples_are_taken_from_the_whole_run_and_their_number_is_told(tmp_path: Path) -> None:
    samples = [{"step": step, "prompt": f"p{step}.{i}", "response": "r"} for step in range(1, 101) for i in range(10)]
    html = report(make_run(tmp_path / "run", [{"loss": 1.0}], samples))
    steps = [int(step) for step in re.findall(r"<option(?: selected)?>(\d+)<", html)]
    assert (len(steps), steps[0], steps[-1]) == (12, 1, 100)
    assert "96 of 1000 logged" in html


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"loss": 1.0}], [{"step": 1, "prompt": "p", "response": "r"}])
    part = make_run(tmp_path / "part", [{"loss": 1.0}])
    html = report(run, parts=[part])
    page = Page(html)
    assert page.addresses == ["#part-1", "#part-2"]
    assert not {"link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", html)


def test_config_and_manifest_are_there_as_given(tmp_path: Path) -> None:
    html = report(make_run(tmp_path / "run", [{"loss": 1.0}]))
    assert "clip: 0.2  # &lt;as given&gt;" in html
    assert "<td>environment.torch</td><td>2.13</td>" in html
    assert "<td>data.files</td><td>[&quot;a.jsonl&quot;]</td>" in html


def test_parts_stand_in_order_after_the_extra_blocks(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "demo", [])
    parts = [make_run(tmp_path / name, [{"loss": 1.0}]) for name in ("sft", "ppo")]
    html = report(whole, parts=parts, extra=[Block("Judge & jury", "<p>0.3 <b>better</b></p>")])
    places = [
        html.index(text) for text in ("Judge &amp; jury", "<p>0.3 <b>better</b></p>", "<h2>sft</h2>", "<h2>ppo</h2>")
    ]
    assert places == sorted(places)
    assert "<h2>demo</h2>" not in html  # it logged nothing of its own


@pytest.mark.parametrize("rows", [[], [{"score/mean": math.nan, "loss": math.inf}], [{}]])
def test_a_run_that_logged_nothing_or_nonsense_has_a_report_all_the_same(
    tmp_path: Path, rows: list[dict[str, float]]
) -> None:
    assert "<h1>run</h1>" in report(make_run(tmp_path / "run", rows))


def test_half_a_surrogate_pair_in_a_sample_does_not_stop_the_report(tmp_path: Path) -> None:
    html = report(make_run(tmp_path / "run", [], [{"step": 1, "prompt": "\ud83d", "response": "很好 🙂"}]))
    assert "很好 🙂" in html


def test_a_long_curve_is_drawn_as_its_mean_and_says_so(tmp_path: Path) -> None:
    short = report(make_run(tmp_path / "short", [{"loss": 1.0}] * 80))
    long = report(make_run(tmp_path / "long", [{"loss": float(step % 2)} for step in range(1000)]))
    assert "standard deviation" not in short
    assert 'class="band' not in short
    assert "one standard deviation either side" in long
    assert 'class="band' in long
    means = [float(mean) for mean in re.findall(r"step [\d,]+: nats ([\d.]+)", long)]
    assert len(means) > 30
    assert all(
        10 / 21 - 1e-4 <= mean <= 11 / 21 + 1e-4 for mean in means
    )  # 0, 1, 0, 1, ...: the shortest window has 21
