"""Keys and values of all rows, in slots; given to an unmodified Hugging Face model as its `past_key_values`.

Legend: S slots, R rows of one forward (neighbouring slots), Q new tokens a row, H kv heads, L length, D head width,
W columns read. Per layer `[S, H, L, D]`. `update` writes each row's new keys and values at the row's own positions and
returns the view `[R, H, W, D]`, without copying. The last column is never read: padded tokens are written there.
Guarantee: a row sees its own columns up to its position and nothing else; the mask is made here, in one place.
Does not do: sliding windows, shared or recurrent layers (`check_supported` refuses such models).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ml.engine.attention import Run, runs_of
from ml.engine.choices import Tree
from ml.engine.slots import Copy
from ml.errors import ModelError

WIDTH_STEP = 16
"""W is rounded up to this, so that few different shapes occur."""


def check_supported(config: Any) -> None:
    """Raises ModelError when the architecture keeps its past in another way than keys and values of every token."""
    odd = []
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        odd.append("layers that are not full attention")
    sliding = getattr(config, "sliding_window", None)
    if sliding and getattr(config, "use_sliding_window", True) and not getattr(config, "layer_types", None):
        odd.append(f"a sliding window of {sliding}")
    if getattr(config, "num_kv_shared_layers", 0):
        odd.append("layers that share keys and values")
    if getattr(config, "is_encoder_decoder", False):
        odd.append("an encoder")
    if odd:
        raise ModelError(
            f"The engine cannot serve a {config.model_type} model with {' and '.join(odd)}.",
            hint="Serve a decoder with full attention in every layer, such as a Llama or Qwen2.",
            field="base",
        )


def heads_of(config: Any) -> tuple[int, int, int]:
    """(layers, kv heads, head width) of a decoder's configuration."""
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return config.num_hidden_layers, n_kv_heads, getattr(config, "head_dim", None) or config.hidden_size // n_heads


