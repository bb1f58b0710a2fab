"""Which source an answer stands on, when the model wrote no marker itself: by the words that they share.

Pure text, no model. Guarantees: a source is named only when at least half of the answer's content words, and two of
them, stand in it; an answer that carries a marker of a source already gets none. Not a proof that the source supports
the answer: whoever shows the marker should say that it was found by comparing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"[^\W_]{2,}")
_MARKER = re.compile(r"\[(\d{1,3})(?:\s*[,;]\s*\d{1,3})*\]")
_LEAST_SHARE, _LEAST_WORDS = 0.5, 2
_COMMON_WORDS = (
    "a an and any are as at be been but by can could did do does for from had has have he her his how if in into is it "
    "its may might must no not of on one only or our shall she should so such than that the their them then there "
    "these they this those to under up upon was were what when where which who whom whose will with would you your "
    "answer question source sources text"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def _words(text: str) -> set[str]:
    found = (word.lower() for word in _WORD.findall(text))
    return {word.removesuffix("s") if len(word) > 3 else word for word in found if word not in _COMMON}


def marker_for(answer: str, hits: Sequence[dict[str, Any]]) -> str:
    """` [n]` to be put after the answer, or an empty string. `hits` as `jobs.retrieve.search` returns them."""
    if not hits or any(int(n) in {hit["n"] for hit in hits} for n in _MARKER.findall(answer)):
        return ""
    words = _words(answer)
    shared = {hit["n"]: len(words & _words(hit["text"])) for hit in hits}
    best = max(shared, key=lambda n: (shared[n], -n))
    if shared[best] < max(_LEAST_WORDS, _LEAST_SHARE * len(words)):
        return ""
    return f" [{best}]"
