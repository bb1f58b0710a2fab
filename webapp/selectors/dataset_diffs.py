"""A found difference as its page shows it: kinds in their order, words that changed inside a row. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.selectors.dataset_rows import common_beginning
from webapp.selectors.diffs import Diff, side_by_side


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row of both versions; `asked` and `answered` show the texts side by side where they differ."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def asked(self) -> Diff:
        return side_by_side(self.before["text"], self.after["text"])

    @property
    def answered(self) -> Diff:
        return side_by_side(self.before["completion"], self.after["completion"])

    @property
    def is_elsewhere(self) -> bool:
        """True when neither text differs: the system text, an earlier turn or another accepted answer does."""
        return self.asked.is_empty and self.answered.is_empty


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, and examples under headings; kinds that did not occur have none."""
    _shorten(found)
    changes = [Change(**pair) for pair in found["changed"]["examples"]]
    return {
        "n_before": found["n_before"], "n_after": found["n_after"],
        "counts": [(words, found[kind]["n"], found[kind]["n"] / max(1, found["n_before"], found["n_after"]))
                   for kind, words in (("added", "added"), ("removed", "removed"), ("changed", "changed"),
                                       ("moved", "moved to another split"), ("same", "as they were"))],
        "changed": {"n": found["changed"]["n"], "rows": changes},
        "moved": {"n": found["moved"]["n"], "rows": found["moved"]["examples"]},
        "lists": [("Added", "+", found["added"]), ("Removed", "−", found["removed"])],
        "is_empty": found["n_before"] == found["n_after"] == found["same"]["n"],
    }  # fmt: skip


def _shorten(found: Mapping[str, Any]) -> None:
    """Gives every row a `lead`: its text without what all of them begin with, such as one instruction."""
    rows = [row for kind in ("changed", "moved") for pair in found[kind]["examples"] for row in pair.values()]
    rows += [row for kind in ("added", "removed") for row in found[kind]["examples"]]
    n_shared = common_beginning([row["text"] for row in rows])
    for row in rows:
        row["lead"] = ("… " if n_shared else "") + row["text"][n_shared:]
