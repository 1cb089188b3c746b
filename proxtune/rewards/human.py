"""People as a reward: each answer is shown to them, and its reward is the mean of what they give it."""

import time
from collections.abc import Callable, Mapping
from statistics import fmean

import torch
from torch import Tensor

from proxtune.feedback.records import Candidate, Item, Options, RatingBody, Turn
from proxtune.feedback.store import Store
from proxtune.rewards.base import Answers, Reward

FIRST = 1e6  # the priority of answers that PPO waits for


class HumanReward:
    """R = Σ rᵢ / n of the n ratings of an answer, brought to −1 … 1; NaN, no score, where nobody rated it in time.

    Args:
        store: where people are asked (`proxtune label serve`).
        batch: the name of these questions there.
        people: how many are asked about each answer; one rating is enough for a reward.
        options: the criteria and the scale; people give 1 … scale.
        shown: the prompts as people read them, by the text that the model reads; those not in it are shown as they are.
        wait: seconds that a step waits for them, from when it asked.
        otherwise: what scores the answers that nobody rated; None: they have no score, and PPO leaves them out.
        poll: seconds between two looks.
    """

    name = "people"

    def __init__(
        self,
        store: Store,
        *,
        batch: str,
        people: int = 1,
        options: Options | None = None,
        shown: Mapping[str, str | tuple[Turn, ...]] | None = None,
        wait: float = 600.0,
        otherwise: Reward | None = None,
        poll: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store, self.batch, self.people, self.wait, self.poll = store, batch, people, wait, poll
        self.options, self.otherwise, self.sleep = options or Options(), otherwise, sleep
        self.shown = shown or {}
        self.asked, self.rated = 0, 0

    def __call__(self, answers: Answers) -> Tensor:
        """[B]. The same answers asked about again, by a run that goes on, are the same questions."""
        numbers = self.store.queue.add(
            Item(
                kind="rating",
                prompt=self.shown.get(prompt, prompt),
                candidates=(Candidate(text=response),),
                options=self.options,
                overlap=self.people,
                priority=FIRST,
                batch=self.batch,
            )
            for prompt, response in zip(answers.prompts, answers.responses, strict=True)
        )
        self.store.queue.reopen(numbers, self.people)  # what was closed when an earlier step's time was up
        ratings = self._wait_for(set(numbers))
        self.store.queue.close(numbers)
        scores = torch.tensor([ratings.get(number, torch.nan) for number in numbers])
        self.asked, self.rated = self.asked + len(numbers), self.rated + int((~scores.isnan()).sum())
        if self.otherwise is None:
            return scores
        return torch.where(scores.isnan(), self.otherwise(answers), scores)

    def _wait_for(self, numbers: set[int]) -> dict[int, float]:
        """What people gave those of the items that they rated; returns when all are settled, or time is up."""
        deadline = time.monotonic() + self.wait
        while True:
            settled, ratings = self._ratings(numbers)
            if settled or time.monotonic() >= deadline:
                return ratings
            self.sleep(self.poll)

    def _ratings(self, numbers: set[int]) -> tuple[bool, dict[int, float]]:
        """(whether everybody who was asked has answered, the mean rating of each item that has one)."""
        found, settled = {}, 0
        middle, half = (self.options.scale + 1) / 2, (self.options.scale - 1) / 2
        for judged in self.store.judgements.all(batch=self.batch):
            if judged.id not in numbers:
                continue
            given = [
                fmean(said.body.scores.values()) for said in judged.judgements if isinstance(said.body, RatingBody)
            ]
            found[judged.id] = (fmean(given) - middle) / half
            settled += len(given) >= self.people or any(said.final for said in judged.judgements)
        return settled == len(numbers), found
