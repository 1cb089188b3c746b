"""The report of a run: one HTML file, with all that was measured, sampled and configured, that loads nothing else."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup  # marks what charts.py has escaped already

from proxtune.charts import STYLE, Band, Point, line_chart, number, table
from proxtune.evaluation.health import CHECKS, Finding, Health
from proxtune.runs import Row, Run, write_atomic

MOST_SAMPLE_STEPS, MOST_SAMPLES_A_STEP = 12, 8
SMOOTH_FROM = 80  # a curve of more points than this is drawn as means
SMOOTH_POINTS = 120  # at so many places


class Block(NamedTuple):
    """A part of the page that its caller makes; `html` goes in as it is, so it must be safe."""

    title: str
    html: str


class Metric(NamedTuple):
    """What a name in metrics.jsonl means."""

    title: str
    unit: str
    definition: str


METRICS = {
    "score/mean": Metric("Reward score", "mean", "Mean score of the step's responses, before any KL penalty."),
    "judge": Metric(
        "Judges", "mean score", "Held-out answers by judges that are never trained on; falls in a hacked run."
    ),
    "kl/sequence": Metric(
        "KL to the reference",
        "nats a response",
        "Mean over responses of the summed log π − log π_ref: how far the policy has moved.",
    ),
    "loss": Metric("Loss", "nats", "Mean negative log-likelihood (SFT) or preference loss, which training lowers."),
    "perplexity": Metric("Perplexity", "", "The exponential of the loss: as uncertain as among so many equal tokens."),
    "accuracy": Metric("Accuracy", "share", "Classes said right; pairs whose chosen response scores higher."),
    "macro_f1": Metric("Macro F1", "F1", "The mean F1 of all classes."),
    "micro_f1": Metric("Micro F1", "F1", "F1 over all rows and labels together."),
    "f1": Metric("F1", "F1", "Of whole entities, of answers by their words, or of triples."),
    "exact": Metric("Exact match", "share", "Answers that are right in every word."),
    "chrf": Metric("chrF", "0 to 100", "F-score of character n-grams of the translations."),
    "bleu": Metric("BLEU", "0 to 100", "Precision of word n-grams of the translations, with a penalty for short ones."),
    "rougeL": Metric("ROUGE-L", "F1", "Longest common subsequence of words with the summary."),
    "pearson": Metric("Pearson", "correlation", "Between the numbers that are said and the true ones."),
    "error": Metric("Distance to the ratings", "deviations", "Mean distance between score and rating, on one scale."),
    "correlation": Metric("Score and rating", "correlation", "Pearson's, between the scores and what people gave."),
    "margin": Metric("Margin", "score", "Mean of the chosen score minus the rejected one."),
    "likelihood": Metric("Likelihood", "probability", "Mean probability of a token of the given responses."),
    "entropy": Metric(
        "Entropy", "nats a token", "Uncertainty about the next token while sampling; near 0 the policy repeats itself."
    ),
    "length/mean": Metric("Response length", "tokens", "Mean length of the step's responses."),
    "length/truncated": Metric("Cut responses", "share", "Responses that the length limit stopped."),
    "score/std": Metric("Spread of scores", "score", "Standard deviation of the step's scores."),
    "score/failed": Metric("Failed scores", "share", "Responses whose reward failed; they are left out of the update."),
    "policy/clip_fraction": Metric(
        "Clipped tokens", "share", "Tokens whose probability ratio the clipping holds back."
    ),
    "policy/approx_kl": Metric(
        "Size of an update", "nats a token", "KL from the policy that sampled to the updated one (k3 estimate)."
    ),
    "policy/ratio": Metric(
        "Probability ratio", "ratio", "Mean of π_new / π_old over tokens; close to 1 while updates are small."
    ),
    "policy/loss": Metric(
        "Policy loss", "surrogate", "What an update lowers; its level says little where advantages are whitened."
    ),
    "policy/epochs": Metric("Passes over a rollout", "epochs", "Fewer than configured where the KL limit ended them."),
    "policy/penalty_coef": Metric("Penalty coefficient", "", "Weight of KL(old‖new) in the KL-penalty form of PPO."),
    "value/explained_variance": Metric(
        "Explained variance", "share", "Of the returns, by the critic: 1 is perfect, 0 no better than their mean."
    ),
    "value/loss": Metric("Value loss", "squared error", "Half the squared error of the critic, clipped."),
    "value/clip_fraction": Metric("Clipped values", "share", "Tokens whose value moved past the clip range."),
    "ptx/loss": Metric(
        "Loss of the mixed-in texts", "nats a token", "Of the rows that PPO-ptx mixes into the updates."
    ),
    "kl/coef": Metric("KL coefficient", "score a nat", "Weight of the KL in the reward; it moves if a target is set."),
    "gradient": Metric("Gradient norm", "norm", "Length of the gradient before clipping."),
    "gradient/skipped": Metric(
        "Skipped updates", "0 or 1", "1 where the gradient was not finite and nothing was moved."
    ),
    "optim/learning_rate": Metric("Learning rate", "per update", "As the schedule set it."),
    "time/tokens_per_second": Metric("Speed", "tokens a second", "Tokens of the step divided by its whole duration."),
    "time/step": Metric("Duration of a step", "seconds", "Sampling, scoring and training together."),
    "time/rollout": Metric("Sampling", "seconds", "Of a step: responses, their log-probs and values."),
    "time/reward": Metric("Scoring", "seconds", "Of a step: what the rewards took."),
    "time/reference": Metric("Reference", "seconds", "Of a step: log-probs of the frozen reference."),
    "time/update": Metric("Updating", "seconds", "Of a step: all its epochs."),
    "tokens": Metric("Tokens", "per step", "Response tokens (PPO) or all trained tokens of the step."),
}
HEADLINES = (
    "eval/score",
    "score/mean",
    "kl/sequence",
    "entropy",
    "length/mean",
    "eval/loss",
    "loss",
    "eval/accuracy",
    "accuracy",
    "time/tokens_per_second",
)
COLUMNS = ("step", "prompt", "before", "response", "after", "score", "kl")  # of samples: the known ones, in order


def write_report(run: Run, *, parts: Sequence[Run] = (), extra: Sequence[Block] = ()) -> Path:
    """Write `report.html` into the run's folder, whole or not at all; returns its path.

    `extra` blocks stand first, then the run itself (if it logged anything), then a section for each of `parts`.
    """
    own = [run] if run.metrics() or not parts else []
    templates = Environment(
        loader=PackageLoader("proxtune", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("report.html.j2").render(
        number=number,
        title=run.path.resolve().name,
        style=Markup(STYLE),  # noqa: S704 (our own)
        extra=[Block(block.title, Markup(block.html)) for block in extra],  # noqa: S704 (its maker escapes)
        sections=[_section(each) for each in [*own, *parts]],
    )
    write_atomic(run.report, page.encode(errors="replace").decode())  # a sample may hold half a surrogate pair
    return run.report


def _section(run: Run) -> dict[str, Any]:
    """What the template shows of one run."""
    rows, samples, manifest = run.metrics(), run.samples(), run.manifest()
    health = Health.of(run)
    shown = _chosen_samples(samples)
    known = [name for name in COLUMNS if any(name in row for row in shown)]
    others = sorted({name for row in shown for name in row} - set(COLUMNS))
    return {
        "name": run.path.resolve().name,
        "summary": _summary(rows),
        "tiles": list(_tiles(rows)),
        "health": health,
        "checks": len(CHECKS),
        "figures": list(_figures(rows, health.findings)),
        "smoothed": any(len(points) > SMOOTH_FROM for points in curves_of(rows).values()),
        "columns": known + others,
        "samples": shown,
        "sample_steps": sorted({row["step"] for row in shown}),
        "sample_count": len(samples),
        "config": run.config_path.read_text(encoding="utf-8") if run.config_path.is_file() else "",
        "manifest": Markup(table(flat(manifest), ["what", "value"])) if manifest else "",  # noqa: S704 (escaped)
    }


def _summary(rows: Sequence[Row]) -> str:
    if not rows:
        return "nothing logged"
    seconds = round(sum(row.get("time/step", 0) for row in rows))
    duration = (
        f"{seconds // 3600} h {seconds % 3600 // 60} min"
        if seconds >= 3600
        else f"{seconds // 60} min {seconds % 60} s"
    )
    return f"{rows[-1]['step']:,} steps, {duration}"


def curves_of(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """For each metric its (step, value)s, in the order of the log; what is not a number is left out."""
    series: dict[str, list[Point]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                series.setdefault(name, []).append((row["step"], value))
    return series


def _tiles(rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    """The last figure of each headline metric, and the first one beside it."""
    series = curves_of(rows)
    for name in HEADLINES:
        if name in series:
            first, last = series[name][0], series[name][-1]
            family, kind = family_of(name)
            title = METRICS[family].title + (", held out" if kind == "held out" else "")
            yield {
                "title": title,
                "name": name,
                "value": number(last[1]),
                "unit": METRICS[family].unit,
                "first": f"{number(first[1])} at step {number(first[0])}" if len(series[name]) > 1 else "",
            }


def family_of(name: str) -> tuple[str, str]:
    """The chart that a metric belongs to, and what its curve is called there."""
    group, _, rest = name.partition("/")
    if group == "judge":
        return group, rest
    if group == "eval" and rest:
        return "score/mean" if rest == "score" else rest, "held out"
    if group == "gradient" and rest != "skipped":
        return group, rest
    return name, "training"


def _figures(rows: Sequence[Row], findings: Sequence[Finding]) -> Iterator[dict[str, str]]:
    """A chart for each family of metrics, the known ones first; findings are marked where they were found."""
    families: dict[str, dict[str, list[Point]]] = {}
    for name, points in curves_of(rows).items():
        family, curve = family_of(name)
        families.setdefault(family, {})[curve] = points
    order = {name: place for place, name in enumerate(METRICS)}
    for family in sorted(families, key=lambda name: (order.get(name, len(order)), name)):
        metric = METRICS.get(family, Metric(family, "value", ""))
        drawn = {curve: smoothed(points) for curve, points in families[family].items()}
        chart = line_chart(
            {curve: line for curve, (line, _) in drawn.items()},
            bands={curve: band for curve, (_, band) in drawn.items()},
            marks={f.step: f"step {f.step}: {f.name}" for f in findings if f.metric == family},
            title=metric.title,
            x_label="step",
            y_label=metric.unit,
        )
        yield {"name": family, "chart": Markup(chart), "definition": metric.definition}  # noqa: S704 (escaped)


def smoothed(points: Sequence[Point]) -> tuple[list[Point], list[Band]]:
    """A long curve as its moving mean and a band of one standard deviation either side; a short one as it is."""
    if len(points) <= SMOOTH_FROM:
        return list(points), []
    reach = len(points) // 50
    line: list[Point] = []
    band: list[Band] = []
    for place in range(SMOOTH_POINTS):
        middle = round(place * (len(points) - 1) / (SMOOTH_POINTS - 1))
        near = [y for _, y in points[max(0, middle - reach) : middle + reach + 1] if math.isfinite(y)]
        mean, spread = (fmean(near), pstdev(near)) if near else (math.nan, 0.0)
        line.append((points[middle][0], mean))
        band.append((points[middle][0], mean - spread, mean + spread))
    return line, band


def _chosen_samples(samples: Sequence[Row]) -> list[Row]:
    """Samples of steps spread over the run, its first and its last among them."""
    steps = sorted({row["step"] for row in samples})
    places = min(len(steps), MOST_SAMPLE_STEPS)
    chosen = {steps[round(i * (len(steps) - 1) / max(places - 1, 1))] for i in range(places)}
    return [row for step in sorted(chosen) for row in [r for r in samples if r["step"] == step][:MOST_SAMPLES_A_STEP]]


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
