"""What a careful person would try first, for each kind of task."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import MultiLabelBinarizer

from proxtune.data.labels import answered, answers_to
from proxtune.data.records import Completion, Labelled, Record, Tagged
from proxtune.data.tags import entities
from proxtune.evaluation import labels, spans, texts
from proxtune.evaluation.tasks.classification import name_of
from proxtune.evaluation.tasks.label_sets import names_of
from proxtune.evaluation.tasks.regression import number_of
from proxtune.evaluation.tasks.tagging import tags_of
from proxtune.evaluation.tasks.writing import answer_of, triples


def baseline_of(kind: str, train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """(its name, its headline figure on the test rows)."""
    return BASELINES[kind](train, test)


def _features() -> Any:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
    return FeatureUnion([("words", words), ("letters", letters)])


def _text(record: Record) -> str:
    assert isinstance(record, Labelled)
    if record.pair is None:
        return record.text
    shared = set(record.text.lower().split()) & set(record.pair.lower().split())
    return f"{record.text} {record.pair} {' '.join(f'shared{i}' for i in range(len(shared)))}"


def _classes(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    features, model = _features(), LogisticRegression(C=10, max_iter=1000)
    model.fit(features.fit_transform(list(map(_text, train))), list(map(name_of, train)))
    said = list(map(str, model.predict(features.transform(list(map(_text, test))))))
    gold = list(map(name_of, test))
    known = sorted(set(gold) | set(map(name_of, train)))
    return "TF-IDF of words and letters, logistic regression", labels.classes(gold, said, known).values()["macro_f1"]


def _sets(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    features, model, binary = (
        _features(),
        OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000)),
        MultiLabelBinarizer(),
    )
    target = binary.fit_transform(list(map(names_of, train)))
    model.fit(features.fit_transform(list(map(_text, train))), target)
    said = binary.inverse_transform(model.predict(features.transform(list(map(_text, test)))))
    gold = list(map(names_of, test))
    known = sorted({*binary.classes_, *(name for names in gold for name in names)})
    return "TF-IDF, a logistic regression a label", labels.label_sets(gold, said, known).values()["micro_f1"]


def _numbers(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    features, model = _features(), Ridge(alpha=10)
    model.fit(features.fit_transform(list(map(_text, train))), np.array(list(map(number_of, train))))
    said = list(map(float, model.predict(features.transform(list(map(_text, test))))))
    return "TF-IDF, ridge regression", labels.numbers(list(map(number_of, test)), said).values()["pearson"]


def _gazetteer(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """The longest name of the training data that begins at a word, as what it was most often there.

    A word that is more often outside of every entity than such a name alone is left out.
    """
    names: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    outside = Counter[str]()
    for record in train:
        assert isinstance(record, Tagged)
        for kind, begin, end in entities(record.tags):
            names[record.tokens[begin:end]][kind] += 1
        outside.update(word for word, tag in zip(record.tokens, record.tags, strict=True) if tag == "O")
    kinds = {
        name: found.most_common(1)[0][0]
        for name, found in names.items()
        if len(name) > 1 or found.total() > outside[name[0]]
    }
    longest = max(map(len, kinds))

    def tagged(words: tuple[str, ...]) -> tuple[str, ...]:
        tags, at = list[str](), 0
        while at < len(words):
            size = next((n for n in range(min(longest, len(words) - at), 0, -1) if words[at : at + n] in kinds), 0)
            kind = kinds.get(words[at : at + size])
            tags += ["O"] if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (size - 1)]
            at += max(size, 1)
        return tuple(tags)

    said = [tagged(record.tokens) for record in test if isinstance(record, Tagged)]
    return "gazetteer of the training data", spans.entity_spans(list(map(tags_of, test)), said).values()["f1"]


def _spans(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """The last word of the context, or of the prompt, that was an answer in training."""
    known = {answer for record in train for answer in _answers(record)}

    def said(record: Record) -> str:
        text = str(record.prompt) if isinstance(record, Completion) else answered(record).context
        words = [word.strip(".,;:!?") for word in text.split()]
        return next((word for word in reversed(words) if word in known), "")

    figures = texts.answers(list(map(_answers, test)), list(map(said, test))).values()
    return "the last word that was an answer in training", figures["f1"]


def _answers(record: Record) -> list[str]:
    if isinstance(record, Completion):
        return [record.completion]
    return [answer.text for answer in answers_to(record)]


def _triples(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """An entry, with every part of its gloss that was a tail more often than not, in the relation it mostly was in."""
    relations: dict[str, Counter[str]] = defaultdict(Counter)
    seen = Counter[str]()
    for record in train:
        seen.update(set(_parts(record)))
        for part in triples(answer_of(record)):
            relations[part[2]][part[1]] += 1
    known = {tail: found.most_common(1)[0][0] for tail, found in relations.items() if 2 * found.total() > seen[tail]}
    said = [{(_entry(record)[0], known[part], part) for part in _parts(record) if part in known} for record in test]
    figures = spans.item_sets([triples(answer_of(record)) for record in test], said).values()
    return "the tails of the training data", figures["f1"]


def _entry(record: Record) -> tuple[str, str]:
    """(an entry, its gloss) of a prompt."""
    assert isinstance(record, Completion)
    entry, _, gloss = str(record.prompt).removeprefix("Text: ").partition(": ")
    return entry, gloss.partition("\nTriples:")[0]


def _parts(record: Record) -> list[str]:
    """Every one to three words of a gloss that stand side by side."""
    words = re.findall(r"[\w'-]+", _entry(record)[1])
    return [" ".join(words[at : at + n]) for at in range(len(words)) for n in (1, 2, 3)]


def _memory(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """The translation of the training sentence that is most like a sentence, by TF-IDF of its letters and words."""
    features = _features()
    known = features.fit_transform([str(record.prompt) for record in train if isinstance(record, Completion)])
    asked = features.transform([str(record.prompt) for record in test if isinstance(record, Completion)])
    nearest = np.asarray((asked @ known.T).argmax(axis=1)).ravel()
    said = [answer_of(train[i]) for i in nearest]
    return "translation memory", texts.translations(list(map(answer_of, test)), said).values()["chrf"]


def _lead(train: Sequence[Record], test: Sequence[Record]) -> tuple[str, float]:
    """How the text begins: its first sentence, or as many words as answers have; the better one in training."""

    def sentence(record: Completion) -> str:
        return re.split(r"(?<=[.!?])\s", str(record.prompt), maxsplit=1)[0]

    def words(record: Completion) -> str:
        return " ".join(str(record.prompt).split()[:length])

    learnt = [record for record in train if isinstance(record, Completion)]
    asked = [record for record in test if isinstance(record, Completion)]
    length = round(fmean(len(record.completion.split()) for record in learnt))

    def score(rows: Sequence[Completion], said: Callable[[Completion], str]) -> float:
        return texts.summaries([row.completion for row in rows], list(map(said, rows))).values()["rougeL"]

    name, best = max(
        (("the first sentence", sentence), (f"the first {length} words", words)), key=lambda x: score(learnt, x[1])
    )
    return name, score(asked, best)


BASELINES: dict[str, Callable[[Sequence[Record], Sequence[Record]], tuple[str, float]]] = {
    "classification": _classes,
    "label_sets": _sets,
    "regression": _numbers,
    "tagging": _gazetteer,
    "question_answering": _spans,
    "summarisation": _lead,
    "triples": _triples,
    "translation": _memory,
}
