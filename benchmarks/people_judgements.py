"""How many judgements a reward model needs, asked about the pairs that tell most and about any.

The reward model is a logistic head on the frozen model's states: that of a pair is their difference. The answers are
openings of real film reviews, four to a question, any two of which make a pair. The people are simulated, and what they
like is known: VADER's sentiment of a text. A seed decides which questions are held out, which pairs are drawn, and what
people say.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.plots import draw
from proxtune.data.reviews import read_reviews
from proxtune.evaluation.judge import VaderJudge
from proxtune.evaluation.record import write_record
from proxtune.feedback.choose import informative, posterior
from proxtune.feedback.simulated import Adversarial, Asked, Noisy, Person
from proxtune.models.language_model import LanguageModel, frozen
from proxtune.models.load import ModelConfig, load
from proxtune.models.score import pooled_states
from proxtune.runs import derive_seed
from proxtune.workflows.film_reviews import INSTRUCTION, opening, part
from proxtune.workflows.rlhf.questions import PRIOR, Pair, differences, pairs_of

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "people"
RUNS = ROOT / "runs" / "people"
QUESTIONS, ANSWERS, WORDS = 400, 4, 18
LEARNT = 280  # questions whose pairs may be asked about; those of the others measure
ROUND, BUDGETS = 16, (16, 32, 64, 128, 256, 512)
AT = 256  # judgements of random pairs, whose accuracy is to be reached with fewer
TEMPERATURE = 0.3  # of the noisy, in units of VADER's −1 … 1
GOAL = 0.6
CHOICES = ("random", "informative")
KINDS = ("sure", "noisy", "one adversary of three")
Array = NDArray[np.float64]


class Material(NamedTuple):
    """All pairs: the number of their question, x = φ(a) − φ(b), and what people think of a and of b."""

    questions: NDArray[np.int64]
    x: Array
    tastes: Array  # [N, 2]


def material(reads: str, folder: Path = RUNS) -> Material:
    """Reviews as the frozen model reads them; kept in a file, for that takes minutes.

    Args:
        reads: "middle", the mean state of the answer's tokens halfway up, as the loop chooses by; "last", the state
            after a stop token, as its reward model reads an answer.
    """
    texts = [f" {opening(review.text, WORDS)}" for review in part(read_reviews(), openings=0, seed=0).pairs]
    texts = list(dict.fromkeys(texts))[: QUESTIONS * ANSWERS]
    four = [texts[start : start + ANSWERS] for start in range(0, len(texts), ANSWERS)]
    pairs = pairs_of([INSTRUCTION] * len(four), four)
    kept = folder / f"judgements-{reads}.npy"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = load(ModelConfig())
        np.save(kept, differences(model, pairs) if reads == "middle" else _last(model, texts, pairs))
    worth = dict(zip(texts, VaderJudge()(texts), strict=True))
    return Material(
        questions=np.repeat(np.arange(len(four)), len(pairs) // len(four)),
        x=np.load(kept),
        tastes=np.array([[worth[pair.first], worth[pair.second]] for pair in pairs]),
    )


def _last(model: LanguageModel, texts: Sequence[str], pairs: Sequence[Pair]) -> Array:
    """[N, H]: the state after a stop token, as a reward model reads an answer."""
    before = model.tokenizer.encode(INSTRUCTION)
    rows = [[*before, *model.tokenizer.encode(text, add_special_tokens=False), model.stop_ids[0]] for text in texts]
    with frozen(model.module):
        states = {text: pooled_states(model, [row])[0].double().numpy() for text, row in zip(texts, rows, strict=True)}
    return np.array([states[pair.first] - states[pair.second] for pair in pairs])


def people_of(kind: str) -> Sequence[Person]:
    """Who judges; a pair is judged by one of them. Texts stand for what they are worth."""
    noisy = Noisy(_worth, TEMPERATURE)
    known: dict[str, Sequence[Person]] = {
        "sure": [Noisy(_worth)],
        "noisy": [noisy],
        "one adversary of three": [noisy, noisy, Adversarial(_worth, TEMPERATURE)],
    }
    return known[kind]


def _worth(_: str, text: str) -> float:
    return float(text)


def about_weights(pairs: Array, count: int, *, judged: Array, outcomes: Sequence[float], prior: float) -> list[int]:
    """As `informative`, by another criterion: what a judgement tells about the weights, ½ ln(1 + c xᵀΣx).

    MacKay 1992, equation 3.2, for one binary answer. A pair that is like no other tells much about the weights and
    little about other pairs.
    """
    scale = np.sqrt((np.concatenate([pairs, judged]) ** 2).sum(1).mean())
    pairs, judged = pairs / scale, judged / scale
    weights, covariance = posterior(judged, np.asarray(outcomes, dtype=np.float64), prior * pairs.shape[1])
    p = 0.5 * (1 + np.tanh(pairs @ weights / 2))
    curvature, reach = p * (1 - p), pairs @ covariance
    spread = np.einsum("nd,nd->n", reach, pairs)
    chosen: list[int] = []
    for _ in range(min(count, len(pairs))):
        gain = np.log1p(curvature * spread)
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        along, factor = pairs @ reach[best], curvature[best] / (1 + curvature[best] * spread[best])
        reach, spread = reach - factor * np.outer(along, reach[best]), spread - factor * along**2
    return chosen


class How(NamedTuple):
    """What is tried: `reads` as of `material`; `near`: held-out pairs that differ by less do not count."""

    reads: str = "middle"
    choose: Any = informative
    prior: float = PRIOR
    near: float = 0.0


VARIANTS = {
    "what is told about the weights": How(choose=about_weights),
    "the last state, prior 1": How("last", prior=1.0),
    "near-ties not counted": How(near=0.3),
}


class Study:
    """One seed's questions, with a way of asking about them and people who answer."""

    def __init__(self, known: Material, seed: int, kind: str, how: "How") -> None:
        self.seed, self.people, self.how = seed, people_of(kind), how
        self.known = known
        order = sorted(set(known.questions.tolist()), key=lambda question: derive_seed(seed, "question", question))
        learnt = np.isin(known.questions, order[:LEARNT])
        self.pool = np.flatnonzero(learnt)
        self.measured = np.flatnonzero(~learnt & (np.abs(known.tastes[:, 0] - known.tastes[:, 1]) > how.near))
        self.said = {pair: self._said(pair) for pair in self.pool.tolist()}

    def curve(self, choice: str) -> list[float]:
        """The share of held-out pairs ranked as people like them, after each of `BUDGETS`."""
        asked: list[int] = []
        accuracies = []
        while len(asked) < BUDGETS[-1]:
            asked += self._choose(choice, asked)
            if len(asked) in BUDGETS:
                accuracies.append(self._accuracy(asked))
        return accuracies

    def _choose(self, choice: str, asked: list[int]) -> list[int]:
        """The pairs of a round."""
        left = np.setdiff1d(self.pool, asked)
        if choice == "random":
            luck = Random(derive_seed(self.seed, "round", len(asked)))  # noqa: S311 (no secret)
            return luck.sample(left.tolist(), ROUND)
        outcomes = [self.said[pair] for pair in asked]
        x = self.known.x
        found = self.how.choose(x[left], ROUND, judged=x[asked], outcomes=outcomes, prior=self.how.prior)
        return [int(left[place]) for place in found]

    def _accuracy(self, asked: list[int]) -> float:
        x = self.known.x / np.sqrt((self.known.x**2).sum(1).mean())
        outcomes = np.array([self.said[pair] for pair in asked])
        weights, _ = posterior(x[asked], outcomes, self.how.prior * x.shape[1])
        tastes = self.known.tastes[self.measured]
        right = (x[self.measured] @ weights > 0) == (tastes[:, 0] > tastes[:, 1])
        return float(right.mean())

    def _said(self, pair: int) -> float:
        """How much the first answer is preferred, a tie as a half."""
        luck = Random(derive_seed(self.seed, "says", pair))  # noqa: S311 (no secret)
        asked = Asked("pair", "", [str(worth) for worth in self.known.tastes[pair].tolist()])
        preference: int = luck.choice(self.people).answer(asked, luck).body["preference"]
        return (preference + 1) / 2


