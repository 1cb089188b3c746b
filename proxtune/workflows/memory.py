"""How much memory and disk a run will need, estimated term by term before its first step.

What is resident once the job is built is measured, and so is what autograd keeps of one row; the rest is arithmetic.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.sft import SFT
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.models.packed import can_pack
from proxtune.models.rows import Rows
from proxtune.models.vocabulary import LOGITS_AT_ONCE
from proxtune.rollouts.cache import memory_for
from proxtune.rollouts.engine import ROWS_SAMPLED_AT_ONCE
from proxtune.training.optim import OptimConfig
from proxtune.workflows.jobs import Job
from proxtune.workflows.machine import gib, resident
from proxtune.workflows.shapes import Shape, language_model, shapes, trained_weights

FROM_HEAP = 32 * 2**20  # glibc gives larger pieces back to the system at once, and keeps smaller ones to hand out again
KEPT_FREE = 0.75  # of the bytes in smaller pieces, measured: 0.6 to 1 in SFT, reward modelling and PPO
SAMPLING = 24  # bytes a row and token of the vocabulary while one token is drawn: six times float32
LOGITS = 4  # pieces of logits that are there at once: the values, their exponentials, a slope, what is between

Sizes = tuple[float, float, float]  # low, likely, high


@dataclass(frozen=True)
class Term:
    """One part of the estimate, in bytes, and the phases of a step in which it is there."""

    name: str
    how: str
    sizes: Sizes
    phases: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """All terms. The peak is that of the phase whose terms add up to most."""

    terms: list[Term]

    def of_phase(self, phase: str) -> Sizes:
        """What is there at once in a phase."""
        there = [term.sizes for term in self.terms if phase in term.phases]
        low, likely, high = (sum(column) for column in zip(*there, strict=True))
        return low, likely, high

    @property
    def phase(self) -> str:
        """The phase of the likely peak."""
        phases = {phase: None for term in self.terms for phase in term.phases}
        return max(phases, key=lambda phase: self.of_phase(phase)[1])

    @property
    def peak(self) -> Sizes:
        """Low, likely and high, each of its own largest phase."""
        phases = {phase for term in self.terms for phase in term.phases}
        low, likely, high = (max(self.of_phase(phase)[i] for phase in phases) for i in range(3))
        return low, likely, high


def estimate(job: Job) -> Estimate:
    """What training `job` will hold in memory, on the device of its model."""
    trained, others = language_model(job), _others(job)
    on_cpu = trained.device.type == "cpu"
    passes = shapes(job)
    kept = kept_by_autograd(job, trained, passes[1])  # first: what a first pass loads is resident after it
    phases = _phases(job)
    known, seen = {}, set[int]()
    for name, model in [("weights", trained), *others]:
        new = {p.data_ptr(): p for p in model.module.parameters() if p.data_ptr() not in seen}
        known[name] = float(sum(p.nbytes for p in new.values()))
        seen |= new.keys()
    terms = [Term(name, "as loaded, shared ones once", (size,) * 3, phases) for name, size in known.items()]
    if on_cpu:
        rest = max(0.0, resident() - sum(known.values()))
        terms.insert(0, Term("Python, libraries and data", "measured now", (rest,) * 3, phases))
    terms += _training(job, phases)
    terms += _passes(job, trained, passes, kept, heap=on_cpu and sys.platform == "linux")
    copy = known["weights"]
    terms.append(
        Term("a second model", "adapters are merged in a copy; then it is loaded again", (copy,) * 3, ("save",))
    )
    return Estimate([term for term in terms if max(term.sizes)])


def kept_by_autograd(job: Job, model: LanguageModel, shape: Shape) -> tuple[float, float]:
    """Bytes a token that a forward pass keeps for its backward pass: (all of them, those in pieces from the heap).

    Counted on one row, so every architecture, adapter and frozen lower block counts as what it is.
    """
    models = [model]
    if isinstance(job.algorithm, PPO) and job.algorithm.critic.trunk is not None:
        models.append(job.algorithm.critic.trunk)
    each = [_saved(model, shape.width, train=not isinstance(job.algorithm, PPO)) for model in models]
    pieces = max(each, key=sum)  # one model after the other
    small = [size for size in pieces if size * shape.rows < FROM_HEAP]
    return sum(pieces) / shape.width, sum(small) / shape.width


def checkpoint_bytes(job: Job) -> float:
    """The size of one checkpoint: the trained weights, and what the optimiser keeps of each."""
    weights = trained_weights(job)
    return sum(p.nbytes for p in weights) + moments(weights, job.config.optim)[2]


def moments(weights: Sequence[Tensor], optim: OptimConfig) -> tuple[str, str, float]:
    """What the optimiser keeps from step to step: (its name, how it is counted, bytes)."""
    count, size = sum(p.numel() for p in weights), float(sum(p.nbytes for p in weights))
    match optim.name:
        case "sgd":
            return "SGD's momentum", f"{count:,} numbers", size if optim.momentum else 0.0
        case "adafactor":
            kept = [p.numel() if p.ndim < 2 else p.numel() // p.shape[-1] + p.numel() // p.shape[-2] for p in weights]
            bytes_ = sum(n * p.element_size() for n, p in zip(kept, weights, strict=True))
            return "Adafactor's moments", f"{sum(kept):,} numbers: a row and a column of each matrix", float(bytes_)
    return "Adam's moments", f"2 × {count:,} numbers", 2 * size


def disk(job: Job) -> list[tuple[str, float]]:
    """What the run folder will hold, and the bytes of each."""
    config, each = job.config.training, checkpoint_bytes(job)
    saved = -(-job.steps // config.save_every) if config.save_every else 0
    kept = min(config.keep, saved) + 1  # one more while it is written
    need = [
        (f"checkpoints, {kept} × {gib(each)}", kept * each),
        ("model", _bytes(language_model(job).module)),
        ("figures and samples", job.steps * 1500.0 * (1 + config.samples / 2)),
    ]
    if isinstance(job.algorithm, PPO) and job.algorithm.store is not None and not job.algorithm.store.replay:
        need.append(("rollouts", job.steps * 32.0 * shapes(job)[2].tokens))
    return need


def _training(job: Job, phases: tuple[str, ...]) -> list[Term]:
    trained = trained_weights(job)
    count, size = sum(p.numel() for p in trained), float(sum(p.nbytes for p in trained))
    width = round(size / max(count, 1))
    name, how, kept = moments(trained, job.config.optim)
    return [
        Term("gradients", f"{count:,} trained weights × {width} bytes", (size,) * 3, ("update",)),
        Term(name, how, (kept,) * 3, phases),
    ]


def _passes(
    job: Job, model: LanguageModel, passes: tuple[Shape, Shape, Shape], kept: tuple[float, float], *, heap: bool
) -> list[Term]:
    """What forward and backward passes hold for a while."""
    config = model.module.config.get_text_config()
    vocabulary, (_, likely, high) = int(config.vocab_size), passes
    each, small = kept
    layers = getattr(config, "num_hidden_layers", 1)
    depth = f"{job.config.tuning.top_layers or layers} of {layers} blocks, hidden {model.hidden_size}"
    how = f"{likely.tokens:,} tokens × {each / 1024:.0f} KiB ({depth})"
    terms = [Term("activations", how, _sizes([each * shape.tokens for shape in passes]), ("update",))]
    if isinstance(job.algorithm, SFT | PPO):
        pieces = [min(LOGITS_AT_ONCE, max(64, s.counted) * vocabulary) for s in passes]
        how = f"{LOGITS} × {pieces[1] // vocabulary:,} tokens at once × {vocabulary:,} × 4 bytes"
        terms.append(Term("logits", how, _sizes([LOGITS * 4.0 * piece for piece in pieces]), ("update", "evaluation")))
    if isinstance(job.algorithm, PPO):
        terms += _sampling(job.algorithm, model, passes, vocabulary)
    if heap and small:
        kept_free = _sizes([0.0, KEPT_FREE * small * likely.tokens, 2 * KEPT_FREE * small * high.tokens])
        terms.append(Term("allocator", "freed pieces below 32 MiB, not given back", kept_free, ("update",)))
        idle = _sizes([0.0, 2 * kept_free[1], 2 * kept_free[2]])
        others = tuple(phase for phase in _phases(job) if phase != "update")
        terms.append(Term("allocator, idle", "the same after an update", idle, others))
    return terms


def _phases(job: Job) -> tuple[str, ...]:
    both = ("evaluation", "update", "save")
    return ("rollout", *both) if isinstance(job.algorithm, PPO) else both


def _sampling(ppo: PPO, model: LanguageModel, passes: tuple[Shape, Shape, Shape], vocabulary: int) -> list[Term]:
    rows = min(ROWS_SAMPLED_AT_ONCE, ppo.config.batch_size)
    slot = _remembered(model)
    cache = _sizes([rows * shape.width * slot for shape in passes])
    how = f"{rows} rows × {passes[1].width} tokens × {slot / 1024:.1f} KiB"
    drawing = float(rows * vocabulary * SAMPLING)
    terms = [
        Term("what the sampler remembers", how, cache, ("rollout",)),
        Term("drawing a token", f"{rows} rows × {vocabulary:,} × {SAMPLING} bytes", (drawing,) * 3, ("rollout",)),
    ]
    if can_pack(model.device, model.module.dtype):
        packed = float(sum(p.nbytes for p in model.module.parameters() if p.ndim == 2 and not p.requires_grad))
        packed = packed or _bytes(model.module)
        terms.append(Term("packed weights", "ordered for the sampler's products", (packed,) * 3, ("rollout",)))
    if model.frozen_blocks:
        states = _sizes([ppo.config.batch_size * s.width * model.hidden_size * 4.0 for s in passes])
        how = f"{ppo.config.batch_size} rows × {passes[1].width} tokens × {model.hidden_size} × 4 bytes"
        terms.append(Term("states of frozen blocks", how, states, ("rollout", "evaluation", "update")))
    return terms


def _others(job: Job) -> list[tuple[str, LanguageModel]]:
    """The models beside the one that is trained, each with what it is for."""
    ppo = job.algorithm
    if not isinstance(ppo, PPO):
        return []
    found = [("reference", ppo.reference), ("critic", ppo.critic.trunk)]
    for part, _ in getattr(ppo.reward, "rewards", ()):
        scorer = getattr(part, "model", None)
        found.append((f"reward {part.name}", scorer.lm if isinstance(scorer, RewardModel) else scorer))
    return [(name, model) for name, model in found if isinstance(model, LanguageModel)]


def _saved(model: LanguageModel, width: int, *, train: bool) -> list[int]:
    """The sizes of the tensors that autograd keeps of a pass over one row, weights and buffers left out."""
    weights = {x.untyped_storage().data_ptr() for x in [*model.module.parameters(), *model.module.buffers()]}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        memory = x.untyped_storage()
        if memory.data_ptr() not in weights:
            kept[memory.data_ptr()] = memory.nbytes()
        return x

    was_training = model.module.training
    model.module.train(train or was_training)
    ids = torch.zeros(width, dtype=torch.int64, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = model.run(ids, Rows([width], device=model.device))
    model.module.train(was_training)
    del hidden  # until here the graph held what was counted, so that no two pieces shared an address
    return list(kept.values())


@torch.no_grad()
def _remembered(model: LanguageModel) -> float:
    """Bytes that the sampler keeps of one token of one row."""
    memory: Any = memory_for(model, 1, 1)
    model.run(torch.zeros(1, dtype=torch.int64, device=model.device), Rows([1], memory=memory, device=model.device))
    return float(sum(x.nbytes for layer in getattr(memory, "layers", {}).values() for x in layer))


def _bytes(module: nn.Module) -> float:
    return float(sum(p.nbytes for p in module.parameters()))


def _sizes(values: Sequence[float]) -> Sizes:
    low, likely, high = values
    return low, likely, max(likely, high)
