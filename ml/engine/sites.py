"""Where adapters change a model's layers: each linear layer that some adapter touches becomes a site.

A site holds the layer's low-rank changes (ml.engine.lora) and scales (ml.engine.scales) by slot, and applies those of
the rows at hand in every forward. Guarantees: the model's modules keep their names and weights; rows without a change
are equal to the bit beside rows with one; `remove` gives the layers their own classes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from ml.engine.lora import Delta, LowRank, Plan, plan_of
from ml.engine.scales import Scale, Scales
from ml.engine.slots import Copy

Change = Delta | Scale
Changes = Mapping[str, Change]
"""What an adapter does to layers, by module name as in model.named_modules()."""


class Adds(Protocol):
    def add(self, x: Tensor, y: Tensor) -> Tensor: ...


class Site:
    """What one linear layer does beside its own product, by slot."""

    def __init__(self, n_slots: int, n_in: int, n_out: int, like: Tensor) -> None:
        self.sizes, self.like = (n_in, n_out), like
        self.inputs = Scales(n_slots, n_in, like)
        self.low_rank = LowRank(n_slots, n_in, n_out, like)
        self.outputs = Scales(n_slots, n_out, like)
        self.adding: Adds = self.low_rank
        """What adds to the layer's product: its own matrices, or a step's (ml.engine.stacks)."""

    def set(self, slot: int, change: Change | None) -> None:
        self.low_rank.set(slot, change if isinstance(change, Delta) else None)
        for side, scales in (("inputs", self.inputs), ("outputs", self.outputs)):
            scales.set(slot, change.factors if isinstance(change, Scale) and change.side == side else None)

    def use(self, first: int, n_rows: int, plan_of: Callable[[tuple[int, ...]], Plan | None]) -> None:
        self.adding = self.low_rank
        self.inputs.use(first, n_rows)
        self.low_rank.use(first, n_rows, plan_of)
        self.outputs.use(first, n_rows)

    def idle(self) -> None:
        self.adding = self.low_rank
        for part in (self.inputs, self.low_rank, self.outputs):
            part.idle()

    @property
    def slots(self) -> Set[int]:
        """Those that have a change."""
        return {*self.inputs.slots, *self.low_rank.entry_of, *self.outputs.slots}


@cache
def _with_site(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a linear layer's class that applies its site. Weights, names and state_dict stay."""

    class WithSite(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            site: Site = self.coldframe_site
            x = site.inputs.times(x)
            return site.outputs.times(site.adding.add(x, super().forward(x)))

    WithSite.__name__ = WithSite.__qualname__ = f"{kind.__name__}WithSite"
    return WithSite


def sizes_of(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer, Conv1D of transformers included; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__.startswith("Conv1D"):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    return None


class SiteBank:
    """The sites of one model."""

    def __init__(self, model: Any, n_slots: int) -> None:
        self._model = model
        self._n_slots = n_slots
        self.by_name: dict[str, Site] = {}
        self.rows: dict[int, Changes] = {}
        """By slot, of those that have changes."""
        self.version = 0
        """Another one after each change of `rows`."""
        self._used: tuple[int, int] | None = (0, 0)

    def _site(self, name: str) -> Site:
        if name not in self.by_name:
            module = self._model.get_submodule(name)
            sizes = sizes_of(module)
            if sizes is None:
                raise TypeError(f"{name} is a {type(module).__name__}, not a linear layer.")
            self.by_name[name] = Site(self._n_slots, *sizes, like=next(self._model.parameters()))
            object.__setattr__(module, "coldframe_site", self.by_name[name])
            module.__class__ = _with_site(type(module))  # type: ignore[arg-type]
        return self.by_name[name]

    def set(self, slot: int, changes: Changes | None) -> None:
        """Puts an adapter's changes into a slot; None takes out what is there."""
        had, wanted = self.rows.pop(slot, {}), changes or {}
        for name in had:
            if name not in wanted:
                self.by_name[name].set(slot, None)
        for name, change in wanted.items():
            self._site(name).set(slot, change)
        if wanted:
            self.rows[slot] = wanted
        if had or wanted:
            self._used = None
            self.version += 1

    def copy(self, copy: Copy) -> None:
        source, target = self.rows.get(copy.source), self.rows.get(copy.target)
        self.set(copy.target, source)
        if copy.swap:
            self.set(copy.source, target)

    def use(self, first: int, n_rows: int) -> None:
        if self._used == (first, n_rows):
            return
        plans = cache(lambda entries: plan_of(entries, self._model.device))
        for site in self.by_name.values():
            site.use(first, n_rows, plans)
        self._used = (first, n_rows)

    def idle(self) -> None:
        """The next forward is the plain model's, e.g. for computing a prefix."""
        for site in self.by_name.values():
            site.idle()
        self._used = None

    def remove(self) -> None:
        """Gives the model's layers their own classes back."""
        for name in self.by_name:
            module = self._model.get_submodule(name)
            module.__class__ = type(module).__mro__[1]
            del module.coldframe_site
        self.by_name.clear()
        self.rows.clear()
