"""How much memory a training run will need, before it starts, from the base model's configuration alone.

Not a formula: the base model is built without storage (torch's meta device), the technique is put on it by the code
that trains, and a step and an evaluation are run with shapes alone while every tensor's birth and death is counted
(`ml.plan.simulate`). So it is right for every architecture, technique and family by construction. All rows are taken to
be as long as the longest. Limits: one device; what kernels take within one operation, and the moment of loading, are
not counted; paged optimizer states are counted where they begin, on the device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from ml.families import family_of_config
from ml.forward import n_common
from ml.plan.simulate import PARTS, Setting, simulate
from ml.plan.steps import Rows
from ml.plan.verdicts import Plan as Plan
from ml.plan.verdicts import Verdict as Verdict
from ml.plan.verdicts import free_bytes as free_bytes
from ml.plan.verdicts import verdict as verdict
from ml.specs import TrainSpec

RUNTIME_BYTES = 550_000_000
_ANSWER_TOKENS = 32
_NO_MATTER = ("base", "dataset", "dataset_sha256", "steps", "learning_rate", "schedule", "seed")
_LABEL_TOKENS = 4


def plan(
    spec: TrainSpec, config: Any, *, device: str = "cpu", dtype: torch.dtype = torch.float32,
    longest: int | None = None, family: str = "", labels: int = 0, n_shared: int = 0,
    n_targets: int | None = None, label_tokens: Sequence[int] = (),
) -> Plan:  # fmt: skip
    """The plan of `spec` on the model that `config` (a transformers configuration) describes, computing in `dtype`.

    `longest`, `n_shared` and `n_targets` are tokens of the longest row (an encoder-decoder's: of the source), of what
    all rows begin with and of the longest answer, where the data is known (`figures`); otherwise the spec's limit, 0
    and 32 (4 for a label). `labels`: how many, of a classification; `label_tokens`: the tokens of each.
    """
    length = min(longest or spec.max_length, spec.max_length)
    tokens = tuple(label_tokens) or (n_targets or _LABEL_TOKENS,) * labels
    answer = n_targets or (_LABEL_TOKENS if labels else _ANSWER_TOKENS)
    family = family or family_of_config(config.to_dict()) or "decoder"
    room = length if family == "encoder_decoder" else length - 1
    rows = Rows(longest=length, n_shared=n_shared, n_targets=max(1, min(answer, room)), label_tokens=tokens)
    n_labels = labels or len(tokens)
    setting = Setting(
        spec=spec, config=config, family=family, device=device, dtype=dtype,
        labels=tuple(f"label {i}" for i in range(n_labels)),
        rows=rows,
    )  # fmt: skip
    return _planned(_Key(setting))


def figures(items: Sequence[Any]) -> dict[str, int]:
    """What `plan` asks of the data, from encoded training rows (ml/objectives): longest, n_shared, n_targets."""
    has_prompt = all(hasattr(item, "n_prompt") for item in items)
    return {
        "longest": max(len(item.ids) for item in items),
        "n_shared": n_common([item.ids[: item.n_prompt - 1] for item in items]) if has_prompt else 0,
        "n_targets": max(item.n_targets for item in items),
    }


class _Key:
    """A setting as what it says, so that equal ones are simulated once in a process."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        spec = {k: v for k, v in setting.spec.as_dict().items() if k not in _NO_MATTER}
        config = setting.config.to_json_string(use_diff=False)
        rest = [setting.family, setting.device, str(setting.dtype), setting.labels, repr(setting.rows)]
        self._text = json.dumps([spec, config, rest], sort_keys=True)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


@lru_cache(maxsize=256)
def _planned(key: _Key) -> Plan:
    setting = key.setting
    found = simulate(setting)
    peak = max(value for name, value in found.items() if name.startswith("at:"))
    weights, trainables, gradients, optimizer, held = (max(0, round(found[name])) for name in PARTS)
    rest = max(0, round(peak) - weights - trainables - optimizer)
    gradients = min(gradients, rest)
    activations = min(held, rest - gradients)
    return Plan(
        runtime=0 if setting.device.startswith("cuda") else RUNTIME_BYTES,
        weights=weights, trainables=trainables, gradients=gradients, optimizer=optimizer,
        activations=activations, buffers=rest - gradients - activations,
    )  # fmt: skip


def advice(spec: TrainSpec, needed: Plan, free: int) -> str:
    """What would make the run fit, in the words of the form."""
    tips = []
    if spec.micro_batch_size > 1:
        rows = max(1, spec.micro_batch_size // 2)
        saved = (needed.activations + needed.buffers) * (spec.micro_batch_size - rows) // spec.micro_batch_size
        tips.append(f"set rows at once to {rows} (about {saved / 1e9:.1f} GB less, the same result)")
    tips.append(f"set the longest row below {spec.max_length} tokens")
    tips.append("choose a smaller base model")
    return f"The plan is {needed.total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. Try: " + "; or ".join(tips) + "."
