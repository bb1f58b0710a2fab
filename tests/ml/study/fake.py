"""A whole `out` folder of a study that nobody ran: realistic cells and rows, drawn by a fixed seed.

`fake_study(folder)` writes study.json, cells, rows, artifacts, board.json and the reports as the real runner does, and
gives the board back. Rows have a difficulty that all techniques share, so that what one gets wrong others tend to get
wrong too. No model, no training; artifacts are folders with a config and no weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ml.evaluate.answers import Answered
from ml.evaluate.summary import costs, summarize
from ml.events import finite
from ml.specs import METHODS, train_spec
from ml.specs.study import TECHNIQUES, StudySpec, metrics_for, study_spec, why_not_studied
from ml.specs.tasks import learnt_as
from ml.study.board import board
from ml.study.cells import Cell, cells_of
from ml.study.report import write_reports

LABELS = ("abbreviation", "description", "entity", "human", "location", "number")
ALL = tuple(name for name, one in TECHNIQUES.items() if not one.needs_collection)
ABILITY = {
    "plain": 0.25, "zero_shot": 0.31, "few_shot": 0.47, "few_shot_nearest": 0.845, "retrieval": 0.52,
    "chain_of_thought": 0.21, "self_consistency": 0.27, "prompt_tuning": 0.775, "p_tuning": 0.74,
    "prefix_tuning": 0.655, "lora": 0.965, "qlora": 0.955, "ia3": 0.82, "head": 0.88, "output_layers": 0.80,
    "last_k": 0.93, "full": 0.95,
}  # fmt: skip
"""Share of rows that a technique gets right on average, as the mock has it."""
FIGURES: dict[str, tuple[int, int, float, float, float]] = {
    # trained numbers, bytes, seconds of a training, peak GB, latency in ms
    "prompt_tuning": (11_520, 46_400, 350, 2.4, 31), "p_tuning": (811_000, 46_400, 390, 2.6, 31),
    "prefix_tuning": (230_400, 922_000, 370, 2.4, 31), "lora": (2_442_240, 9_800_000, 680, 3.1, 38),
    "qlora": (2_442_240, 9_800_000, 965, 2.2, 41), "ia3": (57_600, 230_000, 550, 2.7, 37),
    "head": (3_462, 14_000, 50, 0.9, 22), "output_layers": (28_312_128, 113_000_000, 90, 1.6, 34),
    "last_k": (7_080_000, 28_300_000, 160, 1.9, 33), "full": (134_515_008, 269_000_000, 1510, 4.4, 34),
}  # fmt: skip
ASKED: dict[str, tuple[int, int, float]] = {
    # tokens read, tokens written, latency in ms
    "plain": (34, 1, 33), "zero_shot": (61, 1, 34), "few_shot": (214, 1, 58), "few_shot_nearest": (291, 1, 96),
    "retrieval": (840, 1, 210), "chain_of_thought": (61, 88, 905), "self_consistency": (61, 440, 2980),
}  # fmt: skip
NORMAL = NormalDist()
QUESTIONS = ("What does {} stand for?", "Where is {}?", "Who wrote {}?", "How many {} are there?", "What is {}?")
THINGS = ("NASA", "the Chesapeake Bay", "the Mississippi", "a larch", "Hamlet", "the Hanse", "basalt", "the abacus")
WORDS = ("the", "mill", "is", "a", "cheap", "pub", "by", "the", "riverside", "that", "serves", "english", "food", "for",
         "families", "and", "has", "a", "low", "rating")  # fmt: skip


def fake_study(
    folder: Path, *, task: str = "classification", techniques: Sequence[str] = (), seeds: Sequence[int] = (17,),
    shares: Sequence[float] = (), n_rows: int = 150, metric: str = "", failed: Collection[str] = (),
    left_out: Collection[str] = (), waiting: Collection[str] = (), ability: Mapping[str, float] | None = None,
    wobble: float = 0.05, question: str = "", labels: Sequence[str] = LABELS, reports: bool = True, chance: int = 0,
    **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Writes the folder and gives its board. `failed`, `left_out` and `waiting` are keys of cells; `wobble` is how much
    seeds differ (standard deviation, in probits); `question` replaces every question."""
    wanted = [name for name in techniques or ALL if not why_not_studied(name, task=task, family="decoder")]
    given = {"base": "smollm2-135m-instruct", "dataset": "question-type@2", "dataset_sha256": "5e" * 32,
             "techniques": wanted, "seeds": tuple(seeds), "shares": tuple(shares), "test_rows": n_rows, "steps": 100,
             **({"metric": metric} if metric else {}), **settings}  # fmt: skip
    spec = study_spec(given, task=task)
    maker = _Maker(spec, task, tuple(labels) if learnt_as(task) == "classification" else (), wobble,
                   {**ABILITY, **(ability or {})}, question, chance)  # fmt: skip
    for name in ("cells", "rows", "artifacts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cells, rows = [], {}
    for cell in cells_of(spec):
        if cell.key in waiting:
            continue
        if cell.key in failed or cell.key in left_out:
            kept = maker.not_done(cell, "failed" if cell.key in failed else "left_out")
        else:
            kept, lines = maker.done(cell)
            rows[cell.key] = [Answered.from_dict(line) for line in lines]
            _write_lines(folder / "rows" / f"{cell.key}.jsonl", lines)
        cells.append(kept)
    _keep_best_artifacts(folder, spec, cells)
    for kept in cells:
        _write(folder / "cells" / f"{kept['key']}.json", kept)
    about = maker.about(cells)
    found = board(spec, about, cells, rows)
    _write(folder / "study.json", about)
    _write(folder / "board.json", found)
    if reports:
        write_reports(folder)
    return found


def read_study(folder: Path) -> tuple[StudySpec, dict[str, Any], list[dict[str, Any]], dict[str, list[Answered]]]:
    """What `board` takes, out of a folder."""
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*.json"))]
    rows = {
        path.stem: [Answered.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((folder / "rows").glob("*.jsonl"))
    }
    return study_spec(about["spec"], task=about["task"]), about, cells, rows


class _Maker:
    """Makes the cells of one study."""

    def __init__(
        self, spec: StudySpec, task: str, labels: tuple[str, ...], wobble: float, ability: Mapping[str, float],
        question: str, chance: int,
    ) -> None:  # fmt: skip
        self.spec, self.task, self.labels, self.wobble = spec, task, labels, wobble
        self.ability, self.chance = ability, chance
        draw = self._random("rows")
        self.hard = [draw.gauss(0, 1) for _ in range(spec.test_rows)]
        self.questions = [question or draw.choice(QUESTIONS).format(draw.choice(THINGS)) for _ in range(spec.test_rows)]
        self.expected = [self._expected(draw) for _ in range(spec.test_rows)]

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self.chance} {name}")

    def _expected(self, draw: random.Random) -> str:
        if self.labels:
            return draw.choices(self.labels, weights=[3 if i == 1 else 2 for i in range(len(self.labels))])[0]
        return " ".join(draw.choices(WORDS, k=draw.randrange(6, 18)))

    def done(self, cell: Cell) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        lines = self._lines(cell)
        rows = [Answered.from_dict(line) for line in lines]
        names = [self.spec.metric, *(m for m in metrics_for(self.task) if m not in (self.spec.metric, "numeric"))]
        found = summarize(rows, metrics=[*names, "ece"] if self.labels else names)
        value, by = found["metrics"][self.spec.metric], found["intervals"]
        kept = {
            **self._base(cell, "done"), "metrics": found["metrics"], "intervals": by, "value": value,
            "interval": by[self.spec.metric], "n_rows": len(rows), **costs(lines),
            **(self._trained(cell, value) if cell.technique in METHODS else self._asked(cell)),
        }  # fmt: skip
        return kept, lines

    def not_done(self, cell: Cell, state: str) -> dict[str, Any]:
        error = {"code": "out_of_memory", "message": "Training needs 9.1 GB and 7.8 GB are free.", "field": "",
                 "hint": "Fewer rows at once.", "permanent": True}  # fmt: skip
        why = {"error": error} if state == "failed" else {"reason": "It would take about 25 min, and 9 min were left."}
        return {**self._base(cell, state), **why}

    def _base(self, cell: Cell, state: str) -> dict[str, Any]:
        name = json.dumps([cell.key, self.spec.as_dict()], sort_keys=True)
        return {**cell.about(), "state": state, "reason": "", "error": None,
                "n_train_rows": max(1, round(cell.share * 1200)),
                "identity": hashlib.sha256(name.encode()).hexdigest()}  # fmt: skip

    def _lines(self, cell: Cell) -> list[dict[str, Any]]:
        draw, able = self._random(cell.key), self._able(cell)
        return [self._line(cell, place, draw, able) for place in range(self.spec.test_rows)]

    def _able(self, cell: Cell) -> float:
        """In probits; less with fewer rows, another a little with each seed."""
        share = self.ability[cell.technique]
        if share in (0, 1):
            return 99.0 if share else -99.0
        able = NORMAL.inv_cdf(share)
        luck = self._random(f"luck {cell.technique} {cell.seed}").gauss(0, self.wobble)
        return able + luck - 0.9 * (1 - cell.share) ** 3

    def _line(self, cell: Cell, place: int, draw: random.Random, able: float) -> dict[str, Any]:
        is_right = 0.8 * self.hard[place] + 0.6 * draw.gauss(0, 1) < able
        expected, got = self.expected[place], self.expected[place]
        if not is_right and self.labels:
            others = [label for label in self.labels if label != expected]
            got = draw.choice(others) if others else ""
        elif not is_right:
            got = (
                " ".join(word for word in expected.split() if draw.random() < 0.35 + 0.1 * max(-3.0, able)) or "no idea"
            )
        line = {"place": place, "row": place + 1, "question": self.questions[place], "expected": expected, "got": got}
        if self.labels and not cell.technique.startswith(("chain", "self")):
            high = draw.uniform(0.5, 0.99)
            rest = (1 - high) / max(1, len(self.labels) - 1)
            chances = [high if label == got else rest for label in self.labels]
            line["scores"] = [round(math.log(max(1e-6, chance)), 4) for chance in chances]
        return {**line, **self._figures(cell, place, draw)}

    def _figures(self, cell: Cell, place: int, draw: random.Random) -> dict[str, Any]:
        longer = place % 7
        if cell.technique in METHODS:
            is_soft = METHODS[cell.technique].form == "prefix_kv"
            read, written, ms = 31 + longer, 1, FIGURES[cell.technique][4]
            virtual = 20 if is_soft else 0
        else:
            (read, written, ms), virtual = ASKED[cell.technique], 0
            read, written = read - 3 + longer, max(1, written - 3 + longer) if written > 1 else written
        if not self.labels:
            written, ms = written + 14, ms + 14 * 9
        ms = round(ms * draw.lognormvariate(0, 0.15), 1)
        return {"tokens_in": read, "tokens_prefix": virtual, "tokens_out": written, "latency_ms": ms,
                "first_token_ms": round(ms / (1 + written / 4), 1)}  # fmt: skip

    def _asked(self, cell: Cell) -> dict[str, Any]:
        k = 8 if cell.technique.startswith("few_shot") else 0
        pairs = [{"question": q, "answer": e} for q, e in zip(self.questions[:k], self.expected[:k], strict=True)]
        system = "" if cell.technique == "plain" else f"Reply with one of: {', '.join(self.labels)}."
        about = {"technique": cell.technique, "system": system, "template": "{question}", "fields": ["question"],
                 "pick": "nearest" if cell.technique.endswith("nearest") else "fixed", "k": k, "rule": {},
                 "examples": [] if cell.technique.endswith("nearest") else pairs,
                 "n_samples": 5 if cell.technique == "self_consistency" else 1}  # fmt: skip
        return {"spec": about, "artifact": "", "artifact_bytes": len(json.dumps(about)), "n_trainable": 0,
                "search_s": 0.0, "train_s": 0.0, "measure_s": 4.2, "seconds": 4.2}  # fmt: skip

    def _trained(self, cell: Cell, value: float) -> dict[str, Any]:
        n_trainable, n_bytes, train_s, peak, _ = FIGURES[cell.technique]
        draw = self._random(f"training {cell.key}")
        rate = METHODS[cell.technique].defaults["learning_rate"]
        is_first = cell.seed == self.spec.seeds[0] and cell.share >= 1 and self.spec.n_tries > 1
        if cell.technique == "p_tuning":
            rate *= 3
        spec = self._spec(cell, rate)
        curve = self._curve(cell, spec["steps"], value, draw)
        kept = max(curve, key=lambda look: -look["loss"])
        return {
            "spec": spec, "artifact": f"artifacts/{cell.key}", "learning_rate": rate, "steps": spec["steps"],
            "kept_step": kept["step"], "n_trainable": n_trainable, "artifact_bytes": n_bytes,
            "peak_bytes": int(peak * 1e9 * draw.uniform(0.98, 1.02)), "valid_value": kept["value"],
            "valid_loss": kept["loss"], "tries": self._tries(cell, curve) if is_first else [], "curve": curve,
            "search_s": round(train_s * 0.5, 1) if is_first else 0.0, "train_s": round(train_s * cell.share**0.1, 1),
            "measure_s": 6.1, "processor_s": train_s * 1.8, "seconds": train_s * 1.6,
        }  # fmt: skip

    def _spec(self, cell: Cell, rate: float) -> dict[str, Any]:
        own = METHODS[cell.technique].defaults
        sizes = {name: own.get(name, getattr(self.spec, name)) for name in ("steps", "batch_size")}
        return train_spec({
            "method": cell.technique, "base": self.spec.base, "dataset": self.spec.dataset,
            "dataset_sha256": self.spec.dataset_sha256, **sizes, "learning_rate": rate, "seed": cell.seed,
        }).as_dict()  # fmt: skip

    def _curve(self, cell: Cell, steps: int, value: float, draw: random.Random) -> list[dict[str, Any]]:
        floor, looks = self.ability["plain"], []
        for i in range(1, 9):
            grown = 1 - 2.718 ** (-i / 2.2)
            now = min(1.0, max(0.0, floor + (value - floor) * grown + draw.gauss(0, 0.008)))
            looks.append({"step": round(steps * i / 8), "value": round(now, 4) if self.labels else None,
                          "loss": round(0.08 + 2.2 * (1 - now), 4)})  # fmt: skip
        return looks

    def _tries(self, cell: Cell, curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        default = METHODS[cell.technique].defaults["learning_rate"]
        tries = []
        for factor in (1 / 3, 1, 3):
            is_kept = factor == (3 if cell.technique == "p_tuning" else 1)
            worse = 0.0 if is_kept else 0.06 + (0.39 if cell.technique == "p_tuning" and factor == 1 else 0.0)
            looks = curve[:1] if factor < 1 else curve[:3:2] if not is_kept else [*curve[:3:2], curve[-1]]
            rungs = [
                {
                    "step": look["step"],
                    "loss": look["loss"] + worse,
                    "value": None if look["value"] is None else max(0.0, look["value"] - worse),
                }
                for look in looks
            ]
            tries.append({"learning_rate": default * factor, "rungs": rungs, "state": "kept" if is_kept else "dropped",
                          "seconds": 12.0})  # fmt: skip
        return tries

    def about(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        counts = {label: self.expected.count(label) for label in self.labels}
        common = max(counts, key=counts.__getitem__) if counts else ""
        return {
            "spec": self.spec.as_dict(), "task": self.task, "labels": list(self.labels),
            "n_rows": {"train": 1200, "validation": 100, "test": self.spec.test_rows},
            "most_common": {"label": common, "share": counts[common] / self.spec.test_rows} if common else None,
            "base_fingerprint": "b7" * 32, "dataset_sha256": self.spec.dataset_sha256,
            "command": "python -m ml study spec.json --models var/models --dataset var/data --workdir work",
            "started_at": "2026-11-28T18:40:12+00:00", "seconds": 3480.0, "overhead_s": 31.5,
            "spent_s": {"load": 6.0, "search": 1100.0, "train": 2190.0, "measure": 152.5, "overhead": 12.0},
            "versions": {"python": "3.11.2", "torch": "2.9.0", "transformers": "4.57.1", "peft": "0.18.0"},
            "machine": {"processor": "AMD EPYC 7B13", "cores": 2, "threads": 2, "memory_bytes": 16_000_000_000,
                        "system": "Linux-6.1", "device": "cpu"},
            "commit": "c92fc7c",
        }  # fmt: skip


def _keep_best_artifacts(folder: Path, spec: StudySpec, cells: Sequence[dict[str, Any]]) -> None:
    """Of each technique the artifact of one seed stays."""
    for name in spec.techniques:
        done = [cell for cell in cells if cell["technique"] == name and cell.get("artifact")]
        whole = [cell for cell in done if cell["share"] >= 1]
        best = max(whole, key=lambda cell: (cell["valid_value"] or 0, -cell["valid_loss"]), default=None)
        for cell in done:
            if best is None or cell["key"] != best["key"]:
                cell["artifact"] = ""
        if best is not None:
            path = folder / best["artifact"]
            path.mkdir(parents=True, exist_ok=True)
            _write(path / "adapter_config.json", {"base_model_name_or_path": spec.base, "peft_type": name.upper()})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(finite(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
