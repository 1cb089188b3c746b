"""How near a PPO step comes to the machine, how its time grows, and what was left out because it does not pay.

python -m benchmarks.limit step         operations on paper over time, against the best sgemm of the same run
python -m benchmarks.limit growth       time of a step against batch, response length and model size, with a plot
python -m benchmarks.limit quantised    sampling from int8 weights: what it saves, and what its correction costs
python -m benchmarks.limit overlap      sampling and updating at the same time, against one after the other
python -m benchmarks.limit profiles     what our side of each speed benchmark spends its time on
python -m benchmarks.limit compiled     the blocks by torch.compile: what they save, and how long they compile first
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import profiler
from transformers.modeling_utils import AttentionInterface

from benchmarks import speed_ours, speed_tasks
from benchmarks.plots import draw
from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.ppo_config import PPOConfig
from proxtune.data.template import PromptExample
from proxtune.evaluation.record import write_record
from proxtune.models import packed, rows
from proxtune.models.language_model import LanguageModel
from proxtune.models.load import ModelConfig, ScratchConfig, load
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.score import frozen_states, score
from proxtune.models.trunk import blocks
from proxtune.rollouts import engine
from proxtune.rollouts.collect import collect
from proxtune.rollouts.engine import sample
from proxtune.rollouts.sampling import SamplingConfig
from proxtune.training.metrics import PHASE
from proxtune.workflows import profile as where_time_goes

RECORDS = Path(__file__).parents[1] / "results" / "speed"
PROMPTS = ["The plot of this picture", "I went to the cinema because", "My review of it:", "The actors in this film"]
STEPS = 5
MEASURES = [
    "proxtune/algorithms/ppo.py",
    "proxtune/models/rows.py",
    "proxtune/models/packed.py",
    "proxtune/models/vocabulary.py",
    "proxtune/rollouts/engine.py",
]


def vowels(prompts: list[str], responses: list[str]) -> list[float]:  # noqa: ARG001
    """A reward that costs nothing."""
    return [sum(response.count(v) for v in "aeiou") / max(len(response), 1) for response in responses]


def default(batch: int = 32, tokens: int = 24, model: LanguageModel | None = None, top: int | None = 8) -> PPO:
    """PPO in the default configuration; responses go to the length limit, so that the work is known."""
    policy = tune(model or load(ModelConfig()), TuningConfig(kind="lora", top_layers=top))
    policy.__dict__["stop_ids"] = ()
    config = PPOConfig(batch_size=batch, minibatch_size=batch)
    return PPO(policy, vowels, config, rollout=SamplingConfig(max_new_tokens=tokens))


def prompts(batch: int) -> list[str]:
    """As many as a step takes."""
    return [PROMPTS[i % len(PROMPTS)] for i in range(batch)]


def sgemm() -> float:
    """The best rate of a float32 matrix product here, floating-point operations a second."""
    best = 0.0
    for n, k, m in ((2048, 2048, 2048), (1024, 576, 1536), (4096, 1024, 4096)):
        x, w = torch.randn(n, k), torch.randn(m, k)
        ready = torch.ops.mkldnn._reorder_linear_weight(w, n)  # noqa: SLF001
        products: list[Callable[[], Any]] = [
            lambda x=x, w=w: x @ w.T,  # type: ignore[misc]
            lambda x=x, r=ready: torch.ops.mkldnn._linear_pointwise(x, r, None, "none", [], ""),  # type: ignore[misc]  # noqa: SLF001
        ]
        for product in products:
            for _ in range(8):
                began = time.perf_counter()
                product()
                best = max(best, 2 * n * k * m / (time.perf_counter() - began))
    return best


def paper(ppo: PPO, metrics: dict[str, float], prompt_tokens: int) -> dict[str, float]:
    """Floating-point operations that the phases of a step need: two for each weight and token that a product joins.

    Attention, norms and activations are left out, so the share of the limit that is reached is understated.
    """
    model = ppo.policy
    weights = [[p for p in block.parameters() if p.ndim == 2] for block in blocks(model.module)[1]]
    base = [sum(p.numel() for p in block if not p.requires_grad) for block in weights]
    adapters = sum(p.numel() for block in weights for p in block if p.requires_grad)
    head, frozen = model.head.weight.numel(), model.frozen_blocks
    responses = metrics["tokens"]
    run = prompt_tokens + responses - ppo.config.batch_size  # a response's last token is not run
    top = sum(base[frozen:])
    return {
        "rollout": 2 * (sum(base) * run + head * responses),
        "reference": 2 * (top * run + head * responses),
        "update": ppo.config.epochs * ((4 * top + 6 * adapters) * run + 4 * head * responses),
    }


def step() -> None:
    """Two records: the update, and the whole step."""
    ppo, asked = default(), prompts(32)
    tokens = sum(len(ppo.policy.tokenizer.encode(prompt)) for prompt in asked)
    ppo.step(asked)
    raw = []
    for _ in range(STEPS):
        best, began = sgemm(), time.perf_counter()
        metrics = ppo.step(asked)
        took = {**ppo.seconds, "step": time.perf_counter() - began}
        needs = paper(ppo, metrics, tokens)
        needs["step"] = sum(needs.values())
        best = max(best, sgemm())
        raw.append({"best sgemm": best, "seconds": took, "needs": needs})
        print({name: f"{needs[name] / took[name] / best:.0%}" for name in needs}, f"of {best / 1e9:.0f} GFLOP/s")
    for what, goal in (("update", 0.55), ("step", 0.35)):
        shares = [row["needs"][what] / row["seconds"][what] / row["best sgemm"] for row in raw]  # type: ignore[index, operator]
        name = "the update" if what == "update" else "a whole step"
        claim = f"PPO, default configuration, 135M: operations that {name} needs on paper, over its time"
        _record(f"limit_{what}", f"{claim}, against the best sgemm", shares, "of the best sgemm", goal, raw, "step")


def growth() -> None:
    """Seconds of a step as one thing grows; the exponent of a power law through the points."""
    curves: dict[str, list[tuple[float, float]]] = {}
    sizes = {"batch": (8, 16, 32, 64), "response": (16, 32, 64, 128), "model": (1, 2, 4, 8)}
    for what, values in sizes.items():
        points = [(value, _seconds(what, value)) for value in values]
        curves[what] = [(size / values[0], seconds / points[0][1]) for size, seconds in points]
        print(what, [(size, round(seconds, 2)) for size, seconds in points], flush=True)
    title = "A PPO step: time against size, both relative to the smallest"
    draw("growth", curves, records=RECORDS, title=title, x_label="size", y_label="time")
    worst = max(
        statistics.linear_regression(*zip(*((_log(x), _log(y)) for x, y in points), strict=True)).slope
        for points in curves.values()
    )
    write_record(
        RECORDS / "growth.json",
        claim="PPO step: exponent of time against batch, response length or model size, the largest of the three",
        value=worst,
        unit="exponent",
        interval=None,
        goal="<= 1",
        holds=worst <= 1,
        against=None,
        seeds=[0],
        command="python -m benchmarks.limit growth",
        measures=MEASURES,
        raw=curves,
        bound=None if worst <= 1 else "attention, whose share grows with the response",
    )


def _seconds(what: str, value: int) -> float:
    """The faster of two steps after a first one."""
    layers = value if what == "model" else 4
    sizes = ScratchConfig(vocab_size=2048, layers=4 * layers, hidden=256, heads=4)
    model = load(ModelConfig(name="scratch:transformer", scratch=sizes), corpus=PROMPTS)
    batch, tokens = value if what == "batch" else 16, value if what == "response" else 32
    ppo = default(batch, tokens, model, top=None)
    ppo.step(prompts(batch))
    found = []
    for _ in range(2):
        began = time.perf_counter()
        ppo.step(prompts(batch))
        found.append(time.perf_counter() - began)
    return min(found)


def quantised() -> None:
    """What int8 weights would save while sampling, and what must be computed again because of them."""
    ppo, asked = default(), [[*ids] for ids in default_ids()]
    config = ppo.rollout
    raw = []
    for turn in range(STEPS):
        plain = _timed(collect, ppo.policy, asked, config, sampler=sample, seed=1, step=turn)
        with _int8():
            rough = _timed(collect, ppo.policy, asked, config, sampler=sample, seed=1, step=turn)
        again = _timed(frozen_states, ppo.policy, rough[1].tokens)
        exact = score(ppo.policy, rough[1].tokens, below=again[1]).logprobs.detach()
        gap = (exact - rough[1].logprobs)[rough[1].mask].abs()
        raw.append({"float32": plain[0], "int8": rough[0], "again": again[0], "gap": float(gap.mean())})
        print(raw[-1], flush=True)
    gains = [row["float32"] - row["int8"] - row["again"] for row in raw]
    claim = "sampling 32 × 24 tokens from int8 weights: seconds saved, less those to compute the frozen states again"
    bound = (
        "left out: the update must not begin from states that int8 weights made, and running the frozen blocks once "
        f"more takes what is saved (mean log-prob gap {statistics.fmean(row['gap'] for row in raw):.3f} nats)"
    )
    _record("left_out_int8", claim, gains, "seconds a step", 0.5, raw, "quantised", bound)


def default_ids() -> list[list[int]]:
    """The prompts as tokens."""
    tokenizer = load(ModelConfig()).tokenizer
    return [tokenizer.encode(prompt) for prompt in prompts(32)]


@contextmanager
def _int8() -> Any:
    """Let the sampler's weights be int8, one scale an output, activations quantised as they come."""

    def rough(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        base = layer.base_layer if hasattr(layer, "base_layer") else layer
        weight = base.weight.detach()
        scales = weight.abs().amax(1).clamp(min=1e-8) / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        ready = torch.ops.quantized.linear_prepack(
            torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8), base.bias
        )
        return lambda x: torch.ops.quantized.linear_dynamic(x, ready, True)

    exact = packed._packed  # noqa: SLF001
    packed._packed = rough  # noqa: SLF001
    try:
        yield
    finally:
        packed._packed = exact  # noqa: SLF001


