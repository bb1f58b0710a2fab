"""A study as Markdown: for documentation, issues and mail.

Every text that comes from data, specs or errors is escaped: no markup and no image can come out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ml.study import words
from ml.study.told import Told, columns_of, label_of, p_of, tag_of, verdict_of, why_of

_MARKS = re.compile(r"([\\`*_|~#])")


def as_markdown(told: Told) -> str:
    parts = [
        f"# {text_of(told.title)}", f"{text_of(told.progress)}; {text_of(told.measured)}.", *_findings(told),
        *_leaderboard(told), *_sizes(told), *_searches(told), *_pairs(told), *_missing(told), *_settings(told),
        *_cells(told),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def text_of(value: Any) -> str:
    """A text in which nothing is markup, on one line."""
    flat = " ".join(str(value).split())
    flat = "".join(char for char in flat if char.isprintable())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", flat).replace("](", "]\\(")


def table(heads: Sequence[str], lines: Iterable[Sequence[Any]], *, right: int = 0) -> str:
    """`right`: the column from which on figures are aligned to the right."""
    rule = ["---" if i < (right or len(heads)) else "--:" for i in range(len(heads))]
    rows = [list(map(text_of, heads)), rule, *([text_of(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def code(text: str, language: str = "") -> str:
    """A block that no run of backticks in the text can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _findings(told: Told) -> list[str]:
    shown = [f"- **{text_of(found['title'])}** {text_of(found['text'])}" for found in told.board["findings"]]
    return ["## Findings", "\n".join(shown)] if shown else []


def _leaderboard(told: Told) -> list[str]:
    entries = told.board["entries"]
    if not entries:
        return []
    heads = ["#", "Technique", "", "Group", told.metric_label, "95 % interval", *(n for n, _ in columns_of(entries[0]))]
    lines = [
        [entry["place"], label_of(entry["technique"]), tag_of(entry), entry["group"], words.percent(entry["value"]),
         words.bounds(entry["interval"]), *(text for _, text in columns_of(entry))]
        for entry in entries
    ]  # fmt: skip
    note = (
        "A group ends where a technique is below the group's best for certain. Intervals are over rows and, where "
        "there are several, seeds. Tokens a request: read + virtual → written. Memory is the training's peak."
    )
    return ["## Leaderboard", table(heads, lines, right=3), note]


def _sizes(told: Told) -> list[str]:
    lines = [
        [label_of(name), f"{point['share']:.0%}", f"{point['n_train_rows'] or 0:,}", words.percent(point["value"]),
         words.bounds(point["interval"])]
        for name, points in told.board["sizes"].items() for point in points
    ]  # fmt: skip
    heads = ["Technique", "Share", "Training rows", told.metric_label, "95 % interval"]
    return ["## Quality by training rows", table(heads, lines, right=1)] if lines else []


def _searches(told: Told) -> list[str]:
    lines = []
    for name, tries in told.board["tries"].items():
        for one in tries:
            last = one["rungs"][-1] if one["rungs"] else {}
            loss = "" if last.get("loss") is None else f"{last['loss']:.3g}"
            lines.append([label_of(name), words.rate(one["learning_rate"]), one["state"], last.get("step", ""),
                          words.percent(last.get("value")), loss])  # fmt: skip
    heads = ["Technique", "Learning rate", "State", "Last step", "On validation", "Loss"]
    return ["## Learning rates tried", table(heads, lines, right=3)] if lines else []


def _pairs(told: Told) -> list[str]:
    lines = [
        [label_of(pair["a"]), label_of(pair["b"]), words.points(pair["difference"]),
         words.bounds([pair["low"], pair["high"]]), p_of(pair["p"]), p_of(pair["p_adjusted"]), verdict_of(pair),
         f"{pair['only_a']} : {pair['only_b']}", f"{pair['rows_needed']:,}" if pair["rows_needed"] else words.NOTHING]
        for pair in told.board["pairs"]
    ]  # fmt: skip
    heads = ["Higher", "Lower", "Difference", "95 % interval", "p", "p, corrected", "", "Right alone", "Rows needed"]
    return ["## Pairs", table(heads, lines, right=2)] if lines else []


def _missing(told: Told) -> list[str]:
    lines = [
        [cell["key"], "failed" if cell["state"] == "failed" else "left out", why_of(cell)]
        for cell in told.cells if cell["state"] in ("failed", "left_out")
    ]  # fmt: skip
    return ["## Not measured", table(["Cell", "State", "Why"], lines)] if lines else []


def _settings(told: Told) -> list[str]:
    return [
        "## Settings", table(["Setting", "Value"], told.settings()), "## How the figures were made",
        table(["What", "Value"], told.surroundings()[1:] if told.command else told.surroundings()),
        *([code(told.command, "sh")] if told.command else []),
    ]  # fmt: skip


def _cells(told: Told) -> list[str]:
    parts = ["## Cells"] if told.cells else []
    for cell in told.cells:
        value = words.percent(cell.get("value"))
        facts = [("seed", cell["seed"]), ("share", f"{cell['share']:g}"), ("state", cell["state"]), ("value", value)]
        line = ", ".join(f"{name} {text_of(fact)}" for name, fact in facts)
        parts += [f"### {text_of(cell['key'])}", f"{line}; identity {text_of(cell.get('identity', ''))}."]
        if cell.get("spec") is not None:
            parts.append(code(json.dumps(cell["spec"], sort_keys=True, ensure_ascii=False), "json"))
    return parts
