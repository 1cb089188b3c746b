"""Chats of two people about a given topic, in the installed package `chitchat-dataset`, as the people rated them.

After a chat it was rated from 1 to 10 as witty, upbeat and interesting (Myers et al. 2020, arXiv 2004.08270). Chats
whose three ratings are 5, the value the form began with, were not rated.
"""

import json
import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any, Literal

from proxtune.data.corpora import Part, labelled_part, package_folder
from proxtune.runs import derive_seed

INSTALL = "pip install --no-deps chitchat-dataset==0.9.0"
CRITERIA = ("witty", "upbeat", "interesting")
UNTOUCHED = [5, 5, 5]
WORDS = 200  # of a chat, with its speakers, where the chat is the text
TURNS = 8  # of a dialogue


def chats(half: Literal["reward", "judge"] | None = None) -> Iterator[dict[str, Any]]:
    """Each rated chat that has an answer: topic and first turn as the prompt, the turns after it as the response.

    The halves share no chat, so that a reward model and its judge learn from different ones. None: both.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    for name, topic, turns, scores in _rated():
        owner = "reward" if derive_seed(0, f"chat {name}") % 2 else "judge"
        if half in (None, owner):
            first, *rest = turns
            yield {
                "prompt": f"Topic: {topic}\n{first}\nB:",
                "response": "\n".join(rest).removeprefix("B:"),
                "scores": scores,
            }


def chat_scores(part: Part) -> Iterator[dict[str, Any]]:
    """The last words of each rated chat, labelled with the mean of its ratings; a fifth is the test.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    rows = ({"text": _end("\n".join(turns)), "label": fmean(scores)} for _, _, turns, scores in _rated())
    return labelled_part(rows, part, percent=20)


def dialogues(part: Part) -> Iterator[dict[str, Any]]:
    """The first turns of each rated chat: its topic is the system's, one person the user, the other the assistant.

    A tenth of the chats is the test.

    Raises:
        DataError: the package is missing, with the line that installs it.
    """
    rows = (
        {"text": "\n".join(turns), "label": topic, "messages": _messages(topic, turns)}
        for _, topic, turns, _ in _rated()
    )
    return ({"messages": row["messages"]} for row in labelled_part(rows, part, percent=10))


def _messages(topic: str, turns: list[str]) -> list[dict[str, str]]:
    """The topic and the first turns, the last of them the assistant's."""
    texts = [turn.partition(": ")[2] for turn in turns[: min(TURNS, len(turns) // 2 * 2)]]
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": f"Topic: {topic}"}, *said]


def _end(text: str) -> str:
    return "".join(re.findall(r"\S+\s*", text)[-WORDS:])


def _rated() -> Iterator[tuple[str, str, list[str], list[int]]]:
    """Name, topic, turns with their speaker, and ratings of each rated chat that has an answer."""
    stored = json.loads((package_folder("chitchat_dataset", INSTALL) / "dataset.json").read_text(encoding="utf-8"))
    for name, chat in stored.items():
        ratings = chat.get("ratings") or {}
        scores = [ratings.get(criterion, 5) for criterion in CRITERIA]
        if scores != UNTOUCHED and len(chat["messages"]) > 1:
            texts = (" ".join(message["text"] for message in turn) for turn in chat["messages"])
            turns = [f"{'AB'[i % 2]}: {' '.join(text.split())}" for i, text in enumerate(texts)]
            yield name, chat.get("prompt", "anything"), turns, scores
