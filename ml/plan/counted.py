"""What training by a technique, its looks at rows and an engine's passes cost, counted on a model without storage.

The same code that trains, evaluates and reads runs here with shapes alone (`ml.plan.steps`), once for two depths, and
each sum is carried over to the real depth as the memory plan's are. What is computed once (a head's features, the
layers below the trained ones) is counted by itself and left out of the step. Rows are all of one length: for time the
mean is what counts. Limits: what is no operation of torch (reading files, encoding rows) is not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ml.evaluate.scoring import is_cheap
from ml.forward import base_of, run, share
from ml.methods import build, enable_checkpointing
from ml.plan.models import backbone_on_meta, with_depths
from ml.plan.shapes import Shapes, backward
from ml.plan.simulate import Setting, carried
from ml.plan.steps import EVAL_ROWS, evaluate, evaluated_rows, n_written, train_loss
from ml.plan.work import Counting, Work
from ml.replay import cuts_of, recording, replaying
from ml.specs import METHODS

_SCORED, _WRITTEN = ("scoring", "answering"), "writing"
_NO_MATTER = ("base", "dataset", "dataset_sha256", "steps", "learning_rate", "schedule", "seed", "eval_rows",
              "eval_every", "checkpoint_every")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """Of one row each, but `n_trained` numbers."""

    step: Work
    """Forward and back."""
    before: Work
    """What is computed once for all visits; none where nothing is."""
    look: Work
    """Of an evaluation: every label scored, or the expected answer."""
    writing: Work
    """One token of an answer, where the objective writes it itself (encoder-decoders)."""
    n_trained: float


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass of an engine over `n` rows."""

    n: int
    n_past: int
    """Tokens that are there already: virtual ones, beginnings that were kept, what was read before."""
    n_new: int
    n_kept: int = 0
    """Of the new ones those whose logits are computed."""


def training_work(setting: Setting) -> TrainingWork:
    """Of `setting.spec`'s technique on rows as `setting.rows` has them."""
    found = _parts(_Key(setting, ()))
    parts = {f.name: found[f.name] for f in fields(TrainingWork) if f.name != "n_trained"}
    return TrainingWork(**parts, n_trained=found["n_trained"].flops)


def pass_work(setting: Setting, one: Pass) -> Work:
    """Of the model as an engine runs it for `setting.spec`'s technique: low-rank changes and scales in place, never
    in 4 bits; what stands in front of the rows is among those that are there."""
    return _parts(_Key(_as_served(setting), (one,)))["pass"]


def _as_served(setting: Setting) -> Setting:
    """Equal for techniques that an engine runs alike, so that they are counted once."""
    spec = setting.spec
    if METHODS[spec.method].form in ("lora_delta", "scale"):
        return setting
    plain = next(method for method in METHODS.values() if method.form == "own_backbone" and not method.fields)
    return replace(setting, spec=replace(spec, method=plain.name, options={}), labels=())


class _Key:
    """A setting and passes as what they say, so that equal ones are counted once in a process."""

    def __init__(self, setting: Setting, passes: tuple[Pass, ...]) -> None:
        self.setting, self.passes = setting, passes
        spec = {k: v for k, v in setting.spec.as_dict().items() if k not in _NO_MATTER}
        rows = "" if passes else repr(setting.rows)
        rest = [setting.family, setting.device, str(setting.dtype), setting.labels, rows, repr(passes)]
        self._text = json.dumps([spec, setting.config.to_json_string(use_diff=False), rest], sort_keys=True)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


@lru_cache(maxsize=1024)
def _parts(key: _Key) -> Mapping[str, Work]:
    def of_depth(setting: Setting, wanted: Sequence[int]) -> dict[str, float]:
        counted = _Counted(setting, wanted, is_served=bool(key.passes))
        found = {"pass": counted.engine_pass(key.passes[0])} if key.passes else counted.training()
        return {f"{name} {f.name}": getattr(work, f.name) for name, work in found.items() for f in fields(Work)}

    flat = carried(key.setting, of_depth)
    names = {name.partition(" ")[0] for name in flat}
    return {name: Work(**{f.name: max(0.0, flat[f"{name} {f.name}"]) for f in fields(Work)}) for name in names}


