"""METHODS: every training technique. A new one is a file in `ml/methods/` and a row here."""

from __future__ import annotations

from ml.specs.fields import Method
from ml.specs.low_rank import IA3, LORA, QLORA
from ml.specs.retraining import FULL, HEAD, LAST_K, OUTPUT_LAYERS
from ml.specs.soft import P_TUNING, PREFIX_TUNING, PROMPT_TUNING

METHODS: dict[str, Method] = {
    method.name: method
    for method in (PROMPT_TUNING, P_TUNING, PREFIX_TUNING, LORA, QLORA, IA3, HEAD, OUTPUT_LAYERS, LAST_K, FULL)
}
