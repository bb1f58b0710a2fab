"""Finding the answer in a text that reasons, and the vote of several such texts (self-consistency). Pure.

A rule says where the answer stands: {"kind": "after", "marker": "Answer:"} behind the last marker, "last_line",
"number" (the last one), or "label" (the one of `labels` named last); {} takes the whole text. Rules are a fixed set
rather than regular expressions: no text of a model can make one of them slow. Self-consistency is the plain majority of
Wang et al. 2022 (arXiv 2203.11171, section 2); texts without an answer do not vote, and a tie goes to the answer that
was written first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from ml.errors import SpecError

KINDS = {
    "": "The whole text",
    "after": "After a marker",
    "last_line": "The last line",
    "number": "The last number",
    "label": "The label named last",
}
MAX_SAMPLES = 16
MAX_MARKER = 60
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_WRAP = " \t*_`\"'“”‘’()[]"


def rule_check(kind: Any, marker: Any = "", labels: Sequence[str] = ()) -> dict[str, Any]:
    """The rule as it is kept. Raises SpecError with `field` set."""
    if kind not in KINDS:
        raise SpecError(f"Unknown way to find the answer {str(kind)[:40]!r}.", hint="One of: " + ", ".join(KINDS)[2:],
                        field="answer_kind")  # fmt: skip
    if kind == "after":
        text = str(marker or "").strip()
        if not 1 <= len(text) <= MAX_MARKER or "\n" in text:
            raise SpecError(f"A marker has 1 to {MAX_MARKER} characters on one line, got {text[:80]!r}.",
                            hint="For example Answer:, and let the template ask for it.", field="marker")  # fmt: skip
        return {"kind": kind, "marker": text}
    if kind == "label":
        if not labels:
            raise SpecError("There are no labels to look for.", hint="Choose a data set with labels.",
                            field="answer_kind")  # fmt: skip
        return {"kind": kind, "labels": list(labels)}
    return {"kind": kind} if kind else {}


def _tidy(text: str) -> str:
    return text.strip(_WRAP + "\n").rstrip(".,;:!").strip(_WRAP)


def _after(text: str, marker: str) -> str:
    at = text.casefold().rfind(marker.casefold())
    if at < 0:
        return ""
    rest = text[at + len(marker) :].strip().strip("*_ ").lstrip()
    return _tidy(rest.splitlines()[0]) if rest else ""


def _last_label(text: str, labels: Sequence[str]) -> str:
    found = ""
    place = (-1, 0)
    for label in labels:
        for match in re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE):
            if (match.end(), len(label)) > place:
                place, found = (match.end(), len(label)), label
    return found


def extract(rule: Mapping[str, Any], text: str) -> str | None:
    """The answer in a text; None when the rule finds none."""
    kind = rule.get("kind", "")
    if kind == "after":
        return _after(text, str(rule["marker"])) or None
    if kind == "last_line":
        lines = [line for line in text.splitlines() if line.strip(_WRAP)]
        return _tidy(lines[-1]) or None if lines else None
    if kind == "number":
        found = _NUMBER.findall(text)
        return found[-1].replace(",", "") if found else None
    if kind == "label":
        return _last_label(text, rule.get("labels", ())) or None
    return text.strip() or None


def same(answer: str) -> str:
    """What two answers share when they say the same: case, spaces, wrapping marks and a number's zeros do not count."""
    text = " ".join(_tidy(answer).casefold().split())
    try:
        number = Decimal(text.replace(",", "").lstrip("$€£ "))
    except InvalidOperation:
        return text
    return f"{number.normalize():f}" if number.is_finite() and abs(number.adjusted()) < 30 else text


@dataclass(frozen=True, kw_only=True)
class Vote:
    """The outcome over all texts."""

    chosen: int
    """Place of the text that is shown: the first whose answer won."""
    answer: str | None
    counts: list[tuple[str, int]]
    """Answers with their votes, most first."""
    agreement: float
    """Share of all texts, those without an answer included, that gave the winning answer."""

    def as_dict(self) -> dict[str, Any]:
        counts = [{"answer": answer, "n": n} for answer, n in self.counts]
        return {"answer": self.answer, "agreement": round(self.agreement, 4), "votes": counts}


def vote(rule: Mapping[str, Any], texts: Sequence[str]) -> Vote:
    """The majority of the answers in `texts`, at least one of them."""
    found = [extract(rule, text) for text in texts]
    tally: dict[str, list[int]] = {}
    for place, answer in enumerate(found):
        if answer is not None:
            tally.setdefault(same(answer), []).append(place)
    ranked = sorted(tally.values(), key=lambda places: (-len(places), places[0]))
    if not ranked:
        return Vote(chosen=0, answer=None, counts=[], agreement=0.0)
    counts = [(str(found[places[0]]), len(places)) for places in ranked]
    return Vote(chosen=ranked[0][0], answer=counts[0][0], counts=counts, agreement=counts[0][1] / len(texts))
