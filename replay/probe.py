"""A first measure of what a miss costs on this machine: a few forward passes and copies.

Enough for policies that weigh costs against each other; `pbkv calibrate` measures in earnest.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from pbkv.cache.known import MissCosts
from pbkv.replay.batch import Slice
from pbkv.replay.model import page_shape
from pbkv.replay.pool import Pool, copy_runs
from pbkv.replay.runner import ModelRunner

_PAGE = 16
_CHUNK, _CONTEXT = 512, 2048  # tokens
_REPEATS = 5


def measured_miss_costs(model: Any, device: torch.device) -> MissCosts:
    """Seconds a prompt token and a pair of tokens, a copy up and a token of it; medians of five."""
    num_pages = (_CONTEXT + _CHUNK) // _PAGE
    shape = page_shape(model, _PAGE)
    gpu = Pool(shape, num_pages, device)
    host = Pool(shape, num_pages, torch.device("cpu"), is_pinned=device.type == "cuda")
    try:
        runner, pages = ModelRunner(model, gpu), np.arange(num_pages, dtype=np.int32)
        gpu.pages.zero_()
        chunk = np.full(_CHUNK, 20, np.int64)

        def prefill(tokens: int, start: int) -> float:
            def run() -> None:
                runner.run([Slice(chunk[:tokens], start, pages)])
                runner.synchronize()

            return _median_s(run)

        def load(num: int) -> float:
            def run() -> None:
                copy_runs(host, gpu, pages[:num], pages[:num])
                runner.synchronize()

            return _median_s(run)

        short_s, long_s, deep_s = prefill(_CHUNK // 2, 0), prefill(_CHUNK, 0), prefill(_CHUNK, _CONTEXT)
        one_s, all_s = load(1), load(num_pages)
    finally:
        host.close()
    per_token_s = max((long_s - short_s) / (_CHUNK // 2), 1e-9)
    per_pair_s = max((deep_s - long_s) / (_CHUNK * _CONTEXT), 0.0)
    load_s = max((all_s - one_s) / ((num_pages - 1) * _PAGE), 1e-12)
    return MissCosts(per_token_s, per_pair_s, one_s, load_s)


def _median_s(run: Callable[[], None]) -> float:
    run()
    seconds = []
    for _ in range(_REPEATS):
        started_s = perf_counter()
        run()
        seconds.append(perf_counter() - started_s)
    return median(seconds)
