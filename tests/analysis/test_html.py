"""Elements escape what they are given."""

from __future__ import annotations

from pbkv.analysis.html import Html, element, script_data


def test_texts_and_attributes_are_escaped_and_elements_are_not() -> None:
    inner = element("b", "a < b & c")
    assert element("p", inner, '"<i>"', title='"x"') == (
        '<p title="&quot;x&quot;"><b>a &lt; b &amp; c</b>&quot;&lt;i&gt;&quot;</p>'
    )


def test_children_may_be_lists_or_nothing() -> None:
    assert element("ul", None, [element("li", "a"), [element("li", "b")]]) == "<ul><li>a</li><li>b</li></ul>"


def test_attributes_may_have_no_value_or_a_name_that_python_keeps_for_itself() -> None:
    assert element("details", open=True, hidden=False, class_="a") == '<details open class="a"></details>'
    assert element("img", src="x", alt=None) == '<img src="x">'


def test_data_cannot_end_its_block() -> None:
    assert "</script><" not in script_data('{"a": "</script><b>"}', "data")
    assert isinstance(script_data("{}", "data"), Html)
