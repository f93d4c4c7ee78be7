"""Arrival processes from Azure's logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers.azure import lay_over, read_arrivals
from pbkv.traces.schema import Workflow

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def log(folder: Path, text: str) -> Path:
    path = folder / "azure.csv"
    path.write_text(text)
    return path


def workflows(number: int) -> list[Workflow]:
    return [Workflow(f"w{index}", "demo", None, ()) for index in range(number)]


def test_arrivals_count_from_the_first_and_ascend(tmp_path: Path) -> None:
    rows = "2023-11-16 18:17:04.5000000,1,1\n2023-11-16 18:17:03.9799600,4808,10\n"
    assert read_arrivals(log(tmp_path, HEADER + rows)) == pytest.approx([0, 0.52004])


def test_arrivals_are_scaled_and_given_out_in_order() -> None:
    laid = lay_over(workflows(2), [0.0, 4.0, 6.0], 0.5)
    assert [workflow.arrival_s for workflow in laid] == [0.0, 2.0]


def test_too_few_arrivals_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one for each workflow"):
        list(lay_over(workflows(3), [0.0, 4.0]))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_scale_is_refused_at_once(scale: float) -> None:
    with pytest.raises(ConfigError, match="arrival scale"):
        lay_over([], [], scale)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (HEADER + "yesterday,1,1\n", "line 2: TIMESTAMP"),
        ("when,what\n1,2\n", "line 1"),
        (HEADER, "rows"),
        ("", "file"),
        ("ContextTokens,TIMESTAMP\n1\n", "line 2: TIMESTAMP"),
    ],
)
def test_a_bad_log_is_named(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_arrivals(log(tmp_path, text))
    assert caught.value.field == field


def test_azures_own_log_has_its_published_size(shared_data: Path) -> None:
    arrivals = read_arrivals(shared_data / "classB" / "azure2023_code.csv.gz")
    assert len(arrivals) == 8_819
    assert arrivals[0] == 0.0
    assert list(arrivals) == sorted(arrivals)
