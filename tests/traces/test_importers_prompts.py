"""Prompts of messages: two prompts share exactly the tokens that they share."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.traces.errors import ConfigError
from pbkv.traces.importers.prompts import PromptTree
from pbkv.traces.importers.text import Codes, Estimate, Named, Tokens

_KINDS = st.sampled_from(["system", "user", "output", "tool"])
_TEXTS = st.text(alphabet="ab\U0001f600", max_size=40)
_PROMPTS = st.lists(st.lists(st.tuples(_KINDS, _TEXTS), min_size=1, max_size=5), min_size=2, max_size=8)


class _Letters:
    """A tokenizer that takes letters, but "ab" as one token."""

    name, is_estimate = "letters", False

    def codes(self, text: str, num_tokens: int | None = None) -> Codes:
        import numpy as np

        return np.array([ord(letter) for letter in text.replace("ab", "c")], np.uint64)


def _as_tokens(tokens: Tokens, prompt: list[tuple[str, str]]) -> list[object]:
    """The naive twin: the whole prompt, token by token, framed as the module says."""
    found: list[object] = []
    for kind, text in prompt:
        found += [] if kind == "output" else [kind]
        found += [*map(int, tokens.codes(text)), "end"]
    return found


def _num_common(one: list[object], other: list[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@settings(max_examples=200, deadline=None)
@given(_PROMPTS, st.sampled_from([Estimate(), _Letters()]))
def test_two_prompts_share_exactly_their_common_prefix(
    prompts: list[list[tuple[str, str]]], tokens: Tokens
) -> None:
    tree = PromptTree(tokens)
    nodes = []
    for prompt in prompts:
        node = tree.root("model")
        for kind, text in prompt:
            node = tree.add(node, tree.message(kind, text))
        nodes.append(node)
    tree.seal()
    cut = [tree.segments(node) for node in nodes]
    whole = [_as_tokens(tokens, prompt) for prompt in prompts]
    lengths: dict[int, int] = {}
    for (ids, sizes, _), expected in zip(cut, whole, strict=True):
        assert sum(sizes) == len(expected)
        assert all(lengths.setdefault(i, size) == size > 0 for i, size in zip(ids, sizes, strict=True))
    for one in range(len(prompts)):
        for other in range(one):
            num_segments = _num_common(list(cut[one][0]), list(cut[other][0]))
            assert sum(cut[one][1][:num_segments]) == _num_common(whole[one], whole[other])


def test_models_share_nothing_and_stand_ins_only_by_name() -> None:
    tree = PromptTree(Estimate())
    one, other = (tree.add(tree.root(model), tree.message("user", "hello")) for model in ("a", "b"))
    alone = [tree.add(tree.root("a"), tree.stand_in("system", 9)) for _ in range(2)]
    named = [tree.add(tree.root("a"), tree.stand_in("tools", 9, "agent")) for _ in range(2)]
    tree.seal()
    assert set(tree.segments(one)[0]).isdisjoint(tree.segments(other)[0])
    assert tree.segments(alone[0]) != tree.segments(alone[1])
    assert tree.segments(named[0]) == tree.segments(named[1])


def test_an_answer_is_as_long_as_the_log_says() -> None:
    tree = PromptTree(Estimate())
    for number in (1, 7, 11, 400):
        assert tree.message("output", "x" * 40, number).num_tokens == number
    assert tree.message("output", "x" * 40).num_tokens == 11
    assert tree.message("output", "x" * 100_000, 3).num_tokens == 3


def test_a_tokenizer_is_a_file_or_a_name(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        assert Named(str(name)).codes("a b c \ud800").tolist()[:3] == [0, 1, 2]
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json"):
        Named(str(tmp_path / "bad.json"))
