"""The GPU half of bench/memory.py: Llama shapes with random weights, made and quantized layer by layer there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from ml.backbone import Backbone
from ml.data.chat import Example
from ml.forward import completion_nll
from ml.methods import build
from ml.optimization import optimizer_for
from ml.plan import plan
from ml.specs import TrainSpec, train_spec

CONFIGS = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "65b": {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64,
            "vocab_size": 32000},
}  # fmt: skip
N_TOKENS, N_TARGETS, N_TIMED = 512, 32, 5


def measure_gpu(shapes: list[str]) -> list[dict[str, Any]]:
    """QLoRA on each shape, LoRA on those whose 16-bit weights fit."""
    rows = []
    for shape in shapes:
        for method in ("lora", "qlora"):
            n_weights = plan(_spec(method), LlamaConfig(**CONFIGS[shape]), device="cuda", dtype=torch.bfloat16).weights
            if n_weights < 0.9 * torch.cuda.mem_get_info()[0]:
                rows.append(_measure(shape, method))
                torch.cuda.empty_cache()
    return rows


def _spec(method: str) -> TrainSpec:
    return train_spec({
        "method": method, "base": "random", "dataset": "d", "dataset_sha256": "s", "batch_size": 1,
        "micro_batch_size": 1, "max_length": N_TOKENS, "gradient_checkpointing": True, "eval_rows": 0,
    })  # fmt: skip


def _measure(shape: str, method: str) -> dict[str, Any]:
    config, spec = LlamaConfig(**CONFIGS[shape]), _spec(method)
    needed = plan(spec, config, device="cuda", dtype=torch.bfloat16, longest=N_TOKENS, n_targets=N_TARGETS)
    model = _random_model(config, is_quantized=method == "qlora")
    backbone = Backbone(model=model, tokenizer=None, fingerprint="", family="decoder", name=shape, folder=Path())
    trained = build(backbone, method, {**spec.options, "init": "random"}, spec.seed)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = optimizer_for(spec, parameters, "cuda")
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        _step(trained, optimizer)
    measured = torch.cuda.max_memory_allocated()
    start = time.monotonic()
    for _ in range(N_TIMED):
        _step(trained, optimizer)
    torch.cuda.synchronize()
    return {"shape": shape, "method": method, "predicted": needed.total, "measured": measured,
            "ratio": round(needed.total / measured, 3),
            "tokens_per_s": round(N_TIMED * N_TOKENS / (time.monotonic() - start), 1)}  # fmt: skip


def _step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    row = Example(ids=list(range(1, N_TOKENS + 1)), n_prompt=N_TOKENS - N_TARGETS)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = completion_nll(model, [row], whole_rows=True)[0].mean()
    loss.backward()
    optimizer.step()


def _random_model(config: Any, *, is_quantized: bool) -> Any:
    """A bfloat16 Llama on the GPU; quantized, no more than one layer is there in 16 bits at any moment."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if is_quantized and isinstance(module, nn.Linear) and module is not output:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _quantized(module))
        elif (
            next(module.parameters(recurse=False), None) is not None
            or next(module.buffers(recurse=False), None) is not None
        ):
            _fill(module)
    model.is_loaded_in_4bit = is_quantized
    return model.eval().requires_grad_(False)


def _fill(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        weight = torch.randn(parameter.shape, dtype=torch.bfloat16, device="cuda").mul_(0.02)
        setattr(
            module, name, nn.Parameter(weight if weight.dim() > 1 else torch.ones_like(weight), requires_grad=False)
        )
    for name, buffer in module.named_buffers(recurse=False):
        inverse = 10000.0 ** -(torch.arange(buffer.numel(), device="cuda") / buffer.numel())  # rotary frequencies
        setattr(module, name, inverse.view(buffer.shape).to(buffer.dtype))


def _quantized(layer: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    packed = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=torch.bfloat16,
        compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    weight = torch.randn(layer.weight.shape, dtype=torch.bfloat16).mul_(0.02)
    packed.weight = bnb.nn.modules.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
    return packed.to("cuda")
