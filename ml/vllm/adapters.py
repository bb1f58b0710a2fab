"""Which adapters a vLLM server can answer with, and getting them there. Others stay with engines that hold the model.

LoRA: by name; the server reads the very folder that was checked here. Prompt tuning and P-tuning: vectors, kept here
and sent with each prompt (ml.vllm.soft). Prefix-tuning, IA3, heads and models of their own have no form in vLLM's API;
nor has a LoRA with ranks or scales of its own for some layers, which vLLM would read past without a word.
"""

from __future__ import annotations

from pathlib import Path

from ml.artifact import Manifest, read_manifest
from ml.engine.adapters import EMBEDDING_KINDS, Adapter, check_artifact, check_lora, prompt_of, read_peft
from ml.engine.serving import Base
from ml.errors import StaysLocalError
from ml.specs import METHODS
from ml.vllm.server import Server
from ml.vllm.soft import SoftPrompts

_FORMS = ("lora_delta", "prefix_kv")
_UNREAD = ("rank_pattern", "alpha_pattern")
"""Settings of a LoRA that vLLM does not look at."""


def stays_local(what: str) -> StaysLocalError:
    return StaysLocalError(
        f"{what} cannot be answered by the vLLM server.",
        hint="Start an engine that holds the model itself beside it: manage.py engine without ENGINE_VLLM_URL.",
    )


def _called(artifact: str, manifest: Manifest) -> str:
    return f"Adapter {artifact[:12]} ({METHODS[manifest.method].label})"


class Loader:
    def __init__(self, base: Base, server: Server, soft: SoftPrompts) -> None:
        self._base = base
        self._server = server
        self._soft = soft

    def __call__(self, folder: Path, artifact: str) -> Adapter:
        """The adapter, with the server able to use it. Raises ArtifactError, StaysLocalError or UnavailableError."""
        # Before its hashes are checked: the engine that it stays with does that, and it may be as large as the model.
        if folder.is_dir() and (told := read_manifest(folder)).form not in _FORMS:
            raise stays_local(_called(artifact, told))
        manifest = check_artifact(folder, artifact=artifact, base=self._base)
        what = _called(artifact, manifest)
        config, tensors = read_peft(folder, artifact)
        if manifest.form == "lora_delta":
            check_lora(config, artifact)
            if own := [name for name in _UNREAD if config.get(name)]:
                raise stays_local(f"{what} with {own[0]}")
            self._server.load_lora(artifact, str(folder))
            return Adapter(artifact=artifact, form="lora_delta", folder=folder)
        if config.get("peft_type") not in EMBEDDING_KINDS:
            raise stays_local(what)
        if reason := self._soft.reason_against:
            raise stays_local(f"{what}: {reason}, and so it")
        return Adapter(
            artifact=artifact, form="prefix_kv", embeddings=self._soft.check(prompt_of(tensors, artifact), artifact)
        )
