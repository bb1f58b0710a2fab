"""The cells of a study, in the order in which they are done, and what is kept of each.

A cell is a technique, a seed and a share of the training rows. A finished one lies in `out/cells/<key>.json`, its
answered rows in `out/rows/<key>.jsonl`; both are written whole or not at all. Its identity names everything that its
figures depend on, so that a study that is extended takes over what it had, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.errors import SpecError
from ml.evaluate.answers import Answered
from ml.events import finite
from ml.files import write_json
from ml.specs import METHODS
from ml.specs.study import TECHNIQUES, StudySpec

_NO_MATTER = ("dataset", "metric", "collection", "techniques", "seeds", "shares", "curve_techniques", "budget_s")
_OF_TRAINING = ("steps", "batch_size", "n_tries", "valid_rows")
_OF_ASKING = ("instruction", "n_examples", "n_votes")


@dataclass(frozen=True, kw_only=True)
class Cell:
    technique: str
    seed: int
    share: float = 1.0

    @property
    def key(self) -> str:
        return f"{self.technique}-s{self.seed}" + ("" if self.share >= 1 else f"-{self.share:g}")

    @property
    def lesson(self) -> str:
        """Names what cells share that differ in the seed alone."""
        return self.technique + ("" if self.share >= 1 else f"-{self.share:g}")

    def about(self) -> dict[str, Any]:
        """The part of a kept cell that is known beforehand."""
        row = TECHNIQUES[self.technique]
        return {"key": self.key, "technique": self.technique, "label": row.label, "glyph": row.glyph,
                "kind": row.kind, "seed": self.seed, "share": self.share}  # fmt: skip


def cells_of(spec: StudySpec, order: Sequence[str] = ()) -> list[Cell]:
    """All cells: every technique with the first seed, in `order` where it is given, then the further seeds, then the
    smaller shares of the rows."""
    names = sorted(spec.techniques, key=lambda name: order.index(name) if name in order else len(order))
    first = [Cell(technique=name, seed=spec.seeds[0]) for name in names]
    by_chance = [name for name in names if TECHNIQUES[name].has_chance]
    further = [Cell(technique=name, seed=seed) for seed in spec.seeds[1:] for name in by_chance]
    learns = [name for name in spec.curve_techniques or names if learns_from_rows(name)]
    smaller = [Cell(technique=n, seed=spec.seeds[0], share=share) for share in spec.shares for n in learns]
    return [*first, *further, *smaller]


def learns_from_rows(name: str) -> bool:
    """Whether more training rows can make it better."""
    return name in METHODS or name == "few_shot_nearest"


def identity_of(cell: Cell, spec: StudySpec, *, fingerprint: str, rows_sha256: str, passages_sha256: str = "") -> str:
    """sha256 (hex) of what the cell's figures depend on. `rows_sha256`: of the rows that the study drew;
    `passages_sha256`: of what its collection had for them."""
    is_trained = TECHNIQUES[cell.technique].kind == "trained"
    without = (*_NO_MATTER, *(_OF_ASKING if is_trained else _OF_TRAINING))
    settings = {name: value for name, value in spec.as_dict().items() if name not in without}
    seeds = [spec.seeds[0]] if is_trained else []  # the search uses the first
    whole = [cell.technique, cell.seed, cell.share, settings, seeds, fingerprint, rows_sha256]
    whole += [passages_sha256] if TECHNIQUES[cell.technique].needs_collection else []
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class Kept:
    """What is finished, in the `out` folder of a study."""

    def __init__(self, out: Path) -> None:
        self.out = out
        for name in ("cells", "rows", "artifacts"):
            (out / name).mkdir(parents=True, exist_ok=True)

    def read(self, key: str) -> dict[str, Any] | None:
        return _read(self.out / "cells" / f"{key}.json")

    def cells(self) -> list[dict[str, Any]]:
        found = [self.read(path.stem) for path in sorted((self.out / "cells").glob("*.json"))]
        return [cell for cell in found if cell is not None]

    def rows(self, key: str) -> list[Answered]:
        with (self.out / "rows" / f"{key}.jsonl").open(encoding="utf-8") as file:
            return [Answered.from_dict(json.loads(line)) for line in file]

    def artifact(self, key: str) -> Path:
        return self.out / "artifacts" / key

    def write(self, cell: Mapping[str, Any], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """The rows first: a cell that is there has its rows."""
        if lines:
            path = self.out / "rows" / f"{cell['key']}.jsonl"
            draft = path.with_name(f".{path.name}")
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        self._put(f"cells/{cell['key']}.json", cell)

    def write_about(self, name: str, value: Mapping[str, Any]) -> None:
        self._put(name, value)

    def put_passages(self, path: Path) -> None:
        """What the collection had stays with the figures; a study that is extended is given it again."""
        draft = self.out / ".passages.json"
        shutil.copyfile(path, draft)
        draft.replace(self.out / "passages.json")

    def _put(self, name: str, value: Mapping[str, Any]) -> None:
        path = self.out / name
        draft = path.with_name(f".{path.name}")
        write_json(draft, finite(value))
        draft.replace(path)

    def check_belongs(self, wanted: Mapping[str, str]) -> None:
        """Raises SpecError when a cell that is kept here is not the wanted one of its key."""
        for cell in self.cells():
            key = str(cell["key"])
            if cell.get("state") != "left_out" and wanted.get(key, cell.get("identity")) != cell.get("identity"):
                raise SpecError(f"The work folder belongs to another study: its {key} was measured in another way.",
                                hint="Choose another work folder, and this one's out as --before.")  # fmt: skip

    def take_over(self, before: Path, wanted: Mapping[str, str], *, metric: str) -> list[str]:
        """Copies finished cells out of an earlier `out` folder whose identity is the wanted one, by key. Those that
        lack their rows or artifact stay behind; `metric` is the one by which they are ranked now."""
        taken = []
        for path in sorted((before / "cells").glob("*.json")):
            cell, key = _read(path), path.stem
            if not cell or cell.get("state") != "done" or wanted.get(key) != cell.get("identity") or self.read(key):
                continue
            rows, artifact = before / "rows" / f"{key}.jsonl", before / "artifacts" / key
            if metric not in cell["metrics"] or not rows.is_file() or (cell.get("artifact") and not artifact.is_dir()):
                continue
            shutil.copyfile(rows, self.out / "rows" / rows.name)
            if cell.get("artifact"):
                shutil.rmtree(self.artifact(key), ignore_errors=True)
                shutil.copytree(artifact, self.artifact(key))
            self._put(f"cells/{key}.json", {**cell, **ranked_by(metric, cell)})
            taken.append(key)
        return taken


def ranked_by(metric: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """`value` and `interval` of a cell, out of its metrics."""
    return {"value": found["metrics"][metric], "interval": found["intervals"].get(metric, [0.0, 1.0])}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
