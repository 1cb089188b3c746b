"""What people say of items, whatever order they are shown them in."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from proxtune.feedback.records import as_shown, body_of
from proxtune.feedback.store import Store

REQUESTS = itertools.count()


def said(store: Store, answers: Mapping[int, Mapping[str, Any]], name: str) -> int:
    """A new person who is shown everything, says `answers` of the items in it, and skips all others.

    answers: by the number of the item; bodies speak of candidates by their place in the item.
    """
    person = store.people.add(name, "annotator").id
    while (lease := store.queue.next(person)) is not None:
        given = answers.get(lease.id)
        shown: dict[str, Any] = {"kind": "skip"}
        if given is not None:
            shown = as_shown(body_of(given, lease.item), lease.order).model_dump(mode="json")
        store.judgements.submit(person, lease.id, shown, revision=lease.revision, request=f"said-{next(REQUESTS)}")
    return person


def all_said(store: Store, item: int, bodies: Sequence[Mapping[str, Any]]) -> None:
    """One new person for each body says it of the item."""
    for number, body in enumerate(bodies):
        said(store, {item: body}, f"of {item}, {number}")


def preference(number: int, *, both_bad: bool = False) -> dict[str, Any]:
    return {"kind": "pair", "preference": number, "both_bad": both_bad}
