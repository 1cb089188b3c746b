"""How much memory and disk a run will need, estimated term by term before its first step.

What is resident once the job is built is measured, and so is what autograd keeps of one row; the rest is arithmetic.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proxtune.algorithms.ppo import PPO
from proxtune.algorithms.reward_model import RewardTrainer
from proxtune.algorithms.sft import SFT
from proxtune.data.template import Example, PreferenceExample, PromptExample, RatedExample
from proxtune.models.heads import RewardModel
from proxtune.models.language_model import LanguageModel
from proxtune.rollouts.cache import memory_for
from proxtune.workflows.jobs import Job, PPORun

GIB = 2**30
LOOKED_AT = 1000  # batches of the run whose rows are measured
AT_ONCE, SAMPLED_AT_ONCE = 32, 64  # rows of a pass without a gradient, and of the sampler
FROM_HEAP = 32 * 2**20  # glibc gives larger pieces back to the system at once, and keeps smaller ones to hand out again
SAMPLING = 44  # bytes a row and token of the vocabulary while one token is drawn: five times float32, thrice float64

Sizes = tuple[float, float, float]  # low, likely, high
Lengths = tuple[int, int]  # tokens of a prompt and of the response to it


class Shape(NamedTuple):
    """The padded rows of one forward pass."""

    rows: int
    width: int  # tokens of the longest row
    counted: int  # response tokens in all: the language-model head runs on these alone

    @classmethod
    def of(cls, rows: Sequence[Lengths]) -> "Shape":
        """The shape that rows of these lengths are padded to."""
        return cls(len(rows), max(p + r for p, r in rows), sum(r for _, r in rows))

    @property
    def tokens(self) -> int:
        """Tokens that go through the trunk, padding included."""
        return self.rows * self.width


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
    shapes = _shapes(job)
    kept = kept_by_autograd(job, trained, shapes[1])  # first: what a first pass loads is resident after it
    phases = _phases(job)
    known = {"weights": _bytes(trained.module), **{name: _bytes(model.module) for name, model in others}}
    terms = [Term(name, "as loaded", (size,) * 3, phases) for name, size in known.items()]
    if on_cpu:
        rest = max(0.0, resident() - sum(known.values()))
        terms.insert(0, Term("Python, libraries and data", "measured now", (rest,) * 3, phases))
    terms += _training(job, phases)
    terms += _passes(job, trained, shapes, kept, heap=on_cpu and sys.platform == "linux")
    copy = known["weights"]
    terms.append(
        Term("a second model", "adapters are merged in a copy; then it is loaded again", (copy,) * 3, ("save",))
    )
    return Estimate([term for term in terms if max(term.sizes)])


def language_model(job: Job) -> LanguageModel:
    """The model that a job trains."""
    match job.algorithm:
        case SFT(model=model):
            return model
        case RewardTrainer(model=model):
            return model.lm
        case PPO(policy=policy):
            return policy
    raise AssertionError(type(job.algorithm))


def rows_of(example: Any, answer: int = 0) -> list[Lengths]:
    """The rows that an example becomes; the response to a prompt is taken to have `answer` tokens."""
    match example:
        case PreferenceExample(prompt, chosen, rejected):
            return [(len(prompt), len(chosen)), (len(prompt), len(rejected))]
        case Example(prompt, response) | RatedExample(prompt, response):
            return [(len(prompt), len(response))]
        case PromptExample(prompt):
            return [(len(prompt), answer)]
    raise AssertionError(type(example))


def upcoming(job: Job, steps: int) -> Iterator[list[Any]]:
    """The next batches of a job, which stay the next ones."""
    here = job.batches.state()
    batches = [next(job.batches) for _ in range(steps)]
    job.batches.load_state(here)
    return iter(batches)


def kept_by_autograd(job: Job, model: LanguageModel, shape: Shape) -> tuple[float, float]:
    """Bytes a token that a forward pass keeps for its backward pass: (all of them, those in pieces from the heap).

    Counted on one row, so every architecture, adapter and frozen lower block counts as what it is.
    """
    models = [model]
    if isinstance(job.algorithm, PPO) and job.algorithm.critic.trunk is not None:
        models.append(job.algorithm.critic.trunk)
    pieces = [size for each in models for size in _saved(each, shape.width, train=not isinstance(job.algorithm, PPO))]
    small = [size for size in pieces if size * shape.rows < FROM_HEAP]
    return sum(pieces) / shape.width, sum(small) / shape.width


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _status("VmRSS") or _largest()


def peak() -> int:
    """The most bytes that this process has held, or of the CUDA device where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") or _largest()  # the other is inherited from the process that started this one


