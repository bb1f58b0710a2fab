"""The processes that train one run together, on accelerate: one alone, or several under `accelerate launch`/torchrun.

Every process holds the whole frozen model and the same trained weights; a batch's rows are divided among them, and the
gradients are summed before each step, so that the result is the one a single process would get, up to rounding. The
main process alone evaluates, saves and speaks. Limits: a model must fit on each device; nothing is sharded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

_LONGEST_WAIT = timedelta(days=2)


class Processes:
    """This process among those that train together."""

    def __init__(self, *, device: str) -> None:
        self.n, self.index, self.device = (
            int(os.environ.get("WORLD_SIZE", "1")),
            int(os.environ.get("RANK", "0")),
            device,
        )
        self._state: Any = None
        if self.n > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=device == "cpu", timeout=_LONGEST_WAIT)
            self.n, self.index, self.device = (
                self._state.num_processes,
                self._state.process_index,
                str(self._state.device),
            )

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share_of(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of a batch: every n-th item."""
        return list(items[self.index :: self.n])

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: float) -> float:
        """Adds up the gradients of all processes in place; returns the sum of their losses."""
        if self.n == 1:
            return loss
        from accelerate.utils import reduce

        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        total = reduce(torch.tensor([loss], device=self.device, dtype=torch.float64), "sum")
        flat: Tensor = reduce(torch.cat([g.flatten().float() for g in gradients]), "sum")
        pieces = flat.split([g.numel() for g in gradients])
        for parameter, gradient, piece in zip(parameters, gradients, pieces, strict=True):
            parameter.grad = gradient.copy_(piece.view_as(gradient))
        return float(total.item())

    def agree(self, said: Any) -> Any:
        """What the main process said."""
        if self.n == 1:
            return said
        from accelerate.utils import broadcast_object_list

        box = [said]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def any_says(self, flag: bool) -> bool:
        """Whether one of the processes says yes."""
        if self.n == 1:
            return flag
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor([float(flag)], device=self.device), "sum") > 0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do: they find what it left on the disk."""
        if self._state is None:
            yield
            return
        with self._state.main_process_first():
            yield

    def close(self) -> None:
        """Leaves the group, so that the interpreter ends without complaint."""
        if self._state is not None:
            self._state.destroy_process_group()
