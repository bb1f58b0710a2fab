"""Engines on the GPU, held against PEFT on the CPU. Where there is no GPU none of these tests is collected.

`GPU_TESTS_DEVICE=cpu` rehearses them without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ml.backbone import load_backbone
from ml.engine.engine import Engine
from tests.conftest import gpu_tests_device
from tests.ml.engine.conftest import InlineExecutor, Zoo, seen_logits, zoo  # noqa: F401
from tests.ml.tiny import save_tiny

DEVICE = gpu_tests_device()
collect_ignore_glob = [] if DEVICE else ["test_*.py"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """No TF32: its products have ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory):
    """Heads 16 wide, the narrowest that a GPU's attention kernels take."""
    return save_tiny(
        tmp_path_factory.mktemp("models") / "tiny-llama", "llama", dtype=torch.bfloat16, hidden_size=64, head_dim=16
    )


@pytest.fixture
def make_gpu_engine(tiny_llama_dir, zoo: Zoo, device: str) -> Callable[..., Engine]:  # noqa: F811
    def make(dtype: str, **changes: Any) -> Engine:
        backbone = load_backbone(tiny_llama_dir, device=device, dtype=DTYPES[dtype])
        values: dict[str, Any] = {
            "artifact_folder": lambda sha: zoo.folder / sha, "n_slots": 4, "length": 128, "prefill_tokens": 24,
            "executor": InlineExecutor(), "is_fixed": True,
        }  # fmt: skip
        return Engine(backbone, **{**values, **changes})

    return make
