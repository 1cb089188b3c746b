"""Side by side: a peer and proxtune do the same work in turns, so that whatever disturbs the machine hits both alike.

Usage, on an idle machine:

    python -m benchmarks.speed NAME              one benchmark, or all of them
    python -m benchmarks.speed NAME --pairs 7    more turns of each side
    python -m benchmarks.speed level             the time until a level of reward, see `speed_level`
    python -m benchmarks.speed NAME --ours microbatch_size=8 --peer learning_rate=1e-5    a trial: nothing is recorded

Each side is a process of its own (the peer's in a virtual environment of its own, see `speed_venvs`), loads the same
weights, does a turn that is not counted, and then as many as `--pairs` says: peer, ours, peer, ours, …
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.plots import draw
from benchmarks.speed_level import race
from benchmarks.speed_tasks import TASKS, Result, Side, Task
from benchmarks.speed_worker import RECORDS, Worker, set_threads, write


def in_turns(sides: Sequence[Side], pairs: int) -> list[Result]:
    """Load all sides, one after the other; then one step of each in turn, once more than counted."""
    workers: list[Worker] = []
    try:
        for side in sides:
            workers.append(Worker(side))
            print(f"{side.label} is ready")
        for number in range(pairs + 1):
            steps = [(worker.result.side.label, worker.step()) for worker in workers]
            print(f"turn {number or 'not counted'}: {', '.join(f'{who} {_told(step)}' for who, step in steps)}")
        return [worker.end() for worker in workers]
    finally:
        for worker in workers:
            worker.close()


def _told(step: dict[str, Any]) -> str:
    known = [f"{name} {step[name]:.4g}" for name in ("tokens", "reward", "value_loss", "loss", "kl") if name in step]
    return f"{step['wall']:.2f} s ({', '.join(known)})"


def rates(result: Result, unit: str) -> list[float]:
    """Units a second, in each counted turn."""
    return [step[unit] / step["wall"] for step in result.counted]


def show(task: Task, results: Sequence[Result]) -> None:
    """A table of medians."""
    table = Table(title=f"{task.claim}; against {task.against}", title_justify="left")
    for head in ("side", f"{task.unit}/s", "wall s", "CPU s", "tokens", "peak GiB", "loaded GiB"):
        table.add_column(head)
    for result in results:
        middle = [median(step[name] for step in result.counted) for name in ("wall", "cpu", "tokens")]
        memory = [facts["peak_bytes"] / 2**30 for facts in (result.end, result.ready)]
        figures = [median(rates(result, task.unit)), *middle, *memory]
        table.add_row(result.side.label, *(f"{x:.2f}" for x in figures))
    Console(width=120).print(table)


def compare(name: str, task: Task, pairs: int, *, record: bool, bound: str | None) -> None:
    """Run a benchmark, say whether both did the same work, and write its records."""
    *peers, ours = in_turns([*task.peers, task.ours], pairs)
    show(task, [*peers, ours])
    best = max(peers, key=lambda peer: median(rates(peer, task.unit)))
    mine, theirs = rates(ours, task.unit), rates(best, task.unit)
    each = [a / b for a, b in zip(mine, theirs, strict=True)]
    speed, memory = median(mine) / median(theirs), ours.end["peak_bytes"] / best.end["peak_bytes"]
    told = f"{speed:.2f} times the {task.unit}/s of {best.side.label} (pairs {min(each):.2f} to {max(each):.2f})"
    print(f"{name}: {told}, {memory:.2f} of its peak memory")
    wrong = [f"against {peer.side.label}: {what}" for peer in peers for what in task.differences(ours, peer)]
    if wrong:
        raise SystemExit("NOT THE SAME WORK, nothing is recorded:\n" + "\n".join(wrong))
    if task.curve:
        curves = {r.side.label: [(i, step["reward"]) for i, step in enumerate(r.steps, 1)] for r in (best, ours)}
        if record:
            draw(f"speed_{name}", curves, records=RECORDS, title="Mean reward of each step", y_label=task.curve)
    if not record:
        return
    raw = {r.side.label: {"ready": r.ready, "steps": r.steps, "end": r.end} for r in (*peers, ours)}
    common = {
        "raw": raw,
        "against": task.against,
        "seeds": [0],
        "measures": [*task.measures],
        "command": f"python -m benchmarks.speed {name} --pairs {pairs}",
    }
    claim = f"{task.claim}: our {task.unit} a second over the peer's (medians of {pairs} pairs; range of the pairs)"
    write(f"{name}_speed", claim, speed, (min(each), max(each)), ">=", task.speed_goal, bound=bound, **common)
    if task.memory_goal is not None:
        claim = f"{task.claim}: our peak resident memory over the peer's"
        write(f"{name}_memory", claim, memory, None, "<=", task.memory_goal, bound=bound, **common)


def changed(side: Side, changes: Sequence[str]) -> Side:
    """The side with settings changed as the command line says, `key=JSON`."""
    settings = dict(side.settings)
    for change in changes:
        key, _, value = change.partition("=")
        settings[key] = json.loads(value)
    return Side(side.label, side.module, settings, side.environment)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*TASKS, "level", "all"])
    parser.add_argument("--pairs", type=int, default=5, help="turns of each side that are counted")
    parser.add_argument("--steps", type=int, default=12, help="turns of a benchmark that also draws reward curves")
    parser.add_argument("--bound", help="what stands in the way, if a goal is missed")
    parser.add_argument("--trial", action="store_true", help="record nothing")
    parser.add_argument("--threads", type=int, default=2, help="of each side; another number than 2: a trial")
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=JSON", help="other settings on our side: a trial")
    parser.add_argument("--peer", nargs="+", default=[], metavar="KEY=JSON", help="other settings of the peer: a trial")
    parser.add_argument("--level", type=float, default=0.5, help="level: mean reward of three steps to reach")
    parser.add_argument("--limit", type=float, default=900.0, help="level: seconds of steps that a run is given")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-5, 1e-5, 1e-4, 3e-6], help="level: of the peer")
    return parser


def main() -> None:
    """Measure what the command line asks for."""
    given = options().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the workers with it
    record = not (given.trial or given.ours or given.peer or given.threads != 2)
    set_threads(given.threads)
    for name in [*TASKS, "level"] if given.name == "all" else [given.name]:
        if name == "level":
            race(given.level, given.limit, given.rates, record=record, bound=given.bound)
            continue
        task = TASKS[name]()
        task = replace(
            task,
            peers=[changed(peer, given.peer) for peer in task.peers],
            ours=changed(task.ours, given.ours),
        )
        pairs = max(given.pairs, given.steps - 1) if task.curve and not given.trial else given.pairs
        compare(name, task, pairs, record=record, bound=given.bound)


if __name__ == "__main__":
    main()
