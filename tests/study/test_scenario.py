"""Scenario files: what they stand for, and one clear line for each mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pbkv.study.cell import PreparedTrace
from pbkv.study.policies import unused_options
from pbkv.study.scenario import Scenario, read_scenario
from pbkv.traces.errors import ConfigError

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"
NOTHING = PreparedTrace("hover", "nowhere", "", 0)


def scenario(folder: Path, text: str, head: str = 'traces = ["hover.parquet"]\n') -> Scenario:
    shutil.copy(TRACE, folder / "hover.parquet")
    (folder / "s.toml").write_text(head + text)
    return read_scenario(folder / "s.toml")


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    found = scenario(
        tmp_path,
        """
        policies = ["lru", { name = "pbkv", gamma = 0.9 }, { name = "pbkv", variant = "paper" }]
        gpu_blocks = [1000, 2000]
        host_ratios = [0, 0.5]
        concurrencies = [8, "open-loop"]
        seeds = [0, 1]
        write_modes = ["write-through", "exclusive"]
        settings = { shuffle = true, faults = "lost-end=0.1" }
        engine = { max_sequences = 64 }
        policy_options = { num_steps = 2 }
        """,
    )
    cells = found.cells([NOTHING])
    assert len(cells) == found.num_cells() == 3 * 2 * 2 * 2 * 2 * 2
    assert len({cell.cell_id for cell in cells}) == len(cells)
    assert {cell.host_blocks for cell in cells} == {0, 500, 1000}
    assert {cell.policy.label for cell in cells} == {"lru", "pbkv · gamma=0.9", "pbkv · paper"}
    settings = next(cell for cell in cells if cell.policy.variant == "gamma=0.9").make_settings()
    assert (settings.policy_options.gamma, settings.policy_options.num_steps) == (0.9, 2)
    assert (settings.faults.lost_end_ratio, settings.engine_config().max_sequences) == (0.1, 64)


def test_sizes_in_gib_are_those_of_the_profile(tmp_path: Path) -> None:
    found = scenario(tmp_path, 'profiles = ["h100-llama-3.1-8b"]\ngpu_gib = [1]\nhost_gib = [0.5]')
    (cell,) = found.cells([NOTHING])
    assert (cell.gpu_blocks, cell.host_blocks) == (512, 256)  # 16 tokens × 128 KiB = 2 MiB a block
    columns = cell.setting_columns()
    assert (columns["gpu_gib"], columns["host_gib"]) == (1.0, 0.5)


def test_with_a_trace_alone_the_rest_is_usual(tmp_path: Path) -> None:
    (cell,) = scenario(tmp_path, "").cells([NOTHING])
    assert (cell.policy.name, cell.concurrency, cell.host_blocks) == ("lru", 48, cell.gpu_blocks)


def test_a_policy_of_the_users_own_is_found_beside_the_file_and_its_code_counts(tmp_path: Path) -> None:
    code = "from pbkv.cache.plugin import EvictionPolicy\nclass Mine(EvictionPolicy):\n    pass\n"
    docs = Path(__file__).parents[2] / "docs" / "own-policy.md"
    if "EvictionPolicy" not in docs.read_text():
        code = docs.read_text().partition("```python\n")[2].partition("```")[0]
    ids = []
    for comment in ("# one\n", "# two\n"):
        (tmp_path / "mine.py").write_text(code + comment)
        name = code.partition("class ")[2].partition("(")[0].partition(":")[0]
        ids.append(scenario(tmp_path, f'policies = ["mine.py:{name}"]').cells([NOTHING])[0].cell_id)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("polices = ['lru']", "polices: got an unknown key, expected one of traces, profiles"),
        ("policies = 'lru'", "policies: got lru, expected a list"),
        ("policies = []", "policies: got [], expected a list"),
        ("policies = ['lur']", "lur: policy: got lur, expected"),
        ("policies = ['lru', 'lru']", "policies[1]: got lru, expected a variant of its own"),
        ("policies = [{ gamma = 1 }]", "policies[0].name: got nothing, expected"),
        ("policies = [{ name = 'pbkv', gama = 1 }]", "policies[0].gama: got an unknown key, expected"),
        ("policies = [{ name = 'pbkv', rho = 2 }]", "policies[0].rho: got 2, expected a share from 0 to 1"),
        ("policies = [{ name = 'pbkv', rho = 'x' }]", "policies[0].rho: got x, expected a number"),
        ("policy_options = { num_steps = 1.5 }", "policy_options.num_steps: got 1.5, expected a whole"),
        ("profiles = ['h99']", "profiles[0]: got h99, expected one of"),
        ("gpu_blocks = [0]", "gpu_blocks[0]: got 0, expected a whole number ≥ 1"),
        ("gpu_blocks = [10, 10]", "gpu_blocks[1]: got 10, expected each value once"),
        ("gpu_blocks = [true]", "gpu_blocks[0]: got True, expected a whole number ≥ 1"),
        ("gpu_blocks = [10]\ngpu_gib = [1]", "gpu_gib: got [1], expected either this or gpu_blocks"),
        ("gpu_gib = [1e-9]", "gpu_gib: got 0, expected at least one block"),
        ("host_ratios = [-1]", "host_ratios[0]: got -1, expected a finite number ≥ 0"),
        ("host_ratios = [inf]", "host_ratios[0]: got inf, expected a finite number ≥ 0"),
        ("concurrencies = ['open']", "concurrencies[0]: got open, expected a whole number ≥ 1, or"),
        ("seeds = [-1]", "seeds[0]: got -1, expected a whole number ≥ 0"),
        ("write_modes = ['back']", "write_modes[0]: got back, expected one of write-through"),
        ("settings = { block_size = 0 }", "settings.block_size: got 0, expected a whole number ≥ 1"),
        ("settings = { faults = 'x' }", "lru: faults: got x, expected"),
        ("settings = 3", "settings: got 3, expected a table"),
        ("engine = { batching = 'x' }", "engine.batching: got x, expected one of mixed, prefill-first"),
        ("engine = { max_batched_tokens = 9 }", "max_batched_tokens: got 9, expected more than"),
        ("x = = 3", "expected TOML"),
    ],
)
def test_a_mistake_is_one_line_with_file_field_value_and_what_was_expected(
    text: str, line: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "s.toml"))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("", "traces: got nothing, expected a list"),
        ("traces = ['gone.jsonl']", "traces[0].path: got"),
        ("traces = [{ name = 'x' }]", "traces[0].path: got nothing"),
        ("traces = ['hover.parquet', './hover.parquet']", "traces[1].name: got hover, expected a name of"),
        ("traces = [{ path = 'hover.parquet', name = 'a/b' }]", "traces[0].name: got a/b, expected letters"),
        (
            "traces = [{ path = 'hover.parquet', num_workflows = 0 }]",
            "num_workflows: got 0, expected a whole",
        ),
    ],
)
def test_so_is_one_in_the_traces(head: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario(tmp_path, "", head)
    assert line in str(caught.value)


def test_options_that_no_policy_uses_are_found(tmp_path: Path) -> None:
    both = 'policies = ["lru", "pbkv"]\n[policy_options]\ngamma = 0.5\nrho = 0.5\n'
    assert unused_options(scenario(tmp_path, both).policies) == ["rho"]
    own = 'policies = ["pbkv", { name = "lru", variant = "x", gamma = 0.5 }]\n'
    assert unused_options(scenario(tmp_path, own).policies) == ["gamma"]


def test_a_scenario_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable file"):
        read_scenario(tmp_path / "gone.toml")
