"""Forwards of a CPU as TorchScript traces: the same operations without the Python between them.

At one row a small model's step is half Python. A trace keeps the operations alone; sizes stay open, so that one trace
serves any number of rows, tokens and columns, and ml.engine.graphs says when one is made. What a forward is given must
be tensors, and nothing may depend on their values. Weights, packs and slots are attributes of what is traced, since
TorchScript keeps its graphs, and whatever constants they hold, until the process ends. TorchScript is deprecated, not
gone; where it fails, forwards are run as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ml.engine.graphs import Step
from ml.threads import helper_threads


class _Traced(nn.Module):
    _step: Step

    def __init__(self, step: Step, tensors: Sequence[Tensor], packs: Sequence[Any]) -> None:
        super().__init__()
        object.__setattr__(self, "_step", step)
        for n, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{n}", tensor)
        for n, pack in enumerate(packs):
            setattr(self, f"pack{n}", pack)

    def forward(self, *inputs: Tensor) -> Any:
        return self._step(*inputs)


class TraceCapture:
    """Captures with torch.jit.trace."""

    def __init__(self, held: Callable[[], tuple[Sequence[Tensor], Sequence[Any]]]) -> None:
        """`held`: the tensors and packed weights that steps use beside what they are given."""
        self._held = held

    def __call__(self, step: Step, inputs: Sequence[Tensor]) -> Step:
        # In a thread whose stack is short: each operation is noted with the whole of it, which takes half of the time.
        with helper_threads(1, "trace") as thread:
            traced = thread.submit(self._trace, step, inputs).result()

        def replay(*inputs: Tensor) -> Any:
            # Else it is compiled anew for sizes that come often.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return traced(*inputs)

        return replay

    @torch.inference_mode()
    def _trace(self, step: Step, inputs: Sequence[Tensor]) -> Any:
        with warnings.catch_warnings():
            # That it is deprecated, and every number that stays as it is: ml.engine.runner checks what comes out.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(_Traced(step, *self._held()), tuple(inputs), check_trace=False)
        _forget_sources(traced.graph)
        return traced


def _forget_sources(graph: Any) -> None:
    """Each operation has kept the whole Python stack that it came from, as text: tens of MB."""
    nothing = graph.create("prim::Constant")
    for node in graph.nodes():
        node.copyMetadata(nothing)
