"""Rewards for the tour. Each takes prompts and responses and gives one number a response; further columns come by name."""


def brevity(prompts: list[str], responses: list[str]) -> list[float]:
    """Short answers: 0 for nothing, −1 for a hundred characters."""
    return [-len(response) / 100 for response in responses]


def on_topic(prompts: list[str], responses: list[str], thing: list[str]) -> list[float]:
    """Answers that name the thing, which is a column of the data."""
    return [float(name in response) for name, response in zip(thing, responses, strict=True)]