def needed(curve: NDArray[np.float64], accuracy: float) -> float:
    """How many judgements reach an accuracy, on a line between budgets over their logarithm; the most if none do.

    The curve is read as the best so far: a step back does not take away what was reached.
    """
    best = np.maximum.accumulate(curve)
    return float(2 ** np.interp(accuracy, best, np.log2(BUDGETS)))


def ratio(random: Array, telling: Array) -> float:
    """Judgements that informative pairs need for the accuracy of random ones at `AT`, as a share of `AT`.

    Args:
        random, telling: [seeds, budgets], accuracies.
    """
    return needed(telling.mean(0), float(random.mean(0)[BUDGETS.index(AT)])) / AT


def judgements(seeds: Sequence[int], command: str) -> None:
    """Measure all kinds of people, and what else was tried, and write it down."""
    results = {kind: _measured(seeds, kind, How()) for kind in KINDS}
    write(results, {name: _measured(seeds, KINDS[0], how) for name, how in VARIANTS.items()}, seeds, command)


def write(results: dict[str, Any], variants: dict[str, Any], seeds: Sequence[int], command: str) -> None:
    """The record, and the picture of its curves."""
    curves = {
        f"{choice}, {kind}": list(zip(BUDGETS, found["curves"][choice], strict=True))
        for kind, found in results.items()
        for choice in CHOICES
    }
    draw(
        "judgements",
        curves,
        records=RECORDS,
        title="Reward model: held-out pairs ranked as people like them",
        x_label="judgements",
        y_label="share of pairs",
    )
    value, low, high = results[KINDS[0]]["ratio"]
    write_record(
        RECORDS / "judgements.json",
        claim=f"judgements of informative pairs that rank held-out pairs as well as {AT} of random ones, people being "
        "sure of what they like",
        value=value,
        unit=f"of {AT}",
        interval=(low, high),
        goal=f"<= {GOAL}",
        holds=value <= GOAL,
        against="random pairs",
        seeds=seeds,
        command=command,
        measures=["proxtune/feedback/choose.py", "proxtune/workflows/rlhf/questions.py"],
        raw={"budgets": list(BUDGETS), "people": results, "variants": variants},
        bound=None if value <= GOAL else _bound(results, variants, len(seeds)),
    )


