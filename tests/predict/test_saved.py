"""Files of trained predictors: what comes back, and what is said of a bad one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pbkv.predict.checks import check_trace
from pbkv.predict.forecast import needs_context
from pbkv.predict.graph import Graph
from pbkv.predict.markov import Markov
from pbkv.predict.model_file import Facts, read_model, write_model
from pbkv.predict.named import named_predictor
from pbkv.predict.noisy import Noisy
from pbkv.predict.saved import load_predictor, markov_arrays
from pbkv.traces.errors import ConfigError, InputError, TraceError
from pbkv.traces.reader import Trace
from pbkv.traces.schema import TraceMetadata, Workflow
from pbkv.traces.writer import write_trace
from tests.predict.test_network import AGENTS, DIMS, STEPS, arrays, graph, vectors
from tests.predict.twin import workflow

FACTS = Facts("graph", tuple(AGENTS), STEPS, "column", DIMS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "graph.safetensors"
    write_model(path, arrays(), FACTS)
    return path


def learnt(order: int, num_steps: int = 3) -> Markov:
    markov = Markov(order, num_steps, learns_online=False)
    markov.learn([workflow("abcab"), workflow("abb"), workflow("ca")])
    return markov


def trace_of(folder: Path, *workflows: Workflow) -> Trace:
    path = folder / "trace.parquet"
    write_trace(path, workflows, TraceMetadata("test"), force=True)
    return Trace(path)


def test_a_network_comes_back_as_it_was(file: Path) -> None:
    loaded, one = load_predictor(file, STEPS), workflow("abca", vectors(4))
    assert isinstance(loaded, Graph)
    for position in range(4):
        np.testing.assert_array_equal(loaded.forecast(one, position), graph().forecast(one, position))
    assert read_model(file)[1] == replace(FACTS, agents=list(AGENTS), traces=[], accuracy=[])


def test_so_does_one_with_relational_layers(tmp_path: Path) -> None:
    path, one = tmp_path / "rgcn.safetensors", workflow("abca", vectors(4))
    write_model(path, arrays(network="rgcn"), replace(FACTS, kind="rgcn"))
    for name in (f"rgcn:{path}", str(path)):
        rows = named_predictor(name, STEPS).forecast(one, 3)
        np.testing.assert_array_equal(rows, graph(network="rgcn").forecast(one, 3))
    with pytest.raises(ConfigError, match="of kind rgcn, expected kind graph"):
        named_predictor(f"graph:{path}", STEPS)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_markov_comes_back_as_it_was(tmp_path: Path, order: int) -> None:
    path = tmp_path / "markov.safetensors"
    markov = learnt(order)
    write_model(path, markov_arrays(markov), Facts(f"markov:{order}", markov.agents, 3))
    for name in (f"markov:{order}:{path}", str(path)):
        loaded = named_predictor(name, 2)
        for path_asked in ("a", "ab", "bca", "z", "zb"):
            one = workflow(path_asked)
            position = len(path_asked) - 1
            expected = markov.forecast(one, position)[:2]
            np.testing.assert_array_equal(loaded.forecast(one, position), expected)
        assert list(loaded.agents) == list("abc")


def test_fewer_steps_are_the_first_ones_and_more_are_refused(file: Path) -> None:
    one = workflow("ab", vectors(2))
    short = named_predictor(f"graph:{file}", 1).forecast(one, 1)
    np.testing.assert_array_equal(short, named_predictor(str(file), STEPS).forecast(one, 1)[:1])
    with pytest.raises(ConfigError, match=r"steps: got 3, expected at most the 2 that .*graph.safetensors"):
        named_predictor(str(file), 3)


def _not_there(path: Path) -> None:
    path.unlink()


def _not_safetensors(path: Path) -> None:
    path.write_text("{}")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _without_metadata(path: Path) -> None:
    save_file(arrays(), path)


def _broken_metadata(path: Path) -> None:
    save_file(arrays(), path, {"pbkv": "[1]"})


def _of_the_future(path: Path) -> None:
    write_model(path, arrays(), replace(FACTS, format_version=9), force=True)


def _other_agents_than_arrays(path: Path) -> None:
    write_model(path, arrays(), replace(FACTS, agents=("a", "b")), force=True)


def _without_an_array(path: Path) -> None:
    write_model(path, {n: a for n, a in arrays().items() if n != "query"}, FACTS, force=True)


def _with_other_relations(path: Path) -> None:
    write_model(path, arrays(network="rgcn"), FACTS, force=True)


def _of_another_kind(path: Path) -> None:
    write_model(path, arrays(), replace(FACTS, kind="tea-leaves"), force=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_not_there, "an existing file"),
        (_not_safetensors, "no safetensors file"),
        (_cut_short, "no safetensors file"),
        (_without_metadata, "lacks its metadata"),
        (_broken_metadata, "metadata is broken"),
        (_of_the_future, "format 9, expected format 1"),
        (_other_agents_than_arrays, "do not fit"),
        (_without_an_array, "do not fit"),
        (_with_other_relations, "do not fit"),
        (_of_another_kind, "do not fit"),
    ],
)
def test_a_bad_file_is_named_in_one_line(file: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(file)
    with pytest.raises(ConfigError, match=message) as caught:
        named_predictor(str(file), 2)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_than_the_name_says(file: Path) -> None:
    with pytest.raises(ConfigError, match="of kind graph, expected kind markov:2"):
        named_predictor(f"markov:2:{file}", 2)


@pytest.mark.parametrize("name", ["tea", "markov", "markov:x", "graph", "graph:", "markov:-1", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="predictor"):
        named_predictor(name, 3)


def test_a_trace_of_other_agents_is_refused_naming_both(file: Path, tmp_path: Path) -> None:
    predictor = named_predictor(str(file), 2, noise=0.1)
    check_trace(predictor, trace_of(tmp_path, workflow("az", vectors(2))))  # one that it knows is enough
    with pytest.raises(TraceError, match=r"agents: got x, y, expected .*graph.safetensors.*: a, b, c"):
        check_trace(predictor, trace_of(tmp_path, workflow("xy", vectors(2))))


def test_a_trace_with_vectors_of_another_length_is_refused(file: Path, tmp_path: Path) -> None:
    predictor = named_predictor(str(file), 2)
    check_trace(predictor, trace_of(tmp_path, workflow("ab")))  # without vectors: all are the mean one
    with pytest.raises(TraceError, match="context: got 2 values, expected 3"):
        check_trace(predictor, trace_of(tmp_path, workflow("ab", [[1.0, 2.0]])))


def test_predictors_without_a_file_fit_any_trace(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, workflow("xy"))
    for name in ("none", "oracle", "markov:2"):
        check_trace(named_predictor(name, 2), trace)


def test_who_reads_contexts_says_so(file: Path) -> None:
    assert needs_context(named_predictor(str(file), 2, noise=0.5))
    assert not needs_context(graph(kind="none"))
    assert not needs_context(Noisy(Markov(), 0.5))


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, data: bytes) -> int:
        with path.open("wb") as half:
            half.write(data[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "graph.safetensors", arrays(), FACTS)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_needs_force(file: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_model(file, arrays(), FACTS)
    write_model(file, arrays(), FACTS, force=True)


OWN = """
import numpy as np
class Always:
    is_conditional = True
    agents = ("a",)
    def __init__(self, num_steps):
        self.rows = np.tile([0.9, 0.1], (num_steps, 1))
    def forecast(self, workflow, position):
        return self.rows
    def end(self, workflow):
        pass
