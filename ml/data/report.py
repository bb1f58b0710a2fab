"""What is counted once, when a version is made: duplicates, contradictions, leakage, labels and their twins, lengths.

Everything is counted over every row, by 16-byte digests: two rows with the same text after folding case and white space
are "the same". Near duplicates (other words) are not looked for.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ml.data.splitting import SPLITS

N_EXAMPLES = 10
_SPACE = re.compile(r"\s+")
_JOINERS = re.compile(r"[\s_\-./]+")


def count_labels(counts: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Labels, most frequent first, each followed by its twins: the same word in another case or spelling."""
    families: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        families[spelling_family(label)].append(label)
    rows: list[dict[str, Any]] = []
    for family in families.values():
        family.sort(key=lambda label: (-sum(counts[label]), label))
        for label in family:
            by_split = dict(zip(SPLITS, counts[label], strict=True))
            twin_of = "" if label == family[0] else family[0]
            rows.append({"label": label, "n": sum(counts[label]), "splits": by_split, "twin_of": twin_of})
    order = {label: (-sum(counts[family[0]]), family[0]) for family in families.values() for label in family}
    rows.sort(key=lambda row: (*order[row["label"]], row["twin_of"] != "", -row["n"]))
    return rows


def spelling_family(label: str) -> str:
    """Equal for labels that differ in case, spaces, dashes and the like only."""
    return _JOINERS.sub("", label.casefold())


def count_lengths(lengths: Counter[int]) -> dict[str, Any]:
    """Median, 95th percentile and longest of a histogram {length: rows}, and the histogram in 24 bars."""
    total = sum(lengths.values())
    if not total:
        return {}
    ordered = sorted(lengths.items())

    def at(share: float) -> int:
        left = share * total
        for length, n in ordered:
            left -= n
            if left <= 0:
                return length
        return ordered[-1][0]

    longest = ordered[-1][0]
    step = max(1, -(-max(at(0.99), 1) // 24))
    bars = [0] * 24
    for length, n in ordered:
        bars[min(length // step, 23)] += n
    return {"n": total, "median": at(0.5), "p95": at(0.95), "longest": longest, "step": step, "bars": bars}


def counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names."""
    return ", ".join(names[:limit]) + " …" * (len(names) > limit)


def warnings_of(report: Mapping[str, Any], task: str) -> list[dict[str, str]]:
    """What a person should know before training on this, most serious first."""
    found: list[dict[str, str]] = []

    def warn(code: str, text: str, advice: str) -> None:
        found.append({"code": code, "text": text, "advice": advice})

    splits, labels = report["splits"], report["labels"]
    n_rows = sum(splits.values())
    if n_rows == 1:
        warn("one_row", "There is only one row.", "A model can repeat it, but nothing can be learnt or measured.")
    if task == "classification" and len(labels) == 1:
        warn("one_label", f"Every row has the same label, {labels[0]['label']!r}.",
             "There is nothing to tell apart. Training a classification asks for two labels.")  # fmt: skip
    if report["leakage"]["n"]:
        n = report["leakage"]["n"]
        warn("leakage", f"{counted(n, 'held-out row also lies', 'held-out rows also lie')} in train.",
             "Figures on them will be too good. Make a version that leaves them out of train.")  # fmt: skip
    for split, use in (("validation", "watched while training"), ("test", "measured at the end")):
        if not splits[split] and n_rows > 1:
            warn(f"no_{split}", f"No rows are held out for {split}.", f"Nothing can be {use}.")
    if report["contradictions"]["n"]:
        n = report["contradictions"]["n"]
        warn("contradictions", f"{counted(n, 'prompt has', 'prompts have')} different completions.",
             "The model cannot get both right.")  # fmt: skip
    if task == "classification":
        _warn_labels(labels, splits, n_rows, warn)
    return found


def _warn_labels(labels: Sequence[Mapping[str, Any]], splits: Mapping[str, int], n_rows: int, warn: Any) -> None:
    twins = [row for row in labels if row["twin_of"]]
    if twins:
        names = ", ".join(f"{row['label']!r} beside {row['twin_of']!r}" for row in twins[:3])
        warn("twins", f"{counted(len(twins), 'label has', 'labels have')} a twin: {names}.",
             "The model would learn both spellings.")  # fmt: skip
    if len(labels) > max(20, n_rows / 2):
        warn("many_labels", f"There are {len(labels):,} different labels for {n_rows:,} rows.",
             "This looks like free text: choose the task “generation”.")  # fmt: skip
    untrained = [row["label"] for row in labels if not row["splits"]["train"]]
    if untrained:
        warn("untrained_labels", f"Labels that never occur in train: {some(untrained)}.",
             "They cannot be learnt.")  # fmt: skip
    if splits["test"]:
        unseen = [row["label"] for row in labels if not row["splits"]["test"]]
        if unseen:
            warn("unmeasured_labels", f"Labels that never occur in test: {some(unseen)}.",
                 "Nothing is known about how well they are told apart.")  # fmt: skip
