"""Profiles: the shipped ones against known rooflines and capacities, the two forms, and every bad input."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pbkv.sim.cost_model import CostModel
from pbkv.sim.profile import HardwareProfile, load_profile, parse_profile, shipped_profiles
from pbkv.traces.errors import ConfigError

PEAKS = {"gemm": 1, "attention": 1, "weights": 1, "kv": 1, "kv_passes": 0, "ridge_exponent": 1000}


def to_toml(tables: dict[str, Any]) -> str:
    """A profile's tables as TOML: JSON writes its texts, numbers and lists the same way."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines)


def tables_of(name: str) -> dict[str, Any]:
    return deepcopy(dict(load_profile(name).inputs))


def at_the_ceiling(name: str) -> CostModel:
    tables = tables_of(name)
    tables["efficiency"] = PEAKS
    tables["overhead"] = {"iteration_s": 0, "sequence_s": 0}
    return parse_profile(to_toml(tables), name, name).cost


def decode_ms(cost: CostModel, num_sequences: int, context: int) -> float:
    return 1e3 * cost.iteration_s(num_sequences, num_sequences, 0.0, 0, num_sequences * context)


def prefill_ms(cost: CostModel, chunk: int, context: int) -> float:
    return 1e3 * cost.iteration_s(chunk, 1, chunk * (context + chunk / 2), context + chunk, 0)


# ------------------------------------------------------------------ the shipped profiles


def test_the_shipped_profiles_are_those_promised() -> None:
    assert shipped_profiles() == (
        "2xa6000-qwen3-32b",
        "2xa6000-qwen3-32b-awq",
        "a6000-qwen3-14b",
        "a6000-qwen3-14b-awq",
        "h100-llama-3.1-8b",
        "h100-qwen3-8b",
        "h200-llama-3.1-8b",
        "h200-qwen3-8b",
    )


# The ceilings of the replay engine's notes, in ms, and the share of them that the profile should reach.
ROOFLINE = [
    ("h100-llama-3.1-8b", 5.2, 10.7, 16.5, 167, 20),
    ("h200-llama-3.1-8b", 3.6, 7.5, 11.5, 167, 20),
]
TWO_DIGITS = 0.02  # relative: the notes give two or three digits (20 for 20.3)


@pytest.mark.parametrize(("name", "one", "many", "long", "prefill", "extend"), ROOFLINE)
def test_at_full_efficiency_times_are_the_roofline(
    name: str, one: float, many: float, long: float, prefill: float, extend: float
) -> None:
    cost = at_the_ceiling(name)
    assert decode_ms(cost, 1, 4096) == pytest.approx(one, rel=TWO_DIGITS)
    assert decode_ms(cost, 32, 4096) == pytest.approx(many, rel=TWO_DIGITS)
    assert decode_ms(cost, 32, 8192) == pytest.approx(long, rel=TWO_DIGITS)
    assert prefill_ms(cost, 8192, 0) == pytest.approx(prefill, rel=TWO_DIGITS)
    assert prefill_ms(cost, 512, 32768) == pytest.approx(extend, rel=TWO_DIGITS)


@pytest.mark.parametrize(("name", "one", "many", "long", "prefill", "extend"), ROOFLINE)
def test_stated_efficiencies_lie_in_the_bands_aimed_at(
    name: str, one: float, many: float, long: float, prefill: float, extend: float
) -> None:
    cost = load_profile(name).cost
    assert 0.80 <= one / decode_ms(cost, 1, 4096) <= 0.85
    assert 0.80 <= many / decode_ms(cost, 32, 4096) <= 0.88
    assert 0.80 <= long / decode_ms(cost, 32, 8192) <= 0.88
    assert 0.70 <= prefill / prefill_ms(cost, 8192, 0) <= 0.75
    assert 0.50 <= extend / prefill_ms(cost, 512, 32768) <= 0.60


def test_loading_32k_tokens_takes_what_a_memcpy_takes() -> None:
    profile = load_profile("h100-llama-3.1-8b")
    seconds = profile.link.h2d_s(32768 * profile.kv_bytes_per_token, other_busy=False)
    assert 0.086 * 50 / 54 <= seconds <= 0.086 / 0.9  # 86 ms at 50 GB/s; at least 90 % of it, at most 54 GB/s


