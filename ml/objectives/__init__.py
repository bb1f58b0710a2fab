"""What a model learns from rows and how it is asked: one module for each family of models, and one for heads.

An objective turns rows into items, gives their loss, and answers for the evaluation. The training loop knows this
interface only; what differs between families (chat template or plain text, where the answer stands, how a label is
scored) is in the modules here, imported when used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from ml.backbone import Backbone
from ml.data.rows import Dataset, Row
from ml.specs import METHODS, TrainSpec, check_fits

Check = Callable[[], None]
"""Called between batches; may raise to stop."""


class Item(Protocol):
    """One encoded training row."""

    @property
    def n_tokens(self) -> int:
        """Its length, by which rows are grouped."""

    @property
    def n_targets(self) -> int:
        """How many predictions of it count in the loss."""

    @property
    def n_cut(self) -> int:
        """Tokens that did not fit."""


class Objective(Protocol):
    """Between the rows of a data set and a model of one family."""

    measures_plain: bool
    """Whether the untouched model can answer at all (a fresh classifier cannot)."""

    def encode(self, rows: Sequence[Row]) -> list[Any]:
        """An `Item` for each training row. Raises DataError with the row's number."""

    def nll(self, model: Any, batch: Sequence[Any]) -> Tensor:
        """Negative log likelihood [N] in nats of every target of the items in `batch`, with gradients."""

    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        """For each row the log probability of each of the data set's labels."""

    def label_lengths(self) -> list[int]:
        """How many predictions make up each label's score."""

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        """For each row the model's greedy answer and the mean NLL, in nats a token, of the expected one.

        Without `writes` nothing is answered: the texts are empty, at a fraction of the cost.
        """


def objective_for(spec: TrainSpec, backbone: Backbone, dataset: Dataset, max_length: int) -> Objective:
    """The objective of a run. Raises SpecError when technique, model family and task do not go together."""
    method = METHODS[spec.method]
    check_fits(method, family=backbone.family, task=dataset.task)
    name = "head" if method.storage == "head" else backbone.family
    module = importlib.import_module(f"ml.objectives.{name}")
    made: Objective = module.objective(spec, backbone, dataset, max_length)
    return _kept_below(made, spec, backbone) if spec.options.get("cache_activations") else made


def _kept_below(inner: Objective, spec: TrainSpec, backbone: Backbone) -> Objective:
    """`inner` with the frozen layers below the trained ones computed once (`ml.objectives.lower`)."""
    from ml.objectives.lower import LowerObjective

    identity = {"base": backbone.fingerprint, "precision": spec.precision}
    n_top, most_rows = int(spec.options.get("k", 0)), 2 * spec.micro_batch_size
    return LowerObjective(inner, n_top=n_top, identity=identity, most_rows=most_rows)
