"""Activations below the trained layers, computed once: every later visit of a row costs only what is trained.

An objective around another one. `prepare` runs the frozen layers once over all training rows, in a fixed order and
fixed batches, and keeps what leaves them on the disk of the run's work folder (`cache/lower`); `nll` then plays it back
in place of those layers. What all rows of a batch begin with is kept once for the batch. A resumed run reads the same
bytes, or computes them again in the same way when they are damaged or gone. Loss and gradients are those of the inner
objective up to rounding, without dropout below the cut (frozen layers are used as in evaluation); evaluation is the
inner objective's own. What can be cut: decoders and encoders anywhere; of an encoder-decoder the whole encoder, and the
decoder's frozen layers, but T5's only when all of them are frozen (their position bias comes from the first).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ml.data.rows import Row
from ml.events import Emitter
from ml.kept import Kept, NoRoom, Writer, keep, tell_progress
from ml.objectives import Check, Objective
from ml.objectives.decoder import ROWS_AT_ONCE, by_length
from ml.replay import Cut, Tape, cuts_of, recording, replaying

NO_ROOM = NoRoom(
    what="What the frozen layers say about the training rows",
    hint="Switch off keeping the activations below, use fewer or shorter rows, or free some disk space.",
    field="cache_activations",
)


class LowerObjective:
    """`inner` with its model's frozen lower layers computed once.

    `n_top`: how many of the answering stack's last blocks are trained. `identity`: what besides the rows decides the
    states (base model and adapter-independent settings), as JSON. `most_rows` are computed at once.
    """

    def __init__(
        self, inner: Objective, *, n_top: int, identity: Mapping[str, Any], most_rows: int = ROWS_AT_ONCE
    ) -> None:
        self.inner, self.n_top, self.identity = inner, n_top, dict(identity)
        self.at_once = min(ROWS_AT_ONCE, most_rows)
        self.measures_plain = inner.measures_plain
        self._items: Sequence[Any] = ()
        self._numbers: dict[int, int] = {}
        self._cuts: list[Cut] = []
        self._kept: Kept | None = None

    def encode(self, rows: Sequence[Row]) -> list[Any]:
        return self.inner.encode(rows)

    def label_scores(self, model: Any, rows: Sequence[Row], check: Check) -> list[list[float]]:
        return self.inner.label_scores(model, rows, check)

    def label_lengths(self) -> list[int]:
        return self.inner.label_lengths()

    def answers(self, model: Any, rows: Sequence[Row], check: Check, *, writes: bool = True) -> list[tuple[str, float]]:
        return self.inner.answers(model, rows, check, writes=writes)

    def prepare(self, model: Any, items: Sequence[Any], workdir: Path, emit: Emitter, check: Check) -> None:
        """Computes or finds the states of every item. Raises SpecError when the disk has no room for them."""
        self._items, self._numbers = items, {id(item): number for number, item in enumerate(items)}
        self._cuts = cuts_of(model, n_top=self.n_top)
        if not self._cuts:
            return
        width = int(model.get_input_embeddings().weight.shape[1])
        n_bytes = sum(item.n_tokens for item in items) * width * model.dtype.itemsize * len(self._cuts)
        self._kept = keep(
            workdir / "cache" / "lower",
            identity=self._identity(model),
            n_bytes=n_bytes,
            fill=lambda writer: self._record(model, writer, emit, check),
            no_room=NO_ROOM,
        )

    def nll(self, model: Any, batch: Sequence[Any]) -> Tensor:
        """As the inner objective's. Items that were not prepared go the whole way."""
        numbers = [self._numbers.get(id(item), -1) for item in batch]
        if self._kept is None or min(numbers) < 0:
            return self.inner.nll(model, batch)
        rows = {cut.name: [self._kept.row(cut.name, number) for number in numbers] for cut in self._cuts}
        with replaying(self._cuts, rows, self._kept.about["n_more"]):
            return self.inner.nll(model, batch)

    def _identity(self, model: Any) -> dict[str, Any]:
        digest = hashlib.sha256()
        for item in self._items:
            digest.update(repr(item).encode())
        return {
            **self.identity,
            "at_once": self.at_once,
            "cuts": {cut.name: cut.n_below for cut in self._cuts},
            "rows_sha256": digest.hexdigest(),
            "dtype": str(model.dtype),
            "device": model.device.type,
            "versions": [str(torch.__version__), transformers.__version__],
        }

    @torch.no_grad()
    def _record(self, model: Any, writer: Writer, emit: Emitter, check: Check) -> None:
        was_training, done, n_items = model.training, 0, len(self._items)
        model.eval()
        try:
            for numbers in by_length([item.n_tokens for item in self._items], self.at_once):
                check()
                with recording(self._cuts) as tapes:
                    self.inner.nll(model, [self._items[number] for number in numbers])
                for name, tape in tapes.items():
                    _write(writer, name, tape, numbers)
                done += len(numbers)
                tell_progress(emit, done, n_items, self.at_once, "computing what the frozen layers say, once")
        finally:
            model.train(was_training)
        writer.about["n_more"] = {name: tape.n_more for name, tape in tapes.items()}


def _write(writer: Writer, name: str, tape: Tape, numbers: Sequence[int]) -> None:
    """Puts one batch on the disk: what its rows share as a piece of its own, then each row's remainder."""
    shared = [states for states, _ in tape.passes if len(states) != len(numbers)]
    if len(shared) + 1 != len(tape.passes) or any(len(states) != 1 for states in shared):
        raise ValueError(f"The {name} layers ran in passes of {[len(s) for s, _ in tape.passes]} rows.")
    states, lengths = tape.passes[-1]
    first = [writer.piece(part[0]) for part in shared]
    for place, number in enumerate(numbers):
        writer.row(name, number, [*first, writer.piece(states[place, : lengths[place]])])
