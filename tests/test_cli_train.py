"""`pbkv train` from the outside: what it writes and prints, and what it says of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbkv.cli import main
from pbkv.predict.model_file import read_model
from pbkv.predict.named import named_predictor
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace
from tests.test_cli_traces import Run

QUICK = ("--epochs", 2, "--patience", 2)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_once(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pbkv", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run_once


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "hover.parquet"
    write_trace(path, generate_workload("hover", 60, 5), workload_metadata("hover", 60, 5))
    return path


def test_train_writes_a_file_with_all_that_it_needs(run: Run, trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "graph.safetensors"
    status, out, err = run(trace, "-o", file, *QUICK, "--steps", 2)
    assert (status, err) == (0, "")
    for text in ("top-1 accuracy", "Brier", "calibration", "graph", "markov:3", "step 2"):
        assert text in out
    _, facts = read_model(file)
    metadata = Trace(trace).metadata
    assert facts.traces[0]["digest"] == metadata.digest
    assert facts.traces[0]["source"] == metadata.source
    assert facts.split["shares"] == [70, 10, 20]
    assert (facts.kind, facts.num_steps, facts.context_kind, facts.num_context_dims) == (
        "graph",
        2,
        "column",
        16,
    )
    assert facts.is_conditional
    assert facts.accuracy[0]["top1"] > 0.3
    assert set(facts.versions) == {"pbkv", "torch", "numpy"}
    assert set(facts.agents) == Trace(trace).agents()


def test_a_network_with_relational_layers_is_a_predictor(run: Run, trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "rgcn.safetensors"
    status, out, _ = run(trace, "-o", file, *QUICK, "--kind", "rgcn")
    assert (status, "rgcn" in out) == (0, True)
    (workflow, *_) = Trace(trace).workflows(with_context=True)
    assert named_predictor(f"rgcn:{file}", 3).forecast(workflow, 0).shape == (3, 6)


def test_equal_commands_write_equal_files(run: Run, trace: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        assert run(trace, "-o", file, *QUICK)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_markov_is_trained_into_a_file_too(run: Run, trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "markov.safetensors"
    assert run(trace, "-o", file, "--kind", "markov:2")[0] == 0
    (workflow, *_) = Trace(trace).workflows()
    assert named_predictor(f"markov:2:{file}", 3).forecast(workflow, 0).shape[0] == 3


def test_folds_seeds_and_curve(run: Run, trace: Path, tmp_path: Path) -> None:
    status, out, _ = run(trace, "--folds", 3, "--kind", "markov:1", "--json")
    assert status == 0
    found = json.loads(out)
    assert sum(fold["markov:1"][0]["num_calls"] for fold in found["runs"]) == Trace(trace).num_calls
    status, out, _ = run(trace, "-o", tmp_path / "m", "--kind", "markov:1", "--seeds", 3, "--learning-curve")
    assert status == 0
    assert "±" in out
    assert "by number of training workflows" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "x", "--kind", "tea"), "kind: got tea, expected graph, rgcn or markov:N"),
        (("-o", "x", "--split", "70,10"), "split"),
        (("-o", "x", "--split", "a,b,c"), "split"),
        (("-o", "x", "--steps", 0), "steps: got 0"),
        (("-o", "x", "--context", "tea"), "context: got tea"),
        ((), "output: got nothing"),
        (("-o", "x", "--folds", 5), "output: got x"),
        (("--folds", 500), "folds: got 500"),
    ],
)
def test_bad_options_are_one_line(run: Run, trace: Path, options: tuple[object, ...], message: str) -> None:
    status, out, err = run(trace, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("x").exists()


def test_without_torch_it_says_what_to_install(
    run: Run, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pbkv.predict.training.find_spec", lambda name: None)
    status, _, err = run(trace, "-o", tmp_path / "x")
    assert (status, err.count("\n")) == (2, 1)
    assert "pip install 'pbkv[torch]'" in err
    assert run(trace, "-o", tmp_path / "x", "--kind", "markov:1")[0] == 0


def test_an_interrupt_leaves_nothing(trace: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pbkv", "train", str(trace), "-o", str(tmp_path / "x")]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--patience", "100000"], stderr=subprocess.PIPE, env=dict(os.environ)
    )
    time.sleep(4.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().strip() == "interrupted"
    assert not list(tmp_path.iterdir())


def test_using_a_network_does_not_import_torch(run: Run, trace: Path, tmp_path: Path) -> None:
    file = tmp_path / "graph.safetensors"
    assert run(trace, "-o", file, *QUICK)[0] == 0
    program = (
        "import sys; from pbkv.predict.named import named_predictor; from pbkv.traces.reader import Trace;"
        f"p = named_predictor({str(file)!r}, 3);"
        f"w = next(Trace({str(trace)!r}).workflows(with_context=True));"
        "p.forecast(w, 0); print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
