"""llama.cpp as a worker of a benchmark, with nothing of ours: several streams in a batch, by its own batch API."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from benchmarks.peers.wire import THREADS, Wire


class Streams:
    """Greedy continuations of prompts, one sequence each, all in one batch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.prompts, self.count = settings["prompts"], settings["max_new_tokens"]
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(settings["gguf"].encode(), lib.llama_model_default_params())
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        longest = max(map(len, self.prompts)) + self.count
        tokens = max(512, sum(map(len, self.prompts)))
        params = lib.llama_context_default_params()
        params.n_seq_max = len(self.prompts)
        params.n_ctx = 256 * -(-longest * len(self.prompts) // 256)
        params.n_batch = params.n_ubatch = tokens
        params.n_threads = params.n_threads_batch = THREADS
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED  # with its float16 cache the fastest of four ways
        self.context = lib.llama_init_from_model(model, params)
        self.batch = lib.llama_batch_init(tokens, 0, 1)

    def answer(self) -> dict[str, Any]:
        """Continue all prompts."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self._fill([(token, place, row) for row, ids in enumerate(self.prompts) for place, token in enumerate(ids)])
        written = [self._decode()]
        while len(written) < self.count:
            places = [len(ids) + len(written) - 1 for ids in self.prompts]
            self._fill([(int(t), place, row) for row, (t, place) in enumerate(zip(written[-1], places, strict=True))])
            written.append(self._decode())
        first = [int(step[0]) for step in written[:16]]
        return {"samples": len(self.prompts), "tokens": len(self.prompts) * self.count, "first": first}

    def _fill(self, tokens: list[tuple[int, int, int]]) -> None:
        """(token, position, stream): logits are asked for at the last token of each stream."""
        self.batch.n_tokens = len(tokens)
        for i, (token, place, row) in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, place
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, row
            self.batch.logits[i] = i + 1 == len(tokens) or tokens[i + 1][2] != row

    def _decode(self) -> np.ndarray:
        """The likeliest next token of each stream."""
        if lib.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        rows = len(self.prompts)
        start = ctypes.cast(lib.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(start, shape=(rows, self.vocabulary)).argmax(1)


def main() -> None:
    """Load, and continue the prompts whenever the driver says so."""
    wire = Wire()
    streams = Streams(wire.settings)
    system = lib.llama_print_system_info().decode()
    wire.serve(streams.answer, system=system)


if __name__ == "__main__":
    main()
