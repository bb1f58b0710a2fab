"""Where adapters change a model's layers: each linear layer that some adapter touches becomes a site.

A site holds the layer's low-rank changes (ml.engine.lora) and scales (ml.engine.scales) by slot, and applies those of
the rows at hand in every forward. Guarantees: the model's modules keep their names and weights; rows without a change
are equal to the bit beside rows with one; `remove` gives the layers their own classes back.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from functools import cache
from itertools import islice
from typing import Any, Protocol

import torch
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

    def idle(self) -> None:
        self.adding = self.low_rank
        for part in (self.inputs, self.low_rank, self.outputs):
            part.activate(None)

    @property
    def slots(self) -> Set[int]:
        """Those that have a change."""
        return {*self.inputs.slots, *self.low_rank.entry_of, *self.outputs.slots}


class Selection:
    """What the sites do in forwards over certain slots, told apart from the tensors that they do it with."""

    def __init__(self, sites: Mapping[str, Site], first: int, n_rows: int, device: torch.device) -> None:
        plans: dict[tuple[int, ...], Plan | None] = {}

        def plan(entries: tuple[int, ...]) -> Plan | None:
            if entries not in plans:
                plans[entries] = plan_of(entries, device)
            return plans[entries]

        selected: list[tuple[Tensor | None, tuple[Plan, Tensor, Tensor] | None, Tensor | None]] = []
        for site in sites.values():
            delta = site.low_rank.select(first, n_rows, plan)
            selected.append((site.inputs.select(first, n_rows), delta, site.outputs.select(first, n_rows)))
        used = [one for one in plans.values() if one is not None]
        self._sizes = [len(one.tensors) for one in used]
        self._parts: list[tuple[Site, bool, int | None, bool]] = []
        names = []
        self.tensors = [tensor for one in used for tensor in one.tensors]
        for (name, site), (inputs, delta, outputs) in zip(sites.items(), selected, strict=True):
            if inputs is None and delta is None and outputs is None:
                continue
            names.append(name)
            self._parts.append((site, inputs is not None, used.index(delta[0]) if delta else None, outputs is not None))
            self.tensors += [one for one in (inputs, *(delta[1:] if delta else ()), outputs) if one is not None]
        self.form: Hashable = (*self._sizes, *zip(names, (part[1:] for part in self._parts), strict=True))
        """Equal where the same operations are done, whatever the rows and ranks."""

    def activate(self, tensors: Sequence[Tensor]) -> None:
        """The next forwards go by these tensors, in the order of `self.tensors`."""
        given = iter(tensors)
        plans = [tuple(islice(given, n)) for n in self._sizes]
        for site, has_inputs, plan, has_outputs in self._parts:
            site.inputs.activate(next(given) if has_inputs else None)
            site.low_rank.activate(None if plan is None else (plans[plan], next(given), next(given)))
            site.outputs.activate(next(given) if has_outputs else None)


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
        self._selected: tuple[tuple[int, int], Selection] | None = None

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
            self._selected = None
            self.version += 1

    def copy(self, copy: Copy) -> None:
        source, target = self.rows.get(copy.source), self.rows.get(copy.target)
        self.set(copy.target, source)
        if copy.swap:
            self.set(copy.source, target)

    def select(self, first: int, n_rows: int) -> Selection:
        """What forwards over these slots do; it has to be activated in each."""
        if self._selected is None or self._selected[0] != (first, n_rows):
            self.idle()
            self._selected = (first, n_rows), Selection(self.by_name, first, n_rows, self._model.device)
        return self._selected[1]

    def idle(self) -> None:
        """Forwards are the plain model's until something else is activated."""
        for site in self.by_name.values():
            site.idle()
        self._selected = None

    def remove(self) -> None:
        """Gives the model's layers their own classes back."""
        for name in self.by_name:
            module = self._model.get_submodule(name)
            module.__class__ = type(module).__mro__[1]
            del module.coldframe_site
        self.by_name.clear()
        self.rows.clear()