@pytest.mark.parametrize(
    ("name", "bytes_per_token", "kv_gb"),
    [
        ("h100-llama-3.1-8b", 131_072, 0.9 * 80 - 16.06 - 2),
        ("h200-llama-3.1-8b", 131_072, 0.9 * 141 - 16.06 - 2),
        ("h100-qwen3-8b", 147_456, 0.9 * 80 - 16.38 - 2),
        ("h200-qwen3-8b", 147_456, 0.9 * 141 - 16.38 - 2),
        ("a6000-qwen3-14b", 163_840, 0.9 * 48 - 29.54 - 1),
        ("2xa6000-qwen3-32b", 262_144, 0.9 * 96 - 65.52 - 2),  # about 19 GB: all that bf16 leaves of 96
    ],
)
def test_memory_left_for_kv(name: str, bytes_per_token: int, kv_gb: float) -> None:
    profile = load_profile(name)
    assert profile.kv_bytes_per_token == bytes_per_token
    assert profile.default_kv_bytes == pytest.approx(kv_gb * 1e9, abs=0.02e9)  # the weights to two digits


def test_two_a6000_cannot_decode_32b_as_fast_as_the_paper_says() -> None:
    cost = load_profile("2xa6000-qwen3-32b").cost
    floor_ms = (
        1e3 * 2 * (32_762_123_264 - 151_936 * 5120) / (2 * 768e9)
    )  # all weights but the embedding, once
    assert 12.34 < floor_ms < decode_ms(cost, 1, 1)


def test_tensor_parallel_shares_the_work_and_pays_all_reduces() -> None:
    tables = tables_of("2xa6000-qwen3-32b")
    tables["gpu"]["memory_bytes"] = 96e9  # so that one GPU can hold it
    two = parse_profile(to_toml(tables), "two", "two").cost
    del tables["parallel"]
    one = parse_profile(to_toml(tables), "one", "one").cost
    assert two.a_d == pytest.approx(one.a_d / (2 * 0.95))
    assert two.a_p == pytest.approx(one.a_p / (2 * 0.95))
    assert two.t0_s == pytest.approx(one.t0_s + 2 * 64 * 20e-6)
    sent_bytes = (
        16384 * 2 * 64 * 5120 * 2
    )  # two rings a layer, in each of which a GPU sends the activations once
    assert two.lin[-1][1] == pytest.approx(one.lin[-1][1] / (2 * 0.95) + sent_bytes / 22e9)


@pytest.mark.parametrize("name", shipped_profiles())
def test_lin_follows_the_roofline_and_rounds_its_corner(name: str) -> None:
    tables = tables_of(name)
    tables.pop("parallel", None)  # its all-reduces come on top
    tables["gpu"]["memory_bytes"] = 192e9
    soft = parse_profile(to_toml(tables), name, name).cost
    tables["efficiency"]["ridge_exponent"] = 1000
    hard = parse_profile(to_toml(tables), name, name).cost
    for num_tokens in range(1, 20_000, 37):
        soft_s, hard_s = (cost.iteration_s(num_tokens, 0, 0.0, 0, 0) - cost.t0_s for cost in (soft, hard))
        assert hard_s * 0.999 <= soft_s <= hard_s * 2**0.25  # p = 4: at most 2^(1/4) above, at the ridge
    assert soft.lin[0][1] == pytest.approx(hard.lin[0][1], rel=1e-4)
    assert soft.lin[-1][1] == pytest.approx(hard.lin[-1][1], rel=1e-4)


def test_a_quarter_of_the_weight_bytes_is_read_in_a_quarter_of_the_time() -> None:
    tables = tables_of("a6000-qwen3-14b")
    tables["precision"]["weight_bytes"] = 0.5
    quarter = parse_profile(to_toml(tables), "quantised", "quantised")
    full = load_profile("a6000-qwen3-14b")
    assert quarter.cost.lin[0][1] == pytest.approx(full.cost.lin[0][1] / 4, rel=1e-4)  # far from the ridge
    assert quarter.default_kv_bytes - full.default_kv_bytes == pytest.approx(1.5 * 14_768_307_200)


# ------------------------------------------------------------------ the two forms


