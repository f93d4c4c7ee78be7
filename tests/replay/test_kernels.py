"""The Triton kernels in the interpreter, against plain attention that gathers every key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from pbkv.replay import cuda_attention, dense_attention
from pbkv.replay.attention import StepContext
from pbkv.replay.batch import Groups, Packed, Slice, pack
from pbkv.replay.pool import PageShape, Pool

pytest.importorskip("triton", reason="triton is for Linux only")

CPU = torch.device("cpu")
# Against fp64. fp32: hundreds of terms of size 3 summed, 2⁻²⁴ each. fp16: weights and results have 11 bits.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
MANY, FEW = 1000, 1  # processors of a GPU that would be filled by many parts, or by one


@dataclass(frozen=True)
class Case:
    """Slices as (tokens, context before them), and the shapes of heads and pages."""

    slices: tuple[tuple[int, int], ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    page_size: int = 16
    dtype: torch.dtype = torch.float32
    num_processors: int = FEW
    layout: str = "page-first"


RAGGED = ((1, 0), (1, 330), (5, 11), (1, 63), (37, 300), (2, 64), (16, 47))
CASES = [
    *(
        Case(RAGGED, heads, kv_heads, head_dim, page_size)
        for (heads, kv_heads), head_dim, page_size in product(((2, 2), (8, 2), (7, 1)), (64, 128), (16, 32))
    ),
    *(Case(((q, 200), (1, 100)), 4, 1) for q in (1, 2, 15, 16, 17, 31, 64, 65, 128)),
    *(Case(((1, c), (1, 2)), num_processors=MANY) for c in (0, 62, 63, 64, 511, 512, 1100)),
    Case(RAGGED, 8, 2, num_processors=MANY),
    Case(RAGGED, 8, 2, dtype=torch.float16, num_processors=MANY),
    Case(RAGGED, 8, 2, dtype=torch.float16, head_dim=128, page_size=32),
    Case(RAGGED, 4, 2, layout="layer-first"),
]


@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_plain_attention(case: Case) -> None:
    torch.manual_seed(0)
    pool, batch = _world(case)
    packed, groups = pack(batch, case.page_size, 128)
    num_tokens = len(packed.input_ids)
    query = torch.randn(case.num_heads, num_tokens, case.head_dim).to(case.dtype)
    key, value = torch.randn(2, num_tokens, case.num_kv_heads, case.head_dim).to(case.dtype).transpose(1, 2)
    context = _context(pool, packed, groups, case)
    found = cuda_attention.attend_cuda(context, query, key, value, 1, 0.1)
    expected = _plain(pool.layer(1), packed, query, 0.1)
    assert (found.double() - expected).abs().max() <= TOLERANCE[case.dtype]


def test_new_keys_land_in_their_slots_and_nowhere_else() -> None:
    pool = _pool(Case(()), 4)
    before = pool.pages.clone()
    key, value = torch.randn(2, 2, 3, 64)
    cuda_attention.write(pool.layer(1), torch.tensor([17, -1, 63]), key, value)
    before[1, 1, :, 1], before[3, 1, :, 15] = (torch.stack((key[:, t], value[:, t])) for t in (0, 2))
    assert torch.equal(pool.pages, before)


def test_padding_gives_zeros_and_no_nan() -> None:
    case = Case(((1, 600),), num_processors=MANY)
    pool, batch = _world(case)
    packed, _ = pack(batch, 16, 128)
    launch = cuda_attention.Tiles(0, 2, 0, 2, cuda_attention.DECODE_ROWS, 4)
    ids = torch.tensor([0, 1], dtype=torch.int32)
    context = StepContext(
        pool=pool,
        slots=torch.tensor([packed.slots[0], -1]),
        q_starts=torch.tensor([0, 1, 2], dtype=torch.int32),
        kv_lens=torch.tensor([601, 0], dtype=torch.int32),
        page_starts=torch.tensor([0, 0, 0], dtype=torch.int32),
        pages=torch.from_numpy(packed.pages),
        launch=cuda_attention.Launch((launch,), (), ids, torch.zeros_like(ids), ids[:0]),
    )
    out = cuda_attention.attend_cuda(
        context, torch.randn(4, 2, 64), torch.randn(2, 2, 64), torch.randn(2, 2, 64), 0, 0.1
    )
    assert out[0].abs().max() > 0
    assert torch.equal(out[1], torch.zeros(4, 64))


def test_parts_are_enough_to_fill_the_gpu_and_long_enough_to_be_worth_it() -> None:
    assert cuda_attention.num_splits(1, 8, 60_000, 132) == 64
    assert cuda_attention.num_splits(32, 8, 4_096, 132) == 2
    assert cuda_attention.num_splits(256, 8, 60_000, 132) == 1
    assert cuda_attention.num_splits(1, 8, 500, 132) == 1


def _world(case: Case) -> tuple[Pool, list[Slice]]:
    rng = np.random.default_rng(0)
    needed = [-(-(q + context) // case.page_size) for q, context in case.slices]
    ids = rng.permutation(sum(needed) + 3).astype(np.int32)
    batch, first = [], 0
    for (q, context), num in zip(case.slices, needed, strict=True):
        batch.append(Slice(np.zeros(q, dtype=np.int64), context, ids[first : first + num]))
        first += num
    return _pool(case, len(ids)), batch


def _pool(case: Case, num_pages: int) -> Pool:
    shape = PageShape(2, case.page_size, case.num_kv_heads, case.head_dim, case.dtype)
    pool = Pool(shape, num_pages, CPU, layout="layer-first" if case.layout == "layer-first" else "page-first")
    pool.pages.copy_(torch.randn(pool.pages.shape))
    return pool


def _context(pool: Pool, packed: Packed, groups: Groups, case: Case) -> StepContext:
    arrays = packed.arrays() | cuda_attention.tile_arrays(packed, groups, case.num_heads // case.num_kv_heads)
    staged = {name: torch.from_numpy(array) for name, array in arrays.items()}
    launch = cuda_attention.plan_launch(packed, groups, staged, case.num_kv_heads, case.num_processors)
    return StepContext.of(pool, staged, launch)


def _plain(pages: torch.Tensor, packed: Packed, query: torch.Tensor, scale: float) -> torch.Tensor:
    """[T, Hq, D] in fp64, every token on its own."""
    out = torch.zeros(query.shape[1], query.shape[0], query.shape[2], dtype=torch.float64)
    for number, kv_len in enumerate(packed.kv_lens.tolist()):
        begin, end = packed.q_starts[number : number + 2].tolist()
        ids = packed.pages[packed.page_starts[number] : packed.page_starts[number + 1]]
        seen = pages[torch.from_numpy(ids)].double().repeat_interleave(query.shape[0] // pages.shape[3], 3)
        key, value = seen[:, 0].flatten(0, 1), seen[:, 1].flatten(0, 1)
        for row in range(begin, end):
            num = kv_len - (end - 1 - row)
            scores = torch.einsum("hd,khd->hk", query[:, row].double(), key[:num]) * scale
            out[row] = torch.einsum("hk,khd->hd", scores.softmax(-1), value[:num])
    return out


def test_kernels_compile_for_an_h100_without_stack_and_load_keys_asynchronously() -> None:
    program = Path(__file__).with_name("cross_compile.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(program.parents[2])
    command = [sys.executable, str(program)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    report = json.loads(said)
    assert all(kernel["stack"] == kernel["local"] == 0 for kernel in report.values()), report
    assert all(report[name]["cp_async"] for name in report if name.startswith(("decode", "extend"))), report
    assert all(kernel["shared"] <= 227 * 1024 for kernel in report.values()), report


def test_varlen_attention_is_asked_for_as_this_torch_spells_it() -> None:
    def of_211(q: object, *, scale: float, window_size: tuple[int, int] = (-1, -1)) -> None: ...
    def of_213(q: object, *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False) -> None: ...
    def of_210(q: object, *, is_causal: bool = False) -> None: ...

    assert cuda_attention.options_of(of_211) == {"window_size": (-1, 0)}
    assert cuda_attention.options_of(of_213) == {"window_size": (-1, 0), "enable_gqa": True}
    assert cuda_attention.options_of(of_210) == {"is_causal": True}


def test_long_slices_go_to_varlen_attention_with_their_gathered_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[list[int], list[int], int, int]] = []

    def varlen(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, q_bounds: torch.Tensor,
        kv_bounds: torch.Tensor, max_q: int, max_kv: int, *, scale: float, **options: object,
    ) -> torch.Tensor:  # fmt: skip
        calls.append((q_bounds.tolist(), kv_bounds.tolist(), max_q, max_kv))
        mask = torch.ones(max_q, max_kv, dtype=torch.bool).tril(max_kv - max_q)
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True).transpose(0, 1)

    monkeypatch.setattr(cuda_attention, "_varlen_options", lambda: (varlen, {}))
    test_kernels_equal_plain_attention(Case(((1, 40), (150, 30), (3, 9), (129, 0)), dtype=torch.float16))
    assert calls == [([0, 150], [0, 180], 150, 180), ([0, 129], [0, 129], 129, 129)]


@pytest.mark.parametrize("rows_at_once", [1, 40, 129, 1000])
def test_long_slices_of_fp32_which_varlen_attention_has_not_are_attended_in_blocks_of_rows(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_attention, "SCORE_BYTES", 4 * 4 * 180 * rows_at_once)
    monkeypatch.setattr(cuda_attention, "varlen", None)
    test_kernels_equal_plain_attention(Case(((1, 40), (150, 30), (3, 9), (129, 0))))