def _zeros(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU without touching them, so that memory (and seconds at the start) go only to columns in use."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    n_bytes = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, n_bytes), dtype=dtype).view(shape)


class SlotLayer:
    """One layer's storage; the attributes are those that transformers looks at."""

    is_sliding = False

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = _zeros(shape, dtype, device)  # [S, H, L, D]
        self.values = _zeros(shape, dtype, device)


class SlotCache:
    is_compileable = False

    def __init__(self, config: Any, *, n_slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        check_supported(config)
        n_layers, self.n_kv_heads, self.head_dim = heads_of(config)
        self.n_slots = n_slots
        self.columns = (length + WIDTH_STEP) // WIDTH_STEP * WIDTH_STEP  # at least one more than `length`
        shape = (n_slots, self.n_kv_heads, self.columns, self.head_dim)
        self.layers = [SlotLayer(shape, dtype, device) for _ in range(n_layers)]
        self.device = device
        self.dtype = dtype
        self._window = slice(0, 0)
        self._width = 0
        self._into = torch.empty(0, dtype=torch.long)
        self.runs: list[Run] = []
        """Of the forward at hand: rows that are read together (ml.engine.attention)."""

    def begin(self, first: int, positions: Sequence[int], n_new: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Prepares a forward over the slots from `first` on. `positions[r]` is where row r's first new token goes.

        Returns position ids [R, Q] and the mask [R, 1, Q, W] that is added to the scores (0 or -inf).
        """
        longest, n_rows = max(n_new), len(positions)
        starts = torch.tensor(positions, dtype=torch.long)[:, None]
        offsets = torch.arange(longest)[None]
        is_new = offsets < torch.tensor(list(n_new), dtype=torch.long)[:, None]  # [R, Q]
        at = (starts + offsets).clamp_(max=self.columns - 1)
        ends = [p + n for p, n in zip(positions, n_new, strict=True)]
        widths = [min((end + WIDTH_STEP - 1) // WIDTH_STEP * WIDTH_STEP, self.columns) for end in ends]
        self._width = max(widths)
        self.runs = runs_of(widths) if longest == 1 and self.device.type == "cpu" else []
        self._window = slice(first, first + n_rows)
        heads = torch.arange(first * self.n_kv_heads, (first + n_rows) * self.n_kv_heads).view(n_rows, -1, 1)
        columns = torch.where(is_new, at, self.columns - 1)[:, None]  # [R, 1, Q]
        self._into = (heads * self.columns + columns).flatten().to(self.device)  # [R·H·Q] rows of the [S·H·L, D] view
        allowed = torch.arange(self._width) <= at[:, :, None]  # [R, Q, W]
        mask = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        return at.to(self.device), mask[:, None].to(self.device)

    def begin_trees(self, first: int, positions: Sequence[int], trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
        """As `begin`, for tokens that stand beside one another behind column `positions[r]`: each sees the columns
        before that, and of those behind it what its tree says."""
        starts = [position + tree.first for position, tree in zip(positions, trees, strict=True)]
        longest = max(len(tree.ids) for tree in trees)
        _, mask = self.begin(first, starts, [len(tree.ids) for tree in trees])
        at = torch.tensor(positions, dtype=torch.long)[:, None].repeat(1, longest)  # [R, Q]
        seen: list[int] = []
        for r, (position, tree) in enumerate(zip(positions, trees, strict=True)):
            at[r, : len(tree.ids)] += torch.tensor([len(columns) - 1 for columns in tree.sees])
            seen += [
                (r * longest + q) * self._width + position + column
                for q, columns in enumerate(tree.sees) for column in columns
            ]  # fmt: skip
        column = torch.arange(self._width)
        before = column < torch.tensor(positions, dtype=torch.long)[:, None, None]  # [R, 1, W]
        # Column 0 for the padding, which would have nothing to see.
        allowed = (before | (column == 0)).repeat(1, longest, 1)  # [R, Q, W]
        allowed.view(-1)[torch.tensor(seen, dtype=torch.long)] = True
        scores = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        return at.to(self.device), scores[:, None].to(mask.device)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with keys and values [R, H, Q, D]."""
        layer = self.layers[layer_idx]
        layer.keys.view(-1, self.head_dim).index_copy_(0, self._into, keys.reshape(-1, self.head_dim))
        layer.values.view(-1, self.head_dim).index_copy_(0, self._into, values.reshape(-1, self.head_dim))
        rows, width = self._window, self._width
        return layer.keys[rows, :, :width], layer.values[rows, :, :width]

    def get_seq_length(self, *_: Any) -> int:
        """Positions are given explicitly; nothing is derived from a length that rows do not share."""
        return 0

    def write_prefix(self, slot: int, prefix: Tensor) -> None:
        """Copies a task's prefix [layers, 2, H, p, D] to the beginning of a slot."""
        n = prefix.shape[3]
        for layer, (keys, values) in zip(self.layers, prefix, strict=True):
            layer.keys[slot, :, :n] = keys
            layer.values[slot, :, :n] = values

    def read_prefix(self, slot: int, n: int) -> Tensor:
        """A copy of a slot's first n columns, as `write_prefix` takes it."""
        return torch.stack([torch.stack([layer.keys[slot, :, :n], layer.values[slot, :, :n]]) for layer in self.layers])

    def copy(self, copy: Copy, n_columns: int) -> None:
        """Moves a row's first `n_columns` to another slot, or swaps two rows."""
        for layer in self.layers:
            for store in (layer.keys, layer.values):
                source, target = store[copy.source, :, :n_columns], store[copy.target, :, :n_columns]
                kept = target.clone() if copy.swap else None
                target.copy_(source)
                if kept is not None:
                    source.copy_(kept)

    def fill(self, slot: int, value: float, n_columns: int | None = None) -> None:
        """Overwrites a slot's first columns, or all of them."""
        for layer in self.layers:
            layer.keys[slot, :, :n_columns] = value
            layer.values[slot, :, :n_columns] = value