def _bound(results: dict[str, Any], variants: dict[str, Any], seeds: int) -> str:
    curve = results[KINDS[0]]["curves"]["random"]
    last = BUDGETS.index(AT)
    return (
        f"curves so flat that {seeds} seeds do not settle it (from {AT // 2} to {AT} random judgements accuracy goes "
        f"from {curve[last - 1]:.3f} to {curve[last]:.3f}): {_each(results)}; {KINDS[0]}, with {_each(variants)}"
    )


def _each(found: dict[str, Any]) -> str:
    return ", ".join(
        f"{one['ratio'][0]:.2f} [{one['ratio'][1]:.2f}, {one['ratio'][2]:.2f}] ({name})" for name, one in found.items()
    )


def _measured(seeds: Sequence[int], kind: str, how: How) -> Any:
    """(ratio, low, high), at most 2 where a bound of `BUDGETS` is reached, and the mean curves."""
    known = material(how.reads)
    studies = [Study(known, seed, kind, how) for seed in seeds]
    found = {choice: np.array([study.curve(choice) for study in studies]) for choice in CHOICES}
    measured = {
        "ratio": _with_interval(found["random"], found["informative"]),
        "curves": {choice: x.mean(0).round(4).tolist() for choice, x in found.items()},
    }
    print(kind, how, measured, flush=True)
    return measured


def _with_interval(random: Array, telling: Array) -> tuple[float, float, float]:
    """The ratio, and its 95% interval by a bootstrap over seeds."""
    luck = np.random.default_rng(0)
    drawn = [ratio(random[rows], telling[rows]) for rows in luck.integers(len(random), size=(2000, len(random)))]
    value, (low, high) = ratio(random, telling), np.percentile(drawn, [2.5, 97.5])
    return value, min(float(low), value), max(float(high), value)
