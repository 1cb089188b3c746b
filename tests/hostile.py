"""Folders that an attacker, or bad luck, may hand us: checkpoints and models, each made in a given place."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxtune.training import checkpoint

PROOF = "proof-that-code-ran"


class Payload:
    """Unpickling this runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {PROOF}",)


def sealed(folder: Path) -> None:
    """Write a manifest that agrees with what is there, as an attacker would."""
    (folder / "manifest.json").write_text(checkpoint._manifest(checkpoint._checksums(folder)))


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    """The folder with a file of this content."""
    return lambda folder: void((folder / name).write_bytes(content.encode() if isinstance(content, str) else content))


def state(content: str | bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        written("state.json", content)(folder)
        sealed(folder)

    return act


def tensors(content: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        written("tensors.safetensors", content)(folder)
        sealed(folder)

    return act


def header(described: Any, length: int | None = None) -> bytes:
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def link(name: str, target: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return act


def fifo(name: str) -> Callable[[Path], None]:
    """Whoever opens it to read waits for ever."""

    def act(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


def void(_: object) -> None: ...


def tensor(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"0:w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


# A checkpoint is what `checkpoint.save` wrote; each of these changes it, and the manifest to agree where it can.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "pickle named safetensors": tensors(pickle.dumps(Payload())),
    "pickle named state": state(pickle.dumps(Payload())),
    "header of 2^63 bytes": tensors(header({}, 2**63)),
    "header longer than the file": tensors(header({}, 10**6)),
    "header of nested lists": tensors(header(b"[" * 200_000)),
    "tensor of 2^60 numbers": tensors(header(tensor(shape=(2**60,), offsets=(0, 2**62)))),
    "tensor beyond the end": tensors(header(tensor(offsets=(0, 4)))),
    "tensors that overlap": tensors(header(tensor() | {"1:w": tensor()["0:w"]}) + b"abcd"),
    "offsets that fall": tensors(header(tensor(offsets=(4, 0))) + b"abcd"),
    "negative shape": tensors(header(tensor(shape=(-1,))) + b"abcd"),
    "unknown dtype": tensors(header(tensor(dtype="PICKLE")) + b"abcd"),
    "tensors of no bytes": tensors(b""),
    "tensor of another name": state('{"step": 1, "state": {"weight": {"$tensor": "../../etc/passwd"}}}'),
    "state nested 200,000 deep": state("[" * 200_000 + "]" * 200_000),
    "state of an integer with 10^5 digits": state('{"step": 1' + "0" * 100_000 + ', "state": {}}'),
    "state of 1e999999": state('{"step": 1e999999, "state": {}}'),
    "state that is a list": state("[1, 2]"),
    "state that is not UTF-8": state(b"\xff\xfe\x00"),
    "manifest of absolute names": written("manifest.json", '{"files": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}}'),
    "manifest of names above": written("manifest.json", '{"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}}'),
    "manifest nested 200,000 deep": written("manifest.json", "[" * 200_000),
    "manifest of an endless device": link("manifest.json", "/dev/zero"),
    "tensors of an endless device": link("tensors.safetensors", "/dev/zero"),
    "state of an endless device": link("state.json", "/dev/zero"),
    "tensors that link to themselves": link("tensors.safetensors", "tensors.safetensors"),
    "state that links to a secret": link("state.json", "/etc/hostname"),
    "state that is a pipe": fifo("state.json"),
    "manifest that is a pipe": fifo("manifest.json"),
}


def config(**changes: Any) -> Callable[[Path], None]:
    """config.json with these keys."""

    def act(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return act


def tokenizer_config(**changes: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return act


def template(text: str) -> Callable[[Path], None]:
    return written("chat_template.jinja", text)


def own_code(folder: Path) -> None:
    for name in ("modeling_own.py", "configuration_own.py", "tokenization_own.py"):
        (folder / name).write_text(f"import pathlib\npathlib.Path({PROOF!r}).touch()\nclass Own: ...\n")


def with_code(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        own_code(folder)
        change(folder)

    return act


def weights(content: bytes, name: str = "model.safetensors") -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return act


def index(mapping: dict[str, str]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))

    return act


OWN_TOKENIZER = {"AutoTokenizer": ["tokenization_own.Own", None]}
OWN = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
# A model folder is a tiny llama with a tokenizer; each of these must end in an error.
MODELS: dict[str, Callable[[Path], None]] = {
    "code for an unknown type": with_code(config(model_type="own", auto_map=OWN)),
    "code on the hub": config(model_type="own", auto_map={key: f"evil/repo--{x}" for key, x in OWN.items()}),
    "code that the config trusts": with_code(config(model_type="own", auto_map=OWN, trust_remote_code=True)),
    "attention from the hub": config(_attn_implementation="evil/kernel"),
    "attention from the hub, internal": config(_attn_implementation_internal="evil/kernel"),
    "attention from the hub, public": config(attn_implementation="evil/kernel:fn"),
    "attention from the hub, below": config(text_config={"_attn_implementation_internal": "evil/kernel"}),
    "experts from the hub": config(
        _experts_implementation="evil/kernel", _experts_implementation_internal="evil/kernel"
    ),
    "pickled weights": weights(pickle.dumps(Payload()), "pytorch_model.bin"),
    "pickled weights, .pt": weights(pickle.dumps(Payload()), "model.pt"),
    "pickle named safetensors": weights(pickle.dumps(Payload())),
    "header of 2^63 bytes": weights(header({}, 2**63)),
    "tensor of 2^60 numbers": weights(header(tensor(shape=(2**60,), offsets=(0, 2**62)))),
    "no weight at all": weights(header({})),
    "shards elsewhere": index({"model.norm.weight": "../elsewhere.safetensors"}),
    "shards at the root": index({"model.norm.weight": "/etc/passwd"}),
    "shards that are pickles": index({"model.norm.weight": "pytorch_model.bin"}),
    "10^9 layers": config(num_hidden_layers=10**9),
    "10^12 tokens": config(vocab_size=10**12),
    "a width of 10^30": config(hidden_size=10**30),
    "no layer": config(num_hidden_layers=-1),
    "a config nested 200,000 deep": written("config.json", '{"a":' * 200_000 + "1" + "}" * 200_000),
    "a config that is a list": written("config.json", "[1, 2]"),
    "a config of an endless device": link("config.json", "/dev/zero"),
    "a tokenizer of its own code": with_code(tokenizer_config(tokenizer_class="Own", auto_map=OWN_TOKENIZER)),
    "a tokenizer that is a pickle": written("tokenizer.json", pickle.dumps(Payload())),
    "a tokenizer nested 200,000 deep": written("tokenizer.json", "[" * 200_000),
}
# Rendering a conversation with each of these must end in an error, or in what the sandbox lets out: nothing.
TEMPLATES = {
    "escape by class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "escape by globals": "{{ cycler.__init__.__globals__.os.system('touch " + PROOF + "') }}",
    "escape by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "escape by attr": "{{ messages|attr('__class__')|attr('__base__') }}",
    "escape by a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "a change of the conversation": "{{ messages.append(1) }}",
    "10^10 turns of a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a million words": "{{ 'word ' * 1000000 }}",
    "10^15 bytes": "{{ 'a' * 1000000000000000 }}",
    "itself without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a syntax error": "{% for %}",
    "another file": "{% include '/etc/passwd' %}",
}


def gguf(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


# A file of each content must end in an error.
GGUFS = {
    "nothing": b"",
    "a pickle": pickle.dumps(Payload()),
    "noise": bytes(range(256)) * 40,
    "2^63 tensors": gguf(2**63, 0),
    "2^63 keys": gguf(0, 2**63),
    "a key of 2^62 bytes": gguf(0, 1, struct.pack("<Q", 2**62) + b"key"),
    "an array of 2^62 numbers": gguf(0, 1, struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**62)),
}
# A reward model is a model with a head; each of these spoils the head.
HEADS = {
    "pickle named safetensors": written("head.safetensors", pickle.dumps(Payload())),
    "a head of another size": written("head.safetensors", header(tensor()) + b"abcd"),
    "nested 200,000 deep": written("head.json", "[" * 200_000),
    "more than it should hold": written("head.json", '{"max_length": 9, "gain": 1, "lm": "x"}'),
    "no number": written("head.json", '{"max_length": [], "gain": 1, "bias": 0}'),
}
