"""Steps that come again are captured and replayed: on a GPU as CUDA graphs, in which hundreds of launches become one,
on a CPU as traces (ml.engine.traces).

A step that comes again is captured, so that a batch on its way through a size costs nothing; until then, and where
there is nothing to capture with, it is run as it is. Guarantees: a bounded number of graphs, the ones used longest ago
go first; those of a GPU share one memory pool; when a capture fails, the log says so and that kind of step (on a GPU:
every step) is run as it is from then on. Belongs to the model's thread. The outputs of a replay are those of the next
one as well: read them before. What a graph has read from must stay where it was, else `clear`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 128
MOST_COUNTED = 1024
N_WARM_UP = 2
"""Runs before a capture: libraries choose kernels and make their workspaces in these."""

logger = logging.getLogger(__name__)
Step = Callable[..., Any]
"""Runs a step on its inputs and gives its outputs."""
Capture = Callable[[Step, Sequence[Tensor]], Step]
"""Gives what replays the step, from inputs like those it is captured with."""


class CudaCapture:
    """Captures with torch.cuda.graph. Other threads may go on using the device meanwhile."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, step: Step, inputs: Sequence[Tensor]) -> Step:
        """Without inputs: a graph reads what stands where it was when it was captured."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(N_WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = step()

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay


class Graphs:
    def __init__(
        self, capture: Capture | None, *, limit: int = MOST_GRAPHS, after: int = 2, is_lasting: bool = False
    ) -> None:
        """`capture`: None runs every step as it is. `after`: how often a step comes until it is captured.
        `is_lasting`: none makes place for another; at the limit the rest are run as they are. A capture that fails then
        costs nothing but its own step's replays."""
        self._capture = capture
        self._limit, self.after, self._is_lasting = limit, after, is_lasting
        self._replays: OrderedDict[Hashable, Step] = OrderedDict()
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        """How often steps without a graph came."""
        self._refused: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._replays)

    @property
    def is_on(self) -> bool:
        return self._capture is not None

    def run(self, key: Hashable, step: Step, inputs: Sequence[Tensor] = ()) -> Any:
        """The outputs of `step`, which is the same for the same key."""
        if self._capture is None:
            return step(*inputs)
        if key not in self._replays and self._is_due(key):
            self._add(key, self._capture, step, inputs)
        if key not in self._replays:
            return step(*inputs)
        self._replays.move_to_end(key)
        return self._replays[key](*inputs)

    def _is_due(self, key: Hashable) -> bool:
        if key in self._refused:
            return False
        count = self._counts.pop(key, 0) + 1
        if count >= self.after and not (self._is_lasting and len(self) >= self._limit):
            return True
        self._counts[key] = count
        if len(self._counts) > MOST_COUNTED:
            self._counts.popitem(last=False)
        return False

    def _add(self, key: Hashable, capture: Capture, step: Step, inputs: Sequence[Tensor]) -> None:
        try:
            self._replays[key] = capture(step, inputs)
        except Exception:
            if self._is_lasting:
                logger.warning("a kind of step could not be captured: it is run as it is", exc_info=True)
                self._refused.add(key)
                return
            logger.warning("a step could not be captured: steps are run without graphs from now on", exc_info=True)
            self._capture = None
            self.clear()
        if len(self) > self._limit:
            self._replays.popitem(last=False)

    def clear(self) -> None:
        """Whatever the graphs read from has moved."""
        self._replays.clear()
        self._counts.clear()
