"""Chats of two people about a given topic, in the installed package `chitchat-dataset`, as the people rated them.

After a chat it was rated from 1 to 10 as witty, upbeat and interesting (Myers et al. 2020, arXiv 2004.08270). Chats
whose three ratings are 5, the value the form began with, were not rated.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from proxtune.errors import DataError
from proxtune.runs import derive_seed

INSTALL = "pip install --no-deps chitchat-dataset==0.9.0"
CRITERIA = ("witty", "upbeat", "interesting")
UNTOUCHED = [5, 5, 5]


def chats(half: Literal["reward", "judge"] | None = None) -> Iterator[dict[str, Any]]:
    """Each rated chat that has an answer: topic and first turn as the prompt, the turns after it as the response.

    The halves share no chat, so that a reward model and its judge learn from different ones. None: both.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise DataError(f"the chats are in a package that is not installed; install it with\n    {INSTALL}")
    stored = json.loads((Path(spec.origin).parent / "dataset.json").read_text(encoding="utf-8"))
    for name, chat in stored.items():
        ratings = chat.get("ratings") or {}
        scores = [ratings.get(criterion, 5) for criterion in CRITERIA]
        turns = [" ".join(message["text"] for message in turn).split() for turn in chat["messages"]]
        owner = "reward" if derive_seed(0, f"chat {name}") % 2 else "judge"
        if scores != UNTOUCHED and len(turns) > 1 and half in (None, owner):
            first, *rest = (f"{'AB'[i % 2]}: {' '.join(words)}" for i, words in enumerate(turns))
            prompt = f"Topic: {chat.get('prompt', 'anything')}\n{first}\nB:"
            yield {"prompt": prompt, "response": "\n".join(rest).removeprefix("B:"), "scores": scores}
