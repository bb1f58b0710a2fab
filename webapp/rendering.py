"""A model's text as HTML that can do nothing: no raw HTML, images, scripts, styles or ways out of the page.

Markdown by markdown-it-py with `html=False`, code coloured by Pygments' classes, all of it cleaned once more by nh3.
Links keep their text only, images their description. Markers `[n]` of known sources become buttons for the page's
evidence drawer. While an answer streams the browser shows text nodes; this is for finished answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from webapp.citations import MARKER, numbers_of

TAGS = {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "span", "blockquote", "ul", "ol", "li", "h3", "h4", "h5", "h6",
    "table", "thead", "tbody", "tr", "th", "td", "button",
}  # fmt: skip
ATTRIBUTES = {
    "span": {"class"}, "pre": {"class", "tabindex"}, "code": {"class"}, "ol": {"start"},
    "button": {"class", "type", "data-n", "aria-pressed", "aria-label"},
}  # fmt: skip
MAX_CODE = 50_000
"""Characters above which code is shown without colours."""


def _code(text: str, language: str) -> str:
    try:
        lexer = get_lexer_by_name(language) if language and len(text) <= MAX_CODE else None
    except ClassNotFound:
        lexer = None
    inner = highlight(text, lexer, HtmlFormatter(nowrap=True)) if lexer else escape(text)
    return f'<pre class="cf-code" tabindex="0"><code>{inner}</code></pre>\n'


class _Renderer(RendererHTML):
    """Headings become small, links and images plain text, code coloured."""

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _code(tokens[idx].content, (tokens[idx].info or "").split(" ")[0][:40])

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _code(tokens[idx].content, "")

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return escape(tokens[idx].content)

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return ""

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return ""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<h{min(6, int(tokens[idx].tag[1]) + 2)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"</h{min(6, int(tokens[idx].tag[1]) + 2)}>\n"

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _with_chips(tokens[idx].content, env.get("known", ()))


def chip(number: int) -> str:
    """The button of one source."""
    return (
        f'<button class="cf-cite" type="button" data-n="{number}" aria-pressed="false" '
        f'aria-label="Source {number}">{number}</button>'
    )


def _with_chips(text: str, known: Collection[int]) -> str:
    found, at = [], 0
    for match in MARKER.finditer(text) if known else ():
        numbers = [n for n in numbers_of(match[1]) if n in known]
        if numbers:
            found += [escape(text[at : match.start()]), *map(chip, numbers)]
            at = match.end()
    return "".join([*found, escape(text[at:])])


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}, renderer_cls=_Renderer)
    # Definitions such as `[1]: somewhere` would turn markers into links.
    return parser.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline", "autolink"])


def render_answer(text: str, known: Collection[int] = ()) -> SafeString:
    """HTML of an answer; `known` are the numbers of its sources."""
    env: Mapping[str, Any] = {"known": frozenset(known)}
    raw = _parser().render(text, dict(env))
    clean = nh3.clean(raw, tags=TAGS, attributes=ATTRIBUTES, url_schemes=set(), link_rel=None, strip_comments=True)
    return mark_safe(clean)  # noqa: S308 - cleaned by nh3 against the list above
