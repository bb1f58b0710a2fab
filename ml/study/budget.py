"""What a study may spend and has spent, in seconds of the device, kept across interruptions.

Costs of what is still to be done come from the plan (ml.study.estimate), corrected by what finished cells really took.
Without a plan nothing can be refused beforehand; then the budget ends the study when it is used up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml.files import write_json
from ml.study.cells import Cell

KINDS = ("load", "search", "train", "measure", "overhead")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds that a technique is expected to take."""

    search_s: float
    """The tries that are dropped."""
    train_s: float
    """One training to the end."""
    measure_s: float


class Budget:
    def __init__(self, path: Path, *, limit_s: float, costs: Mapping[str, Cost]) -> None:
        """`limit_s` 0 is no limit. `path` keeps what was spent."""
        self._path, self.limit_s, self.costs = path, limit_s, costs
        self._began = time.monotonic()
        self.spent = dict.fromkeys(KINDS, 0.0)
        self.before_s = 0.0
        """Elapsed in earlier starts."""
        self._expected = self._real = 0.0
        self._load()

    @property
    def spent_s(self) -> float:
        """Elapsed since the study began, interruptions left out."""
        return self.before_s + time.monotonic() - self._began

    @property
    def overhead_s(self) -> float:
        """What the study itself cost: all that is neither loading, search, training nor measuring."""
        return max(0.0, self.spent_s - sum(self.spent[kind] for kind in KINDS if kind != "overhead"))

    @property
    def order(self) -> list[str]:
        """Techniques by cost, the cheapest first."""
        return sorted(self.costs, key=lambda name: self._whole(self.costs[name]))

    @staticmethod
    def _whole(cost: Cost) -> float:
        return cost.search_s + cost.train_s + cost.measure_s

    @contextmanager
    def spends(self, kind: str) -> Iterator[Callable[[], float]]:
        """Counts the block's seconds as `kind`; what it yields says how many they were."""
        began = time.monotonic()
        took: list[float] = []
        try:
            yield lambda: round(took[0] if took else time.monotonic() - began, 2)
        finally:
            took.append(time.monotonic() - began)
            self.spent[kind] += took[0]
            self._save()

    def finished(self, cell: Cell, seconds: float, first_seed: int) -> None:
        """Learns from what a cell really took."""
        expected = self.cost_of(cell, first_seed, corrected=False)
        if expected:
            self._expected, self._real = self._expected + expected, self._real + seconds
            self._save()

    @property
    def factor(self) -> float:
        """Real seconds ÷ expected ones, of the finished cells."""
        return self._real / self._expected if self._expected else 1.0

    def cost_of(self, cell: Cell, first_seed: int, *, corrected: bool = True) -> float | None:
        """Seconds a cell is expected to take; None where nothing is known of its technique."""
        cost = self.costs.get(cell.technique)
        if cost is None:
            return None
        searched = cost.search_s if cell.seed == first_seed and cell.share >= 1 else 0.0
        whole = searched + cost.train_s + cost.measure_s
        return whole * self.factor if corrected else whole

    def why_not(self, cell: Cell, first_seed: int) -> str:
        """Why a cell cannot be begun; "" when it can."""
        if not self.limit_s:
            return ""
        left = self.limit_s - self.spent_s
        needed = self.cost_of(cell, first_seed) or 0.0
        if left > 0 and needed <= left:
            return ""
        if left <= 0:
            return f"The budget of {_minutes(self.limit_s)} was used up."
        return f"It would take about {_minutes(needed)}, and {_minutes(left)} of the budget were left."

    def eta_s(self, cells: Sequence[Cell], first_seed: int) -> float | None:
        """Seconds until these cells are done; None where that is not known."""
        costs = [self.cost_of(cell, first_seed) for cell in cells]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        whole = sum(known)
        return min(whole, max(0.0, self.limit_s - self.spent_s)) if self.limit_s else whole

    def _load(self) -> None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        self.before_s = float(found["elapsed_s"])
        self.spent |= {kind: float(found["spent"].get(kind, 0.0)) for kind in KINDS}
        self._expected, self._real = found.get("learnt", (0.0, 0.0))

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}")
        learnt = [self._expected, self._real]
        write_json(draft, {"elapsed_s": round(self.spent_s, 3), "spent": self.spent, "learnt": learnt})
        draft.replace(self._path)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
