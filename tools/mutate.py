"""Mutation testing of the objectives: one small mistake at a time in their source, and a test must fail.

    python -m tools.mutate               all mistakes: a table, the survivors, and results/trust/mutants.json
    python -m tools.mutate --every 10    a tenth of them, spread evenly; no record

Each mutant meets the tests of the objectives in a forked process of its own that has torch already; no file is changed.
A mutant that is the same function stands in EQUIVALENT with the reason. Every other must die.
"""

import argparse
import gc
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from tools.mutations import Mutant, mutants

ROOT = Path(__file__).parents[1]
OBJECTIVES = ROOT / "proxtune" / "objectives"
TESTS = [*sorted((ROOT / "tests" / "objectives").glob("test_*.py")), ROOT / "tests" / "known" / "test_objectives.py"]
SECONDS = 300  # all tests together take 3, on a busy machine ten times as long; none may hang
PASSED, FAILED, CRASHED = 0, 1, 70  # exit codes
NO_MASS, NOT_COUNTED = "times a probability of 0", "the slot is not counted: any finite number will do there"
EQUIVALENT = {  # (before, after) -> why they are the same
    (line, line.replace(", 0", f", {other}")): reason
    for line, reason in {
        "return -(logprobs.exp() * torch.where(logprobs.isneginf(), 0, logprobs)).sum(dim=-1)": NO_MASS,
        "log_ratio = torch.where(mask, logprobs - old_logprobs, 0)": NOT_COUNTED,
        "values, old_values, returns = (torch.where(mask, x, 0) for x in (values, old_values, returns))": NOT_COUNTED,
    }.items()
    for other in (1, -1)
}


@dataclass(frozen=True)
class Trial:
    """What became of a mutant."""

    file: str
    mutant: Mutant
    survived: bool

    @property
    def verdict(self) -> str:
        if not self.survived:
            return "killed"
        return "equivalent" if (self.mutant.before, self.mutant.after) in EQUIVALENT else "survived"


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a source that stands in no file."""

    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, f"<mutant of {self.module}>", "exec"), module.__dict__)  # noqa: S102


def meet(jobs: Sequence[tuple[str, Mutant]], workers: int) -> Iterator[Trial]:
    """Let the tests meet each mutant, `workers` at a time."""
    waiting, running = list(reversed(jobs)), dict[int, tuple[str, Mutant]]()
    while waiting or running:
        while waiting and len(running) < workers:
            file, mutant = waiting.pop()
            running[_fork(file, mutant.source)] = (file, mutant)
        pid, status = os.wait()
        file, mutant = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code not in {PASSED, FAILED}:
            raise RuntimeError(f"pytest ended with {code} on {file}:\n- {mutant.before}\n+ {mutant.after}")
        yield Trial(file, mutant, survived=code == PASSED)


def _fork(file: str, source: str) -> int:
    """Start the tests against `source` in place of a file of the objectives."""
    pid = os.fork()
    if pid == 0:
        code = CRASHED
        try:
            signal.alarm(SECONDS)
            sys.meta_path.insert(0, _Mutated(f"proxtune.objectives.{Path(file).stem}", source))
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            code = _run(_own_first(file))
        finally:
            os._exit(code)
    return pid


def _run(tests: Sequence[Path]) -> int:
    """The tests' exit code. Always the same random examples, and no search for the smallest one that fails."""
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutate", derandomize=True, deadline=None, phases=phases)
    os.environ["HYPOTHESIS_PROFILE"] = "mutate"
    return int(pytest.main(["-x", "-qq", "-p", "no:cacheprovider", "--tb=no", "--disable-warnings", *map(str, tests)]))


def _warm_up() -> None:
    """Run the tests on what is there, which imports all they need; forget what is ours: each child imports it anew."""
    if _run(TESTS) != PASSED:
        sys.exit("the tests fail without any mutation; mend them first")
    for name in [name for name in sys.modules if name.partition(".")[0] in {"proxtune", "tests"}]:
        del sys.modules[name]
    gc.freeze()  # or each child would walk through all of torch at its end