def available(model: LanguageModel) -> int | None:
    """Bytes that the device has for a run: those free now, and those that this process holds already."""
    if model.device.type == "cuda":
        return torch.cuda.mem_get_info(model.device)[0] + torch.cuda.memory_reserved(model.device)
    free = _field(Path("/proc/meminfo"), "MemAvailable")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if free is not None and limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text) - int(used.read_text()))
    return None if free is None else free + resident()


def checkpoint_bytes(job: Job) -> float:
    """The size of one checkpoint: the trained weights and Adam's two moments of each."""
    return 3.0 * sum(p.nbytes for p in _trained(job))


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
        need.append(("rollouts", job.steps * 32.0 * _shapes(job)[2].tokens))
    return need


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def gib(size: float) -> str:
    """Bytes as GiB, or as MiB where they are few."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _training(job: Job, phases: tuple[str, ...]) -> list[Term]:
    trained = _trained(job)
    count, size = sum(p.numel() for p in trained), float(sum(p.nbytes for p in trained))
    width = round(size / max(count, 1))
    return [
        Term("gradients", f"{count:,} trained weights × {width} bytes", (size,) * 3, ("update",)),
        Term("Adam's moments", f"2 × {count:,} × {width} bytes", (2 * size,) * 3, phases),
    ]


def _passes(
    job: Job, model: LanguageModel, shapes: tuple[Shape, Shape, Shape], kept: tuple[float, float], *, heap: bool
) -> list[Term]:
    """What forward and backward passes hold for a while."""
    config = model.module.config.get_text_config()
    vocabulary, (_, likely, high) = int(config.vocab_size), shapes
    each, small = kept
    layers = getattr(config, "num_hidden_layers", 1)
    depth = f"{job.config.tuning.top_layers or layers} of {layers} blocks, hidden {model.hidden_size}"
    how = f"{likely.rows} rows × {likely.width} tokens × {each / 1024:.0f} KiB ({depth})"
    terms = [Term("activations", how, _sizes([each * shape.tokens for shape in shapes]), ("update",))]
    scored = min(AT_ONCE, job.config.ppo.batch_size if isinstance(job.config, PPORun) else len(job.held_out))
    if not isinstance(job.algorithm, RewardTrainer):
        copies = 4 + 4 * (isinstance(job.algorithm, PPO) and job.algorithm.config.entropy_coef > 0)
        sizes = _sizes([copies * 4.0 * s.counted * vocabulary for s in shapes])
        how = f"{copies} × {likely.counted:,} tokens × {vocabulary:,} × 4 bytes"
        terms.append(Term("logits", how, sizes, ("update",)))
        sizes = _sizes([2 * 4.0 * scored * s.counted / s.rows * vocabulary for s in shapes])
        how = f"2 × {scored * likely.counted // likely.rows:,} tokens × {vocabulary:,} × 4 bytes"
        terms.append(Term("logits without gradient", how, sizes, ("evaluation",)))
    if isinstance(job.algorithm, PPO):
        terms += _sampling(job.algorithm, model, shapes, vocabulary)
    if heap and small:
        kept_free = _sizes([0.0, small * likely.tokens, 1.5 * small * high.tokens])
        terms.append(Term("allocator", "freed pieces below 32 MiB, not given back", kept_free, ("update",)))
        idle = _sizes([0.0, 2 * kept_free[1], 2 * kept_free[2]])
        terms.append(
            Term(
                "allocator, idle",
                "the same after an update",
                idle,
                tuple(phase for phase in _phases(job) if phase != "update"),
            )
        )
    return terms


def _phases(job: Job) -> tuple[str, ...]:
    both = ("evaluation", "update", "save")
    return ("rollout", *both) if isinstance(job.algorithm, PPO) else both


def _sampling(ppo: PPO, model: LanguageModel, shapes: tuple[Shape, Shape, Shape], vocabulary: int) -> list[Term]:
    rows = min(SAMPLED_AT_ONCE, ppo.config.batch_size)
    slot = _remembered(model)
    cache = _sizes([1.5 * rows * shape.width * slot for shape in shapes])
    how = f"1.5 × {rows} rows × {shapes[1].width} tokens × {slot / 1024:.1f} KiB"
    drawing = float(rows * vocabulary * SAMPLING)
    return [
        Term("what the sampler remembers", how, cache, ("rollout",)),
        Term("drawing a token", f"{rows} rows × {vocabulary:,} × {SAMPLING} bytes", (drawing,) * 3, ("rollout",)),
    ]


def _shapes(job: Job) -> tuple[Shape, Shape, Shape]:
    """The smallest micro-batch of the run, its largest, and one of nothing but its longest rows."""
    limit = job.algorithm.rollout.max_new_tokens if isinstance(job.algorithm, PPO) else 0
    batches = [[row for e in batch for row in rows_of(e, limit)] for batch in upcoming(job, min(job.steps, LOOKED_AT))]
    rows = _rows_at_once(job, len(batches[0]))
    parts = [batch[i : i + rows] for batch in batches for i in range(0, len(batch), rows)]
    if limit:
        parts += [[(p, (r + 1) // 2) for p, r in part] for part in parts]
    found = sorted(map(Shape.of, parts), key=lambda shape: shape.tokens + shape.counted)
    longest = max((row for part in parts for row in part), key=sum)
    return found[0], found[-1], Shape.of([longest] * rows)


def _rows_at_once(job: Job, batch: int) -> int:
    """Rows of a forward pass that has a gradient; `batch` are those of a step."""
    match job.algorithm:
        case PPO(config=config):
            return config.microbatch_size or config.minibatch_size
        case SFT(config=config) | RewardTrainer(config=config):
            return (config.microbatch_size or config.batch_size) * batch // config.batch_size
    raise AssertionError(type(job.algorithm))


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


def _trained(job: Job) -> list[nn.Parameter]:
    match job.algorithm:
        case SFT(model=model):
            return list(model.trained().values())
        case RewardTrainer(model=model):
            return [*model.lm.trained().values(), *model.head.parameters()]
        case PPO(policy=policy, critic=critic):
            return [*policy.trained().values(), *critic.trained().values()]
    raise AssertionError(type(job.algorithm))


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
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = model.hidden(torch.zeros(1, width, dtype=torch.int64, device=model.device))
    model.module.train(was_training)
    del hidden  # until here the graph held what was counted, so that no two pieces shared an address
    return list(kept.values())


@torch.no_grad()
def _remembered(model: LanguageModel) -> float:
    """Bytes that the sampler keeps of one token of one row."""
    memory: Any = memory_for(model, 1)
    ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    mask = memory.place(ids, None)
    model.hidden(ids, positions=ids, mask=mask, cache=memory)
    return float(sum(x.nbytes for name in ("keys", "stored") for x in getattr(memory, name, ())))


def _bytes(module: nn.Module) -> float:
    return float(sum(p.nbytes for p in module.parameters()))


def _sizes(values: Sequence[float]) -> Sizes:
    low, likely, high = values
    return low, likely, max(likely, high)


def _largest() -> int:
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int | None:
    return _field(Path("/proc/self/status"), field)


def _field(file: Path, field: str) -> int | None:
    """A field of a file in /proc, in bytes; None where there is no such file."""
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines() if line.startswith(f"{field}:"))
    return next((int(words[1]) * 1024 for words in lines), None)
