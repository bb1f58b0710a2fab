"""What a run concludes from its own figures: which look was the best, when to end early, when nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ml.errors import DivergedError
from ml.evaluate.metrics import better, primary_metric
from ml.specs import TrainSpec

_MOST_LOSSES = 1000
_STILL_FALLING_T = -2.0
"""A slope whose t statistic is below this falls significantly (95 %, two-sided)."""
_WORTH_IT = 0.99
"""A validation loss below this share of the untouched model's has been learned."""
_LEARNED = 0.02
"""Nats a token below which there is nothing left to learn."""


@dataclass(kw_only=True)
class Watch:
    """The state of these conclusions; goes into the checkpoint as it is."""

    best_step: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    n_worse: int = 0
    """Looks at the validation rows since the best one."""
    losses: list[float] = field(default_factory=list)
    """Training losses of the first steps."""
    is_flat_checked: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def see_loss(self, spec: TrainSpec, loss: float) -> None:
        if len(self.losses) < min(spec.flat_steps, _MOST_LOSSES):
            self.losses.append(loss)

    def see_metrics(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether these validation metrics of the adapter are the best so far."""
        if better(metrics, self.best_metrics or None):
            self.best_step, self.best_metrics, self.n_worse = step, dict(metrics), 0
            return True
        self.n_worse += 1
        return False

    @property
    def best(self) -> dict[str, Any]:
        name = primary_metric(self.best_metrics)
        return {"step": self.best_step, "metric": name, "value": self.best_metrics[name]}

    def has_lost_patience(self, spec: TrainSpec) -> bool:
        return bool(spec.patience) and self.n_worse >= spec.patience

    def check_flat(self, spec: TrainSpec, plain_loss: float | None) -> None:
        """Raises DivergedError, once, when nothing was learned in the first `flat_steps` steps.

        Nothing: the training loss does not fall significantly (least squares), and the adapter's validation loss is
        no better than the untouched model's where both were measured.
        """
        wanted = min(spec.flat_steps, _MOST_LOSSES)
        if self.is_flat_checked or not wanted or len(self.losses) < wanted:
            return
        self.is_flat_checked = True
        mean = sum(self.losses) / wanted
        if mean < _LEARNED or slope_t(self.losses) < _STILL_FALLING_T:
            return
        ours = self.best_metrics.get("loss")
        if ours is not None and plain_loss is not None and ours < _WORTH_IT * plain_loss:
            return
        raise DivergedError(
            f"The loss is flat: after {wanted} steps it is still {mean:.3f} on average and does not fall.",
            hint=f"Raise the learning rate (it is {spec.learning_rate:g}; try {spec.learning_rate * 10:g}), check that "
            "the answers can be learned from the prompts, or switch this check off (flat loss after: 0).",
            field="learning_rate",
        )


def slope_t(values: Sequence[float]) -> float:
    """The t statistic of the least-squares slope of `values` over their index; 0 for fewer than 3 values."""
    n = len(values)
    if n < 3:
        return 0.0
    middle, mean = (n - 1) / 2, sum(values) / n
    spread = sum((i - middle) ** 2 for i in range(n))
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values)) / spread
    rest = sum((value - mean - slope * (i - middle)) ** 2 for i, value in enumerate(values)) / (n - 2)
    return slope / (rest / spread) ** 0.5 if rest > 0 else (0.0 if slope == 0 else float("inf") * slope)
