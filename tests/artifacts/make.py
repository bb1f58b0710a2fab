"""`python -m tests.artifacts.make`: adds this release's adapters, one of every technique, to the collection.

Run once when a release is made, and when a technique is new. A set that is there is never made again: old adapters must
load as they are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import torch

from ml.artifact import write_artifact
from ml.foreign import import_adapter
from ml.methods import build
from ml.specs import METHODS, train_spec
from tests.artifacts.base_model import HERE, NAME, answers, filled, loaded, restore_base

IMPORTED = "imported"
"""An adapter of plain peft, as it is kept after its import."""
SMALL: dict[str, Any] = {"n_virtual_tokens": 3, "encoder_width": 8, "projection_width": 8, "rank": 2, "k": 1}


def release() -> str:
    about = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return str(about["project"]["version"])


def _disturb(model: Any, what: str) -> None:
    """Trained numbers that do not depend on a generator, near those of the start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(filled(f"{what} {name}", list(parameter.shape)).to(parameter.dtype))


def make_one(method: str, *, base: Path, into: Path) -> None:
    """The adapter of `method`, all options at their defaults but for SMALL."""
    own = {field.name: field.default for field in METHODS[method].fields}
    options = {**own, **{name: value for name, value in SMALL.items() if name in own}}
    backbone = loaded(base, quantization="nf4" if "double_quantization" in own else "")
    model = build(backbone, method, options, 17)
    _disturb(model, method)
    spec = train_spec(
        {"method": method, "base": NAME, "dataset": "kept@1", "dataset_sha256": "0" * 64, "options": options}
    )
    write_artifact(into, model=model, backbone=backbone, spec=spec, metrics={}, evaluations=[])


def make_imported(*, base: Path, into: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model: Any = get_peft_model(loaded(base).model, config)
    _disturb(model, IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        import_adapter(Path(folder), models_dir=base.parent, base=NAME, into=into, name="kept")


def make_release(target: Path, *, base: Path) -> list[str]:
    """Adds what `target` does not have yet; returns the names."""
    known_path = target / "logits.json"
    logits = json.loads(known_path.read_text()) if known_path.is_file() else {}
    made = []
    for name in (*METHODS, IMPORTED):
        if name in logits:
            continue
        if name == IMPORTED:
            make_imported(base=base, into=target / name)
        else:
            make_one(name, base=base, into=target / name)
        logits[name] = answers(base, target / name)
        made.append(name)
    known_path.write_text(json.dumps(logits, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return made


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as models:
        made = make_release(HERE / release(), base=restore_base(Path(models)))
    sys.stdout.write(f"{release()}: {', '.join(made) or 'nothing new'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
