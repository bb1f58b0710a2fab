"""What a vLLM server is asked: who it is, to load a LoRA by name, and for answers. Its API as of 0.30.

Guarantees: a server that is too old, or serves another model than the one configured, is refused by name, also when it
was exchanged while it was away; a LoRA that the server has forgotten is loaded once more and the request tried again.
Cannot know: whether the server's weights are bit for bit those in our models folder; its API does not tell.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ml.errors import ArtifactError, ColdframeError, ModelError, SpecError, UnavailableError
from ml.vllm.client import Call, Client, FaultError, NotThereError, refusal
from ml.vllm.pieces import Piece, piece_of

OLDEST = (0, 30)
logger = logging.getLogger(__name__)


def version_of(text: str) -> tuple[int, int]:
    """(major, minor) of `0.30.1rc2.dev5+g1a2b`. Raises ModelError for what is no version."""
    if not (found := re.match(r"v?(\d+)\.(\d+)", text)):
        raise ModelError(f"vLLM says that its version is {text!r:.60}.", hint="Install a released version.")
    return int(found[1]), int(found[2])


class Server:
    def __init__(self, client: Client, *, base: str, loras: str = "") -> None:
        """`base`: name of the model that it must serve. `loras`: where the server sees the folder of all artifacts;
        empty: where it is for us."""
        self._client = client
        self._base = base
        self._loras = loras
        self._lock = threading.Lock()
        self._is_checked = False
        self.model = ""
        """What the server calls the base model."""
        self.length = 0
        """Positions that it gives a row."""

    def check(self) -> None:
        """Raises UnavailableError while it does not answer, ModelError when it is not the one that is wanted."""
        given = self._client.get("/version")
        version = str(given.get("version")) if isinstance(given, dict) else ""
        if version_of(version) < OLDEST:
            raise ModelError(
                f"The vLLM server is version {version}.", hint=f"Install {OLDEST[0]}.{OLDEST[1]} or a later one."
            )
        card = self._card(self._client.get("/v1/models"))
        length = card.get("max_model_len")
        if not isinstance(length, int) or length < 1:
            raise ModelError(f"vLLM says that a row may have {length!r} tokens.", hint="Is that a vLLM server?")
        with self._lock:
            self.model, self.length, self._is_checked = str(card["id"]), length, True

    def _card(self, given: Any) -> dict[str, Any]:
        """The base model among the models listed; LoRAs have a parent."""
        listed = given.get("data") if isinstance(given, dict) else None
        cards = [card for card in listed or () if isinstance(card, dict) and card.get("id") and not card.get("parent")]
        for card in cards:
            if self._base in (card["id"], PurePosixPath(str(card.get("root", ""))).name):
                return card
        served = ", ".join(str(card["id"]) for card in cards) or "nothing"
        raise ModelError(
            f"The vLLM server serves {served}; this engine is for {self._base}.",
            hint=f"Start vLLM on a copy of that very folder, with --served-model-name {self._base}.",
        )

    def load_lora(self, artifact: str, folder: str) -> None:
        """Makes `artifact` the name of a model. Raises ArtifactError, with what the server said."""
        path = f"{self._loras.rstrip('/')}/{artifact}" if self._loras else folder
        try:
            self._client.post("/v1/load_lora_adapter", {"lora_name": artifact, "lora_path": path})
        except (SpecError, NotThereError, FaultError) as error:
            if "already been loaded" in error.message:
                return
            raise ArtifactError(
                f"vLLM could not load adapter {artifact[:12]}: {error.message}",
                hint=f"It must see the folder {path} and run with --enable-lora, a --max-lora-rank that is large "
                "enough and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.",
            ) from error

    def answer(self, body: dict[str, Any], call: Call, *, lora: str = "", folder: str = "") -> Iterator[Piece]:
        """Streams an answer by the base model, or by `lora`, which is in `folder` for us. Raises ColdframeError."""
        if not self._is_checked:
            self.check()
        try:
            try:
                yield from self._pieces({**body, "model": lora or self.model}, call)
            except NotThereError:
                if not lora:
                    raise
                logger.info("vLLM has forgotten adapter %s; loading it again", lora)
                self.load_lora(lora, folder)
                yield from self._pieces({**body, "model": lora}, call)
        except NotThereError as error:
            self._is_checked = False
            raise UnavailableError(error.message, hint="Is that address a vLLM server of the right model?") from error
        except UnavailableError:
            self._is_checked = False
            raise

    def _pieces(self, body: dict[str, Any], call: Call) -> Iterator[Piece]:
        for event in self._client.lines("/v1/completions", body, call):
            if isinstance(event, dict) and "error" in event:
                raise _within(event["error"])
            yield piece_of(event)


def _within(given: Any) -> ColdframeError:
    """An error that comes in the middle of a stream, after its status was 200."""
    code = given.get("code") if isinstance(given, dict) else None
    message = str(given.get("message")) if isinstance(given, dict) else str(given)
    return refusal(code if isinstance(code, int) and code != 404 else 500, message.encode())
