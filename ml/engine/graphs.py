"""Steps of a GPU as CUDA graphs: hundreds of launches become one.

A step that comes a second time is captured, so that a batch on its way through a size costs nothing; until then, and
where there is nothing to capture with, it is run as it is. Guarantees: a bounded number of graphs, the ones used
longest ago go first; all share one memory pool; when a capture fails, the log says so once and every step is run as it
is from then on. Belongs to the model's thread. The outputs of a replay are those of the next one as well: read them
before. What a graph has read from must stay where it was, else `clear`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

MOST_GRAPHS = 128
N_WARM_UP = 2
"""Runs before a capture: libraries choose kernels and make their workspaces in these."""

logger = logging.getLogger(__name__)
Step = Callable[[], Any]
"""Runs a step and gives its outputs."""
Capture = Callable[[Step], Step]
"""Gives what replays the step."""


class CudaCapture:
    """Captures with torch.cuda.graph. Other threads may go on using the device meanwhile."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, step: Step) -> Step:
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
    def __init__(self, capture: Capture | None, *, limit: int = MOST_GRAPHS) -> None:
        """`capture`: None runs every step as it is."""
        self._capture = capture
        self._limit = limit
        self._kept: OrderedDict[Hashable, Step | None] = OrderedDict()
        """None: came once."""

    def __len__(self) -> int:
        return sum(replay is not None for replay in self._kept.values())

    @property
    def is_on(self) -> bool:
        return self._capture is not None

    def run(self, key: Hashable, step: Step) -> Any:
        """The outputs of `step`, which is the same for the same key."""
        if self._capture is None:
            return step()
        replay = self._kept.get(key)
        if replay is None and key in self._kept:
            replay = self._captured(step)
        if self._capture is None:
            return step()
        self._kept[key] = replay
        self._kept.move_to_end(key)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return step() if replay is None else replay()

    def _captured(self, step: Step) -> Step | None:
        if self._capture is None:
            return None
        try:
            return self._capture(step)
        except Exception:
            logger.warning("a step could not be captured: steps are run without graphs from now on", exc_info=True)
            self._capture = None
            self.clear()
            return None

    def clear(self) -> None:
        """Whatever the graphs read from has moved."""
        self._kept.clear()
