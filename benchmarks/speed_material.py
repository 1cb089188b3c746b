"""What the speed benchmarks run on: models, prompts and examples, made once from installed packages and seeds."""

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from proxtune.data.records import Completion, Preference
from proxtune.data.reviews import read_reviews
from proxtune.data.template import Example, PreferenceExample, encode, encode_preferences
from proxtune.models.load import BUNDLED, load_tokenizer, resolve
from proxtune.workflows.film_reviews import INSTRUCTION, opening, part, write_parts

CACHE = Path(__file__).parent / ".cache"
VOCABULARY, PAD, EOS, BOS = 4096, 0, 1, 2
SHORTEST, LONGEST = 4, 40  # tokens of a prompt
SENTENCE_ENDS = (".", "!", "?")
FILM_PROMPTS = [
    "The plot of this picture",
    "The acting in this film",
    "I went to see it because",
    "The director of this movie",
    "After the first ten minutes",
    "My friends told me that",
    "The story begins when",
    "What I remember most is",
    "The music in this film",
    "The ending of the movie",
    "This film is about",
    "The main character is",
    "Overall I thought that",
    "The dialogue in this picture",
    "Watching it again last night",
    "The camera work of this film",
]


def bundled_model() -> str:
    """The folder of SmolLM2-135M-Instruct."""
    return resolve("bundled:smollm2")


def small_model() -> str:
    """A Llama of 7M random weights whose answers end, on average, at half of 64 tokens.

    All embeddings share an offset along one direction, which hidden states keep; the embedding of EOS lies along it, so
    far that its likelihood is right. The other special tokens lie the other way: they are never sampled.
    """
    folder = CACHE / "small-llama"
    if not folder.exists():
        module = _random_llama()
        _set_length(module, _likely_stop(module), mean=32, limit=64)
        _write_whole(folder, module.save_pretrained, _small_tokenizer().save_pretrained)
    return str(folder)


def _random_llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def _likely_stop(module: LlamaForCausalLM) -> Tensor:
    """The direction that all embeddings share from now on, of length 1."""
    weight = module.get_input_embeddings().weight
    direction = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    with torch.no_grad():
        weight += 0.3 * direction
    return direction


def _set_length(module: LlamaForCausalLM, direction: Tensor, *, mean: float, limit: int) -> None:
    """Find the embedding of EOS, along `direction`, for which answers have a mean length of `mean`, cut at `limit`.

    Random tokens stand for the model's own, which are nearly uniform.
    """
    rows = torch.randint(3, VOCABULARY, (64, LONGEST + limit), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = module.model(rows).last_hidden_state[:, LONGEST - 1 : -1]
        others = (hidden @ module.get_input_embeddings().weight[3:].T).logsumexp(-1)
        along = hidden @ direction
    low, high = 0.0, 10.0
    for _ in range(50):
        size = (low + high) / 2
        goes_on = torch.sigmoid(others - size * along)
        length = 1 + goes_on[:, :-1].cumprod(1).sum(1).mean()
        low, high = (size, high) if length > mean else (low, size)
    with torch.no_grad():
        weight = module.get_input_embeddings().weight
        weight[EOS] = low * direction
        weight[[PAD, BOS]] = -high * direction


def _small_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(token_models.WordLevel(words, unk_token="w3"))  # noqa: S106 -- a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
    )


def random_prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of the small model: 4 to 40 random tokens."""
    draw = random.Random(seed)  # noqa: S311 -- no secret
    return [[draw.randrange(3, VOCABULARY) for _ in range(length)] for length in prompt_lengths(count, seed)]


def review_prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of the bundled model: the first 4 to 40 tokens of film reviews."""
    tokenizer, _ = load_tokenizer("bundled:smollm2")
    reviews = [review.text for review in read_reviews() if len(review.text) > 400]
    texts = random.Random(seed).sample(reviews, count)  # noqa: S311
    lengths = prompt_lengths(count, seed)
    return [tokenizer.encode(text)[:length] for text, length in zip(texts, lengths, strict=True)]


def prompt_lengths(count: int, seed: int) -> list[int]:
    """Evenly from 4 to 40, in random order."""
    lengths = [SHORTEST + round(i * (LONGEST - SHORTEST) / (count - 1)) for i in range(count)] if count > 1 else [16]
    random.Random(seed).shuffle(lengths)  # noqa: S311
    return lengths


def film_prompts(count: int) -> list[list[int]]:
    """Short beginnings about a film, each as often as it takes."""
    tokenizer, _ = load_tokenizer("bundled:smollm2")
    return [tokenizer.encode(FILM_PROMPTS[i % len(FILM_PROMPTS)]) for i in range(count)]


def sentence_ends() -> list[int]:
    """Tokens of the bundled model that end a sentence, and its own stop token."""
    tokenizer, _ = load_tokenizer("bundled:smollm2")
    ends = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip() in SENTENCE_ENDS]
    return sorted({*ends, int(tokenizer.eos_token_id)})


def review_batches(steps: int, size: int, max_length: int) -> list[list[dict[str, Any]]]:
    """SFT: the first 60 words of film reviews from both sources of the package, which differ in length."""
    texts = [review.text for review in read_reviews()]
    random.Random(0).shuffle(texts)  # noqa: S311
    records = [Completion(INSTRUCTION, f" {opening(text)}") for text in texts[: steps * size]]
    tokenizer, _ = load_tokenizer("bundled:smollm2")
    examples, _ = encode(records, tokenizer, max_length=max_length, too_long="truncate")
    return _batches(examples, ("prompt_ids", "response_ids"), size)


def pair_batches(steps: int, size: int, max_length: int) -> list[list[dict[str, Any]]]:
    """Pairs of reviews that people labelled apart, as the demo joins them."""
    with tempfile.TemporaryDirectory() as folder:
        write_parts(part(read_reviews(), openings=0, seed=0), Path(folder), pairs=steps * size, held_out=0)
        rows = [json.loads(line) for line in (Path(folder) / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [Preference(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    tokenizer, _ = load_tokenizer("bundled:smollm2")
    examples, _ = encode_preferences(records, tokenizer, max_length=max_length, too_long="truncate")
    return _batches(examples, ("prompt_ids", "chosen_ids", "rejected_ids"), size)


def _batches(
    examples: Sequence[Example] | Sequence[PreferenceExample], keys: tuple[str, ...], size: int
) -> list[list[dict[str, Any]]]:
    rows = [{key: getattr(example, key) for key in keys} for example in examples]
    return [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]


def float_gguf() -> str:
    """The bundled model's GGUF with all weights as float32: the values that our folder holds."""
    file = CACHE / "smollm2-f32.gguf"
    if file.exists():
        return str(file)
    CACHE.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(_packaged_gguf())
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, str(reader.fields["general.architecture"].contents()))
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        kind = entry.types[0]
        sub = entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), kind, sub_type=sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:  # the data of a tensor stands in the order of numpy, and `dequantize` keeps it
        writer.add_tensor(tensor.name, np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)
    return str(file)


def _packaged_gguf() -> Path:
    from importlib.util import find_spec  # noqa: PLC0415

    package, name, install = BUNDLED["smollm2"]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install the bundled model first: {install}")
    return Path(spec.origin).parent / name


def _write_whole(folder: Path, *writers: Callable[[Path], Any]) -> None:
    """Write beside the final name, then rename."""
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=CACHE))
    for write in writers:
        write(partial)
    partial.rename(folder)
