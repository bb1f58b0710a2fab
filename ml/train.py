"""The training loop. There is one: methods differ in what they put on the model, not in how it is trained.

Guarantees: the loss is the mean over the answers' tokens of a batch, so splitting a batch into micro-batches gives the
same gradient; the data order is a function of (seed, epoch, position); between any two steps the run can be stopped
and resumed, on the same CPU bit-identically; the base model's weights are not changed. The untouched model is measured
on the same rows as the adapter. AdamW (arXiv 1711.05101); warm-up and schedule are functions of the step.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ml import checkpoint
from ml.artifact import Manifest, spec_sha256, write_artifact
from ml.backbone import Backbone, is_out_of_memory
from ml.checkpoint import Identity, Progress, trainables
from ml.data.chat import Example
from ml.data.rows import Dataset, batch_rows
from ml.errors import DivergedError, OutOfMemoryError, SpecError
from ml.evaluate.report import measure
from ml.events import Emitter
from ml.forward import completion_nll, plain
from ml.plan import Plan, advice, free_bytes
from ml.specs import TrainSpec

_EVAL_ROWS_AT_ONCE = 16
_SHORTEST = 8


class Stopped(Exception):
    """The run was asked to stop; its state is worth a checkpoint."""


def learning_rate_at(spec: TrainSpec, step: int) -> float:
    """The learning rate of optimizer step `step` (from 0)."""
    warm = round(spec.warmup_ratio * spec.steps)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, spec.steps - warm)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}
    return spec.learning_rate * factor[spec.schedule]


def usable_length(spec: TrainSpec, config: Any) -> int:
    """Tokens a row may have: the spec's limit, or less when the model has fewer positions beside the virtual tokens."""
    positions = getattr(config, "max_position_embeddings", None) or spec.max_length
    n_virtual = int(spec.options.get("n_virtual_tokens", 0))
    if positions - n_virtual < _SHORTEST:
        raise SpecError(
            f"{n_virtual} virtual tokens leave no room in the model's {positions} positions.",
            hint="Use fewer virtual tokens.",
            field="n_virtual_tokens",
        )
    return min(spec.max_length, positions - n_virtual)


def peak_bytes(device: str) -> int:
    """The most memory this process ever held on `device`."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def memory_advice(spec: TrainSpec, needed: Plan, device: str) -> Iterator[None]:
    """Turns running out of memory into OutOfMemoryError with what would make the run fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for {spec.micro_batch_size} rows at once of up to {spec.max_length} tokens.",
            hint=advice(spec, needed, free_bytes(device)),
            field="micro_batch_size",
        ) from error


