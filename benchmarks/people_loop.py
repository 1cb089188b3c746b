"""The whole loop with simulated people: `proxtune rlhf`, the app it asks in, and people who join it over HTTP.

What people like is known: VADER's sentiment of a film review. The judge that says whether the policy improved is that
very taste, noise-free, on prompts that nothing was trained on; the loop itself never sees it, only what people say.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.people_load import App
from proxtune import config as configs
from proxtune.data.reviews import read_reviews
from proxtune.data.sources import read
from proxtune.data.template import encode_prompts
from proxtune.evaluation.judge import VaderJudge
from proxtune.evaluation.metrics import bootstrap_mean
from proxtune.evaluation.record import write_record
from proxtune.evaluation.run import fresh_answers
from proxtune.feedback.store import Store
from proxtune.models.load import ModelConfig, load
from proxtune.workflows.demo import HELD_OUT, OPENINGS
from proxtune.workflows.film_reviews import part, write_parts
from proxtune.workflows.rlhf.schema import RLHFRun

ROOT = Path(__file__).parents[1]
RECORDS, RUNS = ROOT / "results" / "people", ROOT / "runs" / "people"
TASTE = """
from proxtune.evaluation.judge import VaderJudge

JUDGE = VaderJudge()


def likes(prompt, text):
    return JUDGE([text])[0]
"""
PEOPLE = {
    "sure": ["--temperament", "noisy", "--temperature", "0"],
    "noisy": ["--temperament", "noisy", "--temperature", "0.3"],
    "one adversary of three": ["--temperament", "noisy,noisy,adversarial", "--temperature", "0.3"],
}
SETTINGS = [
    "iterations=2",
    "data.max_length=14",
    "data.too_long=drop",
    "ask={prompts: 160, answers: 4, pairs: 480, again: 0.1, held_out: 0.2, compared: 96, wait: 600}",
    "reward.tuning.top_layers=null",
    "reward.training={epochs: 2, save_every: 0}",
    "reward.optim.learning_rate=1e-3",
    "policy.rollout={max_new_tokens: 24, temperature: 0.7}",
    "policy.optim.learning_rate=5e-4",
    "policy.critic.learning_rate=1e-3",
    "policy.training={steps: 16, save_every: 8}",
]
START = ["data.max_length=38", "data.too_long=truncate", "training.save_every=0"]  # SFT on openings of reviews


def loop(kinds: Sequence[str], command: str) -> None:
    """Run the loop for each kind of people that has no finished run, and write the record."""
    found = {kind: _measured(kind) for kind in kinds}
    first = found[kinds[0]]
    gain, low, high = first["gain"]
    write_record(
        RECORDS / "loop.json",
        claim="what people like (VADER, on held-out prompts) after two rounds of the loop minus before; "
        f"people: {kinds[0]}",
        value=gain,
        unit="compound score",
        interval=(low, high),
        goal="> 0",
        holds=low > 0,
        against=None,
        seeds=[1],
        command=command,
        measures=["proxtune/workflows/rlhf", "proxtune/feedback/choose.py", "proxtune/recipes/rlhf/config.yaml"],
        raw={"start": START, "settings": SETTINGS, "people": found},
        bound=None if low > 0 else _bound(first["rounds"]),
    )
    print({kind: one["gain"] for kind, one in found.items()})


def _bound(rounds: Sequence[dict[str, Any]]) -> str:
    """What stood in the way: how far the reward model came, and what people said of each new policy."""
    told = [
        f"after {one['judged']} judged pairs the reward model is right in {one['accuracy'][0]:.2f} of held-out "
        f"judgements and people prefer the new policy in {one['win'][0]:.2f}"
        for one in rounds
    ]
    return "so few judgements teach it too little: " + "; ".join(told)


def _measured(kind: str) -> dict[str, Any]:
    """The findings of each round, and what the judge says of the answers before and after."""
    folder = RUNS / f"loop-{kind.replace(' ', '-')}"
    if not (folder / "iterations" / "002" / "finding.json").exists():
        _walk(kind, folder)
    rounds = [json.loads(path.read_text()) for path in sorted(folder.glob("iterations/*/finding.json"))]
    config = configs.load(RLHFRun, [folder / "config.yaml"])
    records = read(folder / "held_prompts.jsonl").records
    sides = []
    for name in (config.model.name, rounds[-1]["policy"]):
        model = load(ModelConfig(name=name))
        prompts, _ = encode_prompts(records, model.tokenizer, max_length=config.data.max_length, too_long="truncate")
        sides.append(VaderJudge()(fresh_answers(model, prompts, config.policy.rollout, seed=7).responses))
    before, after = sides
    gain = bootstrap_mean([b - a for a, b in zip(before, after, strict=True)], seed=0)
    rounds = [{key: value for key, value in one.items() if key != "policy"} for one in rounds]  # a path
    return {"rounds": rounds, "prompts": len(records), "before": sum(before) / len(before), "gain": list(gain)}


def _walk(kind: str, folder: Path) -> None:
    """The loop, the app and the people, each a process."""
    proxtune = [sys.executable, "-m", "proxtune"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    data, start, taste = RUNS / "data", RUNS / "sft", RUNS / "taste.py"
    if not (start / "model").exists():
        parts = part(read_reviews(), openings=OPENINGS + HELD_OUT, seed=0)
        write_parts(parts, data, pairs=0, held_out=HELD_OUT)
        given = [f"data.train={data}/openings.jsonl", f"data.eval={data}/held_openings.jsonl", f"runs={RUNS}", *START]
        subprocess.run([*proxtune, "sft", "recipe:sft", *given], check=True, env=environment)
    taste.write_text(TASTE)
    store = RUNS / f"{folder.name}.db"
    Store.create(store).close()
    resume = ["--resume"] if folder.exists() else []
    arguments = [f"name={folder.name}", f"runs={RUNS}", f"data.train={data}/prompts.jsonl", f"store={store}", *SETTINGS]
    arguments += ["--init-from", str(start)]
    app = App(store)
    where = ["--url", app.url, "--store", str(store), "--taste", f"{taste}:likes"]
    simulate = [*proxtune, "label", "simulate", *where, "--people", "3", *PEOPLE[kind], "--stay"]
    people = subprocess.Popen(simulate, env=environment)
    began = time.monotonic()
    try:
        subprocess.run([*proxtune, "rlhf", "recipe:rlhf", *arguments, *resume], check=True, env=environment)
    finally:
        people.terminate()
        people.wait()
        app.stop()
    print(f"{kind}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
