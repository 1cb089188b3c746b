"""What tools/fetch.py fetches, as rows: pure functions from the bytes of a file to the rows of two parts.

A hash decides the part and the place of a row, so that a row never changes its part when the file grows.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from proxtune.data.corpora import Part
from proxtune.runs import derive_seed

Row: TypeAlias = dict[str, Any]
Parts: TypeAlias = dict[Part, list[Row]]

POINTERS = {  # wninput(5WN): of the entry to the synset that it points to
    "@": "hypernym",
    "@i": "instance_of",
    "#p": "part_of",
    "#m": "member_of",
    "#s": "substance_of",
    "%m": "has_member",
    "%p": "has_part",
    ";c": "domain_topic",
}
SHORTEST, LONGEST = 3, 20  # words of a translation
SENTENCE_END = re.compile(r"[.!?] \S")


def parts(rows: Iterable[Row], key: Callable[[Row], str], *, percent: int, train: int, test: int) -> Parts:
    """Rows in the order of a hash of their keys, `percent` of all keys for the test; a key is in one part alone.

    At most the first `train` and the first `test` rows are kept.
    """
    found = dict[Part, list[Row]](train=[], test=[])
    drawn = [(derive_seed(0, f"part {key(row)}"), place, row) for place, row in enumerate(rows)]
    for draw, _, row in sorted(drawn, key=lambda triple: triple[:2]):
        found["test" if draw % 100 < percent else "train"].append(row)
    return {"train": found["train"][:train], "test": found["test"][:test]}


def relations(nouns: bytes) -> Parts:
    """Relations by distant supervision (Mintz et al. 2009): WordNet relates an entry to a word of its own gloss.

    `nouns` is WordNet's data.noun. A row is "ENTRY: gloss" with the entry as the head. At most 2,000 rows of a
    relation are to train with and 500 are for the test, and no entry is in both.
    """
    by_relation = defaultdict[str, list[Row]](list)
    for row in _related(nouns.decode("utf-8")):
        by_relation[row["relation"]].append(row)
    split = [parts(rows, _head, percent=20, train=2_000, test=500) for rows in by_relation.values()]
    joined: Parts = {part: [row for found in split for row in found[part]] for part in ("train", "test")}
    return {part: sorted(rows, key=lambda row: derive_seed(0, repr(row))) for part, rows in joined.items()}


def _head(row: Row) -> str:
    begin, end = row["head"]
    return str(row["text"][begin:end].casefold())


def triples(nouns: bytes) -> Parts:
    """The same relations to be written: "ENTRY: gloss" with two or more, `head | relation | tail` a line.

    They stand in the order of their tails. A word stands before the entry, for many decoders hardly read what the first
    token of all is (Xiao et al. 2024, attention sinks). At most 4,000 rows are to train with and 500 are for the test,
    and no entry is in both.
    """
    by_text = defaultdict[str, list[Row]](list)
    for row in _related(nouns.decode("utf-8")):
        by_text[row["text"]].append(row)
    rows = [
        {
            "prompt": f"Text: {text}\nTriples:\n",
            "completion": "\n".join(map(_written, sorted(found, key=lambda row: row["tail"]))),
        }
        for text, found in by_text.items()
        if len(found) > 1
    ]
    return parts(rows, lambda row: row["prompt"].split(": ")[1].casefold(), percent=20, train=4_000, test=500)


def _written(row: Row) -> str:
    (begin, end), (first, last) = row["head"], row["tail"]
    return f"{row['text'][begin:end]} | {row['relation']} | {row['text'][first:last]}"


def _related(nouns: str) -> Iterator[Row]:
    """A row of each pair of spans that has one relation."""
    synsets = dict(_synset(line) for line in nouns.splitlines() if not line.startswith("  "))  # those are the licence
    labels = defaultdict[tuple[str, tuple[int, int]], set[str]](set)
    for (entry, *_), pointers, gloss in synsets.values():
        for relation, target in pointers:
            span = _standing([lemma for lemma in synsets[target][0] if lemma.casefold() != entry.casefold()], gloss)
            if span:
                begin, end = (place + len(entry) + len(": ") for place in span)
                labels[f"{entry}: {gloss}", (begin, end)].add(relation)
    for (text, (begin, end)), found in labels.items():
        if len(found) == 1:
            yield {"text": text, "head": [0, text.index(": ")], "tail": [begin, end], "relation": found.pop()}


def _synset(line: str) -> tuple[str, tuple[list[str], list[tuple[str, str]], str]]:
    """Its number, and its lemmas, pointers to nouns, and gloss without examples. The form is that of wndb(5WN)."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    after = 4 + 2 * int(fields[3], 16)
    lemmas = [lemma.replace("_", " ") for lemma in fields[4:after:2]]
    pointers = zip(*(fields[after + i :: 4] for i in (1, 2, 3)), strict=True)
    related = [(POINTERS[sign], target) for sign, target, kind in pointers if sign in POINTERS and kind == "n"]
    return fields[0], (lemmas, related, gloss.partition('; "')[0].strip())


