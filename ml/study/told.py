"""What the reports of a study tell of, read out of its folder, and the words that they share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.errors import DataError
from ml.events import finite
from ml.specs.study import STUDY_FIELDS, TECHNIQUES
from ml.study import words
from ml.study.entries import TOKENS

Cell = Mapping[str, Any]
Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Told:
    about: Mapping[str, Any]
    """study.json"""
    board: Mapping[str, Any]
    """board.json"""
    cells: Sequence[Cell]
    """In the order of the leaderboard, then of the seeds, then of the shares."""

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.about.get("spec") or {}
        return found

    @property
    def title(self) -> str:
        return f"{self.spec.get('dataset', 'Study')}: which technique?"

    @property
    def metric_label(self) -> str:
        return str(self.board["metric_label"])

    @property
    def progress(self) -> str:
        """`16 of 16 cells done in 58 min`"""
        counts = self.board["n_cells"]
        done = f"{counts['done']} of {words.several(counts['total'], 'cell')} done"
        seconds = self.about.get("seconds")
        return f"{done} in {words.duration(seconds)}" if seconds else done

    @property
    def measured(self) -> str:
        """`accuracy on the same 150 test rows for all, 3 seeds`"""
        n_seeds = len(self.board["seeds"])
        text = f"{words.midsentence(self.metric_label)} on the same {words.several(self.board['n_rows'], 'test row')}"
        return f"{text} for all, {words.several(n_seeds, 'seed')}"

    @property
    def command(self) -> str:
        """As a line that can be run again."""
        found = self.about.get("command") or ""
        return found if isinstance(found, str) else shlex.join(str(part) for part in found)

    def settings(self) -> list[tuple[str, str]]:
        """The study's spec in the words of its form."""
        spec = self.spec
        shares = [*spec.get("shares", ()), 1]
        found = [("Base model", str(spec.get("base", ""))), ("Data set", str(spec.get("dataset", ""))),
                 *([("Collection", str(spec["collection"]))] if spec.get("collection") else []),
                 ("Metric", self.metric_label), ("Seeds", ", ".join(map(str, spec.get("seeds", ())))),
                 ("Shares of the training rows", ", ".join(f"{share:g}" for share in shares))]  # fmt: skip
        for field in STUDY_FIELDS:
            value = spec.get(field.name)
            if value not in (None, ""):
                unit = f" {field.unit}" if field.unit else ""
                text = f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"
                found.append((field.label, text if value else "no limit"))
        return found

    def surroundings(self) -> list[tuple[str, str]]:
        """What the figures depend on beside the spec."""
        about = self.about
        rows, machine, versions = (about.get(name) or {} for name in ("n_rows", "machine", "versions"))
        found = [
            ("Command", self.command), ("Started", str(about.get("started_at", ""))),
            ("Took", _took(about)), ("Rows", ", ".join(f"{n:,} {split}" for split, n in rows.items())),
            ("Data set, sha256", str(about.get("dataset_sha256", ""))),
            ("Base model, fingerprint", str(about.get("base_fingerprint", ""))),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("Machine", _machine(machine)), ("Commit", str(about.get("commit", ""))),
        ]  # fmt: skip
        return [(term, text) for term, text in found if text]


def _took(about: Mapping[str, Any]) -> str:
    if not about.get("seconds"):
        return ""
    text = words.duration(about["seconds"])
    spent = about.get("spent_s") or {}
    parts = [f"{kind} {words.duration(spent[kind])}" for kind in ("search", "train", "measure") if spent.get(kind)]
    if about.get("overhead_s") is not None:
        parts.append(f"overhead {words.duration(about['overhead_s'])}")
    return f"{text}: {', '.join(parts)}" if parts else text


def _machine(machine: Mapping[str, Any]) -> str:
    parts = [str(machine.get(name) or "") for name in ("processor", "device", "system")]
    if machine.get("memory_bytes"):
        parts.insert(1, f"{words.size(machine['memory_bytes'])} of memory")
    if machine.get("cores"):
        parts.insert(1, words.several(machine["cores"], "core"))
    return ", ".join(part for part in parts if part)


def read_told(out: Path) -> Told:
    """Raises DataError when study.json or board.json is missing, or a file is no JSON object."""
    board = read_json(out / "board.json")
    places = {entry["technique"]: entry["place"] for entry in board["entries"]}
    order = list(TECHNIQUES)

    def place(cell: Cell) -> tuple[Any, ...]:
        name = cell["technique"]
        return places.get(name, len(places) + 1), order.index(name), -cell["share"], cell["seed"]

    cells = [read_json(path) for path in (out / "cells").glob("*.json")]
    return Told(about=read_json(out / "study.json"), board=board, cells=sorted(cells, key=place))


def read_json(path: Path) -> dict[str, Any]:
    """Numbers that JSON does not have become null."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} of the study cannot be read: {error}.", hint="Run the study again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path.name} of the study is no object.", hint="Run the study again.")
    return dict(finite(found))


def tokens_of(entry: Mapping[str, Any]) -> str:
    """`34 + 20` with virtual ones, `61 → 88` with written ones; a single written token is not worth a word."""
    read, virtual, written = (entry.get(name) for name in TOKENS)
    if read is None:
        return words.NOTHING
    text = f"{read:,.0f} + {virtual:,.0f}" if virtual else f"{read:,.0f}"
    return f"{text} → {written:,.0f}" if written is not None and written > 1 else text


def columns_of(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an entry costs, by column."""
    is_asked = entry["kind"] == "prompt"
    return [
        ("Tokens", tokens_of(entry)), ("Trained", words.count(entry["n_trainable"])),
        ("Size", words.size(entry["artifact_bytes"])),
        ("Training", words.NOTHING if is_asked else words.duration(entry["train_s"])),
        ("Memory", words.size(entry["peak_bytes"])), ("Latency p50", words.milliseconds(entry["latency_p50_ms"])),
    ]  # fmt: skip


def tag_of(entry: Mapping[str, Any]) -> str:
    if entry["is_take"]:
        return "take this one"
    return "tied with 1" if entry["is_tied"] else ""


def label_of(technique: str) -> str:
    return words.name(TECHNIQUES[technique].label) if technique in TECHNIQUES else technique


def verdict_of(pair: Mapping[str, Any]) -> str:
    return "certain" if pair["is_certain"] else "open"


def p_of(value: float | None) -> str:
    """A p value; the draws cannot tell smaller ones apart."""
    if value is None:
        return words.NOTHING
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def why_of(cell: Cell) -> str:
    """Why a cell has no figures."""
    return str(cell.get("reason") or (cell.get("error") or {}).get("message") or "")