def overlap() -> None:
    """A sampler and a trainer on a core each, against both on two cores in turn."""
    ppo, asked = default(), prompts(32)
    ppo.step(asked)
    raw = []
    context = multiprocessing.get_context("spawn")
    for _ in range(STEPS):
        began = time.perf_counter()
        ppo.step(asked)
        turns, phases = time.perf_counter() - began, dict(ppo.seconds)
        results = context.Queue()
        parts = [context.Process(target=_one_core, args=(what, results)) for what in ("rollout", "rest")]
        for part in parts:
            part.start()
        found = dict(results.get() for _ in parts)
        for part in parts:
            part.join()
        raw.append({"in turn": turns, "at once": max(found.values()), "parts": found, "phases": phases})
        print(raw[-1], flush=True)
    ratios = [row["in turn"] / row["at once"] for row in raw]  # type: ignore[operator]
    claim = "PPO step with two cores for sampling and update in turn, over one core for each at the same time"
    bound = "left out: both keep both cores busy already, so there is no idle time for one to fill"
    _record("left_out_overlap", claim, ratios, "times faster at once", 1.1, raw, "overlap", bound)


def _one_core(what: str, results: Any) -> None:
    torch.set_num_threads(1)
    ppo, asked = default(), prompts(32)
    ppo.rollout = ppo.rollout.model_copy(update={"max_new_tokens": 4})
    ppo.step(asked)
    ppo.rollout = ppo.rollout.model_copy(update={"max_new_tokens": 24})
    ppo.step(asked)
    rollout = ppo.seconds["rollout"]
    rest = sum(ppo.seconds.values()) - rollout
    results.put((what, rollout if what == "rollout" else rest))