@pytest.mark.parametrize("name", shipped_profiles())
def test_what_a_run_prints_is_a_calibrated_profile_of_the_same_times(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    printed = json.loads(json.dumps(profile.to_dict()))
    path = tmp_path / f"{name}.toml"
    path.write_text(
        to_toml({key: printed[key] for key in ("cost", "kv", "link", "engine")}), encoding="utf-8"
    )
    assert load_profile(str(path)) == profile
    assert printed["inputs"] == dict(profile.inputs)


def test_where_a_profile_comes_from_may_be_told_in_free_words() -> None:
    tables = {"source": {"by": "calibrate", "on": "2027-01-01"}, **CALIBRATED}
    assert parse_profile(to_toml(tables), "mine", "mine").to_dict()["inputs"]["source"]["by"] == "calibrate"


def test_a_given_link_rate_replaces_the_profiles() -> None:
    profile = load_profile("h100-llama-3.1-8b").with_link(h2d_bytes_per_s=32e9, d2h_bytes_per_s=32e9)
    assert profile.link.h2d_s(32 * 10**9, True) == pytest.approx(1.0, rel=1e-4)
    assert profile.cost == load_profile("h100-llama-3.1-8b").cost


def test_a_profile_can_be_put_together_in_python() -> None:
    given = parse_profile(to_toml(CALIBRATED), "mine", "mine")
    assert HardwareProfile("mine", given.cost, 1000, 10**9, given.link) == given


CALIBRATED: dict[str, dict[str, Any]] = {
    "cost": {"t0_s": 1e-3, "lin": [[1, 5e-3], [512, 0.012]], "a_p": 1e-9, "a_g": 0, "a_d": 5e-8, "a_s": 2e-6},
    "kv": {"bytes_per_token": 1000, "memory_bytes": 10**9},
    "link": {
        "latency_s": 0,
        "h2d_bytes_per_s": 5e10,
        "d2h_bytes_per_s": 5e10,
        "h2d_bytes_per_s_contended": 4e10,
        "d2h_bytes_per_s_contended": 4e10,
    },
}


# ------------------------------------------------------------------ bad input


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "x", "x.toml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("h100")
    assert str(caught.value).startswith("profile: got h100, expected one of 2xa6000-qwen3-32b, ")
    assert all(name in str(caught.value) for name in shipped_profiles())


def test_a_missing_file_and_a_binary_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml.*a readable UTF-8 file"):
        load_profile(str(tmp_path / "nowhere.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml.*a readable UTF-8 file"):
        load_profile(str(tmp_path / "binary.toml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gpu", "x.toml: got "),
        ("", "x.toml: efficiency: got nothing"),
        ("[cost]\nt0_s = 1", "x.toml: kv: got nothing"),
        ("cost = 3\nkv = 1\nlink = 1", "x.toml: kv: got 1, expected a table"),
    ],
)
def test_text_that_is_no_profile(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("table", "key", "value", "expected"),
    [
        ("gpu", "memory_bytes_per_s", 0, "gpu.memory_bytes_per_s: got 0, expected a finite number > 0"),
        ("gpu", "flops_per_s", "fast", "gpu.flops_per_s: got fast, expected a finite number > 0"),
        ("gpu", "name", "", "gpu.name: got , expected a text"),
        ("gpu", "memory_bytes", 16e9, "gpu.memory_bytes: got 16000000000.0, expected more than"),
        ("gpu", "flops", 1e12, "gpu.flops: got an unknown key, expected one of flops_per_s, memory_bytes"),
        ("gpu", "flops_per_s", None, "gpu.flops_per_s: got nothing"),
        ("model", "num_layers", 32.0, "model.num_layers: got 32.0, expected a whole number > 0"),
        ("model", "num_layers", 33, "model.num_parameters: got 8030261248, expected"),
        ("model", "num_kv_heads", 7, "model.num_kv_heads: got 7, expected a divisor of num_heads (32)"),
        ("model", "num_heads", True, "model.num_heads: got True, expected a whole number > 0"),
        ("precision", "kv_bytes", -1, "precision.kv_bytes: got -1, expected a finite number > 0"),
        ("memory", "utilisation", 1.1, "memory.utilisation: got 1.1, expected a finite number > 0 and ≤ 1"),
        ("memory", "reserve_bytes", -1, "memory.reserve_bytes: got -1, expected a finite number ≥ 0"),
        ("efficiency", "gemm", 0, "efficiency.gemm: got 0, expected a finite number > 0 and ≤ 1"),
        ("efficiency", "ridge_exponent", 0.5, "ridge_exponent: got 0.5, expected a finite number ≥ 1"),
        ("overhead", "iteration_s", "300us", "overhead.iteration_s: got 300us"),
        ("link", "h2d_bytes_per_s", 0, "link.h2d_bytes_per_s: got 0, expected a number > 0"),
        ("link", "latency_s", "6us", "link.latency_s: got 6us, expected a finite number ≥ 0"),
        ("link", "d2h_bytes_per_s", None, "link.d2h_bytes_per_s: got nothing"),
        ("parallel", "num_gpus", 3, "parallel.num_gpus: got 3, expected a divisor of num_kv_heads (8)"),
        ("parallel", "efficiency", 2, "parallel.efficiency: got 2"),
        (
            "speed",
            "x",
            1,
            "x.toml: speed: got an unknown table, expected one of efficiency, engine, gpu, link, memory",
        ),
    ],
)
def test_a_bad_field_of_a_derived_profile(table: str, key: str, value: object, expected: str) -> None:
    tables = tables_of("h100-llama-3.1-8b")
    tables.setdefault(table, {})[key] = value
    if value is None:
        del tables[table][key]
    message = refusal(to_toml(tables))
    assert message.startswith("x.toml: ")
    assert expected in message


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    text = to_toml(tables_of("h100-llama-3.1-8b")).replace(
        "memory_bytes = 80000000000.0", f"memory_bytes = {number}"
    )
    assert f"gpu.memory_bytes: got {float(number)}, expected a finite number > 0" in refusal(text)


@pytest.mark.parametrize(
    ("table", "key", "value", "expected"),
    [
        ("cost", "a_d", -1, "cost.a_d: got -1, expected a finite number ≥ 0"),
        ("cost", "lin", [[1, 2, 3]], "cost.lin: got [[1, 2, 3]], expected a list of [tokens, seconds]"),
        ("cost", "lin", 4, "cost.lin: got 4, expected a list of [tokens, seconds]"),
        ("cost", "lin", [[1, 0.2], [2, 0.1]], "cost.lin: got [2, 0.1], expected above 1 tokens and ≥ 0.2 s"),
        ("cost", "b", 1, "cost.b: got an unknown key"),
        ("kv", "bytes_per_token", 0, "kv.bytes_per_token: got 0, expected a whole number > 0"),
        ("kv", "memory_bytes", 1e9, "kv.memory_bytes: got 1000000000.0, expected a whole number > 0"),
        ("efficiency", "gemm", 1, "efficiency: got an unknown table"),
    ],
)
def test_a_bad_field_of_a_calibrated_profile(table: str, key: str, value: object, expected: str) -> None:
    tables = deepcopy(CALIBRATED)
    tables.setdefault(table, {})[key] = value
    assert expected in refusal(to_toml(tables))


def test_a_table_that_is_a_number() -> None:
    assert "x.toml: link: got 3, expected a table" in refusal(
        "link = 3\n" + to_toml({key: CALIBRATED[key] for key in ("cost", "kv")})
    )


def test_all_coefficients_of_shipped_profiles_are_positive_and_finite() -> None:
    for name in shipped_profiles():
        cost = load_profile(name).cost.to_dict()
        knots = cost.pop("lin")
        assert isinstance(knots, list)
        assert all(isinstance(value, float) and 0 < value < math.inf for value in cost.values())


def test_four_bit_weights_are_read_faster_and_leave_more_memory() -> None:
    """What the profile says of itself: 13 ms at the datasheet's bandwidth, 247 k tokens of KV."""
    full, packed = (load_profile(name) for name in ("2xa6000-qwen3-32b", "2xa6000-qwen3-32b-awq"))
    assert packed.default_kv_bytes // packed.kv_bytes_per_token == pytest.approx(247_000, rel=0.01)
    step_s = packed.cost.iteration_s(1, 1, 0.0, 0, 1)
    assert step_s < full.cost.iteration_s(1, 1, 0.0, 0, 1) / 2.5
    assert packed.cost.iteration_s(4096, 1, 0.0, 0, 1) == pytest.approx(
        full.cost.iteration_s(4096, 1, 0.0, 0, 1), rel=0.01
    )
