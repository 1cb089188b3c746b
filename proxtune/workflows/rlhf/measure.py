"""What an iteration measured: of the reward model, of people, and of the new policy."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from proxtune.data.sources import read
from proxtune.data.template import encode_preferences
from proxtune.evaluation.metrics import bootstrap_mean
from proxtune.evaluation.run import pair_scores
from proxtune.feedback.agreement import percent_agreement
from proxtune.feedback.figures import share
from proxtune.feedback.opinions import opinions
from proxtune.feedback.records import PairBody
from proxtune.feedback.rows import sign
from proxtune.feedback.store import Store
from proxtune.models.heads import RewardModel
from proxtune.runs import Run
from proxtune.workflows.rewards import reward_model_of
from proxtune.workflows.rlhf.design import Findings, Share
from proxtune.workflows.rlhf.questions import preferences
from proxtune.workflows.rlhf.schema import RLHFRun

FEW = 10  # judgements below which no share is given


def findings(config: RLHFRun, folder: Path, store: Store, comparing: str) -> Findings:
    """Of a finished iteration in `folder`; `comparing` is the batch in which people compared the policies."""
    model = reward_model_of(str(folder / "reward"), config.model)
    held, gaps_held = _gaps(model, config, folder / "held_pairs.jsonl")
    learnt, gaps = _gaps(model, config, folder / "pairs.jsonl")
    longer = [len(pair.chosen) - len(pair.rejected) for pair in [*held, *learnt]]
    margins = [*gaps_held, *gaps]
    unequal = [(length, margin) for length, margin in zip(longer, margins, strict=True) if length]
    steps = [row for row in Run.open(folder / "ppo").metrics() if "score/mean" in row]
    return Findings(
        judged=len(preferences(store)),
        accuracy=_share(gap > 0 for gap in gaps_held),
        ceiling=ceiling(store),
        longer_people=_share(length > 0 for length, _ in unequal),
        longer_model=_share(length * margin > 0 for length, margin in unequal),
        win=win_rate(store, comparing, **_read(folder / "compared.json"), seed=config.seed),
        score=(steps[0]["score/mean"], steps[-1]["score/mean"]) if steps else None,
        kl=steps[-1].get("kl/sequence") if steps else None,
    )


def ceiling(store: Store) -> float | None:
    """The most that a model can be right about what one person prefers, by how often two people prefer the same: a.

    Where people prefer the likelier answer of a pair with probability p, two agree with a = p² + (1 − p)², and the
    model that always names it is right with p = (1 + √(2a − 1)) / 2. That is the most if pairs differ in p (Jensen).
    What a reviewer decided hides nothing, and ties and gold do not count.
    """
    table = {
        one.id: {
            person: sign(body.preference)
            for person, body in one.bodies().items()
            if isinstance(body, PairBody) and body.preference
        }
        for one in opinions(store)
        if one.plain
    }
    agreed = percent_agreement({item: said for item, said in table.items() if len(said) > 1}).value
    return None if agreed is None else (1 + max(2 * agreed - 1, 0.0) ** 0.5) / 2


def win_rate(store: Store, batch: str, *, pairs: int, same: int, seed: int) -> Share | None:
    """How often people prefer the second answer of a batch's pairs, a tie as a half, and the 95% interval.

    Args:
        pairs: how many were asked about.
        same: prompts to which both policies said the same: ties that nobody was asked about. They count as far as the
            pairs were judged.
    """
    judged = [1 - one.preferred for one in preferences(store, batch=batch)]
    wins = judged + [0.5] * (round(same * len(judged) / pairs) if pairs else same)
    if len(wins) < FEW:
        return None
    interval = bootstrap_mean(wins, seed=seed)
    return Share(interval.mean, interval.low, interval.high)


def _gaps(model: RewardModel, config: RLHFRun, path: Path) -> tuple[Sequence[Any], list[float]]:
    """The judged pairs of a file, and what the reward model gives the preferred answer more than the other."""
    records = read(path, chat=config.data.chat).records
    pairs, _ = encode_preferences(records, model.lm.tokenizer, max_length=model.max_length, too_long="truncate")
    chosen, rejected = pair_scores(model, pairs)
    return records, (chosen - rejected).tolist()


def _share(outcomes: Iterable[bool]) -> Share | None:
    found = share(outcomes)
    if found.value is None or found.low is None or found.high is None or found.count < FEW:
        return None
    return Share(found.value, found.low, found.high)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