def compiled() -> None:
    """Steps of the small model with and without compiled blocks, in turn; attention stays as it is."""
    task = speed_tasks.ppo_small().ours.settings
    asked = [PromptExample(ids, "", {}, "") for ids in task["prompts"]]
    plain, fast = speed_ours._ppo(task), speed_ours._ppo(task)  # noqa: SLF001
    AttentionInterface.register(rows.ATTENTION, torch.compiler.disable(rows.attention))
    for model in (fast.policy, fast.reference, fast.critic.trunk):
        assert model is not None
        for block in blocks(model.module)[1]:
            block.compile(dynamic=True)  # type: ignore[no-untyped-call]
    raw = []
    for _ in range(STEPS + 1):
        turn = {"plain": _timed(plain.step, asked)[0]}
        with _unpacked():
            turn["compiled"] = _timed(fast.step, asked)[0]
        print(turn, flush=True)
        raw.append(turn)
    gains = [row["plain"] / row["compiled"] for row in raw[1:]]
    compiling = raw[0]["compiled"] - statistics.median(row["compiled"] for row in raw[1:])
    claim = "PPO step on the 7M Llama: its time over that with blocks compiled by torch.compile"
    bound = f"left out: the first step compiles for {compiling:.0f} s, with a C++ compiler that users would need"
    _record("left_out_compile", claim, gains, "times faster", 1.5, raw, "compiled", bound)


