"""Prompts that begin with trained vectors, as vLLM takes them: the embeddings of the whole prompt, `[p + T, D]`.

The base's embedding matrix is all that is needed of its weights; it is mapped from the safetensors file and its rows
are read as prompts name them. Guarantees: only models whose embeddings enter the layers unscaled, where these vectors
are exactly what the tokens would have been (D width, p trained vectors, T tokens of text). vLLM demands a tensor as
torch.save writes it, in base64; it is written here and never read: nothing of a server's is unpickled.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ml.errors import ArtifactError, ModelError
from ml.families import read_config
from ml.loading import weights_of

_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that look their embeddings up and do nothing else to them."""
_KEY = "model.embed_tokens.weight"


class SoftPrompts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kind = str(read_config(folder).get("model_type"))
        self._lock = threading.Lock()
        self._matrix: Tensor | None = None

    @property
    def reason_against(self) -> str:
        """Why this base takes none; "" when it does."""
        return "" if self._kind in _MODELS else f"vLLM may scale the embeddings of a {self._kind} model"

    def check(self, vectors: Tensor, artifact: str) -> Tensor:
        """`[p, D]` as they will be sent. Raises ArtifactError for those of another width."""
        matrix = self._embeddings()
        if vectors.dim() != 2 or vectors.shape[1] != matrix.shape[1]:
            raise ArtifactError(
                f"Adapter {artifact[:12]}: prompt_embeddings has shape {tuple(vectors.shape)}, the base model needs "
                f"(tokens, {matrix.shape[1]})."
            )
        return vectors.to(matrix.dtype).contiguous()

    def encoded(self, vectors: Tensor, ids: Sequence[int]) -> str:
        """The prompt in base64. Raises ModelError for a token that the base does not have."""
        matrix = self._embeddings()
        if (largest := max(ids)) >= matrix.shape[0]:
            raise ModelError(f"Token {largest} is beyond the base model's {matrix.shape[0]} embeddings.")
        file = io.BytesIO()
        torch.save(torch.cat([vectors, matrix[torch.tensor(ids)]]), file)
        return base64.b64encode(file.getvalue()).decode()

    def _embeddings(self) -> Tensor:
        """[V, D], once it is needed."""
        with self._lock:
            if self._matrix is None:
                self._matrix = self._found()
            return self._matrix

    def _found(self) -> Tensor:
        try:
            for path in weights_of(self._folder):
                with safe_open(path, framework="pt") as file:
                    if _KEY in file.keys():  # noqa: SIM118 - not a dict
                        matrix: Tensor = file.get_tensor(_KEY)
                        return matrix
        except (OSError, SafetensorError) as error:
            raise ModelError(f"The embeddings of {self._folder.name} cannot be read: {error}.") from error
        raise ModelError(f"{self._folder.name} has no {_KEY} in its weights.", hint="Fetch the model again.")
