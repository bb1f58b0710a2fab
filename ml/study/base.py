"""The base model of a study, loaded once: every training and the engine get modules of their own over its tensors.

A technique that changes weights gets copies of the ones it trains, so the shared ones stay as they are; what must be
loaded in another way (4-bit weights, an encoder's classifier) is loaded beside it and kept as long as it is the one in
use.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ml.backbone import Backbone, fingerprint_of, load_backbone
from ml.cli_train import dtype_for, load_backbone_for
from ml.data.rows import Dataset
from ml.engine.own import sharing
from ml.families import family_of
from ml.specs import METHODS, TrainSpec


class Base:
    def __init__(self, folder: Path, dataset: Dataset, *, device: str) -> None:
        self.folder, self.dataset, self.device = folder, dataset, device
        self.family, self.fingerprint = family_of(folder), fingerprint_of(folder)
        self._plain: Backbone | None = None
        self._other: tuple[tuple[Any, ...], Backbone] | None = None

    def load(self, spec: TrainSpec) -> None:
        """Reads the model now rather than when it is first needed."""
        if self.family != "encoder":
            self._shared(spec)

    def plain(self, spec: TrainSpec) -> Backbone:
        """For the engine: modules of its own over the shared tensors. `spec` says the precision."""
        return replace(self._shared(spec), model=sharing(self._shared(spec).model), labels=())

    def for_training(self, spec: TrainSpec) -> Backbone:
        """For one training, which may do with it what it likes."""
        method = METHODS[spec.method]
        if self.family == "encoder":
            return self._loaded(spec, ("encoder", spec.seed))
        if "double_quantization" in spec.options:
            found = self._loaded(spec, _quantized(spec))
            return replace(found, model=sharing(found.model))
        base = self._shared(spec)
        labels = tuple(self.dataset.labels) if method.storage == "head" else ()
        model = with_own_parameters(base.model) if method.storage == "weights" else sharing(base.model)
        return replace(base, model=model, labels=labels)

    def held_bytes(self, spec: TrainSpec) -> int:
        """What a training builds on and is loaded by now."""
        if self.family == "encoder":
            return 0
        found = self._plain
        if "double_quantization" in spec.options:
            found = self._other[1] if self._other and self._other[0] == _quantized(spec) else None
        return sum(tensor.nbytes for tensor in found.model.parameters()) if found else 0

    def _shared(self, spec: TrainSpec) -> Backbone:
        if self._plain is None:
            self._plain = load_backbone(self.folder, dtype=dtype_for(spec, self.device), device=self.device)
        return self._plain

    def _loaded(self, spec: TrainSpec, key: tuple[Any, ...]) -> Backbone:
        """One more way of loading it. An encoder's comes anew each time: its fresh classifier is trained in place."""
        if self._other is None or self._other[0] != key or key[0] == "encoder":
            self._other = None
            self._other = (key, load_backbone_for(spec, self.folder, self.dataset, device=self.device))
        return self._other[1]


def _quantized(spec: TrainSpec) -> tuple[Any, ...]:
    return "nf4", spec.options["double_quantization"]


def with_own_parameters(model: Any) -> Any:
    """A copy whose parameters are its own while their values are still shared: `own_values` parts those that train."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    memo |= {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def own_values(model: Any) -> None:
    """Gives every trained parameter a copy of its values."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
