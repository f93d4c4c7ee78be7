"""The bench of a real machine: what it measures is computed, and the command closes the loop on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pbkv.replay.bench import ModelBench, pages_of
from pbkv.replay.calibrated import Wanted, calibrate_to
from pbkv.replay.model import load_model
from pbkv.replay.shapes import Scale, shapes_to_fit
from pbkv.sim.profile import load_profile
from pbkv.traces.errors import ConfigError

TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # of random:tiny: layers, K and V, heads, head size, fp32
SCALE = Scale(64, 128, 8, 1024)
SMALL = ["--max-batched-tokens", "64", "--max-context", "128", "--max-sequences", "8", "--threads", "1"]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModelBench]:
    model = load_model("random:tiny", torch.device("cpu"))
    with ModelBench(model, SCALE, 16) as bench:
        yield bench


def pbkv(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pbkv", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_shape_of_its_scale_has_pages_and_takes_time(bench: ModelBench) -> None:
    assert all(bench.iteration_s(shape) > 0 for shape in shapes_to_fit(SCALE))
    crowded = [(1, SCALE.max_pool_tokens // SCALE.max_sequences - 1)] * SCALE.max_sequences
    assert SCALE.holds(crowded)
    assert bench.iteration_s(crowded) > 0


def test_more_work_takes_longer(bench: ModelBench) -> None:
    small, large = ([(8, 0)], [(16, 900)] * 1 + [(40, 64)])
    times = [min(bench.iteration_s(shape) for _ in range(7)) for shape in (small, large)]
    assert times[0] < times[1]


def test_copies_go_both_ways_alone_and_beside_each_other(bench: ModelBench) -> None:
    assert bench.max_copy_pages >= 4
    for direction in ("h2d", "d2h"):
        for busy in (False, True):
            assert bench.copy_s(bench.max_copy_pages, direction, busy) > 0


def test_pages_cover_sequences_that_each_begin_a_page() -> None:
    assert pages_of(Scale(64, 128, 8, 1024), 16) >= 8 * -(-(1024 // 8 + 8) // 16)


def test_the_command_writes_a_profile_that_the_simulator_takes(tmp_path: Path) -> None:
    target = tmp_path / "cpu.toml"
    options = ["--model", "random:tiny", "--device", "cpu", "--repeats", "1", *SMALL]
    done = pbkv("calibrate", *options, "-o", target, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["held_out"]["number"] == len(found["held_out_s"]) == 20
    profile = load_profile(str(target))
    assert profile.cost.t0_s == pytest.approx(found["iterations"]["t0_s"])
    assert profile.kv_bytes_per_token == TOKEN_BYTES
    assert profile.max_batched_tokens == 64
    assert profile.inputs["source"]["model"] == "random:tiny, float32"
    refused = pbkv("calibrate", *options, "-o", target)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "expected a path that does not exist" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "random:huge"}, "model: got random:huge, expected one of"),
        ({"device": "tpu"}, "device: got tpu"),
        ({"dtype": "int8"}, "dtype: got int8, expected one of bfloat16"),
        ({"num_repeats": 0}, "num_repeats: got 0"),
        ({"max_context": 131_072}, "max_context: got 131072, expected at most 130048"),
        ({"max_sequences": 2000}, "max_batched_tokens: got 1024, expected more than 2000 sequences"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    values: dict[str, object] = {"model": "random:tiny", "device": "cpu", **changes}
    with pytest.raises(ConfigError, match=message):
        calibrate_to(tmp_path / "x.toml", Wanted(**values))  # type: ignore[arg-type] # as a user may give them
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free_tokens", "pool_tokens"),
    [
        (1 << 30, 24_576),  # plenty: what the shapes need and no more
        (4 * 12_288, 12_288 - 2 * 32 * 32),  # little: a quarter of it, less a page or two a sequence
    ],
)
def test_pools_are_as_large_as_their_shapes_need_within_a_share_of_what_is_free(
    free_tokens: int, pool_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[Scale] = []

    def stops(model: object, scale: Scale, page_size: int, **_: object) -> None:
        scales.append(scale)
        raise KeyboardInterrupt

    monkeypatch.setattr("pbkv.replay.machine.free_bytes", lambda device: free_tokens * TOKEN_BYTES)
    monkeypatch.setattr("pbkv.replay.calibrated.ModelBench", stops)
    with pytest.raises(KeyboardInterrupt):
        calibrate_to(tmp_path / "x.toml", Wanted("random:tiny", "cpu"))
    assert [scale.max_pool_tokens for scale in scales] == [pool_tokens]
    assert pages_of(scales[0], 32) * 32 <= free_tokens / 4


def test_memory_that_does_not_hold_one_context_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pbkv.replay.machine.free_bytes", lambda device: 4 * 4096 * TOKEN_BYTES)
    said = "memory: got 0.002 GiB for pages, expected room for a context of 4096 and 1024 tokens more"
    with pytest.raises(ConfigError, match=said):
        calibrate_to(tmp_path / "x.toml", Wanted("random:tiny", "cpu"))


def test_a_profile_is_a_toml_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a path that ends in \.toml"):
        calibrate_to(tmp_path / "x.json", Wanted("random:tiny", "cpu"))
