"""One forward of the frozen model over neighbouring slots.

Legend: R rows, Q new tokens of the longest row (the others are padded on the right; padding is never read), V
vocabulary. Holds the slot cache and the LoRA sites. At start it compares its own logits with the model's plain forward
and refuses an architecture for which they differ, so that an unknown family cannot answer wrongly in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ml.backbone import Backbone, is_out_of_memory
from ml.engine.attention import NAME, reading, use_runs
from ml.engine.cache import Places, SlotCache, usable_length
from ml.engine.choices import Tree
from ml.engine.graphs import Graphs
from ml.engine.packed import Packs, packed_weights
from ml.engine.sites import SiteBank
from ml.engine.slots import Copy
from ml.engine.steps import Steps, choose_steps
from ml.engine.traces import TraceCapture
from ml.errors import ModelError

logger = logging.getLogger(__name__)
HEAD_ROWS = 128
"""Tokens whose logits are in memory at once while texts are scored."""

MOST_TRACES = 24
"""A trace of 30 layers is 30 MB of memory, until the process ends."""
TRACED_AFTER = 16
"""Forwards of a kind before there is a trace of it, which takes as long as some 50 of them."""

_PROBE = list(range(1, 8))
"""Token ids that logits are compared on."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What one forward gave."""

    states: Tensor
    """[R, Q, D]: the final states of every token that was read."""
    logits: Tensor | None
    """[R, V] after each row's last token, when they were wanted."""


