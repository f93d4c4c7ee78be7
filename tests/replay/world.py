"""A tiny decoder over pages, beside the same one as transformers runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from pbkv.replay.batch import Ints, Longs, Slice
from pbkv.replay.model import load_model, page_shape
from pbkv.replay.pool import Layout, Pool
from pbkv.replay.runner import ModelRunner, RunnerConfig

CPU = torch.device("cpu")
FAMILIES = ("random:tiny-llama", "random:tiny-qwen2", "random:tiny-qwen3")
PAGE = 16


@cache
def _models(name: str) -> tuple[Any, Any]:
    return load_model(name, CPU), load_model(name, CPU)


@dataclass
class World:
    """Pages are handed out in an order that is no order, so that nothing is right by chance."""

    name: str
    num_pages: int = 64
    layout: Layout = "page-first"
    config: RunnerConfig = field(default_factory=RunnerConfig)

    def __post_init__(self) -> None:
        model, self.reference = _models(self.name)
        self.pool = Pool(page_shape(model, PAGE), self.num_pages, CPU, layout=self.layout)
        self.pool.pages.fill_(float("nan"))  # what nobody wrote must never be read
        self.runner = ModelRunner(model, self.pool, self.config)
        self._free = np.random.default_rng(1).permutation(self.num_pages).astype(np.int32)

    def take(self, num_tokens: int) -> Ints:
        num = -(-num_tokens // PAGE)
        pages, self._free = self._free[:num], self._free[num:]
        assert len(pages) == num
        return pages

    def expected(self, tokens: Longs) -> torch.Tensor:
        """transformers' own logits after each of the tokens: [T, vocabulary]."""
        logits: torch.Tensor = self.reference(torch.from_numpy(tokens)[None]).logits[0]
        return logits

    def error(self, batch: list[Slice], sequences: list[Longs]) -> float:
        """Runs an iteration; the largest difference of its logits from those of the whole sequences."""
        outcome = self.runner.run(batch, want_logits=True)
        assert outcome.logits is not None
        found = outcome.logits.clone()
        ends = [part.start + len(part.tokens) for part in batch]
        expected = [self.expected(tokens[:end])[-1] for tokens, end in zip(sequences, ends, strict=True)]
        assert torch.equal(outcome.next_tokens, found.argmax(-1))
        return float((found - torch.stack(expected)).abs().max())


def tokens_of(seed: int, num: int) -> Longs:
    return np.random.default_rng(seed).integers(0, 512, num)


def part(tokens: Longs, start: int, end: int, pages: Ints) -> Slice:
    return Slice(tokens[start:end], start, pages)
