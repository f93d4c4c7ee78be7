"""Policies on the command line: parts, options, and a file of one's own, from end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pbkv.analysis import load
from pbkv.analysis.summary import summarise
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.writer import write_trace
from tests.test_cli import SMALL, pbkv

DOCS = Path(__file__).parent.parent / "docs" / "own-policy.md"


@pytest.fixture(scope="module")
def hover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hover") / "hover.parquet"
    write_trace(path, generate_workload("hover", 30, 3), workload_metadata("hover", 30, 3))
    return path


def refused(hover: Path, out: Path, *options: object) -> str:
    """What a run that must not happen says, on one line."""
    done = pbkv("simulate", hover, *SMALL, *options, "-o", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(out.parent.iterdir())
    return done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rho", "1.5"], "rho: got 1.5, expected a share from 0 to 1"),
        (["--rho", "nan"], "rho: got nan"),
        (["--policy", "lru", "--steps", "0"], "num_steps: got 0, expected a number ≥ 1"),
        (["--policy", "lru", "--gamma", "7"], "gamma: got 7.0, expected a number from 0 to 1"),
        (["--policy", "lru", "--noise", "-1"], "noise: got -1.0, expected a share from 0 to 1"),
        (["--policy", "lru", "--predictor", "tea"], "predictor: got tea, expected none, oracle"),
        (["--policy", "lru", "--predictor", "no.safetensors"], "expected an existing file"),
        (["--inherit", "some"], "inherit: got some, expected none, learned or all"),
        (["--host-order", "worst"], "host_order: got worst, expected retired-first or score"),
        (["--idle-timeout-s", "0"], "idle_timeout_s: got 0.0, expected a number > 0"),
        (["--forecast-delay-s", "-1"], "forecast_delay_s: got -1.0"),
        (["--forecast-delay-s", "inf"], "forecast_delay_s: got inf"),
        (["--prefill-reserve-tokens", "-1"], "prefill_reserve_tokens: got -1, expected a number ≥ 0"),
        (["--pause-limit-s", "nan"], "pause_limit_s: got nan, expected a number > 0"),
        (["--policy", "lru+nonsense"], "policy: got lru+nonsense, expected one of lru"),
        (["--policy", "ttl+prefetch"], "policy: got ttl+prefetch"),
        (["--policy", "pbkv-oracle+admission"], "got pbkv-oracle+admission, expected pbkv-oracle alone"),
        (["--policy", "lru+status+status"], "policy: got lru+status+status, expected each part once"),
        (["--policy", "ttl:soon"], "policy: got ttl:soon, expected ttl:SECONDS"),
        (["--policy", "nothing.py:Mine"], "policy: got nothing.py:Mine, expected a Python file"),
    ],
)
def test_bad_values_are_refused(hover: Path, tmp_path: Path, options: list[str], expected: str) -> None:
    assert expected in refused(hover, tmp_path / "run", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "2", "--rho", "0.5"], "warning: --steps, --rho: not used by lru, lae\n"),
        (["--prefill-reserve-tokens", "64"], "warning: --prefill-reserve-tokens: not used by lru, lae\n"),
        (["--idle-timeout-s", "9"], ""),
        ([], ""),
    ],
)
def test_options_that_change_nothing_are_named(
    hover: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    done = pbkv("simulate", hover, *SMALL, "--policy", "lru,lae", *options, "-o", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, said)


def test_options_reach_the_policy(hover: Path, tmp_path: Path) -> None:
    given = ["--rho", "0.4", "--inherit", "all", "--host-order", "score", "--idle-timeout-s", "30"]
    more = ["--forecast-delay-s", "0.5", "--prefill-reserve-tokens", "64", "--pause-limit-s", "9"]
    policies = "pbkv-aggressive,kvflow+admission,ttl:2,lru+prefetch"
    done = pbkv("simulate", hover, *SMALL, "--policy", policies, *given, *more, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    used = load(tmp_path / "run").config["settings"]
    wanted = {
        "rho": 0.4,
        "inherit": "all",
        "host_order": "score",
        "idle_timeout_s": 30,
        "forecast_delay_s": 0.5,
        "pause_limit_s": 9,
    }
    assert {name: used["policy_options"][name] for name in wanted} == wanted
    assert used["prefill_reserve_tokens"] == 64
    assert "likeliest" in done.stdout


def test_an_exception_in_the_second_cell_leaves_nothing(hover: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n    def key(self, node):\n        return 1 // (node.num_hits < 9)\n"
        "class Cheat:\n    def key(self, node):\n        return 0\n"
        "    def touched(self, node, lease):\n        self.node = node\n"
        "    def ended(self, workflow, now_s):\n        self.node.refs += 1\n"
    )
    (tmp_path / "out").mkdir()
    said = refused(hover, tmp_path / "out" / "run", "--policy", f"lru,{file}:Mine")
    assert f"{file}:3: Mine.key: ZeroDivisionError" in said
    said = refused(hover, tmp_path / "out" / "run", "--policy", f"{file}:Cheat")
    assert "Cheat: the cache's invariants do not hold any more" in said


def test_a_policy_s_answers_and_exits_are_named_in_one_line(hover: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    key = "    def key(self, node):\n        return node.end\n"
    file.write_text(
        f"import sys\nclass Noted:\n{key}    def note(self): return 5\n"
        f"class Exits:\n{key}    def ended(self, workflow, now_s): sys.exit(0)\n"
        f"class Greedy:\n{key}    prefetch_key = key\n    def prefetch_budget(self, now): return 'many'\n"
    )
    (tmp_path / "out").mkdir()
    for name, expected in (
        ("Noted", ":5: Noted.note: answers 5, expected a text"),
        ("Exits", ":9: Exits.ended: SystemExit: 0"),
        ("Greedy", ":14: Greedy.prefetch_budget: answers 'many', expected a number of blocks"),
    ):
        said = refused(hover, tmp_path / "out" / "run", "--policy", f"{file}:{name}")
        assert f"{file}{expected}" in said


def test_a_predictor_s_forecast_is_checked(hover: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n    is_conditional, agents = True, ()\n    def __init__(self, num_steps): ...\n"
        "    def forecast(self, workflow, position): return [[0.7]] * 3\n    def end(self, workflow): ...\n"
    )
    (tmp_path / "out").mkdir()
    options = ["--policy", "pbkv-he", "--predictor", f"{file}:Mine"]
    said = refused(hover, tmp_path / "out" / "run", *options)
    assert f"predictor {file}: got a forecast with row 0: [0.7], expected finite numbers" in said


def test_curve_takes_them_too(hover: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def key(self, node):\n        return node.last_access_s\n")
    done = pbkv("curve", hover, "--policy", f"lru,sieve,{file}:Mine", "--gpu-blocks", "600", "--json")
    assert done.returncode == 0, done.stderr
    hits = re.findall(r'"hit_blocks": (\d+)', done.stdout)
    assert hits[0] == hits[2] != hits[1]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("lru,lae,belady", ""),
        ("pbkv", "note: curve has no clock: the prefetch of pbkv does nothing here\n"),
        (
            "pbkv,ttl,lru,lru+admission",
            "note: curve has no clock: the prefetch of pbkv, the request order of ttl "
            "and the admission of lru+admission do nothing here\n",
        ),
    ],
)
def test_curve_says_which_parts_do_nothing(hover: Path, policies: str, expected: str) -> None:
    done = pbkv("curve", hover, "--policy", policies, "--gpu-blocks", "600", "--json")
    assert (done.returncode, done.stderr) == (0, expected)
    assert json.loads(done.stdout)["points"]


def test_the_class_in_the_docs_beats_lru_where_memory_is_short(tmp_path: Path) -> None:
    """On the demo's trace and pool, as the docs say; the class is taken from there."""
    (text,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert text.count("\n") <= 30
    (tmp_path / "ended_first.py").write_text(text)
    trace = tmp_path / "hover.parquet"
    write_trace(trace, generate_workload("hover", 250, 1), workload_metadata("hover", 250, 1))
    setting = ["--profile", "2xa6000-qwen3-32b", "--gpu-blocks", "18000", "--concurrency", "60"]
    names = f"lru,{tmp_path}/ended_first.py:EndedFirst"
    done = pbkv("simulate", trace, *setting, "--policy", names, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    lru, mine = summarise(tmp_path / "run")
    assert mine.jct_s is not None
    assert lru.jct_s is not None
    assert mine.jct_s.mean < 0.9 * lru.jct_s.mean
