"""What an engine's process is told: which base model, how many slots, on which device; out of the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.engine_messages import Messages
from jobs.engine_vllm import VllmConfig
from ml.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    base: str
    """Name of a folder in models_dir."""
    models_dir: Path
    artifact_folder: Callable[[str], Path]
    """Local folder of an artifact by its sha256; may fetch it."""
    n_slots: int = 16
    length: int = 1024
    own_bytes: int = 4 << 30
    """For adapters that change the model itself, each on a model of its own; all together."""
    is_packed: bool = True
    """On a CPU, weights are kept once more as its kernels read them fastest."""
    is_traced: bool = True
    """On a CPU, forwards that come often are replayed without Python."""
    threads: int = 0
    """Torch's threads; 0 means all cores."""
    drain_s: float = 60.0
    """How long live answers may go on after SIGTERM."""
    redis_url: str = ""
    """Empty: settings.REDIS_URL."""
    messages: Messages | None = None
    production: Callable[[str], list[str]] | None = None
    """Artifacts, by the base model's fingerprint, that are kept in memory before all others."""
    device: str = "cpu"
    """cpu, cuda, or auto: a GPU where there is one. On a GPU the model is in bfloat16 where that GPU has it."""
    quantization: str = ""
    """nf4: the model's layers are held in 4 bits."""
    vllm: VllmConfig | None = None
    """Where the model is instead of here."""


def config_from_settings(base: str = "") -> EngineConfig:
    """Of the engine of `base`; "" is the first of BASE_MODELS. Raises ModelError when it is none of them."""
    from django.conf import settings

    from webapp.selectors.production import artifacts_in_production
    from webapp.storage import path_of

    if base and base not in settings.BASE_MODELS:
        raise ModelError(
            f"{base!r} is not one of BASE_MODELS ({', '.join(settings.BASE_MODELS)}).",
            hint="Add it to BASE_MODELS everywhere, since web and workers must know it too.", field="base",
        )  # fmt: skip
    return EngineConfig(
        base=base or settings.BASE_MODEL, models_dir=Path(settings.MODELS_DIR), n_slots=settings.ENGINE_SLOTS,
        length=settings.ENGINE_LENGTH, own_bytes=settings.ENGINE_OWN_BYTES, threads=settings.ENGINE_THREADS,
        is_packed=settings.ENGINE_PACKED, is_traced=settings.ENGINE_TRACED, device=settings.ENGINE_DEVICE,
        quantization=settings.ENGINE_QUANTIZATION, drain_s=settings.ENGINE_DRAIN_S,
        production=artifacts_in_production,
        artifact_folder=lambda sha: path_of(f"artifacts/{sha}"), vllm=_vllm_from_settings(),
    )  # fmt: skip


def _vllm_from_settings() -> VllmConfig | None:
    from django.conf import settings

    if not settings.ENGINE_VLLM_URL:
        return None
    return VllmConfig(
        url=settings.ENGINE_VLLM_URL, key=settings.ENGINE_VLLM_KEY, loras=settings.ENGINE_VLLM_LORAS,
        may_be_public=settings.ENGINE_VLLM_PUBLIC,
    )  # fmt: skip
