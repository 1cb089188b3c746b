"""What people said, as rows to train on.

| format   | from           | row                                                                    |
|----------|----------------|------------------------------------------------------------------------|
| reward   | pair, ranking  | prompt, chosen, rejected, margin                                       |
| dpo      | pair, ranking  | prompt, chosen, rejected                                               |
| kto      | thumb, pair    | prompt, completion, label (true or false)                              |
| sft      | rewrite        | prompt, completion                                                     |
| rankings | ranking        | prompt, responses (the best first), ranks                              |
| ratings  | rating         | prompt, completion, scores: of each person the mean over the criteria  |
| labels   | label          | text, label; labels where several may be chosen                        |
| spans    | spans          | tokens, tags (BIO), text, spans                                        |
| events   | all, each row  | every answer, change and withdrawal as it came, with what was asked    |

All but the events leave out gold items and repeated ones, and count what they leave out. Of an item that a reviewer
decided, that decision alone counts. Several people become one row by a policy:

    majority   what most people said, where a tie and `both bad` are one answer of three; left out where that is the
               answer, or where two were said equally often. Labels of a set, and spans: those said by more than half
    mean       the better answer is the one that the mean preference is for; left out where it is 0. Else as majority
    each       every judgement is a row of its own; ties and `both bad` are left out

The margin is the mean preference for the chosen answer, 2 where everybody finds it much better, and at least 0; of a
ranking, in which no answer is much better, at most 1. A row of ratings has the score of each person, rankings go by the
mean rank, and each rewrite is a row: there majority and mean are the same.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, get_args

from proxtune.errors import DataError
from proxtune.feedback.records import Body, Item, Judgement
from proxtune.feedback.rows import MAKERS, Made, Policy, Row
from proxtune.feedback.store import Store
from proxtune.feedback.store.judgements import Judged
from proxtune.runs import derive_seed

Format: TypeAlias = Literal["reward", "dpo", "kto", "sft", "rankings", "ratings", "labels", "spans", "events"]
FORMATS: tuple[Format, ...] = get_args(Format)
POLICIES: tuple[Policy, ...] = get_args(Policy)
Side: TypeAlias = Literal["train", "held-out"]


def export(
    store: Store,
    format: Format,  # noqa: A002 (the user's word for it)
    *,
    batch: str | None = None,
    policy: Policy = "majority",
    fraction: float = 0.0,
    seed: int = 1,
    left_out: Counter[str] | None = None,
) -> Iterator[Row]:
    """The rows of a format, in the order of the items.

    Args:
        batch: the items of this one only.
        fraction: of the prompts that are held out; each row says in `split` whether it is in train or held-out. A
            prompt's side depends on `seed` and the prompt alone: it is the same in every format, and stays when more
            is judged.
        left_out: counts, by reason, what became no row.

    Raises DataError: no such format or policy, or a fraction that is none.
    """
    if format not in FORMATS or policy not in POLICIES:
        raise DataError(
            f"format {format!r} with policy {policy!r}: expected one of {', '.join(FORMATS)}, and {', '.join(POLICIES)}"
        )
    if not 0 <= fraction < 1:
        raise DataError(f"fraction {fraction}: expected a share of the prompts, at least 0 and less than 1")
    left_out = Counter() if left_out is None else left_out
    made = _events(store, batch) if format == "events" else _rows(store, format, batch, policy, left_out)
    return (row | ({"split": side_of(item, fraction, seed)} if fraction else {}) for item, row in made)


def side_of(item: Item, fraction: float, seed: int) -> Side:
    """The side of a split on which all rows of this item's prompt stand."""
    texts = [item.prompt] if isinstance(item.prompt, str) else [turn.content for turn in item.prompt]
    words = " ".join(texts).split() or " ".join(candidate.text for candidate in item.candidates).split()
    return side_of_text(" ".join(words), fraction, seed)


def side_of_text(text: str, fraction: float, seed: int) -> Side:
    """The side of what is asked, white space aside: it depends on the seed and the text alone."""
    return "held-out" if derive_seed(seed, f"hold out {' '.join(text.split())}") < fraction * 2**63 else "train"


def _rows(
    store: Store,
    format: Format,  # noqa: A002
    batch: str | None,
    policy: Policy,
    left_out: Counter[str],
) -> Iterator[tuple[Item, Row]]:
    names = store.people.pseudonyms()
    for judged in store.judgements.all(batch=batch):
        makes = MAKERS[format].get(judged.item.kind)
        if makes is None or judged.item.gold is not None or judged.repeats is not None:
            left_out["another kind" if makes is None else "gold" if judged.item.gold else "repeated"] += 1
            continue
        together = [[one] for one in judged.judgements] if policy == "each" else [judged.judgements]
        for made in (made for said in together for made in makes(judged.item, said, policy)):
            if isinstance(made, str):
                left_out[made] += 1
            else:
                yield judged.item, made.row | _origin(judged, made, names)


def _origin(judged: Judged, made: Made, names: Mapping[int, str]) -> Row:
    """Where a row comes from: columns to whoever trains on it."""
    return {
        "item": judged.id,
        "batch": judged.item.batch,
        "annotators": sorted(names[one.person] for one in made.by),
        "agreement": made.agreement,
        "final": any(one.final for one in made.by),
        "guidelines": sorted({one.guideline for one in made.by}),
        "sources": [judged.item.candidates[place].source for place in made.candidates],
        "flags": dict(sorted(Counter(flag for one in made.by for flag in _body(one).flags).items())),
        "columns": judged.item.columns,
    }


def _body(judgement: Judgement) -> Body:
    assert judgement.body is not None, "the store gives judgements that stand"
    return judgement.body


def _events(store: Store, batch: str | None) -> Iterator[tuple[Item, Row]]:
    names = store.people.pseudonyms()
    asked = {judged.id: judged for judged in store.judgements.all(batch=batch, unjudged=True)}
    for event in store.judgements.events():
        judged = asked.get(event.item)
        if judged is None:
            continue
        yield (
            judged.item,
            {
                "item": event.item,
                "annotator": names[event.person],
                "revision": event.revision,
                "withdrawn": event.body is None,
                "body": None if event.body is None else event.body.model_dump(mode="json"),
                "order": list(event.order),
                "seconds": event.seconds,
                "guideline": event.guideline,
                "at": event.at,
                "final": event.final,
                "repeats": judged.repeats,
                "asked": judged.item.model_dump(mode="json"),
            },
        )
