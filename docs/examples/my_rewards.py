"""Rewards for the tour: prompts and responses in, one number a response out; columns of the data come by name."""

from collections.abc import Sequence


def brevity(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:  # noqa: ARG001
    """0 for an empty answer, −1 for one of a hundred characters."""
    return [-len(response) / 100 for response in responses]


def obedience(prompts: Sequence[str], responses: Sequence[str], avoid: Sequence[str]) -> list[float]:  # noqa: ARG001
    """−1 for an answer that says the word in the column `avoid` of its prompt's row."""
    return [-float(word in response) for word, response in zip(avoid, responses, strict=True)]