class Runner:
    def __init__(
        self,
        backbone: Backbone,
        *,
        n_slots: int,
        length: int,
        is_packed: bool = False,
        is_fixed: bool | None = None,
        is_traced: bool = True,
    ) -> None:
        """`is_packed`: linear layers go by packed weights where that loses nothing (ml.engine.packed). `is_fixed`:
        decode in steps of fixed shape, which a GPU replays from graphs (ml.engine.steps); None: on a GPU only.
        `is_traced`: on a CPU, forwards that come often are replayed from traces (ml.engine.traces)."""
        self.model = backbone.model
        self._name = backbone.name
        config = self.model.config
        self.length = usable_length(config, length)
        self.cache = SlotCache(
            config, n_slots=n_slots, length=self.length, dtype=self.model.dtype, device=self.model.device
        )
        self.sites = SiteBank(self.model, n_slots)
        self._head = self.model.get_output_embeddings()
        expected = self._plain_logits()
        use_runs(self.model)
        self.packs = Packs(self.model) if is_packed else None
        self.steps: Steps | None = None
        self.traces = Graphs(None)
        try:
            self._check(expected, self._logits_in_parts)
        except ValueError as error:
            raise self._refusal(str(error)) from error
        if is_traced and self.model.device.type == "cpu":
            self._trace(expected)
        if self.model.device.type == "cuda" if is_fixed is None else is_fixed:
            self.steps = choose_steps(
                self.model, self.cache, self.sites, self._name,
                check=lambda steps: self._check(
                    expected, lambda: self._logits_in_steps(lambda *given: steps.run(*given)[1])
                ),
            )  # fmt: skip

    @property
    def reads_by(self) -> str:
        """What computes a decode step's attention."""
        name = str(self.model.config._attn_implementation)
        return self.steps.reader.name if self.steps is not None else "sdpa" if name == NAME else name

    @property
    def n_graphs(self) -> int | None:
        """Captured steps; None: none are made."""
        graphs = self.traces if self.steps is None else self.steps.graphs
        return len(graphs) if graphs.is_on else None

    @torch.inference_mode()
    def forward(
        self, first: int, ids: Sequence[Sequence[int]], positions: Sequence[int], *, wants_logits: bool = True
    ) -> Pass:
        """Reads ids[r] into slot first + r from column positions[r] on."""
        n_new = [len(row) for row in ids]
        longest = max(n_new)
        if self.steps is not None and first == 0 and longest == 1 and wants_logits:
            return Pass(*self.steps.run([row[0] for row in ids], positions))
        states = self._read(first, self._padded(ids), self.cache.places(first, positions, n_new))
        if not wants_logits:
            return Pass(states, None)
        hidden = states
        if longest > 1:
            last = torch.tensor(n_new, device=hidden.device) - 1
            hidden = hidden[torch.arange(len(ids), device=hidden.device), last][:, None]  # [R, 1, D]
        return Pass(states, self._head(hidden)[:, 0].float())

    @torch.inference_mode()
    def score(self, first: int, trees: Sequence[Tree], positions: Sequence[int]) -> list[list[float]]:
        """Log probability of each edge of trees[r], read behind column positions[r] of slot first + r. What is read
        stays behind the row's own columns, which end where they ended."""
        places = self.cache.places_of_trees(first, positions, trees)
        hidden = self._read(first, self._padded([tree.ids for tree in trees]), places)  # [R, N, D]
        return self._logprobs(torch.cat([row[: len(t.ids)] for t, row in zip(trees, hidden, strict=True)]), trees)

    @torch.inference_mode()
    def compute_prefix(self, slot: int, embeddings: Tensor) -> None:
        """Reads trained embeddings [p, D] into an empty slot (Lester et al. 2021)."""
        self._read(slot, embeddings[None], self.cache.places(slot, [0], [len(embeddings)]), what="inputs_embeds")

    def _padded(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """[R, Q], padded on the right."""
        longest = max(len(row) for row in ids)
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids], dtype=torch.long)
        return padded.to(self.model.device)

    def _read(self, first: int, tokens: Tensor, places: Places, *, what: str = "input_ids") -> Tensor:
        """The final states [R, Q, D] of `tokens`: ids [R, Q] or embeddings [R, Q, D]."""
        selection = self.sites.select(first, len(tokens))

        def step(
            tokens: Tensor, at: Tensor, mask: Tensor, into: Tensor, first: Tensor, runs: Tensor, *given: Tensor
        ) -> Any:
            self.cache.begin(into, slice(first, first + tokens.shape[0]), mask.shape[-1])
            selection.activate(given)
            with reading([tuple(run) for run in runs]):
                return self.model.base_model(
                    **{what: tokens}, position_ids=at, attention_mask=mask, past_key_values=self.cache, use_cache=True
                ).last_hidden_state  # [R, Q, D]

        # transformers attends to one new token a row by other operations than to several.
        key = (what, tokens.shape[1] == 1, len(places.runs), selection.form)
        states: Tensor = self.traces.run(key, step, [tokens, *places, *selection.tensors])
        return states

    def _logprobs(self, hidden: Tensor, trees: Sequence[Tree]) -> list[list[float]]:
        """Of the trees' edges, from the final states of all their tokens [N, D]; a slice of [N, V] at a time."""
        edges, n_before = [], 0
        for tree in trees:
            edges += [(n_before + node, token) for node, token in tree.edges]
            n_before += len(tree.ids)
        node, token = torch.tensor(edges, device=hidden.device).T
        found = torch.empty(len(edges), device=hidden.device)
        for first in range(0, len(hidden), HEAD_ROWS):
            logprobs = self._head(hidden[first : first + HEAD_ROWS]).float().log_softmax(-1)
            here = (node >= first) & (node < first + HEAD_ROWS)
            found[here] = logprobs[node[here] - first, token[here]]
        parts = found.split([len(tree.edges) for tree in trees])
        return [part.tolist() for part in parts]

    def write_prefix(self, slot: int, prefix: Tensor) -> None:
        self.cache.write_prefix(slot, prefix)

    def read_prefix(self, slot: int, n_columns: int) -> Tensor:
        """A copy of a slot's first columns: [layers, 2, H, n, D]."""
        return self.cache.read_prefix(slot, n_columns)

    def move(self, copy: Copy, n_columns: int) -> None:
        self.cache.copy(copy, n_columns)
        self.sites.copy(copy)

    def clear(self, slot: int, n_columns: int) -> None:
        """After a row that may have left values behind that are not finite: 0 x NaN would reach the slot's next row."""
        self.cache.fill(slot, 0.0, n_columns)

    @torch.inference_mode()
    def _plain_logits(self) -> Tensor:
        """The model's own [V] after some tokens."""
        ids = torch.tensor([_PROBE], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0, -1].float()
        return logits

    def _check(self, expected: Tensor, logits: Callable[[], Tensor]) -> None:
        """Raises ValueError with the reason when they differ, or cannot be had."""
        try:
            got = logits()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(f"it does not read its past from slots: {error}") from error
        distance = float((got - expected).abs().max()) / (float(expected.abs().max()) + 1)
        if not distance <= (1e-3 if self.model.dtype == torch.float32 else 5e-2):
            raise ValueError(f"its logits differ from the model's own by {distance:.2g}")

    def _logits_in_parts(self) -> Tensor:
        """[V] after the same tokens, read in two parts."""
        self.forward(0, [_PROBE[:4]], [0], wants_logits=False)
        self.forward(0, [_PROBE[4:6]], [4], wants_logits=False)
        logits = self._step(_PROBE[6:], [6])
        self.cache.fill(0, 0.0)
        return logits[0]

    @torch.inference_mode()
    def _logits_in_steps(self, step: Callable[[list[int], list[int]], Tensor]) -> Tensor:
        """[V], the last of the tokens read in steps; of more than one row where there are slots, and of padding.
        `step`: logits [R, V] after one token a row and its position."""
        n_rows = min(3, self.cache.n_slots)
        self.forward(0, [_PROBE[:4]], [0], wants_logits=False)
        for at in range(4, len(_PROBE)):
            logits = step([_PROBE[at]] * n_rows, [at] * n_rows)
        for slot in range(n_rows):
            self.cache.fill(slot, 0.0)
        return logits[0]

    def _trace(self, expected: Tensor) -> None:
        """From now on forwards are replayed, unless that gives other logits."""
        self.traces = Graphs(TraceCapture(self._held), limit=MOST_TRACES, after=1, is_lasting=True)
        try:
            self._check(expected, self._logits_in_parts)
            self._check(expected, lambda: self._logits_in_steps(self._step))
        except ValueError as error:
            logger.warning("forwards of %s are not traced: %s", self._name, error)
            self.traces = Graphs(None)
        if len(self.traces) == 0:
            self.traces = Graphs(None)
        self.traces.after = TRACED_AFTER

    def _step(self, ids: list[int], positions: list[int]) -> Tensor:
        logits = self.forward(0, [[token] for token in ids], positions).logits
        if logits is None:
            raise ValueError("there are no logits")
        return logits

    def _held(self) -> tuple[list[Tensor], list[Any]]:
        stores = [store for layer in self.cache.layers for store in (layer.flat_keys, layer.flat_values)]
        return [*self.model.parameters(), *self.model.buffers(), *stores], packed_weights(self.model)

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(
            f"The engine cannot serve {self._name}, a {self.model.config.model_type} model: {reason}.",
            hint="This architecture needs its own support in ml/engine; use a Llama or Qwen2 kind of model.",
            field="base",
        )
