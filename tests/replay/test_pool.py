"""Pages keep their bits, go where they are sent, and are only promised where there is memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbkv.replay import machine, memory, pool
from pbkv.replay.machine import machine_of
from pbkv.replay.memory import HostMemory, free_bytes
from pbkv.replay.model import load_model, page_shape
from pbkv.replay.pool import Layout, PageShape, Pool, copy_runs, runs
from pbkv.replay.run import check_memory
from pbkv.replay.settings import ReplaySettings
from pbkv.traces.errors import ConfigError

CPU = torch.device("cpu")
SHAPE = PageShape(num_layers=3, page_size=4, num_kv_heads=2, head_dim=8, dtype=torch.bfloat16)


def test_a_page_of_llama_8b_is_4_mib() -> None:
    assert PageShape(32, 32, 8, 128, torch.bfloat16).num_bytes == 4 * 2**20


def test_page_first_keeps_a_page_in_one_piece_and_layer_first_a_layer() -> None:
    by_page, by_layer = Pool(SHAPE, 5, CPU), Pool(SHAPE, 5, CPU, layout="layer-first")
    assert by_page.pages.shape == by_layer.pages.shape == (5, 3, 2, 4, 2, 8)
    assert by_page.pages[2].is_contiguous()
    assert not by_layer.pages[2].is_contiguous()
    assert by_layer.layer(1).is_contiguous()
    assert all(piece.is_contiguous() for each in (by_page, by_layer) for piece in each.pieces(1, 4))


@pytest.mark.parametrize("layout", ["page-first", "layer-first"])
def test_a_round_trip_keeps_every_bit(layout: Layout) -> None:
    gpu, host = Pool(SHAPE, 9, CPU, layout=layout), Pool(SHAPE, 7, CPU, layout=layout)
    bits = torch.randint(-(2**15), 2**15, gpu.pages.shape, dtype=torch.int16)  # NaNs and all
    gpu.pages.view(torch.int16).copy_(bits)
    copy_runs(gpu, host, np.array([3, 4, 8]), np.array([0, 1, 5]))
    gpu.pages.zero_()
    copy_runs(host, gpu, np.array([5, 0, 1]), np.array([2, 6, 7]))
    found = gpu.pages.view(torch.int16)
    assert torch.equal(found[[6, 7, 2]], bits[[3, 4, 8]])
    assert not found[[0, 1, 3, 4, 5, 8]].any()


def test_one_copy_a_run() -> None:
    gpu, host = Pool(SHAPE, 20, CPU), Pool(SHAPE, 20, CPU)
    assert copy_runs(gpu, host, np.arange(3, 13), np.arange(10)) == 1
    assert copy_runs(gpu, host, np.arange(10), np.arange(10)[::-1]) == 10
    assert copy_runs(gpu, host, np.array([], dtype=np.int32), np.array([], dtype=np.int32)) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_runs_name_every_pair_once_and_are_as_long_as_can_be(pairs: list[tuple[int, int]]) -> None:
    source, target = (
        np.array(list(side), dtype=np.int32) for side in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    found = list(runs(source, target))
    assert [(a + i, b + i) for a, b, length in found for i in range(length)] == pairs
    ends = [(a + length, b + length) for a, b, length in found]
    assert all(end != start[:2] for end, start in zip(ends, found[1:], strict=False))


def test_pools_of_different_layout_do_not_mix() -> None:
    with pytest.raises(ValueError, match="same shape and layout"):
        copy_runs(
            Pool(SHAPE, 2, CPU), Pool(SHAPE, 2, CPU, layout="layer-first"), np.array([0]), np.array([0])
        )


def test_a_pool_larger_than_memory_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "free_bytes", lambda device: 100 * SHAPE.num_bytes)
    with pytest.raises(
        ConfigError, match=r"pool: got 96 pages \(0\.0 GiB\), expected at most 95 pages"
    ) as error:
        Pool(SHAPE, 96, CPU)
    assert "\n" not in str(error.value)
    Pool(SHAPE, 95, CPU).close()


def test_both_tiers_of_a_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("random:tiny", CPU)
    num_bytes = 1000 * page_shape(model, 32).num_bytes
    monkeypatch.setattr(machine, "free_bytes", lambda device: num_bytes)
    monkeypatch.setattr(pool, "free_bytes", lambda device: num_bytes)
    hardware = machine_of("random:tiny", model, CPU, 1024)
    settings = ReplaySettings(profile=hardware, policies=("lru",), block_size=32)
    check_memory(settings, model)  # the default of both tiers
    with pytest.raises(ConfigError, match="pool: got 1200 pages"):
        check_memory(replace(settings, gpu_blocks=(600,)), model)


def test_a_pool_without_pages_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one page"):
        Pool(SHAPE, 0, CPU)


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    without = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert without > 2000
    assert free_bytes(CPU) == 2000


def test_what_torch_keeps_of_an_earlier_pool_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(torch.device("cuda")) == 50


def test_host_memory_is_pinned_once_and_unpinned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Cuda:
        def __getattr__(self, name: str) -> object:
            return lambda *given: calls.append((name, *given))

    monkeypatch.setattr(memory, "_cudart", Cuda)
    held = HostMemory(1 << 20, is_pinned=True)
    held.close()
    held.close()
    at = held.bytes.data_ptr()
    assert calls == [("cudaHostRegister", at, 1 << 20, 1), ("cudaHostUnregister", at)]


def test_a_host_pool_that_cuda_does_not_pin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = SimpleNamespace(cudaHostRegister=lambda *_: SimpleNamespace(value=2))
    monkeypatch.setattr(memory, "_cudart", lambda: refuses)
    with pytest.raises(ConfigError, match=r"host pool: got 0.5 GiB, .* can pin here \(its error 2\)"):
        HostMemory(1 << 29, is_pinned=True)
