"""Sentence embeddings: an encoder's token vectors, averaged over real tokens and scaled to length one.

As all-MiniLM-L6-v2 was trained (mean pooling, cosine similarity; Reimers and Gurevych 2019, arXiv 1908.10084).
Guarantees: float32 rows of length one, in the order given, whatever the batch; no network, no code from the model's
folder, safetensors only. Not here: where vectors are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from ml.backbone import model_folder
from ml.errors import ModelError

Vectors = NDArray[np.float32]


class Embedder:
    """A loaded embedding model. One thread at a time."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        folder = Path(folder)
        self.name, self.device = folder.name, device
        transformers_logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._model: Any = AutoModel.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
                use_safetensors=True,
            )  # fmt: skip
            self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise ModelError(
                f"The embedding model {folder.name} cannot be loaded: {error}.", hint="Fetch the model again."
            ) from error
        self._model = self._model.to(device).eval().requires_grad_(False)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.dimension = int(config.hidden_size)
        self.max_tokens = min(int(config.max_position_embeddings), _trained_length(folder) or 512)
        """Tokens a text may have, special tokens included; more are cut off."""
        self._pad = int(config.pad_token_id or 0)

    @torch.inference_mode()
    def _embed_batch(self, batch: list[list[int]]) -> Vectors:
        length = max(map(len, batch))
        ids = torch.tensor([row + [self._pad] * (length - len(row)) for row in batch])  # [B, T]
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in batch])  # [B, T]
        ids, mask = ids.to(self.device), mask.to(self.device)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, D]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)  # [B, D]
        vectors: Vectors = torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy()
        return vectors

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids if len(ids) <= self.max_tokens else ids[: self.max_tokens - 1] + ids[-1:]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included, also those beyond `max_tokens`."""
        return [len(encoded.ids) for encoded in self.tokenizer.encode_batch(list(texts))]

    def embed(
        self, texts: Sequence[str], *, batch_size: int = 32, on_batch: Callable[[int], None] | None = None
    ) -> Vectors:
        """[n, D] float32, rows of length one. `on_batch(n_done)` is called after each batch."""
        rows = [self._ids(text) for text in texts]
        found = np.zeros((len(rows), self.dimension), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            found[places] = self._embed_batch([rows[i] for i in places])
            if on_batch is not None:
                on_batch(first + len(places))
        return found


def _trained_length(folder: Path) -> int | None:
    """Tokens that the model was trained on, when its folder says so."""
    try:
        return int(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_embedder(models_dir: Path, name: str, *, device: str = "cpu") -> Embedder:
    """The embedding model called `name`. Raises ModelError when it is missing or cannot be loaded."""
    return Embedder(model_folder(models_dir, name), device=device)
