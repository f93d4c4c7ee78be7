"""The knobs of a workload: what the shipped files rest on, and what a bad one is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pbkv.traces.errors import ConfigError
from pbkv.traces.generate import generate_workload
from pbkv.traces.knobs import load_workload

GOOD = """
name = "tiny"
app = "tiny"
source = "test"
licence = "CC0"
routes = [{ name = "again", agents = ["a"], weights = [1] }]
scale = { prompts = 2, briefs = 1, fresh = 1, outputs = 3, gaps = 1 }
context = { num_dims = 2, noise = 0, seed = 0, agent = 1, level = 1, leg = 1, planned = 1, fade = 1 }
[[levels]]
name = "only"
weight = 1
legs = { median = 2, sigma = 0 }
statement = { median = 3, sigma = 0 }
[[agents]]
name = "a"
system = 16
tools = 0
brief = { median = 1, sigma = 0 }
fresh = { median = 1, sigma = 0 }
fresh_kind = "user"
thought = { median = 2, sigma = 0 }
output = { median = 4, sigma = 0 }
gap_s = { median = 0, sigma = 0 }
next = ["a", "END"]
[plan]
opening = ["a"]
closing = []
persist_ratio = 0
stray_ratio = 0
stray_end_ratio = 0
"""


def _written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return str(path)


def test_a_file_of_ones_own_is_generated_and_scaled(tmp_path: Path) -> None:
    (workflow,) = generate_workload(_written(tmp_path, GOOD), 1, seed=0)
    assert [list(call.segment_tokens) for call in workflow.calls] == [
        [32, 3, 1, 1],
        [32, 3, 1, 1, 12, 1],
        [32, 3, 1, 1, 12, 1, 12, 1],
    ]
    assert [call.num_output_tokens for call in workflow.calls] == [18, 18, 18]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("sigma = 0 }", "sigma = -1 }", "a number ≥ 0"),
        ("system = 16", "system = nan", "a whole number ≥ 0"),
        ("system = 16", "system = 0", "a number ≥ 1"),
        ("noise = 0", "noise = inf", "a number ≥ 0"),
        ("stray_ratio = 0", "stray_ratio = 1.5", "from 0 to 1"),
        ("fade = 1", "fade = 1, glow = 2", "unknown key"),
        ("tools = 0", "", "missing"),
        ('"user"', '"prose"', "one of system"),
        ("weights = [1]", "weights = [1, 1]", "1 of them"),
        ("weight = 1", "weight = 0", "above 0"),
        ('["a", "END"]', '["END"]', "taken, but not declared"),
        ('["a", "END"]', '["a", "b", "END"]', "taken by no leg"),
        ('opening = ["a"]', "opening = []", "not empty"),
        ("num_dims = 2", "num_dims = 0", "a number ≥ 1"),
        ('name = "tiny"', "name = ", "TOML"),
    ],
)
def test_a_bad_knob_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=told) as caught:
        generate_workload(_written(tmp_path, GOOD.replace(old, new)), 1, seed=0)
    assert "\n" not in str(caught.value)


def test_hovers_levels_are_those_of_the_claims(shared_data: Path) -> None:
    with gzip.open(shared_data / "classC" / "hover_dev_facts.jsonl.gz", "rt") as lines:
        claims = [json.loads(line) for line in lines]
    for level in load_workload("hover").levels:
        tokens = [c["claim_tokens"] for c in claims if f"{c['num_hops']} hops" == level.name]
        assert level.weight == len(tokens)
        assert level.statement.median == np.median(tokens)
