"""A decode step of fixed shape: one more token for the rows in the first slots, whose number and width are rounded up.

Legend: R rows of the step, H kv heads, W columns, V vocabulary. A GPU waits for launches unless a step is replayed from
a CUDA graph, and a graph holds one shape and one set of addresses. So ids, positions and slots come by one buffer, the
rest is computed from it on the device, R is rounded up to a power of two (at most the slots) and W to one of few
widths. The rows that this adds read one column of their slot and write where padding goes, and nobody reads what they
say. Everywhere else a step is the runner's own forward: the same cache, sites and model. Guarantee: the same code runs
on every device; only replaying is a GPU's. Which way of reading works here is tried out at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ml.engine.attention import reading_by
from ml.engine.cache import SlotCache
from ml.engine.graphs import CudaCapture, Graphs
from ml.engine.readers import Reader, readers_for
from ml.engine.sites import SiteBank
from ml.engine.stacks import Stacks

WIDTH = 128
"""Columns read at least; the widths are this times 1, 2, 3, 4, 6, 8, 12 …"""

logger = logging.getLogger(__name__)


def rows_of(n_live: int, n_slots: int) -> int:
    """R for so many rows."""
    return min(1 << (n_live - 1).bit_length(), n_slots)


def width_of(n_columns: int, most: int) -> int:
    """W for rows of which the longest has `n_columns`."""
    n = -(-n_columns // WIDTH)
    double = 1 << (n - 1).bit_length()
    fewer = 3 * double // 4
    return min(WIDTH * (fewer if double >= 4 and fewer >= n else double), most)


class Steps:
    def __init__(self, model: Any, cache: SlotCache, sites: SiteBank, reader: Reader) -> None:
        self._model, self._cache, self.reader = model, cache, reader
        self._head = model.get_output_embeddings()
        self._given = torch.zeros(cache.n_slots, 3, dtype=torch.long, device=cache.device)
        """By row: token id, position, slot to write to; none: the one behind the last."""
        self._heads = torch.arange(cache.n_kv_heads, device=cache.device)
        self.graphs = Graphs(None)
        self._stacks = Stacks(sites, cache.n_slots, lambda: self.graphs.clear())

    def capture(self) -> None:
        """From now on steps are captured, on a device that can."""
        if self._cache.device.type == "cuda":
            self.graphs = Graphs(CudaCapture())

    def run(self, ids: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Reads ids[r] into column positions[r] of slot r. Returns states [n, 1, D] and logits [n, V] of the n rows,
        which the next step overwrites."""
        n_live, n_slots = len(ids), self._cache.n_slots
        n_rows, width = rows_of(n_live, n_slots), width_of(max(positions) + 1, self._cache.columns)
        given = [(token, at, slot) for slot, (token, at) in enumerate(zip(ids, positions, strict=True))]
        self._given[:n_rows].copy_(torch.tensor(given + [(0, 0, n_slots)] * (n_rows - n_live)))
        forms = self._stacks.use(n_live, n_rows)
        states, logits = self.graphs.run((n_rows, width, forms), lambda: self._forward(n_rows, width))
        return states[:n_live], logits[:n_live]

    def _forward(self, n_rows: int, width: int) -> tuple[Tensor, Tensor]:
        """What a graph holds: nothing here looks at a tensor's values."""
        ids, positions, slots = self._given[:n_rows].split(1, dim=1)  # [R, 1]
        into = (slots * self._cache.n_kv_heads + self._heads) * self._cache.columns + positions  # [R, H]
        self._cache.begin(into.clamp(max=self._cache.nowhere).flatten(), slice(0, n_rows), width)
        self._stacks.activate()
        with reading_by(self.reader):
            states = self._model.base_model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=self.reader.begin((positions[:, 0] + 1).int(), width, self._cache.dtype),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state  # [R, 1, D]
        return states, self._head(states)[:, 0].float()


def choose_steps(
    model: Any, cache: SlotCache, sites: SiteBank, name: str, *, check: Callable[[Steps], None]
) -> Steps | None:
    """Steps with the first way of reading that passes `check`, which raises otherwise; None when none does."""
    for how, make in readers_for(model).items():
        try:
            steps = Steps(model, cache, sites, make())
            check(steps)
        except Exception as error:
            logger.warning("%s cannot decode with attention by %s: %s", name, how, error)
            continue
        steps.capture()
        logger.info("%s decodes in steps of fixed shape, attention by %s", name, how)
        return steps
    logger.warning("%s decodes without steps of fixed shape", name)
    return None
