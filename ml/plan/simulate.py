"""A training step and an evaluation run with shapes alone, and what they hold carried over to the model's real depth.

The model is built twice, with two and with three layers (a third time when the two stacks of an encoder-decoder differ
in depth). Between the same two places of a step (before the first layer, in it, in the last, at the loss, and back) the
bytes held are an affine function of the depth; layers between the first and the last lie between them. So each
stretch's highest point is carried over by itself, and the highest of them is the peak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ml.methods import build, enable_checkpointing
from ml.optimization import is_torch_adamw
from ml.plan.live import LiveBytes, storage_bytes
from ml.plan.models import backbone_on_meta, depths, with_depths
from ml.plan.shapes import Shapes, backward
from ml.plan.steps import EVAL_ROWS, Rows, evaluate, evaluated_rows, train_loss
from ml.specs import METHODS, TrainSpec

_START, _LOSS, _OPTIMIZER = "start", "loss", "optimizer"
_SMALLEST_IN_8_BITS, _SCALED_TOGETHER = 4096, 256
PARTS = ("weights", "trainables", "gradients", "optimizer", "held")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that a simulation depends on beside the depth."""

    spec: TrainSpec
    config: Any
    family: str
    device: str
    dtype: torch.dtype
    labels: tuple[str, ...]
    rows: Rows


def simulate(setting: Setting) -> dict[str, float]:
    """Bytes of PARTS and, as `at:<stretch>`, all that is alive at the highest point of each stretch."""
    return carried(setting, _of_depth)


def carried(setting: Setting, of_depth: Callable[[Setting, Sequence[int]], dict[str, float]]) -> dict[str, float]:
    """What `of_depth` (of a setting and the layers of each stack) says, carried over from small depths to the real."""
    real = depths(setting.config)
    least = max(2, int(setting.spec.options.get("k", 0)) + 1)
    if max(real) <= least + 1:
        return of_depth(setting, real)
    small = [min(least, depth) for depth in real]
    base = of_depth(setting, small)
    total: dict[str, float] = dict(base)
    groups = [[0, 1]] if len(set(real)) == 1 and len(real) == 2 else [[i] for i in range(len(real))]
    for group in groups:
        further = [depth + (i in group) for i, depth in enumerate(small)]
        grown = of_depth(setting, further)
        for name, value in grown.items():
            total[name] = total.get(name, value) + (real[group[0]] - small[group[0]]) * (value - base.get(name, value))
    return total


def _of_depth(setting: Setting, wanted: Sequence[int]) -> dict[str, float]:
    spec, family = setting.spec, setting.family
    config = with_depths(setting.config, wanted)
    backbone = backbone_on_meta(config, family=family, dtype=setting.dtype, labels=setting.labels, options=spec.options)
    weights = storage_bytes(_tensors(backbone.model))
    model = build(backbone, spec.method, spec.options, spec.seed)
    return _Measured(setting, backbone, model, weights).run()


def _tensors(*models: Any) -> list[Tensor]:
    return [t for model in models for t in (*model.parameters(), *model.buffers())]


