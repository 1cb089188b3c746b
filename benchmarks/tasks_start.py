"""From a fresh clone to the first trained classifier: minutes, and the characters that are typed.

python -m benchmarks.tasks_start          on an idle machine; packages come from pip's cache if they are there
"""

import subprocess
import tempfile
import time
from pathlib import Path

from proxtune.evaluation.record import write_record

ROOT = Path(__file__).parents[1]
TYPED = ("cd proxtune", "make .venv", ".venv/bin/proxtune sft recipe:sentiment")


def main() -> None:
    """Clone, type, and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "proxtune"
        began = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        seconds = []
        for line in TYPED[1:]:
            start = time.monotonic()
            subprocess.run(line.split(), cwd=clone, check=True)
            seconds.append(time.monotonic() - start)
        minutes = (time.monotonic() - began) / 60
        assert (clone / "runs" / "sentiment" / "model").is_dir()
    write_record(
        ROOT / "results" / "tasks" / "start.json",
        claim="from a fresh clone to the first trained classifier (film sentiment, 22.7 million weights)",
        value=minutes,
        unit="minutes",
        interval=None,
        goal="<= 10",
        holds=minutes <= 10,
        against=None,
        seeds=[1],
        command="python -m benchmarks.tasks_start",
        measures=["Makefile", "requirements/pins.txt", "proxtune/recipes/sentiment/config.yaml"],
        raw={"typed": list(TYPED), "characters": sum(map(len, TYPED)), "install": seconds[0], "training": seconds[1]},
        bound=None if minutes <= 10 else "installing and training each take the time that raw says",
    )
    print(f"{minutes:.1f} minutes, {sum(map(len, TYPED))} characters after git clone")


if __name__ == "__main__":
    main()
