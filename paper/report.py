"""Writes the results folder: paper.md, the figures, and the cells as Parquet."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pbkv
from pbkv.paper import figures, published, tables
from pbkv.paper.experiments import (
    BATCHING,
    BLOCK_SIZE,
    EXPERIMENTS,
    MAX_BATCHED_TOKENS,
    MAX_SEQUENCES,
    NUM_WORKFLOWS,
    PAPERS_DECODE,
    POOL_BLOCKS,
    arm_of,
)
from pbkv.paper.published import MODEL_14B, MODEL_32B
from pbkv.paper.run import NUM_TEST, NUM_TRAINING, Results
from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import temporary_beside

_OWN = ("paper.md", "cells.parquet", "notes.md", *figures.NAMES)


def check_output(output: Path) -> None:
    """Raises ConfigError if ``output`` cannot take the report, which replaces an earlier one alone."""
    expected = "a new folder, or that of an earlier report"
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigError("output", str(output), expected)
    if output.is_dir() and (others := {path.name for path in output.iterdir()} - set(_OWN)):
        raise ConfigError("output", f"{output} with {sorted(others)[0]} in it", expected)
    above = next(path for path in output.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError("output", str(output), f"a folder that can be written in, not {above}")


def write_report(results: Results, experiments: Sequence[str], command: str, output: Path) -> None:
    """Everything into ``output``, which is replaced when all is there; the notes in it are kept."""
    check_output(output)
    temporary = temporary_beside(output)
    temporary.mkdir(parents=True)
    try:
        names = figures.draw(results, temporary)
        pq.write_table(pa.Table.from_pylist([dict(row) for row in results.rows]), temporary / "cells.parquet")
        text = "\n\n".join([_head(results, command), *_sections(results, experiments, names)]) + "\n"
        (temporary / "paper.md").write_text(text, encoding="utf-8")
        if (notes := output / "notes.md").exists():
            shutil.copy(notes, temporary / "notes.md")
        if output.exists():
            shutil.rmtree(output)
        os.replace(temporary, output)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _head(results: Results, command: str) -> str:
    return (
        "# The paper's evaluation, repeated on generated workloads\n\n"
        f"Made by `{command}` (pbkv {pbkv.__version__}, python {platform.python_version()}, no GPU: "
        "everything here is simulated). Why rows differ from the paper's: [notes.md](notes.md).\n\n"
        f"Closed loop, {NUM_WORKFLOWS} workflows a run, {POOL_BLOCKS:,} blocks of {BLOCK_SIZE} tokens on the "
        f"GPU, a host tier of ratio 1, **write-through** in every row, batching {BATCHING} with "
        f"{MAX_BATCHED_TOKENS:,} tokens and {MAX_SEQUENCES} requests at most. Mean ± 95 % interval over "
        f"{len(results.seeds)} seeds, each another trace; ratios are taken seed by seed. Fitted, on LRU's "
        "rows, call counts, predictors' accuracies and the share of pure decode iterations: the generators, "
        "the pool, the number of running requests. Inferred: SGLang's batching and chunk, 4-bit weights "
        "(docs/workloads.md has the reasons). All else came out. The pool is one size for all rows and given "
        "in blocks; the profiles' own memory would hold 15,435 (32B) and 12,238 (14B). `graph` is trained on "
        f"{NUM_TRAINING:,} workflows that no cell simulates and measured on {NUM_TEST} others."
    )


def _sections(results: Results, experiments: Sequence[str], names: Sequence[str]) -> list[str]:
    made = {
        "tables 1 and 2": lambda: [
            "## Table 1: Qwen3-32B\n\n" + tables.end_to_end(results, MODEL_32B),
            "## Table 2: Qwen3-14B\n\n" + tables.end_to_end(results, MODEL_14B),
            tables.over_kvflow(results),
            "## Table 3: predictors\n\n" + tables.accuracy(results),
            tables.learning_curve(results),
            "## Table 4: overheads\n\n" + tables.overheads(results),
            "## Prefetches\n\n" + tables.prefetches(results),
        ],
        "decode step": lambda: [
            "## Table 1 with the paper's decode iteration\n\nThe paper's table 4 has 12.34 ms where our "
            "profile makes 22: weights are read faster here, all else is table 1.\n\n"
            + tables.end_to_end(results, PAPERS_DECODE)
        ],
        "concurrency": lambda: ["## Concurrency\n\n" + tables.by_concurrency(results)],
        "steps": lambda: ["## Steps K\n\n" + _by_steps(results)],
        "gamma": lambda: ["## Discount γ\n\n" + _by_gamma(results)],
        "predictor": lambda: ["## Predictor\n\n" + tables.by_predictor(results)],
        "rho": lambda: ["## Aggressive prefetch\n\n" + _by_rho(results)],
        "noise": lambda: ["## Noise\n\n" + _by_noise(results, policy) for policy in published.BY_NOISE],
        "faults": lambda: ["## Faults of clients (not the paper's)\n\n" + tables.by_faults(results)],
    }
    sections = [section for name in EXPERIMENTS if name in experiments for section in made[name]()]
    pictures = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in names)
    return [*sections, "## Figures\n\n" + pictures]


def _by_steps(results: Results) -> str:
    arms = [(f"{k:g}", arm_of(num_steps=int(k)), hit) for k, hit in published.BY_STEPS.items()]
    return tables.by_value(results, arms, "K")


def _by_gamma(results: Results) -> str:
    arms = [(f"{gamma:g}", arm_of(gamma=gamma), hit) for gamma, hit in published.BY_GAMMA.items()]
    return tables.by_value(results, arms, "γ")


def _by_rho(results: Results) -> str:
    policy = "pbkv-aggressive"
    arms = [(f"{rho:.0%}", arm_of(policy=policy, rho=rho), hit) for rho, (hit, _) in published.BY_RHO.items()]
    return tables.by_value(results, arms, "ρ")


def _by_noise(results: Results, policy: str) -> str:
    row = published.BY_NOISE[policy]
    arms = [(f"{noise:.0%}", arm_of(policy=policy, noise=noise), hit) for noise, hit in row.items()]
    return tables.by_value(results, arms, f"{policy}, λ")