"""


def test_a_predictor_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    assert named_predictor(f"{path}:Always", 2).forecast(workflow("a"), 0).shape == (2, 2)


def test_it_may_be_a_dataclass_and_a_little_out_by_rounding(tmp_path: Path) -> None:
    """Dataclasses look up their module by name where annotations are texts."""
    path = tmp_path / "mine.py"
    text = OWN.replace("class Always:\n", "@dataclass\nclass Always:\n    num_steps: int\n")
    text = text.replace("def __init__(self, num_steps)", "def __post_init__(self)").replace(
        "(num_steps, 1)", "(self.num_steps, 1)"
    )
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    path.write_text(head + text.replace("0.9, 0.1", "0.9, 0.1000005"))
    assert named_predictor(f"{path}:Always", 3).forecast(workflow("a"), 0).shape == (3, 2)


def test_the_one_in_the_docs_works(tmp_path: Path) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "predictors.md"
    path = tmp_path / "mine.py"
    path.write_text(docs.read_text().split("```python\n")[1].split("```")[0])
    predictor = named_predictor(f"{path}:Repeat", 3)
    assert predictor.forecast(workflow("a"), 0).tolist() == [[0.9, 0.1]] * 3
    rows = predictor.forecast(workflow("abc"), 2)
    assert rows.argmax(axis=1).tolist() == [1, 2, 1]
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)


def test_an_error_while_it_runs_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for text, message in (
        (OWN.replace("return self.rows", "return self.nothing"), "mine.py:9: got AttributeError"),
        (OWN.replace("return self.rows", "raise SystemExit(3)"), "mine.py:9: got SystemExit: 3"),
        (OWN.replace("0.9, 0.1", "0.9, 0.2"), r"mine.py: got a forecast with row 0: \[0.9, 0.2\], expected"),
        (OWN.replace("0.9, 0.1", "1.1, -0.1"), r"row 0: \[1.1, -0.1\]"),
        (OWN.replace("0.9, 0.1", "np.nan, 0.1"), r"row 0: \[nan, 0.1\]"),
        (OWN.replace("0.9, 0.1", "np.inf, -np.inf"), r"row 0: \[inf, -inf\]"),
        (OWN.replace("self.rows\n", "[[0.9, 0.1], [0.9, 0.1001]]\n"), r"row 1: \[0.9, 0.1001\]"),
        (OWN.replace('("a",)', '("a", "b")'), r"shape \(2, 2\), expected \(2, 3\)"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            named_predictor(f"{path}:Always", 2).forecast(workflow("a"), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("is_conditional = True", ""), "a class with is_conditional"),
        (OWN + "import sys\nsys.exit()\n", r"mine.py:13: got cannot be imported: SystemExit"),
        (OWN.replace("def end", "async def end"), r"mine.py:10: got async Always.end, expected a plain"),
        (OWN.replace("Always", "Never"), "got Always, expected a class of .*mine.py, which has Never"),
        (OWN + "1 / 0\n", r"mine.py:12: got cannot be imported: ZeroDivisionError: "),
        ("def (:\n", r"mine.py:1: got syntax error: "),
    ],
)
def test_a_broken_one_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    for written in (path, path.name):
        with pytest.raises(ConfigError, match=message):
            named_predictor(f"{written}:Always", 2)