def _standing(lemmas: list[str], gloss: str) -> tuple[int, int] | None:
    """Where the longest lemma that is there stands first as whole words."""
    for lemma in sorted(lemmas, key=len, reverse=True):
        if lemma.casefold() in gloss.casefold():
            found = re.search(rf"(?<!\w){re.escape(lemma)}(?!\w)", gloss, re.IGNORECASE)
            if found:
                return found.span()
    return None


def questions(stories: bytes) -> Parts:
    """Questions about who looks where, whose answer is a word of the story; 3,600 and 400 at most, no story in both.

    `stories` has a line of JSON for each question: the story and the question in one turn, and the `ideal` answer.
    """
    rows = dict[tuple[str, str], Row]()
    for line in stories.decode("utf-8").splitlines():
        asked = json.loads(line)
        story, _, question = asked["input"][0]["content"].rpartition(" Where ")
        answer = asked["ideal"]
        places = [found.start() for found in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", story)]
        if re.fullmatch(r"\w+", answer) and places:
            answers = [{"text": answer, "start": start} for start in places]
            rows[story, question] = {"context": story, "question": f"Where {question}", "answers": answers}
    return parts(rows.values(), lambda row: str(row["context"]), percent=10, train=3_600, test=400)


def answers(stories: bytes) -> Parts:
    """The same questions to be answered in writing: the story and the question are the prompt."""
    return {
        part: [
            {"prompt": f"{row['context']}\n{row['question']}\nAnswer:\n", "completion": row["answers"][0]["text"]}
            for row in rows
        ]
        for part, rows in questions(stories).items()
    }


def translation(english: bytes, french: bytes) -> Parts:
    """Sentences and synopses of package descriptions in both languages; 20,000 and 500 at most.

    Paragraphs are aligned where a description has as many in both; those of one sentence and 3 to 20 words are kept.
    """
    originals = _descriptions(english, "en")
    rows = dict[str, Row]()
    for package, texts in _descriptions(french, "fr").items():
        given = originals.get(package, [])
        for source, target in zip(given, texts, strict=False) if len(given) == len(texts) else ():
            if source != target and _is_short(source) and _is_short(target):
                rows.setdefault(source.casefold(), {"prompt": source, "completion": target})
    return parts(rows.values(), lambda row: str(row["prompt"]).casefold(), percent=5, train=20_000, test=500)


def _is_short(text: str) -> bool:
    return SHORTEST <= len(text.split()) <= LONGEST and not SENTENCE_END.search(text)


def summaries(english: bytes) -> Parts:
    """The first paragraph of a package's description, to be summed up as its synopsis; 20,000 and 500 at most.

    Of packages with the same paragraph the shortest synopsis counts: others name what the package is a part of.
    """
    rows = dict[str, Row]()
    for synopsis, paragraph in sorted(_beginnings(english).values(), key=lambda pair: (len(pair[0]), pair)):
        rows.setdefault(paragraph.casefold(), {"prompt": paragraph, "completion": synopsis})
    return parts(rows.values(), lambda row: str(row["prompt"]).casefold(), percent=5, train=20_000, test=500)


def _beginnings(english: bytes) -> dict[str, tuple[str, str]]:
    """Synopsis and first paragraph of each package whose first paragraph is running text."""
    texts = _descriptions(english, "en").items()
    return {package: (text[0], text[1]) for package, text in texts if len(text) > 1 and text[1]}


def _descriptions(index: bytes, language: str) -> dict[str, list[str]]:
    """Synopsis and paragraphs by the head of a stanza, which names package and version; "" is a list or a table.

    The form is that of Debian Policy 5.6.13: " ." stands between paragraphs, and what is indented further stays as it
    is set.
    """
    found = dict[str, list[str]]()
    for stanza in index.decode("utf-8").split("\n\n"):
        head, _, description = stanza.strip("\n").partition(f"\nDescription-{language}: ")
        synopsis, _, body = description.partition("\n")
        paragraphs = re.split(r"^ \.\s*\n", f"{body}\n", flags=re.MULTILINE)
        found[head] = [" ".join(synopsis.split()), *map(_running, paragraphs)]
    return found


def _running(paragraph: str) -> str:
    return "" if re.search(r"^ ( |[*+-])", paragraph, re.MULTILINE) else " ".join(paragraph.split())
