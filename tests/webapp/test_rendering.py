"""A model's text can do nothing on the page."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.citations import settle
from webapp.rendering import render_answer

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
    "<a href='javascript:x'>y</a>",
    "[click](javascript:alert(1))", "[click](https://evil.example/?q=secret)", "![x](https://evil.example/p.png)",
    "<https://evil.example>", "[1]: https://evil.example\n\n[1]", "[a]: https://evil.example\n\n![b][a]",
    "```html\n<script>alert(1)</script>\n```", "`<b>`", "<style>*{}</style>", "<iframe src=//evil.example>",
    "| a |\n|---|\n| <img src=x> |", "<button data-n=1 class=cf-cite>1</button>", "&lt;script&gt;", "# <script>",
    "<!-- --><script>", "[x](data:text/html,<script>)", "<form action=//evil.example><input>",
]  # fmt: skip
ALLOWED = re.compile(
    r"</?(?:p|br|hr|strong|em|s|code|pre|span|blockquote|ul|ol|li|h[3-6]|table|thead|tbody|tr|th|td|button)"
    r"(?: (?:class|tabindex|start|type|data-n|aria-pressed|aria-label)=\"[^\"<>]*\")*>"
)


def is_inert(html: str) -> bool:
    return "<" not in ALLOWED.sub("", html)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    assert is_inert(render_answer(text, {1}))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*HOSTILE, "<", ">", '"', "`", "[", "](", ")", "\n", "*", "&", "1", "\\", "=", "a"])))
def test_no_mixture_of_hostile_pieces_gets_through(pieces):
    assert is_inert(render_answer("".join(pieces), {1}))


def test_links_and_images_keep_their_words_only():
    html = render_answer("See [the law](https://evil.example) and ![a tree](https://evil.example/p.png).")
    assert html == "<p>See the law and a tree.</p>\n"


def test_markers_of_sources_become_buttons_and_others_stay_text():
    html = render_answer("Both [1], not [3]; see [1, 2].", {1, 2})
    assert re.findall(r'data-n="(\d)"', html) == ["1", "1", "2"]
    assert "[3]" in html


def test_markers_in_code_stay_code():
    html = render_answer("`a[1]`\n\n```\nb[1]\n```", {1})
    assert "<button" not in html


def test_code_is_coloured_by_classes_only():
    html = render_answer("```python\nreturn 1\n```")
    assert '<span class="k">return</span>' in html
    assert "style=" not in html


@pytest.mark.parametrize(
    ("text", "kept", "cited", "n_dropped"),
    [
        ("Both [1].", "Both [1].", {1}, 0),
        ("Both [9].", "Both.", set(), 1),
        ("Both [1, 9] and [2;8].", "Both [1] and [2].", {1, 2}, 2),
        ("Code `x[9]` stays [9]", "Code `x[9]` stays ", set(), 1),
        ("```\na[9]\n``` [1]", "```\na[9]\n``` [1]", {1}, 0),
        ("[citation needed] [ 1 ]", "[citation needed] [ 1 ]", set(), 0),
    ],
)
def test_markers_without_a_chunk_are_removed_and_counted(text, kept, cited, n_dropped):
    found = settle(text, {1, 2})
    assert (found.text, found.numbers, found.n_dropped) == (kept, cited, n_dropped)
