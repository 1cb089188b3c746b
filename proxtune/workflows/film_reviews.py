"""The demo's data: 33,530 human-labelled film reviews, cut into parts that share no review."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxtune.data.reviews import Review
from proxtune.runs import derive_seed

INSTRUCTION = "Review:"
PROMPTS, PROMPT_WORDS, COMPARED = 1500, 5, 8000
OPENING_WORDS, CLOSING_WORDS = 60, 45  # more than the demo's length limit leaves: the tokenizer cuts


@dataclass(frozen=True)
class Parts:
    """Reviews by what they are for. No text stands in two parts."""

    openings: list[Review]
    pairs: list[Review]
    prompts: list[Review]
    judge: list[Review]
    duplicates: int


def part(reviews: list[Review], *, openings: int, seed: int) -> Parts:
    """Drop duplicate texts, shuffle by a hash of (seed, text), and deal the reviews out."""
    unique = list({review.text.casefold(): review for review in reviews}.values())
    unique.sort(key=lambda review: derive_seed(seed, f"review {review.text}"))
    long = [review for review in unique if review.source == "imdb"]
    short = [review for review in unique if review.source != "imdb"]
    learned, long = long[:openings], long[openings:]
    asked, long = long[:PROMPTS], long[PROMPTS:]
    compared, judge = long[:COMPARED], long[COMPARED:]
    return Parts(learned, compared, asked, judge + short, duplicates=len(reviews) - len(unique))


def write_parts(parts: Parts, folder: Path, *, pairs: int, held_out: int) -> None:
    """Write what the stages read: openings, pairs and prompts, and `held_out` of each in held_….jsonl, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    openings = [{"prompt": INSTRUCTION, "completion": " " + opening(review.text)} for review in parts.openings]
    joined = list(_pairs(parts.pairs))[: held_out + pairs]
    asked = dict.fromkeys(f"{INSTRUCTION} {opening(review.text, PROMPT_WORDS)}" for review in parts.prompts)
    prompts = [{"prompt": prompt} for prompt in asked]
    for name, rows in (("openings", openings), ("pairs", joined), ("prompts", prompts)):
        _write(folder / f"{name}.jsonl", rows[held_out:])
        _write(folder / f"held_{name}.jsonl", rows[:held_out])


def _pairs(reviews: list[Review]) -> Iterator[dict[str, str]]:
    """Join each favourable review with the next unfavourable one, cut alike: only the judgement tells them apart.

    One pair in three is cut from the beginning of both reviews, which is what PPO writes; the others from near their
    end, where people say what they think. All are longer than the tokenizer leaves, so that they end in the middle of
    a sentence, as PPO's answers do.
    """
    waiting: dict[bool, list[Review]] = {True: [], False: []}
    joined = 0
    for review in reviews:
        others = waiting[not review.favourable]
        if not others:
            waiting[review.favourable].append(review)
            continue
        other = others.pop(0)
        good, bad = (review, other) if review.favourable else (other, review)
        cut = closing if joined % 3 else opening
        joined += 1
        yield {"prompt": INSTRUCTION, "chosen": f" {cut(good.text)}", "rejected": f" {cut(bad.text)}"}


def opening(text: str, words: int = OPENING_WORDS) -> str:
    """The first words of a text."""
    return " ".join(text.split(" ")[:words])


def closing(text: str) -> str:
    """The last words of a text."""
    return " ".join(text.split(" ")[-CLOSING_WORDS:])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
