"""The training loop. There is one: techniques differ in what they put on the model, not in how it is trained.

Guarantees: the loss is the mean over the targets of a batch (the answers' tokens, or the labels), so splitting a batch
into micro-batches or among processes gives the same gradient; the data order is a function of (seed, step) and random
numbers are one of (seed, step, process), so between any two steps the run can be stopped and resumed, on the same CPU
bit-identically; the untouched model is measured on the same rows before the first step; the best look at the
validation rows decides which weights are kept. Several processes: `ml.processes`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ml import checkpoint
from ml.artifact import Manifest, spec_sha256, write_artifact
from ml.backbone import Backbone, is_out_of_memory
from ml.checkpoint import Identity, Progress, trainables
from ml.data.rows import Dataset, batch_rows
from ml.errors import DivergedError
from ml.events import Emitter
from ml.limits import peak_bytes
from ml.looks import Looks, Stopped, short_numbers
from ml.objectives import Objective
from ml.optimization import learning_rate_at, optimizer_for
from ml.plan import Plan
from ml.processes import Processes
from ml.specs import TrainSpec
from ml.watch import Watch


class Trainer:
    """One run, from where its work folder left off to the artifact."""

    def __init__(
        self, *, spec: TrainSpec, backbone: Backbone, model: Any, dataset: Dataset, objective: Objective,
        items: list[Any], needed: Plan | None, workdir: Path, emit: Emitter, processes: Processes,
        should_stop: Callable[[], bool] = lambda: False, is_rival: bool = False,
    ) -> None:  # fmt: skip
        """`is_rival`: one of several that are compared by validation rows alone; whoever compares them measures the
        untouched model and the test rows, once for all."""
        self.spec, self.backbone, self.model, self.dataset = spec, backbone, model, dataset
        self.objective, self.items, self.workdir, self.emit = objective, items, workdir, emit
        self.needed, self.processes, self.should_stop, self.is_rival = needed, processes, should_stop, is_rival
        self.looks = Looks(
            spec=spec, backbone=backbone, model=model, dataset=dataset, objective=objective, emit=emit,
            processes=processes, should_stop=lambda: self.should_stop(), writes=not is_rival,
        )  # fmt: skip
        self.device = str(backbone.model.device)
        self.parameters = list(trainables(model).values())
        self.optimizer = optimizer_for(spec, self.parameters, self.device)
        self.lengths = [item.n_tokens for item in items] if spec.group_by_length else None
        self.identity = Identity(
            spec_sha256=spec_sha256(spec),
            data_sha256=dataset.content_sha256,
            base_fingerprint=backbone.fingerprint,
        )
        self.progress = Progress(micro_batch_size=spec.micro_batch_size)
        self.watch = Watch()
        self.saved_step = -1
        self.seconds_a_step = 0.0
        self.is_done = False
        self.pause_at = 0
        """A step after which the validation rows are measured and the run stops, with a checkpoint; 0: none."""

    def run(self) -> Manifest | None:
        """The manifest of the finished artifact in `workdir/out`; None when stopped, after writing a checkpoint."""
        self.started_at = time.monotonic()
        self._resume()
        self.started_at -= self.progress.elapsed_s
        try:
            self._prepare()
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
            self.progress, self.saved_step, self.watch = found, found.step, Watch(**found.watch)
            self.looks.taken = found.evaluations
            self.emit("phase", text=f"resumed after step {found.step}")

    def _prepare(self) -> None:
        """What is computed once before the first step, such as the frozen layers' activations."""
        prepare = getattr(self.objective, "prepare", None)
        if prepare is not None:
            with self.processes.main_first(), short_numbers(self.backbone.model):
                prepare(self.model, self.items, self.workdir, self.emit, self._check)

    def _train(self) -> None:
        while True:
            self._check_all()
            step = self.progress.step
            last = self.progress.has_ended or step == self.spec.steps
            if step and (step % self.spec.checkpoint_every == 0 or last):
                self._save()
            pauses = 0 < step == self.pause_at
            if (step % self.spec.eval_every == 0 or last or pauses) and self.progress.evaluated_step != step:
                self._look()
            if last or self.progress.has_ended:
                return
            if pauses:
                raise Stopped
            self._step()

    def _check(self) -> None:
        """Between parts of a step: only a process alone may leave there."""
        if self.processes.n == 1 and self.should_stop():
            raise Stopped

    def _check_all(self) -> None:
        if self.processes.any_says(self.should_stop()):
            raise Stopped

    def _step(self) -> None:
        start, step = time.monotonic(), self.progress.step
        chosen = batch_rows(self.spec.seed, step, self.spec.batch_size, len(self.items), self.lengths)
        batch = sorted((self.items[i] for i in chosen), key=lambda item: int(item.n_tokens))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.spec, step)
        self.model.train()
        loss = self._accumulate_within_memory(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(loss, norm)
        self.optimizer.step()
        self.progress.step += 1
        self.watch.see_loss(self.spec, loss)
        self._tell_step(loss, norm, seconds=time.monotonic() - start, n_tokens=sum(item.n_tokens for item in batch))

    def _tell_step(self, loss: float, norm: float, *, seconds: float, n_tokens: int) -> None:
        self.seconds_a_step = 0.9 * self.seconds_a_step + 0.1 * seconds if self.seconds_a_step else seconds
        self.progress.elapsed_s = time.monotonic() - self.started_at
        self.emit(
            "step",
            step=self.progress.step,
            n_steps=self.spec.steps,
            loss=loss,
            learning_rate=learning_rate_at(self.spec, self.progress.step - 1),
            grad_norm=norm,
            tokens_per_s=n_tokens / max(seconds, 1e-9),
            elapsed_s=self.progress.elapsed_s,
            eta_s=self.seconds_a_step * (self.spec.steps - self.progress.step),
            peak_bytes=peak_bytes(self.device),
        )

    def _accumulate_within_memory(self, batch: list[Any]) -> float:
        """`_accumulate`, with half the rows at once after running out of memory when the spec asks for it."""
        while True:
            try:
                return self._accumulate(batch)
            except (MemoryError, RuntimeError) as error:
                rows = self.progress.micro_batch_size
                may_halve = self.spec.on_out_of_memory == "halve" and rows > 1 and self.processes.n == 1
                if not (may_halve and is_out_of_memory(error)):
                    raise
            self.progress.micro_batch_size = rows // 2
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            self.emit("warning", text=f"Out of memory with {rows} rows at once; going on with {rows // 2}.")

    def _accumulate(self, batch: list[Any]) -> float:
        """Gradients of the batch's mean loss, micro-batch by micro-batch; returns that loss in nats a target."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(_draw(self.spec.seed, self.progress.step, self.processes.index))
        n_targets, total = sum(item.n_targets for item in batch), 0.0
        ours, size = self.processes.share_of(batch), self.progress.micro_batch_size
        for first in range(0, len(ours), size):
            self._check()
            with short_numbers(self.backbone.model):
                loss = self.objective.nll(self.model, ours[first : first + size]).sum() / n_targets
            loss.backward()
            total += loss.item()
        return self.processes.sum_gradients(self.parameters, total)

    def _diverged(self, loss: float, norm: float) -> DivergedError:
        return DivergedError(
            f"Training diverged at step {self.progress.step + 1}: loss {loss}, gradient norm {norm}.",
            hint=f"Lower the learning rate (it is {self.spec.learning_rate:g}; try {self.spec.learning_rate / 10:g}), "
            f"or raise the warm-up.",
            field="learning_rate",
        )

    def _look(self) -> None:
        """Measures the validation rows; keeps the best weights; decides whether to go on."""
        step = self.progress.step
        if step == 0:
            if self.objective.measures_plain and not self.is_rival:
                for split in ("validation", "test"):
                    self.looks.take(step, split, "plain")
        else:
            found = self.looks.take(step, "validation", "adapter")
            if found is not None and self.watch.see_metrics(step, found) and self.spec.keep_best:
                if self.processes.is_main:
                    checkpoint.save_best(self.workdir, step, self.model)
                self.emit("best", **self.watch.best)
            self.watch.check_flat(self.spec, self.looks.plain_loss)
            if self.watch.has_lost_patience(self.spec) and step < self.spec.steps:
                self.progress.has_ended = True
                self.emit("phase", text=f"stopped early after {step} steps: {self.watch.n_worse} looks in a row were "
                          f"no better than step {self.watch.best_step}")  # fmt: skip
        self.progress.evaluated_step = step

    def _save(self) -> None:
        if self.saved_step == self.progress.step or not self.processes.is_main:
            return
        self.progress.elapsed_s = time.monotonic() - self.started_at
        self.progress.watch, self.progress.evaluations = self.watch.as_dict(), self.looks.taken
        path, n_bytes = checkpoint.save(
            self.workdir,
            model=self.model,
            optimizer=self.optimizer,
            progress=self.progress,
            identity=self.identity,
        )
        self.saved_step = self.progress.step
        self.emit("checkpoint", step=self.progress.step, path=str(path), bytes=n_bytes)

    @property
    def kept_step(self) -> int:
        """The step whose weights are the result."""
        best = self.watch.best_step
        return best if self.spec.keep_best and best > 0 else self.progress.step

    def _finish(self) -> Manifest | None:
        if self.kept_step != self.progress.step:
            checkpoint.load_best(self.workdir, self.kept_step, self.model)
            self.emit("phase", text=f"keeping the weights of step {self.kept_step}, the best look")
        if not self.is_rival:
            self.looks.take(self.progress.step, "test", "adapter")
        self.is_done = True
        if not self.processes.is_main:
            return None
        self.emit("phase", text="saving the adapter")
        return write_artifact(
            self.workdir / "out",
            model=self.model,
            backbone=self.backbone,
            spec=self.spec,
            metrics=self.looks.final(self.kept_step),
            evaluations=self.looks.taken,
        )


def _draw(seed: int, step: int, process: int) -> int:
    """A seed for one step of one process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{process}".encode()).digest()[:7], "big")
