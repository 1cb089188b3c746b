"""Small data that each kind of task can learn: random words of a to d, and among them what the labels are about."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = 160


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcd", k=rng.randint(1, 3))) for _ in range(count)]


def classification(rng: random.Random) -> dict[str, Any]:
    """Whether the first letter is an x or a y."""
    label = rng.choice(["ex", "why"])
    return {"text": f"{'x' if label == 'ex' else 'y'} {' '.join(words(rng, 3))}", "label": label}


def label_sets(rng: random.Random) -> dict[str, Any]:
    present = [letter for letter in "xy" if rng.random() < 0.5]
    return {"text": " ".join([*present, *words(rng, 2)]), "labels": present}


def regression(rng: random.Random) -> dict[str, Any]:
    """How many letters are x."""
    count = rng.randint(0, 4)
    return {"text": " ".join(rng.sample([*"x" * count, *"a" * (4 - count)], 4)), "label": float(count)}


def tagging(rng: random.Random) -> dict[str, Any]:
    """Words of x are entities, of one type where they stand alone and of another where they come in twos."""
    tokens, tags = words(rng, 2), ["O", "O"]
    for kind, made in (("B-X", ["x"]), ("B-Y", ["y"])):
        if rng.random() < 0.7:
            tokens, tags = [*tokens, *made, *words(rng, 1)], [*tags, kind, "O"]
    return {"tokens": tokens, "tags": tags}


def question_answering(rng: random.Random) -> dict[str, Any]:
    """Which word holds an x or a y; a question for what is not there has no answer."""
    asked = rng.choice("xy")
    context = words(rng, 3)
    at = rng.randrange(3)
    context[at] = asked if rng.random() < 0.8 else "z"
    return {
        "context": " ".join(context),
        "question": asked,
        "answers": [asked] if context[at] == asked else [],
    }


DATA: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "classification": classification,
    "label_sets": label_sets,
    "regression": regression,
    "tagging": tagging,
    "question_answering": question_answering,
}


def write(kind: str, path: Path, rows: int = ROWS) -> Path:
    rng = random.Random(1)
    path.write_text("".join(json.dumps(DATA[kind](rng)) + "\n" for _ in range(rows)))
    return path