def _own_first(file: str) -> list[Path]:
    """The tests, those that are about the file before the others: most mutants get no further."""
    return sorted(TESTS, key=lambda test: not test.name.startswith(f"test_{Path(file).stem}"))


def main() -> int:
    """Run; the exit code is 1 where a mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try each N-th mutant")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    given = parser.parse_args()
    os.chdir(ROOT)
    _warm_up()
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(OBJECTIVES.glob("*.py"))}
    made = [(file, mutant) for file, source in sources.items() for mutant in mutants(source)]
    unknown = EQUIVALENT.keys() - {(mutant.before, mutant.after) for _, mutant in made}
    if unknown:
        sys.exit(f"EQUIVALENT lists what is no mutant any more; remove: {sorted(unknown)}")
    trials = list(_with_progress(made[:: given.every], given.workers))
    survivors = _report(trials)
    if given.every == 1:
        _record(trials)
    return 1 if survivors else 0


def _with_progress(jobs: Sequence[tuple[str, Mutant]], workers: int) -> Iterator[Trial]:
    began, survived = time.perf_counter(), 0
    for done, trial in enumerate(meet(jobs, workers), start=1):
        survived += trial.verdict == "survived"
        left = (time.perf_counter() - began) / done * (len(jobs) - done)
        end = "\r" if sys.stdout.isatty() else "\n"
        if end == "\r" or done % 50 == 0 or done == len(jobs):
            print(f"{done} of {len(jobs)} mutants, {survived} survived, {left:.0f} s left ", end=end, flush=True)
        yield trial


def _report(trials: Sequence[Trial]) -> list[Trial]:
    """Print the table and the survivors, which are returned."""
    counts = _counts(trials)
    columns = ("made", "killed", "equivalent", "survived")
    print(f"{'':16}" + "".join(f"{column:>12}" for column in columns))
    for file, row in (*counts["files"].items(), ("together", _sum(counts["files"].values()))):
        print(f"{file:16}" + "".join(f"{row[column]:12}" for column in columns))
    survivors = [trial for trial in trials if trial.verdict == "survived"]
    for trial in survivors:
        print(f"\n{trial.file}: survived ({trial.mutant.operator})\n- {trial.mutant.before}\n+ {trial.mutant.after}")
    return survivors


def _counts(trials: Sequence[Trial]) -> dict[str, dict[str, Counter[str]]]:
    """Mutants made, killed, equivalent and survived, by file and by operator."""
    counts: dict[str, dict[str, Counter[str]]] = {"files": {}, "operators": {}}
    for trial in trials:
        for by, key in (("files", trial.file), ("operators", trial.mutant.operator)):
            counts[by].setdefault(key, Counter()).update(("made", trial.verdict))
    return counts


def _sum(rows: Iterable[Counter[str]]) -> Counter[str]:
    return sum(rows, start=Counter())


def _record(trials: Sequence[Trial]) -> None:
    from proxtune.evaluation.record import write_record  # noqa: PLC0415 (the children must import their own)

    counts = _counts(trials)
    total = _sum(counts["files"].values())
    share = total["killed"] / (total["made"] - total["equivalent"])
    write_record(
        ROOT / "results" / "trust" / "mutants.json",
        claim="mistakes put into the objectives, one at a time, that a test finds",
        value=share,
        unit="share",
        interval=None,
        goal="1, those apart that are the same function",
        holds=share == 1,
        against=None,
        seeds=[],
        command="make mutate",
        measures=[f"proxtune/objectives/{file}" for file in sorted(counts["files"])],
        raw={by: {key: dict(row) for key, row in sorted(rows.items())} for by, rows in counts.items()},
        **({} if share == 1 else {"bound": "the survivors that `make mutate` lists"}),
    )


if __name__ == "__main__":
    sys.exit(main())