class Trainer:
    """One run, from where its work folder left off to the artifact."""

    def __init__(
        self, *, spec: TrainSpec, backbone: Backbone, model: Any, dataset: Dataset, examples: list[Example],
        needed: Plan, workdir: Path, emit: Emitter, should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.spec, self.backbone, self.model, self.dataset = spec, backbone, model, dataset
        self.examples, self.workdir, self.emit, self.should_stop = examples, workdir, emit, should_stop
        self.needed = needed
        self.device = str(backbone.model.device)
        self.parameters = list(trainables(model).values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
        self.sharing = not _has_dropout(model)
        self.identity = Identity(
            spec_sha256=spec_sha256(spec),
            data_sha256=dataset.content_sha256,
            base_fingerprint=backbone.fingerprint,
        )
        self.progress = Progress()
        self.saved_step = -1
        self.seconds_a_step = 0.0

    def run(self) -> Manifest | None:
        """The manifest of the finished artifact in `workdir/out`; None when stopped, after writing a checkpoint."""
        self.started_at = time.monotonic()
        self._resume()
        self.started_at -= self.progress.elapsed_s
        try:
            self._train()
            return self._finish()
        except Stopped:
            self._save()
            return None

    def _resume(self) -> None:
        found = checkpoint.restore(
            self.workdir,
            model=self.model,
            optimizer=self.optimizer,
            identity=self.identity,
            on_damage=lambda text: self.emit("phase", text=text),
        )
        if found is not None:
            self.progress, self.saved_step = found, found.step
            self.emit("phase", text=f"resumed after step {found.step}")

    def _train(self) -> None:
        while True:
            self._check()
            step, last = self.progress.step, self.progress.step == self.spec.steps
            if step and (step % self.spec.checkpoint_every == 0 or last):
                self._save()
            if (step % self.spec.eval_every == 0 or last) and self.progress.evaluated_step != step:
                self._evaluate("validation", "adapter" if step else "plain")
                self.progress.evaluated_step = step
            if last:
                return
            self._step()

    def _check(self) -> None:
        if self.should_stop():
            raise Stopped

    def _step(self) -> None:
        start, step = time.monotonic(), self.progress.step
        chosen = batch_rows(self.spec.seed, step, self.spec.batch_size, len(self.examples))
        batch = sorted((self.examples[i] for i in chosen), key=lambda example: len(example.ids))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.spec, step)
        self.model.train()
        loss = self._accumulate(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(loss, norm)
        self.optimizer.step()
        self.progress.step += 1
        seconds = time.monotonic() - start
        self.seconds_a_step = 0.9 * self.seconds_a_step + 0.1 * seconds if self.seconds_a_step else seconds
        self.progress.elapsed_s = time.monotonic() - self.started_at
        self.emit(
            "step",
            step=self.progress.step,
            n_steps=self.spec.steps,
            loss=loss,
            learning_rate=learning_rate_at(self.spec, step),
            grad_norm=norm,
            tokens_per_s=sum(len(example.ids) for example in batch) / max(seconds, 1e-9),
            elapsed_s=self.progress.elapsed_s,
            eta_s=self.seconds_a_step * (self.spec.steps - self.progress.step),
            peak_bytes=peak_bytes(self.device),
        )

    def _accumulate(self, batch: list[Example]) -> float:
        """Gradients of the batch's mean loss, micro-batch by micro-batch; returns that loss in nats a token."""
        self.optimizer.zero_grad(set_to_none=True)
        n_targets = sum(len(example.ids) - example.n_prompt for example in batch)
        total = 0.0
        for first in range(0, len(batch), self.spec.micro_batch_size):
            self._check()
            micro = batch[first : first + self.spec.micro_batch_size]
            loss = completion_nll(self.model, micro, sharing=self.sharing)[0].sum() / n_targets
            loss.backward()
            total += loss.item()
        return total

    def _diverged(self, loss: float, norm: float) -> DivergedError:
        return DivergedError(
            f"Training diverged at step {self.progress.step + 1}: loss {loss}, gradient norm {norm}.",
            hint=f"Lower the learning rate (it is {self.spec.learning_rate:g}; try {self.spec.learning_rate / 10:g}), "
            f"or raise the warm-up.",
            field="learning_rate",
        )

    def _evaluate(self, split: str, subject: str) -> None:
        n_rows = min(self.spec.eval_rows, len(self.dataset.splits[split]))
        if not n_rows:
            return
        self.emit("phase", text=f"measuring the {'plain model' if subject == 'plain' else 'adapter'} on {split} rows")
        with plain(self.model) if subject == "plain" else _as_is(self.model) as model:
            report = measure(
                model,
                self.backbone.tokenizer,
                self.dataset,
                split,
                n_rows=n_rows,
                max_length=usable_length(self.spec, self.backbone.model.config),
                at_once=_EVAL_ROWS_AT_ONCE,
                check=self._check,
            ).as_dict()
        where = {"step": self.progress.step, "split": split, "subject": subject}
        self.emit("eval", **where, **report)
        self.progress.evaluations.append({**where, **{k: v for k, v in report.items() if k != "samples"}})

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        self.progress.elapsed_s = time.monotonic() - self.started_at
        path, n_bytes = checkpoint.save(
            self.workdir,
            model=self.model,
            optimizer=self.optimizer,
            progress=self.progress,
            identity=self.identity,
        )
        self.saved_step = self.progress.step
        self.emit("checkpoint", step=self.progress.step, path=str(path), bytes=n_bytes)

    def _finish(self) -> Manifest:
        for subject in ("plain", "adapter"):
            self._evaluate("test", subject)
        self.emit("phase", text="saving the adapter")
        return write_artifact(
            self.workdir / "out",
            model=self.model,
            backbone=self.backbone,
            spec=self.spec,
            metrics=_final_metrics(self.progress.evaluations),
            evaluations=self.progress.evaluations,
        )


def _final_metrics(evaluations: list[dict[str, Any]]) -> dict[str, float]:
    ours = [e for e in evaluations if e["subject"] == "adapter"]
    best = [e for e in ours if e["split"] == "test"] or ours
    return dict(best[-1]["metrics"]) if best else {}


@contextmanager
def _as_is(model: Any) -> Iterator[Any]:
    yield model


def _has_dropout(model: torch.nn.Module) -> bool:
    config = getattr(model, "config", None)
    inside = float(getattr(config, "attention_dropout", 0) or 0)
    return inside > 0 or any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
