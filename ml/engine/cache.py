"""Keys and values of all rows, in slots; given to an unmodified Hugging Face model as its `past_key_values`.

Legend: S slots, R rows of one forward (neighbouring slots), Q new tokens a row, H kv heads, L length, D head width,
W columns read. Per layer `[S, H, L, D]`. `update` writes each row's new keys and values at the row's own positions and
returns the view `[R, H, W, D]`, without copying. Behind all slots there is one place that is never read: padding goes
there, whatever its values are.
Guarantee: a row sees its own columns up to its position and nothing else; the mask is made here, in one place. Padding
has position 0, which every model has. Does not do: sliding windows, shared or recurrent layers (ml.families refuses
them), soft caps.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml.engine.attention import even, runs_of
from ml.engine.choices import Tree
from ml.engine.slots import Copy
from ml.errors import ModelError

WIDTH_STEP = 16
"""W is rounded up to this, so that few different shapes occur."""


def check_supported(config: Any) -> None:
    """Raises ModelError for what would be computed wrongly in a batch of rows that differ in length; a past that is not
    every token's keys and values is refused while loading (ml.families)."""
    odd = []
    if getattr(config, "is_encoder_decoder", False):
        odd.append("an encoder")
    if "local" in (getattr(config, "attention_layers", None) or ()):
        odd.append("layers of local attention")
    if any(getattr(config, f"{what}_logit_softcapping", None) for what in ("attn", "final")):
        odd.append("soft caps on its logits")
    if odd:
        raise ModelError(
            f"The engine cannot serve a {config.model_type} model with {' and '.join(odd)}.",
            hint="Serve a decoder with full attention in every layer, such as a Llama or Qwen2.",
            field="base",
        )


def usable_length(config: Any, length: int) -> int:
    """Positions of a slot, at most `length`: those that the model has, and none from which on long RoPE (Ding et al.
    2024, arXiv 2402.13753) would rotate all rows of a batch in another way, because one of them has grown long."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    originals = [k["original_max_position_embeddings"] for k in kinds if k.get("rope_type") == "longrope"]
    return min([length, getattr(config, "max_position_embeddings", None) or length, *originals])


def heads_of(config: Any) -> tuple[int, int, int]:
    """(layers, kv heads, head width) of a decoder's configuration."""
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return config.num_hidden_layers, n_kv_heads, getattr(config, "head_dim", None) or config.hidden_size // n_heads


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU without touching them, so that memory (and seconds at the start) go only to columns in use."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    n_bytes = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, n_bytes), dtype=dtype).view(shape)


class Places(NamedTuple):
    """Where a forward over neighbouring slots reads and writes; tensors all of it, so that a trace can be given it."""

    at: Tensor
    """[R, Q]: position ids."""
    mask: Tensor
    """[R, 1, Q, W]: added to the scores (0 or -inf)."""
    into: Tensor
    """[R·H·Q]: where keys and values go, rows of [S·H·L + 1, D]."""
    first: Tensor
    """[]: the first slot; on the CPU, as `runs`."""
    runs: Tensor
    """[N, 3]: rows that are read together (ml.engine.attention); none where all are."""


class SlotLayer:
    """One layer's storage; the attributes are those that transformers looks at."""

    is_sliding = False

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        flat = (math.prod(shape[:3]) + 1, shape[3])
        self.flat_keys, self.flat_values = _zeros(flat, dtype, device), _zeros(flat, dtype, device)  # [S·H·L + 1, D]
        self.keys, self.values = self.flat_keys[:-1].view(shape), self.flat_values[:-1].view(shape)  # [S, H, L, D]


