"""Headlines of BBC News, to be written for an article or to be told from those of others.

An article of which another has the headline or the opening is left out; a hash of the opening decides the part.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from proxtune.data.corpora import Part, bbc_articles, labelled_part
from proxtune.runs import derive_seed

WORDS = 120  # of an article, in a prompt
OPENING = 2  # sentences
SENTENCE_END = re.compile(r"""(?<=[.!?]) (?=[A-Z"'])""")


def headlines(part: Part) -> Iterator[dict[str, str]]:
    """The beginning of each article as the prompt and its headline as the completion; a fifth is the test."""
    for row in _articles(part):
        yield {"prompt": " ".join(row["body"].split(" ")[:WORDS]) + "\nHeadline:\n", "completion": row["label"]}


def headline_pairs(part: Part) -> Iterator[dict[str, str]]:
    """Each headline with the opening of its own article, "match", and with that of another of its topic, "other".

    Every headline and every opening stands once under each label: neither tells without the other, nor does the topic.
    """
    topics = defaultdict[str, list[dict[str, Any]]](list)
    for row in _articles(part):
        topics[row["topic"]].append(row)
    pairs = [
        {"text": row["label"], "text_pair": other["text"], "label": label}
        for articles in topics.values()
        for row, following in zip(articles, [*articles[1:], articles[0]], strict=True)
        for other, label in ((row, "match"), (following, "other"))
    ]
    yield from sorted(pairs, key=lambda pair: derive_seed(0, f"pair {pair['text']} {pair['text_pair']}"))


def _articles(part: Part) -> Iterator[dict[str, Any]]:
    rows = [_article(text, topic) for text, topic in sorted({(row["text"], row["label"]) for row in bbc_articles()})]
    times = Counter(row["label"].casefold() for row in rows)
    return labelled_part((row for row in rows if times[row["label"].casefold()] == 1), part, percent=20)


def _article(text: str, topic: str) -> dict[str, str]:
    """The opening is the text and the headline its label, so that the opening decides the part."""
    headline, _, rest = text.partition("\n")
    body = " ".join(rest.split())
    return {
        "text": " ".join(SENTENCE_END.split(body)[:OPENING]),
        "label": headline.strip(),
        "body": body,
        "topic": topic,
    }
