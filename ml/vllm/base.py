"""The base model as a vLLM engine needs it here: tokenizer, fingerprint, stop tokens; the weights stay on the disk.

Guarantees: as ml.backbone's, nothing but JSON and safetensors is read and no code from the folder is run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ml.backbone import family_of, fingerprint_of
from ml.data.chat import stop_ids
from ml.errors import ModelError
from ml.families import check_family, read_config


@dataclass(frozen=True, kw_only=True)
class RemoteBase:
    name: str
    """The folder's name, which the vLLM server must use as well."""
    folder: Path
    tokenizer: Any
    fingerprint: str
    stop_ids: frozenset[int]


def load_base(folder: Path) -> RemoteBase:
    """Raises ModelError for what is no decoder, or has no tokenizer. Reads the weights once, for their fingerprint."""
    from transformers import AutoTokenizer

    check_family(folder.name, family_of(folder), ("decoder",))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ends = _eos(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The tokenizer of {folder.name} cannot be loaded: {error}.", hint="Fetch the model again.", field="base"
        ) from error
    return RemoteBase(
        name=folder.name, folder=folder, tokenizer=tokenizer, fingerprint=fingerprint_of(folder),
        stop_ids=frozenset(stop_ids(tokenizer, SimpleNamespace(eos_token_id=ends))),
    )  # fmt: skip


def _eos(folder: Path) -> Any:
    """As transformers finds it: in the generation settings, or else in the model's."""
    path = folder / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else read_config(folder)
    return given.get("eos_token_id")