class _Measured:
    """One model of a small depth, run through its phases under the tracker."""

    def __init__(self, setting: Setting, backbone: Any, model: Any, weights: int) -> None:
        self.setting, self.base, self.model, self.weights = setting, backbone.model, model, weights
        self.kind = "head" if METHODS[setting.spec.method].storage == "head" else setting.family
        self.trained = [p for p in model.parameters() if p.requires_grad]
        tensors = _tensors(self.base, model)
        self.static = storage_bytes(tensors)
        self.tracker = LiveBytes(tensors, start=self.static)
        self.stacks = _stacks(self.base)

    def run(self) -> dict[str, float]:
        self._prepare()
        held = self._train()
        states = self._optimize()
        gradients = sum(p.numel() * p.element_size() for p in self.trained)
        found: dict[str, float] = {f"at:{k}": v + states for k, v in self.tracker.marks.items() if k != _OPTIMIZER}
        found |= {f"at:{_OPTIMIZER}": self.tracker.marks[_OPTIMIZER]}
        if self.setting.spec.eval_rows:
            found |= {f"at:{name}": value + states for name, value in self._evaluate().items()}
        parts = (self.weights, self.static - self.weights, gradients, states, held)
        return found | dict(zip(PARTS, map(float, parts), strict=True))

    def _optimize(self) -> int:
        """One step of the optimizer; returns the bytes of its states."""
        spec, device, before = self.setting.spec, self.setting.device, self.tracker.live
        self.tracker.mark(_OPTIMIZER)
        with self.tracker:
            if is_torch_adamw(spec, self.trained, device):
                optimizer = torch.optim.AdamW(self.trained, foreach=device.startswith("cuda"))
                optimizer.step()
                states = self.tracker.live - before
            else:
                states = sum(_state_bytes(spec.optimizer, p.numel()) for p in self.trained)
        self.tracker.mark("end")
        self.tracker.marks[_OPTIMIZER] = max(self.tracker.marks[_OPTIMIZER], before + states)
        return states

    def _prepare(self) -> None:
        spec = self.setting.spec
        if spec.gradient_checkpointing:
            enable_checkpointing(self.base, self.setting.spec.base)
        self.model.train()
        if spec.batch_size > spec.micro_batch_size:
            with self.tracker:
                for parameter in self.trained:
                    parameter.grad = torch.empty_like(parameter)

    def _train(self) -> int:
        """One micro-batch forward and back; returns what the loss holds on to."""
        setting, n = self.setting, self.setting.spec.micro_batch_size
        hooks = [hook for number, layers in enumerate(self.stacks) for hook in self._watch(number, layers)]
        held = 0
        with self.tracker, self._shapes(setting.rows.n_chosen(n)) as shapes:
            before = self.tracker.live
            self.tracker.mark(_START)
            whole_rows = setting.spec.gradient_checkpointing
            loss = train_loss(self.model, self.kind, setting.rows, n, whole_rows=whole_rows)
            held = self.tracker.live - before
            shapes.leave_autocast()
            self.tracker.mark(_LOSS)
            backward(loss)
            del loss
        for hook in hooks:
            hook.remove()
        return held

    def _shapes(self, n_chosen: int) -> Shapes:
        is_short = self.base.dtype == torch.bfloat16  # then the trainer computes under autocast
        return Shapes(n_chosen=n_chosen, device=self.setting.device, is_short=is_short)

    def _watch(self, number: int, layers: nn.ModuleList) -> list[Any]:
        """Opens a stretch where the first and the last layer begin, forward and back."""
        backward: list[str] = []

        def entered(name: str) -> Any:
            return lambda *_: None if backward else self.tracker.mark(f"forward {number} {name}")

        def left(name: str) -> Any:
            def mark(gradient: Any) -> None:
                backward.append(name)
                self.tracker.mark(f"backward {number} {name}")

            def hook(_module: Any, _args: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                if not backward and isinstance(hidden, Tensor) and hidden.requires_grad:
                    hidden.register_hook(mark)

            return hook

        places = [("first", layers[0]), ("last", layers[-1])] if len(layers) > 1 else [("only", layers[0])]
        hooks = [layer.register_forward_pre_hook(entered(name)) for name, layer in places]
        return hooks + [layer.register_forward_hook(left(name)) for name, layer in places]

    def _evaluate(self) -> dict[str, int]:
        """The highest point of each part of an evaluation."""
        setting, before = self.setting, set(self.tracker.marks)
        most = min(EVAL_ROWS, 2 * setting.spec.micro_batch_size)
        n, n_chosen = evaluated_rows(self.model, self.kind, setting.rows, most)
        self.model.eval()
        with self.tracker, self._shapes(n_chosen):
            evaluate(self.model, self.kind, setting.rows, n, self.tracker.mark)
        self.tracker.mark("end")
        return {name: value for name, value in self.tracker.marks.items() if name not in before and name != "end"}


def _state_bytes(optimizer: str, n: int) -> int:
    """What bitsandbytes' AdamW keeps for `n` numbers: two of 32 bits, or of 8 with a scale for every 256 of them.

    Tensors below 4,096 numbers keep 32 bits.
    """
    if optimizer == "adamw_8bit" and n >= _SMALLEST_IN_8_BITS:
        return 2 * (n + 4 * -(-n // _SCALED_TOGETHER))
    return 8 * n


def _stacks(model: Any) -> list[nn.ModuleList]:
    """The lists of layers: the outermost lists of modules of one class that have weights."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_stack = isinstance(module, nn.ModuleList) and len(module) and len({type(m) for m in module}) == 1
        if is_stack and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())
