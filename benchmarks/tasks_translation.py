"""The translation recipe, and PPO after it: chrF on test sentences, before and after, on the same rows.

python -m benchmarks.tasks_translation       finished runs in runs/tasks are not trained again
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sacrebleu.metrics import CHRF

from benchmarks.tasks import ALL, snapshot
from proxtune.data.records import Record
from proxtune.data.sources import read
from proxtune.data.template import encode_prompts
from proxtune.evaluation.metrics import bootstrap_mean, paired
from proxtune.evaluation.record import write_record
from proxtune.evaluation.run import fresh_answers
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, load
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.workflows import outcome

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "tasks"
MODELS = ("translation", "translation-ppo")
DRAWS = 4
CHARACTERS = CHRF()
REWARD = """
from sacrebleu.metrics import CHRF

CHARACTERS = CHRF()


def chrf(prompts, responses, completion):
    return [CHARACTERS.sentence_score(said, [true]).score / 100 for said, true in zip(responses, completion)]
"""


def train() -> None:
    """The recipe's two commands."""
    with tempfile.TemporaryDirectory() as folder:
        reward = Path(folder) / "chrf.py"
        reward.write_text(REWARD)
        start = ["--init-from", str(RUNS / "translation"), "--reward", f"{reward}:chrf"]
        for name, arguments in {
            "translation": ["sft", "recipe:translation"],
            "translation-ppo": ["ppo", "recipe:translation/ppo", *start],
        }.items():
            if not (RUNS / name / "model").exists():
                command = [sys.executable, "-m", "proxtune", *arguments, f"runs={RUNS}"]
                subprocess.run(command, cwd=ROOT, check=True)


def greedy(records: Sequence[Record]) -> dict[str, Any]:
    """Each model's likeliest translation of every sentence, as a user reads it."""
    before, after = (
        outcome.predict(outcome.open_model(str(RUNS / name)), records, task="translation", answer_tokens=48)
        for name in MODELS
    )
    gap = paired(before.measured(), after.measured(), seed=0)
    sides = {"before": before.measured().values(), "after": after.measured().values()}
    return {**sides, "gain": list(gap["chrf"]), "bleu": list(gap["bleu"]), "empty": list(gap["empty"])}


def sampled(records: Sequence[Record]) -> dict[str, Any]:
    """The mean chrF of `DRAWS` sampled translations of every sentence, with the same luck for both models."""
    before, after = (_mean_chrf(load(ModelConfig(name=str(RUNS / name))), records) for name in MODELS)
    gain = bootstrap_mean([new - old for old, new in zip(before, after, strict=True)], seed=0)
    return {"before": fmean(before), "after": fmean(after), "gain": list(gain)}


def _mean_chrf(model: LanguageModel, records: Sequence[Record]) -> list[float]:
    prompts, _ = encode_prompts(records, model.tokenizer, max_length=model.context - 48, too_long="truncate")
    draws = []
    for seed in range(DRAWS):
        answers = fresh_answers(model, prompts, SamplingConfig(max_new_tokens=48), seed=seed)
        pairs = zip(answers.responses, answers.columns["completion"], strict=True)
        draws.append([CHARACTERS.sentence_score(said, [true]).score for said, true in pairs])
    return [fmean(column) for column in zip(*draws, strict=True)]


def main() -> None:
    """Train what is not trained, translate the test sentences by both, and write the records."""
    train()
    records = read("data/translation/test.jsonl", duplicates="keep").records
    shared: dict[str, Any] = {
        "unit": "chrF",
        "goal": "> 0",
        "against": None,
        "seeds": [1],
        "command": "python -m benchmarks.tasks_translation",
        "measures": [
            "proxtune/algorithms/ppo.py",
            "proxtune/models/encoder_decoder.py",
            "proxtune/recipes/translation",
        ],
    }
    found = sampled(records)
    _write("translation_ppo_sampled", "sampled translations into French", found, shared, None)
    found = greedy(records)
    bound = (
        "PPO improves what it samples; the likeliest translation was made by four passes over the references, and "
        f"20,480 scores of whole sentences move it by {found['gain'][0]:+.2f}, within the noise of 500 sentences"
    )
    _write("translation_ppo", "the likeliest translations into French", found, shared, bound)


def _write(name: str, what: str, found: dict[str, Any], shared: dict[str, Any], bound: str | None) -> None:
    gain, low, high = found["gain"][:3]
    write_record(
        ROOT / "results" / "tasks" / f"{name}.json",
        claim=f"chrF of {what}, after PPO minus before, on 500 test sentences",
        value=gain,
        interval=(low, high),
        holds=low > 0,
        raw={**found, "snapshot": snapshot(ALL["translation"])},
        bound=None if low > 0 else bound,
        **shared,
    )
    print(f"{what}: chrF {gain:+.2f} [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
