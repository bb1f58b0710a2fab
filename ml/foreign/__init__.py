"""Adapters that plain peft made, read as what they are: files from a stranger (SECURITY.md rows 1, 2, 10 to 13).

`import_adapter` checks a folder in an order in which nothing is used before it was looked at: names of files, the
configuration's values, the safetensors header, every tensor's name and shape against the base model on the meta device,
and last the numbers. Then it writes a Coldframe artifact of its own. Guarantees: no pickle is opened, no code runs, no
network is used, and the base model is the one named by the caller, never one that the folder names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ml.artifact import MANIFEST, SCHEMA, Manifest, versions
from ml.backbone import family_of, fingerprint_of, model_folder
from ml.errors import SpecError
from ml.files import staged_folder, stamp, write_json
from ml.foreign.config import ForeignConfig, read_config
from ml.foreign.fit import check_tensors, expected_tensors, layers_of, meta_backbone, read_tensors
from ml.foreign.header import read_header
from ml.foreign.listing import CARD, CONFIG, WEIGHTS, check_listing, read_json
from ml.specs import METHODS

IMPORTED = "imported"
MAX_LABELS = 1000
_CARD_CHARS = 20_000


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a stranger's folder."""

    manifest: Manifest
    n_trainable: int
    """Numbers in the adapter."""
    notices: tuple[str, ...]
    """What was passed over, as sentences for people."""


def import_adapter(
    folder: Path, *, models_dir: Path, base: str, into: Path, labels: Sequence[str] = (), name: str = ""
) -> Imported:
    """Writes the folder `into`, a Coldframe artifact of the PEFT adapter in `folder` on the model called `base`.

    `labels` are the classes of an encoder's adapter in their order; other families take none. Raises ArtifactError or
    SpecError naming the file, setting or tensor that is refused, ModelError for an unknown base.
    """
    base_folder = model_folder(models_dir, base)
    family = family_of(base_folder)
    _check_labels(labels, family)
    notices = check_listing(folder)
    given = read_json(folder / CONFIG)
    header = read_header(folder / WEIGHTS)
    backbone = meta_backbone(base_folder, family=family, labels=labels)
    config = read_config(given, layers=layers_of(backbone.model), family=family)
    expected, plain = expected_tensors(backbone, config)
    check_tensors(header, expected, base=base)
    tensors = read_tensors(folder / WEIGHTS)
    if config.base_named and Path(config.base_named).name.lower() != base.lower():
        notices.append(f"Its configuration names the base model {config.base_named!r}; it was put on {base}.")
    theirs = _their_card(folder / CARD)
    with staged_folder(into) as staged:
        _write(staged, tensors, {**plain, "base_model_name_or_path": base, "inference_mode": True})
        (staged / CARD).write_text(_card(config, base, name or base, theirs), encoding="utf-8")
        manifest = _manifest(
            config,
            base=base,
            fingerprint=fingerprint_of(base_folder),
            family=family,
            labels=labels,
            files=stamp(staged),
        )
        write_json(staged / MANIFEST, asdict(manifest))
    n_trainable = sum(tensor.numel() for tensor in tensors.values())
    return Imported(manifest=manifest, n_trainable=n_trainable, notices=(*notices, *config.notices))


def _check_labels(labels: Sequence[str], family: str) -> None:
    if family == "encoder" and not 2 <= len(labels) <= MAX_LABELS:
        raise SpecError(
            f"An encoder's adapter needs the names of its 2 to {MAX_LABELS} labels, got {len(labels)}.",
            hint="Give them in the order of the classifier's outputs.", field="labels",
        )  # fmt: skip
    if family != "encoder" and labels:
        raise SpecError("Only an encoder's adapter has labels of its own.", field="labels",
                        hint="Leave the labels empty for this base model.")  # fmt: skip
    odd = next((label for label in labels if not label.strip() or len(label) > 200), None)
    if odd is not None or len(set(labels)) != len(labels):
        raise SpecError(f"Labels must differ and have 1 to 200 characters, got {str(odd or list(labels))[:80]!r}.",
                        field="labels")  # fmt: skip


def _write(folder: Path, tensors: dict[str, Any], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    kept = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def _manifest(
    config: ForeignConfig, *, base: str, fingerprint: str, family: str, labels: Sequence[str], files: dict[str, Any]
) -> Manifest:
    form = "own_backbone" if config.options.get("dora") else METHODS[config.method].form
    spec = {
        "method": config.method, "base": base, "dataset": IMPORTED, "dataset_sha256": "", "source": IMPORTED,
        "options": config.options,
    }  # fmt: skip
    return Manifest(
        schema=SCHEMA,
        method=config.method,
        form=form,
        family=family,
        labels=list(labels),
        base={"name": base, "fingerprint": fingerprint},
        dataset={"name": IMPORTED, "sha256": ""},
        spec=spec,
        seed=0,
        versions=versions(),
        metrics={},
        files=files,
    )


def _their_card(path: Path) -> str:
    """The uploader's README.md as text, without its YAML head; empty when there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8").replace("\0", "")
    except (OSError, UnicodeDecodeError):
        return ""
    if text.startswith("---\n") and (end := text.find("\n---\n", 4)) >= 0:
        text = text[end + 5 :]
    return text.strip()[:_CARD_CHARS]


def _card(config: ForeignConfig, base: str, title: str, theirs: str) -> str:
    method = METHODS[config.method]
    rows = "\n".join(f"| {key} | {str(value)[:120]} |" for key, value in config.options.items()) or "| – | – |"
    own = f"\n## The card it came with\n\n{theirs}\n" if theirs else ""
    return f"""---
library_name: peft
base_model: {json.dumps(base)}
tags:
- {config.method.replace("_", "-")}
- coldframe
---

# {" ".join(title.split())}

{method.label}, made elsewhere with peft and imported into Coldframe for the base model `{base}`. Coldframe has not
trained or measured it; its configuration names {json.dumps(config.base_named or "no base model")}.

| setting | value |
|---|---|
{rows}
{own}"""
