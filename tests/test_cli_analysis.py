"""`pbkv report`, `pbkv compare` and `pbkv timeline` from the outside, and the page in a browser."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pbkv.cli import main

Run = Callable[..., tuple[int, str, str]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `pbkv …`; returns exit status, stdout and stderr."""

    def run_once(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pbkv", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run_once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two policies under pressure, made by the commands themselves."""
    base = tmp_path_factory.mktemp("runs")
    generate = ["traces", "generate", "hover", "--workflows", "20", "--seed", "1", "-o", "hover.parquet"]
    simulate = ["simulate", "hover.parquet", "--policy", "lru,pbkv", "--profile", "2xa6000-qwen3-32b"]
    simulate += ["--gpu-blocks", "3000", "--concurrency", "12", "-o", "run"]
    for arguments in (generate, simulate):
        subprocess.run([sys.executable, "-m", "pbkv", *arguments], cwd=base, check=True, capture_output=True)
    return base / "run"


def test_report_writes_a_page_and_says_the_verdict(run: Run, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    status, out, err = run("report", folder, "-o", page)
    assert (status, err) == (0, "")
    verdict, where = out.splitlines()
    assert verdict.startswith("hover on 2xa6000-qwen3-32b: ")
    assert where == f"report: {page}"
    assert page.read_text().startswith("<!doctype html>")
    assert run("report", folder, "-o", page)[0] == 0  # replaced without asking: it can be made again
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_report_prints_its_numbers(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("report", folder, "--json")
    (world,) = json.loads(out)["worlds"]
    assert status == 0
    assert [row["policy"] for row in world["settings"]] == ["lru", "pbkv"]
    assert not list(tmp_path.iterdir())
    status, out, _ = run("report", folder, "--json", "--baseline", "pbkv")
    assert json.loads(out)["worlds"][0]["baseline"] == "pbkv"


def test_compare_fails_only_where_the_interval_says_worse(run: Run, folder: Path) -> None:
    better, worse = (f"{folder}:pbkv", f"{folder}:lru")
    status, out, _ = run("compare", worse, better, "--fail-if-worse", "2%")
    assert status == 0
    assert "jct_s" in out
    status, _, err = run("compare", better, worse, "--measure", "hit_ratio", "--fail-if-worse", "2%")
    assert status == 1
    assert err == "worse by more than 2%: 1 of 1\n"
    assert run("compare", better, worse, "--measure", "hit_ratio")[0] == 0  # without a margin nothing fails
    status, out, _ = run(
        "compare", better, worse, "--measure", "hit_ratio", "--fail-if-worse", "0.02", "--json"
    )
    (row,) = json.loads(out)
    assert status == 1
    assert row["is_worse"]
    assert row["low"] < row["ratio"] < row["high"] < 0.98


def test_compare_says_that_one_side_was_replayed(run: Run, folder: Path, tmp_path: Path) -> None:
    replayed = shutil.copytree(folder, tmp_path / "replayed")
    config = json.loads((replayed / "run.json").read_text())
    (replayed / "run.json").write_text(json.dumps(config | {"engine": "replay", "device": {"type": "cpu"}}))
    status, out, _ = run("compare", f"{folder}:pbkv", f"{replayed}:lru")
    assert status == 0
    assert "note: A was simulated, B replayed on cpu" in out
    status, out, err = run("compare", f"{folder}:pbkv", f"{replayed}:lru", "--json", "--fail-if-worse", "2%")
    assert status == 1
    assert {row["engine_b"] for row in json.loads(out)} == {"replay"}
    assert err.endswith("of 3 (A was simulated, B replayed on cpu)\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report", "nothing"), "nothing: run: got nothing, expected a folder"),
        (("report", "{run}", "--baseline", "mori"), "baseline: got mori, expected a policy of the runs"),
        (("report", "{run}", "-o", "no/report.html"), "output: got no/report.html, expected a file"),
        (("compare", "{run}", "nothing"), "nothing: run: got nothing, expected a folder"),
        (("compare", "{run}:lru", "{run}:mori"), "expected a policy of that run: lru, pbkv"),
        (
            ("compare", "{run}", "{run}", "--fail-if-worse", "much"),
            "--fail-if-worse: got much, expected a share",
        ),
        (
            ("compare", "{run}", "{run}", "--fail-if-worse", "nan"),
            "--fail-if-worse: got nan, expected a share",
        ),
        (("compare", "{run}", "{run}", "--measure", "speed"), "measure: got speed, expected one of"),
        (("timeline", "nothing"), "nothing: run: got nothing, expected a folder"),
        (("timeline", "{run}", "--cell", "9"), "cell: got 9, expected a cell of the run: 0, 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    run: Run,
    folder: Path,
    arguments: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*(argument.replace("{run}", str(folder)) for argument in arguments))
    assert (status, err.count("\n")) == (2, 1)
    assert expected in err
    assert not list(tmp_path.iterdir())


def test_a_broken_table_is_one_line(run: Run, folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "calls.parquet").write_bytes((folder / "calls.parquet").read_bytes()[:-100])
    status, _, err = run("report", broken, "-o", tmp_path / "report.html")
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a complete Parquet file" in err
    assert not (tmp_path / "report.html").exists()


def test_timeline_writes_json_with_copies(run: Run, folder: Path, tmp_path: Path) -> None:
    status, out, _ = run("timeline", folder, "-o", tmp_path / "trace.json", "--cell", 1)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert (status, out) == (0, f"{tmp_path}/trace.json: {len(events):,} events\n")
    copies = [event for event in events if event["ph"] == "X" and event["pid"] == 2]
    assert {event["name"] for event in copies} >= {"offload"}
    assert all(event["dur"] >= 0 and event["args"]["num_bytes"] > 0 for event in copies)


def test_the_commands_load_what_they_need_when_they_need_it() -> None:
    code = (
        "import sys, pbkv.cli; print(sorted({'pandas', 'matplotlib', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (apt-get install chromium)")
def test_the_page_in_a_browser_asks_the_network_for_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("report", folder, "-o", tmp_path / "report.html")[0] == 0
    requested, picture = _opened(tmp_path / "report.html")
    assert not requested
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1060, 2400)
    colors = _colors(picture)
    assert len(colors) > 50  # not empty, not a page of an error
    assert (0, 0x72, 0xB2) in colors  # pbkv's blue is seen: the figures are drawn
    control = tmp_path / "control.html"
    control.write_text('<img src="http://127.0.0.1:9/picture.png">')
    assert _opened(control)[0] == {"http://127.0.0.1:9/picture.png"}  # what is asked for is seen


def _opened(page: Path) -> tuple[set[str], Path]:
    """What of the network ``page`` asks for in Chromium, and a picture of it."""
    log, picture = page.with_suffix(".log"), page.with_suffix(".png")
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--disable-background-networking"]
    command += [f"--log-net-log={log}", f"--screenshot={picture}", "--window-size=1060,2400"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    return {url for url in _requested(log) if url.startswith(("http", "ws"))}, picture


def _requested(log: Path) -> set[str]:
    """The addresses that the page made the browser ask for (its own services for updates left out)."""
    found = json.loads(log.read_text())
    started = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [
        event["params"] for event in found["events"] if event["type"] == started and "params" in event
    ]
    of_page = [params for params in requests if params.get("initiator") not in (None, "not an origin")]
    return {params["url"] for params in of_page if "url" in params}


def _colors(picture: Path) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(1 << 24)
    return {color for _, color in found or [] if isinstance(color, tuple)}
