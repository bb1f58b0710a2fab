"""A board as the rules of the findings ask it: entries by name, pairs either way round, values in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ml.specs.measures import EVALUATION_METRICS
from ml.study import words
from ml.study.entries import tokens

Entry = Mapping[str, Any]
Finding = dict[str, str]
Sure = Literal["certain", "tied", "open"]
KEEPS = 0.9
"""Share of the best value that a cheaper technique must keep to be recommended for its cost."""


def finding(kind: str, sure: Sure, title: str, text: str) -> Finding:
    """`sure`: certain where chance is ruled out or nothing is tested, tied where it is not, open where figures lack."""
    return {"kind": kind, "sure": sure, "title": title, "text": text}


class Facts:
    def __init__(self, board: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.board, self.about = board, about
        self.entries: Sequence[Entry] = board["entries"]
        self.by_name = {entry["technique"]: entry for entry in self.entries}
        self.metric = EVALUATION_METRICS[board["metric"]]
        self._pairs = {(pair["a"], pair["b"]): pair for pair in board["pairs"]}

    @property
    def n_rows(self) -> str:
        return words.several(self.board["n_rows"], "test row")

    @property
    def trained(self) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] == "trained"]

    @property
    def asked(self) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] == "prompt"]

    @property
    def take(self) -> Entry | None:
        return self.by_name.get(self.board["take"])

    @property
    def good(self) -> list[Entry]:
        """Those that keep most of the best one's value, and the one to take, which is tied with it."""
        least = KEEPS * self.entries[0]["value"] if self.entries else 0.0
        return [entry for entry in self.entries if entry["value"] >= least or entry is self.take]

    def is_above(self, a: Entry, b: Entry) -> bool:
        """Whether a is better than b for certain."""
        pair = self._pairs.get((a["technique"], b["technique"]))
        return bool(pair and pair["is_certain"] and pair["difference"] > 0)

    def is_tie(self, a: Entry, b: Entry) -> bool:
        return not self.is_above(a, b) and not self.is_above(b, a)

    def verdict(self, a: Entry, b: Entry) -> tuple[Sure, str]:
        """Of a, ranked above b: how sure that is, and the end of a sentence that has named both values."""
        pair = self.pair(a, b)
        if pair["is_certain"] and pair["difference"] > 0:
            return "certain", f"{self.apart(a, b)} less"
        if pair["low"] > 0:
            return "open", f"{self.apart(a, b)} less, likely, but among so many comparisons not certain"
        return "tied", f"on {self.n_rows} a tie"

    def pair(self, a: Entry, b: Entry) -> Mapping[str, Any]:
        """Of two in the order of their rank."""
        return self._pairs[(a["technique"], b["technique"])]

    def does(self, entry: Entry, *, with_interval: bool = False) -> str:
        """`LoRA answers 96.7 % right`, or `LoRA reaches 61.2 % token F1`."""
        value = words.percent(entry["value"])
        does = (
            f"{verb(entry, 'answers')} {value} right"
            if self.metric.is_right_or_wrong
            else f"{verb(entry, 'reaches')} {value} {self.unit}"
        )
        return f"{name(entry)} {does}" + (f" {words.bounds(entry['interval'])}" if with_interval else "")

    @property
    def unit(self) -> str:
        return words.midsentence(self.metric.label)

    def apart(self, a: Entry, b: Entry) -> str:
        """`8.7 points [3.1, 14.2]`, a ranked above b."""
        pair = self.pair(a, b)
        return f"{words.points(pair['difference'])} {words.bounds([pair['low'], pair['high']])}"


def name(entry: Entry) -> str:
    return words.name(entry["label"])


def verb(entry: Entry, singular: str) -> str:
    """`LoRA answers`, `Last layers answer`."""
    is_many = entry["label"].partition(", ")[0].endswith("s")
    if not is_many:
        return singular
    return {"is": "are", "reaches": "reach"}.get(singular, singular.removesuffix("s"))


def says(entry: Entry, singular: str) -> str:
    """`LoRA takes`, `Last layers take`."""
    return f"{name(entry)} {verb(entry, singular)}"


def names(entries: Sequence[Entry]) -> str:
    return words.listed([name(entry) for entry in entries])


def with_value(entry: Entry) -> str:
    """`LoRA 96.7 %`"""
    return f"{name(entry)} {words.percent(entry['value'])}"


def n_tokens(entry: Entry) -> float:
    return tokens(entry) or 0.0
