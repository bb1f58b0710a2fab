"""Adapters that change the model itself, each on a model of its own: last layers, output layers, full, DoRA.

Such a model shares every tensor that the adapter leaves as it is with the frozen one, so that two trained layers cost
two layers. It has a batch of its own; its rows never mix with others. Guarantees: loading is done in the executor and
delays only the rows that wait for it; all own models together stay under a budget of bytes (changed tensors and slots);
for a new one those without rows leave first, the least recently used first and pinned ones last, and when all are busy,
the first in that order takes no more rows until it is empty. One is loaded at a time. Belongs to the model's thread.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ml.artifact import load_adapter
from ml.backbone import Backbone
from ml.engine.adapters import Adapter, check_finite
from ml.engine.batch import Batch
from ml.engine.cache import heads_of
from ml.engine.runner import Runner
from ml.engine.types import Row
from ml.errors import ArtifactError, ColdframeError, UnavailableError

logger = logging.getLogger(__name__)


def sharing(model: Any) -> Any:
    """A copy of `model` with modules of its own over the same tensors."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def own_tensors(model: Any, base: Any) -> dict[str, Any]:
    """The tensors of `model` that `base` does not share, by name."""
    shared = {id(tensor) for tensor in chain(base.parameters(), base.buffers())}
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: tensor for name, tensor in named if id(tensor) not in shared}


@dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    backbone: Backbone
    runner: Runner
    n_bytes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnModel:
    batch: Batch
    n_bytes: int


class OwnModels:
    def __init__(
        self,
        backbone: Backbone,
        *,
        n_slots: int,
        length: int,
        budget_bytes: int,
        executor: Executor,
        make_batch: Callable[[Backbone, Runner], Batch],
        fail: Callable[[Row, ColdframeError], None],
        wake: Callable[[], None],
    ) -> None:
        """`fail` ends a row that never came into a batch; `wake` is called when a model was loaded."""
        self._backbone = replace(backbone, model=sharing(backbone.model))  # before any layer of it becomes a site
        self._n_slots, self._length, self._budget_bytes = n_slots, length, budget_bytes
        self._executor, self._make_batch, self._fail, self._wake = executor, make_batch, fail, wake
        n_layers, n_heads, width = heads_of(backbone.model.config)
        self._slot_bytes = 2 * n_layers * n_heads * width * length * backbone.model.dtype.itemsize * n_slots
        self._waiting: dict[str, list[Row]] = {}
        """By artifact, the one asked for first at the front."""
        self._models: OrderedDict[str, OwnModel] = OrderedDict()
        self._loading: tuple[str, Future[Loaded]] | None = None
        self._leaving = ""
        """Takes no more rows, so that there will be room for another."""
        self.pinned: frozenset[str] = frozenset()
        """Adapters whose models leave after all others."""
        self.n_waiting = 0
        """Rows that wait for a model or for a slot of theirs."""

    @property
    def batches(self) -> list[Batch]:
        return [model.batch for model in self._models.values()]

    def resident(self) -> list[dict[str, Any]]:
        """artifact, form and bytes of each. Any thread."""
        models = list(self._models.items())
        return [{"artifact": name, "form": "own_backbone", "bytes": model.n_bytes} for name, model in models]

    def take(self, row: Row) -> None:
        """A row whose adapter needs a model of its own."""
        self._waiting.setdefault(row.adapter.artifact, []).append(row)

    def advance(self) -> None:
        """Loads and evicts; gives rows to the batches whose models are there, and slots to those rows."""
        living = {name: [row for row in rows if row.state != "over"] for name, rows in self._waiting.items()}
        self._waiting = {name: rows for name, rows in living.items() if rows}
        self._collect()
        # Before another makes room for itself: a model without rows is one that may leave.
        for name in [name for name in self._waiting if name in self._models and name != self._leaving]:
            self._models.move_to_end(name)
            for row in self._waiting.pop(name):
                self._models[name].batch.take(row)
        self._load_next()
        for batch in self.batches:
            batch.scheduler.stage(_is_ready)
            batch.admit()
        queued = sum(len(batch.scheduler.queue) for batch in self.batches)
        self.n_waiting = queued + sum(len(rows) for rows in self._waiting.values())

    def _collect(self) -> None:
        """Takes over the model that was being loaded, or tells its rows why there is none."""
        if self._loading is None or not self._loading[1].done():
            return
        (name, future), self._loading = self._loading, None
        try:
            loaded = future.result()
        except ColdframeError as error:
            self._refuse(name, error)
        except Exception as error:
            logger.exception("the model of adapter %s could not be loaded", name)
            self._refuse(name, UnavailableError(f"The model of adapter {name[:12]} could not be loaded: {error}."))
        else:
            batch = self._make_batch(loaded.backbone, loaded.runner)
            self._models[name] = OwnModel(batch=batch, n_bytes=loaded.n_bytes + self._slot_bytes)

    def _load_next(self) -> None:
        wanted = next((name for name in self._waiting if name not in self._models), None)
        if wanted is None or self._loading is not None:
            self._leaving = "" if wanted is None else self._leaving
            return
        adapter = self._waiting[wanted][0].adapter
        needed = adapter.file_bytes + self._slot_bytes
        if needed > self._budget_bytes:
            self._refuse(wanted, _too_large(adapter, needed, self._budget_bytes))
        elif self._make_room(needed):
            future = self._executor.submit(self._load, adapter)
            future.add_done_callback(lambda _: self._wake())
            self._loading, self._leaving = (wanted, future), ""

    def _make_room(self, n_bytes: int) -> bool:
        while sum(model.n_bytes for model in self._models.values()) + n_bytes > self._budget_bytes:
            oldest = sorted(self._models, key=lambda name: name in self.pinned)
            idle = next((name for name in oldest if self._models[name].batch.is_idle), None)
            if idle is None:
                self._leaving = self._leaving or oldest[0]
                return False
            del self._models[idle]
        return True

    def _refuse(self, name: str, error: ColdframeError) -> None:
        for row in self._waiting.pop(name, ()):
            self._fail(row, error)

    def _load(self, adapter: Adapter) -> Loaded:
        """In the executor."""
        if adapter.folder is None:
            raise ValueError(f"an adapter of form {adapter.form} has no model of its own")
        backbone = replace(self._backbone, model=sharing(self._backbone.model))
        loaded = load_adapter(backbone, adapter.folder)
        model = loaded.get_base_model() if hasattr(loaded, "get_base_model") else loaded
        own = own_tensors(model, self._backbone.model)
        check_finite(own, adapter.artifact)
        backbone = replace(backbone, model=model.eval())
        runner = Runner(backbone, n_slots=self._n_slots, length=self._length, is_traced=False)
        return Loaded(backbone=backbone, runner=runner, n_bytes=sum(tensor.nbytes for tensor in own.values()))


def _is_ready(row: Row) -> None:
    """Its adapter is its batch's model: there is nothing to wait for."""
    row.state = "ready"


def _too_large(adapter: Adapter, n_bytes: int, budget_bytes: int) -> ArtifactError:
    return ArtifactError(
        f"Adapter {adapter.artifact[:12]} needs a model of its own of {n_bytes / 1e9:.2f} GB; there may be "
        f"{budget_bytes / 1e9:.2f} GB of such models.",
        hint="Raise ENGINE_OWN_MB, or train LoRA, which shares the frozen model.",
    )