class SlotCache:
    is_compileable = False

    def __init__(self, config: Any, *, n_slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        check_supported(config)
        n_layers, self.n_kv_heads, self.head_dim = heads_of(config)
        self.n_slots = n_slots
        self.columns = (length + WIDTH_STEP - 1) // WIDTH_STEP * WIDTH_STEP
        shape = (n_slots, self.n_kv_heads, self.columns, self.head_dim)
        self._shape = shape
        self.layers = [SlotLayer(shape, dtype, device) for _ in range(n_layers)]
        self.device = device
        self.dtype = dtype
        self.nowhere = math.prod(shape[:3])
        """Where padding is written to."""
        self._window = slice(0, 0)
        self._width = 0
        self._into = torch.empty(0, dtype=torch.long)

    def places(self, first: int, positions: Sequence[int], n_new: Sequence[int]) -> Places:
        """Of a forward over the slots from `first` on; row r's first new token goes to column `positions[r]`."""
        longest, n_rows = max(n_new), len(positions)
        starts = torch.tensor(positions, dtype=torch.long)[:, None]
        offsets = torch.arange(longest)[None]
        is_new = offsets < torch.tensor(list(n_new), dtype=torch.long)[:, None]  # [R, Q]
        at = (starts + offsets).masked_fill_(~is_new, 0)
        ends = [p + n for p, n in zip(positions, n_new, strict=True)]
        widths = [min((end + WIDTH_STEP - 1) // WIDTH_STEP * WIDTH_STEP, self.columns) for end in ends]
        runs = even(runs_of(widths)) if longest == 1 and self.device.type == "cpu" else []
        runs = runs if len(runs) > 1 else []
        heads = torch.arange(first * self.n_kv_heads, (first + n_rows) * self.n_kv_heads).view(n_rows, -1, 1)
        into = torch.where(is_new[:, None], heads * self.columns + at[:, None], self.nowhere)  # [R, H, Q]
        allowed = torch.arange(max(widths)) <= at[:, :, None]  # [R, Q, W]
        mask = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        return Places(
            at=at.to(self.device), mask=mask[:, None].to(self.device), into=into.flatten().to(self.device),
            first=torch.tensor(first), runs=torch.tensor(runs, dtype=torch.long).view(-1, 3),
        )  # fmt: skip

    def begin(self, into: Tensor, slots: slice, width: int) -> None:
        """The next forward is over these slots: their new keys and values go to `into`, rows of [S·H·L + 1, D], and
        `width` columns are read. Does nothing on the device, so that a graph can hold it."""
        self._into, self._window, self._width = into, slots, width

    def places_of_trees(self, first: int, positions: Sequence[int], trees: Sequence[Tree]) -> Places:
        """As `places`, for tokens that stand beside one another behind column `positions[r]`: each sees the columns
        before that, and of those behind it what its tree says."""
        starts = [position + tree.first for position, tree in zip(positions, trees, strict=True)]
        longest = max(len(tree.ids) for tree in trees)
        places = self.places(first, starts, [len(tree.ids) for tree in trees])
        width = places.mask.shape[-1]
        at = torch.tensor(positions, dtype=torch.long)[:, None].repeat(1, longest)  # [R, Q]
        seen: list[int] = []
        for r, (position, tree) in enumerate(zip(positions, trees, strict=True)):
            at[r, : len(tree.ids)] += torch.tensor([len(columns) - 1 for columns in tree.sees])
            seen += [
                (r * longest + q) * width + position + column
                for q, columns in enumerate(tree.sees) for column in columns
            ]  # fmt: skip
        column = torch.arange(width)
        before = column < torch.tensor(positions, dtype=torch.long)[:, None, None]  # [R, 1, W]
        # Column 0 for the padding, which would have nothing to see.
        allowed = (before | (column == 0)).repeat(1, longest, 1)  # [R, Q, W]
        allowed.view(-1)[torch.tensor(seen, dtype=torch.long)] = True
        scores = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill_(~allowed, float("-inf"))
        nothing = places.runs[:0]  # every row is read up to the same column
        return places._replace(at=at.to(self.device), mask=scores[:, None].to(self.device), runs=nothing)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with keys and values [R, H, Q, D]."""
        layer = self.layers[layer_idx]
        return self._write(layer.flat_keys, keys), self._write(layer.flat_values, values)

    def _write(self, store: Tensor, new: Tensor) -> Tensor:
        """What is read is taken from what was written to, not from `SlotLayer.keys`: a trace would not see that they
        are the same memory, and leave out the writing."""
        store.index_copy_(0, self._into, new.reshape(-1, self.head_dim))
        return store[:-1].view(self._shape)[self._window, :, : self._width]

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
        """Moves a row's first `n_columns` to another slot, zeros in their place, or swaps two rows."""
        for layer in self.layers:
            for store in (layer.keys, layer.values):
                source, target = store[copy.source, :, :n_columns], store[copy.target, :, :n_columns]
                kept = target.clone() if copy.swap else 0.0
                target.copy_(source)
                source[:] = kept

    def fill(self, slot: int, value: float, n_columns: int | None = None) -> None:
        """Overwrites a slot's first columns, or all of them."""
        for layer in self.layers:
            layer.keys[slot, :, :n_columns] = value
            layer.values[slot, :, :n_columns] = value
