"""Weights from a model folder into memory: the right class for the family, frozen, whole, in 4 bits when asked.

Guarantees: safetensors only, no code from the folder, no network; a folder that lacks weights is refused, except those
of a classifier, which are drawn from a seed of their own and are the same on every machine and device. Does not choose
or check names; that is `ml.backbone`.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from ml.errors import ModelError, OutOfMemoryError
from ml.families import check_supported

_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc", "out of memory")
FRESH = ("classifier", "score", "pre_classifier", "pooler")
"""Modules of a classifier that a language model's folder need not have."""
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is torch's or Python's way of saying that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def weights_of(folder: Path) -> list[Path]:
    """The folder's weight files, sorted. Raises ModelError when none is a safetensors file."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder.name} has no *.safetensors weights.",
            hint="Only safetensors are read. Convert the model with save_pretrained first.",
            field="base",
        )
    return files


def model_class(family: str, labels: Sequence[str] = ()) -> Any:
    """The transformers Auto class for a family; `labels` make an encoder a classifier."""
    if family == "encoder":
        return AutoModelForSequenceClassification if labels else AutoModel
    return {"decoder": AutoModelForCausalLM, "encoder_decoder": AutoModelForSeq2SeqLM}[family]


def model_config(folder: Path, family: str, labels: Sequence[str] = ()) -> Any:
    """The folder's transformers configuration, checked, with the labels put in for an encoder.

    Raises ModelError for what is not supported.
    """
    config = AutoConfig.from_pretrained(folder, **_LOCAL)
    check_supported(folder.name, family, config)
    if family == "encoder" and labels:
        if len(set(labels)) < 2 or len(set(labels)) != len(labels):
            raise ModelError(f"A classifier needs two or more different labels, got {list(labels)!r:.200}.",
                             hint="Give every label of the data set once.", field="labels")  # fmt: skip
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
    return config


def load_model(
    folder: Path, family: str, *, dtype: torch.dtype, device: str, labels: Sequence[str], quantization: str,
    double_quantization: bool, seed: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Model (evaluating, frozen, on `device`) and tokenizer. Raises ModelError or OutOfMemoryError."""
    weights_of(folder)
    transformers_logging.disable_progress_bar()
    try:
        config = model_config(folder, family, labels)
        tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
        options = {**_LOCAL, "config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        if quantization:
            options |= _four_bits(quantization, double=double_quantization, dtype=dtype, device=device, family=family)
        with torch.random.fork_rng(devices=[]), _quiet():
            model, found = model_class(family, labels).from_pretrained(
                folder, **options, ignore_mismatched_sizes=family == "encoder"
            )
        _fill_fresh(folder.name, model, found, seed)
        if quantization:
            _keep_packing(model)
        else:
            model = model.to(device)
        return model.eval().requires_grad_(False), tokenizer
    except (MemoryError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _refusal(folder.name, error) from error


def _refusal(name: str, error: Exception) -> ModelError | OutOfMemoryError:
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"There is not enough memory to load {name}.",
            hint="Stop what else holds memory, or choose a smaller base model.",
            field="base",
        )
    return ModelError(
        f"The model {name} cannot be loaded: {error}.", hint="Fetch or convert the model again.", field="base"
    )


def _fill_fresh(name: str, model: Any, found: Any, seed: int) -> None:
    """Draws what a classifier adds to the folder's weights, on the CPU; refuses when anything else is missing."""
    missing = set(found["missing_keys"]) | {key for key, *_ in found["mismatched_keys"]}
    if alien := sorted(key for key in missing if not any(part in FRESH for part in key.split("."))):
        raise ModelError(
            f"{name} lacks {len(alien)} weights of its architecture, such as {alien[0]}.",
            hint="Fetch or convert the model again.",
            field="base",
        )
    generator, std = torch.Generator().manual_seed(seed), float(getattr(model.config, "initializer_range", 0.02))
    parameters = dict(model.named_parameters())
    for key in sorted(missing & set(parameters)):
        weight = parameters[key]
        drawn = torch.zeros(weight.shape)
        if weight.dim() > 1:
            drawn.normal_(std=std if math.isfinite(std) else 0.02, generator=generator)
        with torch.no_grad():
            weight.copy_(drawn)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports fresh weights with a banner on every load; here they are expected and checked."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _four_bits(quantization: str, *, double: bool, dtype: torch.dtype, device: str, family: str) -> dict[str, Any]:
    """Options of from_pretrained for NF4 (QLoRA, arXiv 2305.14314 section 3), computing in `dtype`."""
    if quantization != "nf4":
        raise ModelError(f"Unknown quantization {quantization!r}.", hint="Give nf4, or nothing.", field="quantization")
    import_bitsandbytes()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[rf"(.*\.)?{name}" for name in FRESH] if family == "encoder" else None,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_packing(model: Any) -> None:
    """Keeps bitsandbytes from repacking the weights for AVX-512 at the first evaluation.

    That loses bits of the scales, so that what is trained afterwards would depend on when it was evaluated, and it
    fails for widths that are no multiple of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def import_bitsandbytes() -> None:
    """Imports bitsandbytes without its try to fetch a CPU kernel over the network and its warning when it cannot."""
    if "bitsandbytes" in sys.modules:
        return
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    kernels, level = sys.modules.get("kernels"), log.level
    sys.modules["kernels"] = None  # type: ignore[assignment]
    log.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"Four bits need bitsandbytes, which cannot be imported: {error}.",
            hint="Install it with: pip install bitsandbytes",
            field="method",
        ) from error
    finally:
        log.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
