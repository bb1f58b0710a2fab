"""How long a study's techniques will take and how much memory, before it starts: counted work ÷ the machine's speed.

A training step, a look at validation rows and the engine's passes are counted operation by operation on a model without
storage (`ml.plan.counted`), what is computed once by itself; a probe says what this machine does a second
(`ml.study.speed`). How much of each is needed follows from the study's schedule: the search is successive halving
(`ml.study.halving`). Guarantees: the same question gives the same answer in one process; nothing is trained. Left out:
loading the model, other work on the machine. Once a study runs, its finished cells correct the rest (ml.study.budget).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ml.cli_train import dtype_for
from ml.engine.cache import heads_of
from ml.errors import ColdframeError
from ml.plan import RUNTIME_BYTES, free_bytes, plan, verdict
from ml.plan.models import model_on_meta
from ml.specs import METHODS
from ml.specs.study import TECHNIQUES, StudySpec
from ml.study.budget import Cost
from ml.study.cells import learns_from_rows
from ml.study.figures import DataFigures
from ml.study.measuring import MOST_POSITIONS, N_SLOTS
from ml.study.speed import Speed
from ml.study.times import Times
from ml.study.training import spec_for

LONGEST_SLOT = 2048
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TechniqueEstimate:
    """One technique of a study."""

    technique: str
    search_s: float = 0.0
    """What is computed once, and the tries that are dropped; of the first seed alone."""
    train_s: float = 0.0
    """One training to the end, its looks included."""
    measure_s: float = 0.0
    """The test rows answered once."""
    n_seeds: int = 1
    share_s: Mapping[str, float] = field(default_factory=dict)
    """By smaller share of the rows (as in a cell's key): its training and measuring."""
    factor: float = 1.0
    """What all seconds were multiplied by: real ÷ expected ones of earlier studies."""
    peak_bytes: int = 0
    verdict: str = ""
    problem: str = ""
    """Why nothing can be said of it."""

    @property
    def total_s(self) -> float:
        """The search, every seed, the smaller shares."""
        return self.search_s + self.n_seeds * (self.train_s + self.measure_s) + sum(self.share_s.values())

    @property
    def cost(self) -> Cost | None:
        """None where nothing is known."""
        if self.problem:
            return None
        return Cost(search_s=self.search_s, train_s=self.train_s, measure_s=self.measure_s)

    def as_dict(self) -> dict[str, Any]:
        seconds = {name: round(getattr(self, name), 2) for name in ("search_s", "train_s", "measure_s", "total_s")}
        shares = {share: round(value, 2) for share, value in self.share_s.items()}
        return {**asdict(self), **seconds, "share_s": shares}


def estimate(
    spec: StudySpec, *, config: Any, family: str, device: str, data: DataFigures, speed: Speed,
    calibration: Mapping[str, float] | None = None, wants_memory: bool = True,
    is_late: Callable[[], bool] = lambda: False,
) -> list[TechniqueEstimate]:  # fmt: skip
    """Every technique of `spec`, in its order. `config` is a transformers configuration; `calibration` has a factor by
    technique, "" for all others. Ends early, after one technique at least, once `is_late`."""
    times = Times(spec, config=config, family=family, device=device, data=data, speed=speed)
    free = free_bytes(device) if wants_memory else 0
    found: list[TechniqueEstimate] = []
    for name in spec.techniques:
        if found and is_late():
            break
        factor = float((calibration or {}).get(name, (calibration or {}).get("", 1.0)))
        try:
            memory = _memory(spec, name, config, family, device, data, free) if wants_memory else {}
            found.append(_of(times, name, factor, memory))
        except Exception as error:  # a plan is advice: what cannot be planned is tried all the same
            reason = error.message if isinstance(error, ColdframeError) else f"{type(error).__name__}: {error}"[:200]
            logger.warning("no plan for %s: %s", name, reason, exc_info=not isinstance(error, ColdframeError))
            found.append(TechniqueEstimate(technique=name, problem=f"It cannot be planned: {reason}"))
    return found


def _of(times: Times, name: str, factor: float, memory: Mapping[str, Any]) -> TechniqueEstimate:
    spec, cost = times.spec, times.cost(name)
    return TechniqueEstimate(
        technique=name, search_s=factor * cost.search_s, train_s=factor * cost.train_s,
        measure_s=factor * cost.measure_s, factor=factor,
        share_s={f"{share:g}": factor * times.share_s(name, share) for share in _shares(spec, name)},
        n_seeds=len(spec.seeds) if TECHNIQUES[name].has_chance else 1, **memory,
    )  # fmt: skip


def _shares(spec: StudySpec, name: str) -> Sequence[float]:
    is_on_curve = learns_from_rows(name) and (not spec.curve_techniques or name in spec.curve_techniques)
    return spec.shares if is_on_curve else ()


def fit_budget(estimates: Sequence[TechniqueEstimate], budget_s: float) -> tuple[list[str], dict[str, str]]:
    """The techniques that fit with all that is asked of them, the cheapest first, and by name why others do not.

    Each needs to fit into what the cheaper ones leave. `budget_s` 0 is no limit.
    """
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    left = budget_s
    for one in sorted(estimates, key=lambda one: one.total_s):
        if budget_s and one.total_s > left:
            left_out[one.technique] = (
                f"It needs about {_duration(one.total_s)}, and {_duration(max(0.0, left))} of the budget are left."
            )
            continue
        chosen.append(one.technique)
        left -= one.total_s
    return chosen, left_out


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _memory(
    spec: StudySpec, name: str, config: Any, family: str, device: str, data: DataFigures, free: int
) -> dict[str, Any]:
    """Peak and verdict: of what is trained those of the form of a new run, with the rows' real lengths, beside the
    slots of the study's engine, which the process holds too."""
    train = spec_for(spec, name if name in METHODS else _any(family), seed=spec.seeds[0])
    dtype = dtype_for(train, device)
    slots = _slot_bytes(spec, name, config, device, dtype.itemsize, data) if family == "decoder" else 0
    if name not in METHODS:
        model = model_on_meta(config, family=family, dtype=dtype, labels=None)
        runtime = 0 if device.startswith("cuda") else RUNTIME_BYTES
        peak = sum(p.numel() * p.element_size() for p in model.parameters()) + slots + runtime
        return {"peak_bytes": peak, "verdict": "does_not_fit" if peak > free else "fits"}
    needed = plan(
        train, config, device=device, dtype=dtype, family=family, labels=len(data.label_tokens),
        longest=data.longest, n_shared=data.n_shared, n_targets=data.longest_answer, label_tokens=data.label_tokens,
    )  # fmt: skip
    return {"peak_bytes": needed.total, "verdict": verdict(needed, max(0, free - slots))}


def _any(family: str) -> str:
    return next(name for name, method in METHODS.items() if family in method.families)


def _slot_bytes(spec: StudySpec, name: str, config: Any, device: str, itemsize: int, data: DataFigures) -> int:
    """Of the study's engine; on a CPU memory goes only to the columns that are used."""
    n_layers, n_heads, width = heads_of(config)
    positions = int(getattr(config, "max_position_embeddings", 0) or LONGEST_SLOT)
    length = min(max(LONGEST_SLOT, spec.max_length + spec.max_tokens), positions)
    n_slots = max(1, min(N_SLOTS, MOST_POSITIONS // length))
    if not device.startswith("cuda"):
        asked = data.asked.get(name, data.asked["plain"])
        length = min(length, round(asked.n_tokens) + max(0, data.longest - round(data.mean)) + spec.max_tokens)
    return 2 * n_layers * n_heads * width * length * itemsize * n_slots