def profiles() -> None:
    """A record for each speed benchmark: how much faster our side were if all but its matrix products took no time."""
    for name, task in speed_tasks.TASKS.items():
        settings = task().ours.settings
        work = speed_ours.WORKERS[settings["worker"]](settings)
        work()
        cpu = [profiler.ProfilerActivity.CPU]
        with profiler.profile(activities=cpu) as found, profiler.record_function(f"{PHASE}step"):
            took = _timed(work)[0]
        phases = where_time_goes.seconds(found.events(), took)
        whole = sum(sum(kinds.values()) for kinds in phases.values())
        shares = {kind: sum(phase[kind] for phase in phases.values()) / whole for kind in where_time_goes.COLUMNS}
        print(name, {kind: f"{share:.0%}" for kind, share in shares.items()}, flush=True)
        products = shares["matrix products"]
        write_record(
            RECORDS / f"{name}_bound.json",
            claim=f"our side of {name}: its time over that of its matrix products alone, "
            + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()),
            value=1 / products,
            unit="times",
            interval=None,
            goal="known",
            holds=True,
            against=None,
            seeds=[0],
            command="python -m benchmarks.limit profiles",
            measures=MEASURES,
            raw=dict(shares),
        )
        del work


@contextmanager
def _unpacked() -> Any:
    """Let the sampler use its weights as they are: the compiler knows no packed products."""
    asks, engine.packed = engine.packed, lambda *_: nullcontext()
    try:
        yield
    finally:
        engine.packed = asks


def _timed(work: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work(*args, **kwargs)
    return time.perf_counter() - began, result


def _log(x: float) -> float:
    return float(torch.tensor(x).log())


def _record(
    name: str, claim: str, values: list[float], unit: str, goal: float, raw: Any, what: str, bound: str = ""
) -> None:
    value = statistics.median(values)
    write_record(
        RECORDS / f"{name}.json",
        claim=f"{claim} (median of {len(values)}, and range)",
        value=value,
        unit=unit,
        interval=(min(values), max(values)),
        goal=f">= {goal}",
        holds=value >= goal,
        against=None,
        seeds=[0],
        command=f"python -m benchmarks.limit {what}",
        measures=MEASURES,
        raw=json.loads(json.dumps(raw)),
        bound=None if value >= goal else bound or "see the profile in docs/speed.md",
    )
    print(f"{name}: {value:.3g} {unit}, goal {goal}")


WORK = {work.__name__: work for work in (step, growth, quantised, overlap, compiled, profiles)}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*WORK])
    WORK[parser.parse_args().what]()


if __name__ == "__main__":
    main()
