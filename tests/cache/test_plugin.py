"""A policy of the user's own: what it may have, and how what is wrong with it is said."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import pbkv.cache
from pbkv.cache import plugin
from pbkv.cache.named import make_policy
from pbkv.cache.policy import PolicyOptions
from pbkv.cache.prefetch import Situation
from pbkv.traces.errors import ConfigError, InputError, PolicyError
from tests.cache.world import World, flow

LRU = """
class Mine:
    def key(self, node):
        return node.last_access_s
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(text)
    return f"{file}:Mine"


def said(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------------- what works


def test_a_key_is_enough(tmp_path: Path) -> None:
    world = World(write(tmp_path, LRU), 4)
    for name in "xyz":
        world.serve(flow(name, "a"))
    assert [world.blocks_of(flow(name, "a")) for name in "xyz"] == [0, 2, 2]
    assert world.manager.policy.is_plugged_in


EVERYTHING = """
from pbkv.cache import Follower

class Mine(Follower):
    def __init__(self, seed, options):
        self.seen = [seed, options.gamma]
    def key(self, node):
        return (node.last_access_s, "gpu")
    def host_key(self, node):
        return (-node.last_access_s, "host")
    def touched(self, node, lease):
        self.seen.append(lease.owner)
    def submitted(self, workflow, position, now_s):
        self.seen.append("submitted")
    def prefetch_key(self, node):
        return node.end
    def prefetch_budget(self, situation):
        return 7
    def admits(self, request, manager, now_s):
        return request.position == 0
    def request_key(self, request, manager, now_s):
        return -request.position
    def evicted(self, node):
        self.seen.append("evicted")
"""


def test_it_may_have_every_part(tmp_path: Path) -> None:
    world = World(write(tmp_path, EVERYTHING), 4, 8)
    policy, two = world.manager.policy, flow("x", "ab")
    assert policy.prefetch is not None
    assert policy.admission is not None
    assert policy.request_order is not None
    assert policy.prefetch.budget(Situation(True, 1, 0)) == 7
    asking = [world.asking(two, position) for position in (0, 1)]
    assert [policy.admission.admits(r, world.manager, 0.0) for r in asking] == [True, False]
    assert policy.admission.next_change_s() == float("inf")
    first = min(asking, key=lambda r: policy.request_order.key(r, world.manager, 0.0))  # type: ignore[union-attr]
    assert first.position == 1
    for name in "xyz":
        world.serve(flow(name, "a"))
    (node, *_) = world.manager.tree.nodes()
    assert policy.gpu_order.key(node).value == (node.last_access_s, "gpu")
    assert policy.host_order.key(node).value == (-node.last_access_s, "host")


def test_what_it_is_not_interested_in_costs_nothing(tmp_path: Path) -> None:
    manager = World(write(tmp_path, LRU), 4).manager
    assert not manager._submitted
    assert not manager.tiers._touched


def test_keys_may_fall_if_the_nodes_are_named(tmp_path: Path) -> None:
    """What an ended workflow has left goes first, though it was used last."""
    text = """
from pbkv.cache import Follower

class Mine(Follower):
    def __init__(self):
        self.ended_ones, self.nodes = set(), {}
    def touched(self, node, lease):
        self.nodes.setdefault(lease.owner, []).append(node)
    def ended(self, workflow, now_s):
        self.ended_ones.add(workflow.workflow_id)
        return self.nodes.pop(workflow.workflow_id, [])
    def key(self, node):
        return (node.owner not in self.ended_ones, node.last_access_s)
"""
    world, lives, ended = World(write(tmp_path, text), 4), flow("x", "aa"), flow("y", "a")
    world.serve(lives)
    world.serve(ended)
    world.serve(flow("z", "a"))
    assert (world.blocks_of(lives), world.blocks_of(ended)) == (2, 0)


def test_parts_go_behind_it(tmp_path: Path) -> None:
    policy = make_policy(write(tmp_path, LRU) + "+admission")
    assert policy.admission is not None
    assert policy.is_plugged_in


def test_an_installed_package_may_bring_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LRU, "brought_along.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("theirs", "brought_along:Mine", plugin.GROUP)
    monkeypatch.setattr(plugin, "entry_points", lambda **wanted: EntryPoints([point]).select(**wanted))
    assert make_policy("theirs").is_plugged_in
    with pytest.raises(ConfigError, match="one of lru"):
        make_policy("nobodys")


def test_what_it_needs_is_found_in_one_place() -> None:
    for name in pbkv.cache._HOMES:
        assert getattr(pbkv.cache, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        pbkv.cache.Nonsense  # noqa: B018 - asked for its error


# ---------------------------------------------------------------------- what does not


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(:\n", r"mine\.py:1: syntax error: invalid syntax"),
        ("x = 1\nimport nothing_of_the_kind\n", r"mine\.py:2: cannot be imported: ModuleNotFoundError"),
        ("import sys\nsys.exit(0)\n", r"mine\.py:2: cannot be imported: SystemExit"),
        ("class Other: ...\n", r"expected a class of .*mine\.py, which has Other"),
        ("Mine = 3\n", r"expected a class of .*mine\.py, which has none"),
        (
            "class Mine:\n    def keys(self, node): ...\n    def ended(self): ...\n",
            r"mine\.py:1: Mine has no method key\(self, node\); found: keys, ended",
        ),
        (
            LRU + "    def __init__(self):\n        raise ValueError('no\\nway')\n",
            r"mine\.py:6: Mine\.__init__: ValueError: no way",
        ),
        ("class Mine:\n    async def key(self, node): ...\n", r"mine\.py:2: Mine\.key: is async, expected"),
        (LRU + "    async def admits(self, r, m, t): ...\n", r"mine\.py:5: Mine\.admits: is async"),
        (LRU + "    async def ended(self, w, t):\n        yield\n", r"mine\.py:5: Mine\.ended: is async"),
        (LRU + "    async def __init__(self): ...\n", r"mine\.py:5: Mine\.__init__: is async"),
        (
            LRU + "    def __init__(self):\n        raise SystemExit(3)\n",
            r"mine\.py:6: Mine\.__init__: SystemExit: 3",
        ),
        (LRU + "    def __init__(self, size): ...\n", r"mine\.py:5: Mine\.__init__: TypeError"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(text: str, expected: str, tmp_path: Path) -> None:
    name = write(tmp_path, text)
    with pytest.raises(InputError, match=expected) as error:
        make_policy(name)
    said(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.py:Mine, expected a Python file that exists"):
        make_policy(f"{tmp_path}/gone.py:Mine")


BAD_METHODS = [
    ("def key(self, node): return 1 / 0", r"mine\.py:3: Mine\.key: ZeroDivisionError: division by zero"),
    ("def key(self): return 0", r"mine\.py:3: Mine\.key: TypeError: .*takes 1 positional"),
    ("def key(self, node): ...", r"mine\.py:3: Mine\.key: gives None, expected"),
    ("def key(self, node): return float('nan')", r"Mine\.key: gives nan, expected a key"),
    ("def key(self, node): return (1, float('nan'))", r"Mine\.key: gives \(1, nan\), expected"),
    ("def key(self, node): return random.random()", r"Mine\.key: gives .* and then .* for the same node"),
    (
        "def key(self, node): return 'late' if node.last_access_s > 1 else 1",
        r"Mine\.key: gives keys that cannot be compared: .*'late'",
    ),
    (
        "key = lambda self, node: node.end\n    def ended(self, workflow, now_s): return 5",
        r"mine\.py:4: Mine\.ended: answers 5, expected a list of nodes, or None",
    ),
    (
        "key = lambda self, node: node.end\n    def ended(self, workflow, now_s): sys.exit('enough')",
        r"mine\.py:4: Mine\.ended: SystemExit: enough",
    ),
    (
        "key = lambda self, node: node.end\n    def touched(self, node, lease): node.nonsense()",
        r"mine\.py:4: Mine\.touched: AttributeError: .*nonsense",
    ),
]


def play_all(world: World, names: str) -> None:
    for name in names:
        world.serve(flow(name, "a"))


@pytest.mark.parametrize(("method", "expected"), BAD_METHODS)
def test_what_goes_wrong_as_it_runs_is_named(method: str, expected: str, tmp_path: Path) -> None:
    world = World(write(tmp_path, f"import random, sys\nclass Mine:\n    {method}\n"), 6)
    with pytest.raises(PolicyError, match=expected) as error:
        play_all(world, "pqrstuv")
    said(error)


@pytest.mark.parametrize("answer", ["'many'", "None", "float('nan')", "float('inf')", "[3]"])
def test_a_budget_is_a_number_of_blocks(answer: str, tmp_path: Path) -> None:
    text = LRU + "    prefetch_key = key\n" + f"    def prefetch_budget(self, situation): return {answer}\n"
    prefetch = make_policy(write(tmp_path, text)).prefetch
    assert prefetch is not None
    with pytest.raises(PolicyError, match=r"mine\.py:6: Mine\.prefetch_budget: answers .*blocks") as error:
        prefetch.budget(Situation(True, 1, 0))
    assert answer.strip("'").removeprefix("float('").removesuffix("')") in said(error)


@pytest.mark.parametrize("method", ["next_change_s", "next_due_s"])
@pytest.mark.parametrize("answer", ["'soon'", "None", "float('nan')", "1j"])
def test_an_instant_is_a_number_of_seconds(method: str, answer: str, tmp_path: Path) -> None:
    text = LRU + "    def admits(self, request, manager, now_s): return True\n"
    policy = make_policy(write(tmp_path, text + f"    def {method}(self): return {answer}\n"))
    assert policy.admission is not None
    ask = policy.admission.next_change_s if method == "next_change_s" else policy.followers[0].next_due_s
    with pytest.raises(PolicyError, match=rf"mine\.py:6: Mine\.{method}: answers .*seconds") as error:
        ask()
    said(error)


def test_instants_and_budgets_may_be_whole_numbers_or_infinitely_far(tmp_path: Path) -> None:
    text = LRU + "    def next_due_s(self): return float('inf')\n    def note(self): return 'noted'\n"
    text += "    prefetch_key = key\n    def prefetch_budget(self, situation): return 2.0\n"
    policy = make_policy(write(tmp_path, text))
    assert policy.followers[0].next_due_s() == float("inf")
    assert policy.note() == "noted"
    assert policy.prefetch is not None
    assert policy.prefetch.budget(Situation(True, 1, 0)) == 2


def test_a_note_is_a_text(tmp_path: Path) -> None:
    policy = make_policy(write(tmp_path, LRU + "    def note(self): return 5\n"))
    with pytest.raises(PolicyError, match=r"mine\.py:5: Mine\.note: answers 5, expected a text"):
        policy.note()


def test_options_reach_it_by_name_only(tmp_path: Path) -> None:
    text = "class Mine:\n    def __init__(self, options):\n        self.rho = options.rho\n"
    name = write(tmp_path, text + "    def key(self, node):\n        return self.rho\n")
    node = World("lru", 4).manager.tree.root
    assert make_policy(name, options=PolicyOptions(rho=0.5)).gpu_order.key(node).value == 0.5
