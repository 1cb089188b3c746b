"""transformers' `generate` as a worker of a benchmark, with nothing of ours: the fastest way of several is measured."""

import time
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.peers.wire import THREADS, Wire, weights_hash


class Generator:
    """Answers prompts in left-padded batches."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.stops = settings, torch.tensor(settings["stop_ids"])
        self.module = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()

    def answer(self, way: dict[str, Any]) -> dict[str, Any]:
        """All prompts once, `batch` at a time, the shortest first if `sorted`, with this `cache`."""
        prompts = self.settings["prompts"]
        if way["sorted"]:
            prompts = sorted(prompts, key=len)
        size = way["batch"]
        lengths = [n for i in range(0, len(prompts), size) for n in self._batch(prompts[i : i + size], way["cache"])]
        return {"samples": len(lengths), "tokens": sum(lengths)}

    def _batch(self, prompts: list[list[int]], cache: str) -> list[int]:
        width, pad = max(map(len, prompts)), self.settings["pad_id"]
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        written = self.module.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.settings["max_new_tokens"],
            eos_token_id=self.settings["stop_ids"],
            pad_token_id=pad,
            cache_implementation=cache,
        )
        return self._lengths(written[:, width:])

    def _lengths(self, responses: Tensor) -> list[int]:
        """Tokens up to the first stop token, with it."""
        before = (~torch.isin(responses, self.stops)).cumprod(1).sum(1)
        return (before + 1).clamp(max=responses.shape[1]).tolist()


def fastest(generator: Generator, ways: list[dict[str, Any]]) -> dict[str, Any]:
    """Try every way once, after a warm-up, and take the one with the most tokens a second."""
    rates = []
    for way in ways:
        began = time.perf_counter()
        tokens = generator.answer(way)["tokens"]
        rates.append(tokens / (time.perf_counter() - began))
    best = max(range(len(ways)), key=rates.__getitem__)
    return {"way": ways[best], "tried": [way | {"rate": rate} for way, rate in zip(ways, rates, strict=True)]}


def main() -> None:
    """Find the fastest way, and answer all prompts that way whenever the driver says so."""
    wire = Wire()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    generator = Generator(wire.settings)
    generator.answer(wire.settings["ways"][0])
    found = fastest(generator, wire.settings["ways"])
    facts = {"weights": weights_hash(wire.settings["model"])} | found
    wire.serve(lambda: generator.answer(found["way"]), **facts)


if __name__ == "__main__":
    main()
