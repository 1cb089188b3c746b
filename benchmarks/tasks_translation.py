"""The translation recipe, and PPO after it: chrF on test sentences, before and after, on the same rows.

python -m benchmarks.tasks_translation       finished runs in runs/tasks are not trained again
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from proxtune.data.sources import read
from proxtune.evaluation.metrics import paired
from proxtune.evaluation.record import write_record
from proxtune.workflows import outcome

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "tasks"
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


def main() -> None:
    """Train what is not trained, translate the test sentences by both, and write the record."""
    train()
    records = read("data/translation/test.jsonl", duplicates="keep").records
    before, after = (
        outcome.predict(outcome.open_model(str(RUNS / name)), records, task="translation", answer_tokens=48)
        for name in ("translation", "translation-ppo")
    )
    gap = paired(before.measured(), after.measured(), seed=0)
    raw: dict[str, Any] = {
        "before": before.measured().values(),
        "after": after.measured().values(),
        "bleu": list(gap["bleu"]),
        "empty": list(gap["empty"]),
    }
    difference, low, high, p = gap["chrf"]
    write_record(
        ROOT / "results" / "tasks" / "translation_ppo.json",
        claim="chrF of translations into French, after PPO minus before, on 500 test sentences",
        value=difference,
        unit="chrF",
        interval=(low, high),
        goal="> 0",
        holds=low > 0,
        against=None,
        seeds=[1],
        command="python -m benchmarks.tasks_translation",
        measures=["proxtune/algorithms/ppo.py", "proxtune/models/encoder_decoder.py", "proxtune/recipes/translation"],
        raw=raw | {"p": p},
        bound=None if low > 0 else "one seed and few steps: the interval holds 0",
    )
    print(
        f"chrF {raw['before']['chrf']:.1f} -> {raw['after']['chrf']:.1f}: {difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    )


if __name__ == "__main__":
    main()
