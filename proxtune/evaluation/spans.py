"""Figures of tagged sentences and of sets found in texts (entities, triples): what is right is right in every part.

How tags are read, also malformed ones: as the scorer of CoNLL does (`proxtune.data.tags`), where a tag that goes on
with nothing begins an entity; `strict=True` leaves such an entity out. For well-formed BIO the two agree. They are
seqeval's two modes: its default, and `mode="strict", scheme=IOB2`.
"""

from collections.abc import Collection, Hashable, Sequence
from itertools import chain

import numpy as np

from proxtune.data.tags import TAG, Entity, entities, orphans
from proxtune.errors import DataError
from proxtune.evaluation.labels import Row, class_table, micro_row, table
from proxtune.evaluation.metrics import Array, Measure, check_rows, precision_recall_f1, ratio

Tags = Sequence[Sequence[str]]


def entity_spans(gold: Tags, predicted: Tags, *, strict: bool = False) -> Measure:
    """precision, recall and f1 over entities right in type and both borders; macro_f1, accuracy and invalid.

    macro_f1 is the mean over the types that are in the gold or the predicted tags (in a resample: in its own); accuracy
    is the share of tokens with the right tag; invalid is the share of sentences whose prediction breaks BIO: a tag goes
    on with nothing, or is none.
    Raises DataError: not as many sentences or tokens predicted as there are, or no sentences.
    """
    _, *counts = _count(gold, predicted, strict=strict)
    right = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(gold, predicted, strict=True)]
    tokens = [len(tags) for tags in gold]
    invalid = [bool(orphans(tags)) or not all(map(TAG.fullmatch, tags)) for tags in predicted]
    return Measure(np.hstack([*counts, np.stack([right, tokens, invalid, np.ones(len(gold))], axis=1)]), _figures)


def _figures(sums: Array) -> dict[str, Array]:
    correct, predicted, gold = np.split(sums[..., :-4], 3, axis=-1)
    right, tokens, invalid, n = np.moveaxis(sums[..., -4:], -1, 0)
    _, _, f1 = precision_recall_f1(correct, predicted, gold)
    return {
        **_micro(correct.sum(-1), predicted.sum(-1), gold.sum(-1)),
        "macro_f1": ratio(f1.sum(-1), (predicted + gold > 0).sum(-1)),
        "accuracy": ratio(right, tokens),
        "invalid": ratio(invalid, n),
    }


def _micro(correct: Array, predicted: Array, gold: Array) -> dict[str, Array]:
    return dict(zip(("precision", "recall", "f1"), precision_recall_f1(correct, predicted, gold), strict=True))


def entity_table(gold: Tags, predicted: Tags, *, strict: bool = False) -> list[Row]:
    """A row for each type of entity, then `micro avg`, `macro avg` and `weighted avg`: seqeval's classification_report.

    Raises DataError: as `entity_spans` does.
    """
    types, *by_sentence = _count(gold, predicted, strict=strict)
    counts = np.stack(by_sentence).sum(axis=1)
    return table(types, counts, micro_row(counts))


def tag_table(gold: Tags, predicted: Tags) -> list[Row]:
    """A row for each tag (B-PER, I-PER, ..., O) as a class of tokens, then those that `class_table` ends with.

    Raises DataError: as `entity_spans` does, or there are no tokens.
    """
    _check_tokens(gold, predicted)
    right, said = list(chain(*gold)), list(chain(*predicted))
    return class_table(right, said, sorted({*right, *said}))


def item_sets(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> Measure:
    """precision, recall and f1 over the items of all rows (triples, spans); an item counts once in its row.

    Raises DataError: not as many predictions as gold sets, or none.
    """
    check_rows(gold, predicted)
    pairs = [(set(right), set(said)) for right, said in zip(gold, predicted, strict=True)]
    rows = [(len(right & said), len(said), len(right)) for right, said in pairs]
    return Measure(np.asarray(rows, dtype=np.float64), lambda sums: _micro(*np.moveaxis(sums, -1, 0)))


def _count(gold: Tags, predicted: Tags, *, strict: bool) -> tuple[list[str], Array, Array, Array]:
    """The types of entities, and how many of each are right, predicted and gold, [sentences, types]."""
    _check_tokens(gold, predicted)
    right, said = ([_read(tags, strict=strict) for tags in all_tags] for all_tags in (gold, predicted))
    types = sorted({entity.type for entity in chain(*right, *said)})
    place = {kind: k for k, kind in enumerate(types)}
    counts = np.zeros((3, len(gold), len(types)))
    both = [a & b for a, b in zip(right, said, strict=True)]
    for count, found in zip(counts, (both, said, right), strict=True):
        for i, sentence in enumerate(found):
            np.add.at(count[i], [place[entity.type] for entity in sentence], 1)
    return types, counts[0], counts[1], counts[2]


def _read(tags: Sequence[str], *, strict: bool) -> set[Entity]:
    wrong = set(orphans(tags)) if strict else set[int]()
    return {entity for entity in entities(tags) if entity.begin not in wrong}


def _check_tokens(gold: Tags, predicted: Tags) -> None:
    check_rows(gold, predicted)
    for i, (right, said) in enumerate(zip(gold, predicted, strict=True)):
        if len(right) != len(said):
            raise DataError(f"row {i}: {len(said)} tags predicted for {len(right)} tokens; give one for each")
