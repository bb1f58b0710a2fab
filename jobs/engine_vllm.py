"""The engine's process with the model in a vLLM server: settings, waiting for the server, the backend.

docs/scaling.md says how to run one. The base model's folder is needed here too: tokenizer, fingerprint, embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml.errors import UnavailableError

if TYPE_CHECKING:
    from ml.vllm.engine import VllmEngine

DEVICE = "vllm"
"""How heartbeats call it."""
WAITING = "waiting for vLLM"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    url: str
    key: str = ""
    """Sent as its --api-key; empty: none."""
    loras: str = ""
    """Where the server sees the folder of all artifacts; empty: where this process does."""
    may_be_public: bool = False


def load_vllm(
    config: VllmConfig, folder: Path, *, artifact_folder: Callable[[str], Path], n_slots: int, length: int,
    wait: Callable[[str], bool],
) -> VllmEngine | None:  # fmt: skip
    """The backend, once the server answers; `wait(state)` waits a moment and is true when the process shall stop: then
    None. Raises ModelError or SpecError for a server that must not be used."""
    from ml.vllm.address import address_of
    from ml.vllm.base import load_base
    from ml.vllm.client import Client
    from ml.vllm.engine import VllmEngine
    from ml.vllm.server import Server

    address = address_of(config.url, may_be_public=config.may_be_public)
    base = load_base(folder)
    server = Server(Client(address, key=config.key), base=base.name, loras=config.loras)
    told = ""
    while True:
        try:
            server.check()
            break
        except UnavailableError as error:
            if error.message != told:
                logger.warning("%s %s", error.message, error.hint)
                told = error.message
        if wait(WAITING):
            return None
    logger.info("vLLM at %s serves %s: rows of %d tokens", address.url, server.model, server.length)
    return VllmEngine(base, server, artifact_folder=artifact_folder, n_slots=n_slots, length=length)
