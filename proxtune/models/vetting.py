"""What a model's files may ask for: tensors and settings, never code.

transformers runs code that a config names: Python files beside it, and kernels of other repositories. That it does not
unless asked has had holes (CVE-2026-4372, CVE-2026-5241), so what asks is refused here before transformers acts on it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from proxtune.errors import ModelError

INDEX = "model.safetensors.index.json"
LAYERS = re.compile(r"(num|n)_(hidden_|decoder_|encoder_)?layers?")
MOST_LAYERS = 1024  # each is built, and takes its time, before anything is compared with the weights


def vet(source: str) -> None:
    """Refuse a model folder or hub id whose configuration asks for code, or for files beyond the folder.

    Raises ModelError, with the file and the key.
    """
    config, _ = PreTrainedConfig.get_config_dict(source)
    if not isinstance(config, dict):
        raise ModelError(f"{source}/config.json: expected an object, got {type(config).__name__}")
    for key, value in _entries(config):
        if key == "trust_remote_code" and value:
            raise ModelError(f"{source}/config.json asks that its own code be trusted ({key}); remove the key")
        if key.endswith(("implementation", "implementation_internal")) and "/" in str(value):
            raise ModelError(f"{source}/config.json asks for code from elsewhere ({key}: {value}); remove the key")
        if LAYERS.fullmatch(key) and not (isinstance(value, int) and 1 <= value <= MOST_LAYERS):
            raise ModelError(f"{source}/config.json: {key} is {str(value)[:40]}, expected 1 to {MOST_LAYERS}")
    index = Path(source) / INDEX
    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    beyond = [file for file in files if Path(str(file)).name != file]
    if beyond:
        raise ModelError(f"{index} names a file beyond its folder: {beyond[0]}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys at every depth, with their values."""
    if isinstance(value, dict):
        yield from ((str(key), inner) for key, inner in value.items())
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