class _Counted:
    """One model of a small depth."""

    def __init__(self, setting: Setting, wanted: Sequence[int], *, is_served: bool) -> None:
        spec, self.setting = setting.spec, setting
        options = {} if is_served else spec.options
        self.backbone = backbone_on_meta(
            with_depths(setting.config, wanted), family=setting.family, dtype=setting.dtype, labels=setting.labels,
            options=options,
        )  # fmt: skip
        is_changed = not is_served or METHODS[spec.method].form in ("lora_delta", "scale")
        self.model = build(self.backbone, spec.method, spec.options, spec.seed) if is_changed else self.backbone.model
        self.kind = "head" if METHODS[spec.method].storage == "head" else setting.family
        self.most_rows = min(EVAL_ROWS, 2 * spec.micro_batch_size)

    def training(self) -> dict[str, Work]:
        before, kept = self._before()
        n_trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        looks = self._looks()
        return {"before": before, "step": self._step(kept), "n_trained": Work(flops=n_trained), **looks}

    def _shapes(self, n_chosen: int) -> Shapes:
        is_short = self.backbone.model.dtype == torch.bfloat16
        return Shapes(n_chosen=n_chosen, device=self.setting.device, is_short=is_short)

    def _before(self) -> tuple[Work, Any]:
        """What is computed once, a row; and what steps then play back."""
        if self.kind == "head":
            return self._features() * (1 / self.most_rows), None
        options = self.setting.spec.options
        cuts = cuts_of(self.model, n_top=int(options.get("k", 0))) if options.get("cache_activations") else []
        if not cuts:
            return Work(), None
        rows, n = self.setting.rows, self.most_rows
        self.model.eval()
        with torch.no_grad(), Counting() as counting, self._shapes(rows.n_chosen(n)), recording(cuts) as tapes:
            train_loss(self.model, self.kind, rows, n, whole_rows=False)
        return counting.total * (1 / n), (cuts, tapes)

    def _features(self) -> Work:
        """Of a batch."""
        rows, n = self.setting.rows, self.most_rows
        shared = min(rows.n_shared, rows.longest - 1) if self.setting.family == "decoder" else 0
        ids = torch.zeros(n, rows.longest - shared, dtype=torch.long, device="meta")  # [B, T]
        with Counting() as counting, self._shapes(n):
            self.model.features(ids, torch.ones_like(ids), [0] * shared)
        return counting.total

    def _step(self, kept: Any) -> Work:
        spec, rows = self.setting.spec, self.setting.rows
        n = min(spec.micro_batch_size, spec.batch_size)
        if spec.gradient_checkpointing:
            enable_checkpointing(self.backbone.model, spec.base)
        self.model.train()
        with Counting() as counting, self._shapes(rows.n_chosen(n)) as shapes, _played_back(kept, n):
            loss = train_loss(self.model, self.kind, rows, n, whole_rows=spec.gradient_checkpointing)
            shapes.leave_autocast()
            backward(loss)
        return counting.total * (1 / n)

    def _looks(self) -> dict[str, Work]:
        """`look`, and `writing` where the objective writes."""
        if self.kind == "head":
            return {"look": self._features() * (1 / self.most_rows), "writing": Work()}
        rows = self.setting.rows
        if not is_cheap(rows.label_tokens):
            rows = replace(rows, label_tokens=())
        n, n_chosen = evaluated_rows(self.model, self.kind, rows, self.most_rows)
        found: dict[str, Work] = {}
        marks: list[tuple[str, Work]] = []
        self.model.eval()
        with Counting() as counting, self._shapes(n_chosen):
            evaluate(self.model, self.kind, rows, n, lambda name: marks.append((name, counting.total)))
        ends = [*(before for _, before in marks[1:]), counting.total]
        for (name, before), after in zip(marks, ends, strict=True):
            found[name] = after - before
        look = sum((found[name] for name in _SCORED if name in found), Work())
        written = found.get(_WRITTEN, Work()) * (1 / n_written(rows))
        return {"look": look * (1 / n), "writing": written * (1 / n)}

    def engine_pass(self, one: Pass) -> Work:
        base, n_kept = base_of(self.model), max(1, one.n * one.n_kept)
        rows = [[0] * one.n_past + [number] * one.n_new for number in range(1, one.n + 1)]
        base.eval()
        with torch.no_grad(), self._shapes(n_kept):
            ragged = share(base, rows, one.n_past)
            with Counting(in_place=True) as counting:
                run(base, ragged, keep=ragged.mask, use_cache=True)
        return counting.total


@contextmanager
def _played_back(kept: Any, n: int) -> Iterator[None]:
    if kept is None:
        yield
        return
    cuts, tapes = kept
    states: dict[str, list[Tensor]] = {}
    for name, tape in tapes.items():
        n_columns = sum(part.shape[1] for part, _ in tape.passes)
        width = tape.passes[0][0].shape[-1]
        states[name] = [torch.empty(n_columns, width, dtype=tape.passes[0][0].dtype, device="meta")] * n  # [T, D] each
    with replaying(cuts, states, {name: tape.n_more for name, tape in tapes.items()}):
        yield
