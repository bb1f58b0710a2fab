"""`python -m ml validate SPEC.json --workdir DIR`: read an upload once, whole.

A spec of kind `validate` makes a data set version in DIR/out, of one file or, with `parts` (source_path, filename,
split), of several; kind `inspect` writes the first look at a file to DIR/inspection.json; kind `diff` compares two
versions (`old`, `new`: folders) in DIR/diff.json; kind `fetch` brings one file of a data set repository of a hub to
DIR/fetched. Bad data exits 65 and lists the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml.data.diff import diff_versions
from ml.data.inspection import inspect_file
from ml.data.sniff import sniff
from ml.data.version import Part, Recipe, build_version
from ml.errors import DataError, SpecError

NEEDED = {"validate": ("source_path",), "inspect": ("source_path",), "diff": ("old", "new"), "fetch": ("repo",)}
"""What a spec of each kind cannot do without."""
EVERY_S = 0.5
MAX_FETCHED_BYTES = 200 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="JSON file with kind, source_path, filename, mapping, splits, seed")
    parser.add_argument("--workdir", type=Path, required=True, help="folder to work in")
    parser.add_argument("--models", type=Path, help="the models folder; with `base` in the spec, tokens are counted")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    spec = read_spec(args.spec)
    args.workdir.mkdir(parents=True, exist_ok=True)
    if spec["kind"] in ("diff", "fetch"):
        out, metrics = (_diff if spec["kind"] == "diff" else _fetch)(args, spec)
        args.emit("finished", out=str(out), metrics=metrics, seconds=time.monotonic() - start)
        return 0
    path = _there(spec["source_path"])
    filename = str(spec.get("filename") or path.name)
    if spec["kind"] == "inspect":
        report = inspect_file(path, filename=filename, progress=_progress(args.emit, path.stat().st_size))
        out = args.workdir / "inspection.json"
        out.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
        metrics = {"n_rows": report["n_rows"], "n_problems": report["n_problems"]}
    else:
        out = args.workdir / "out"
        others = _parts(spec)
        progress = _progress(args.emit, path.stat().st_size + sum(p.source.path.stat().st_size for p in others))
        report = build_version(sniff(path, filename), _recipe(spec), out, others=others, progress=progress)
        _count_tokens(args, spec, out)
        metrics = {"n_rows": sum(report["splits"].values()), "n_left_out": report["n_left_out"], **report["splits"]}
    args.emit("finished", out=str(out), metrics=metrics, seconds=time.monotonic() - start)
    return 0


def _there(source_path: str) -> Path:
    path = Path(source_path)
    if not path.is_file():
        raise DataError(f"The uploaded file {path.name} is gone.", hint="Upload it again.", code="file_missing")
    return path


def _parts(spec: Mapping[str, Any]) -> list[Part]:
    """The files of held-out rows."""
    found = []
    for given in spec.get("parts") or ():
        path = _there(given["source_path"])
        name = str(given.get("filename") or path.name)
        found.append(Part(source=sniff(path, name), split=str(given["split"]), name=name))
    return found


def _diff(args: argparse.Namespace, spec: Mapping[str, Any]) -> tuple[Path, dict[str, int]]:
    out = args.workdir / "diff.json"
    found = diff_versions(Path(spec["old"]), Path(spec["new"]))
    out.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return out, {}


def _fetch(args: argparse.Namespace, spec: Mapping[str, Any]) -> tuple[Path, dict[str, int]]:
    """The file, and beside it fetched.json with where it came from."""
    from ml.data.hub import fetch

    told = _progress(args.emit, 100, "% of the file fetched")
    found = fetch(
        spec["repo"], args.workdir / "fetched", file=str(spec.get("file") or ""),
        revision=str(spec.get("revision") or ""), max_bytes=int(spec.get("max_bytes") or MAX_FETCHED_BYTES),
        progress=lambda n, of: told(100 * n // max(1, of)),
    )  # fmt: skip
    about = {"repo": found.repo, "file": found.file, "commit": found.commit, "bytes": found.n_bytes}
    (args.workdir / "fetched.json").write_text(json.dumps(about), encoding="utf-8")
    return found.path, {"n_bytes": found.n_bytes}


def read_spec(path: Path) -> dict[str, Any]:
    """The spec file. Raises SpecError naming what is missing."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"The spec {path} cannot be read: {error}.") from error
    if not isinstance(spec, dict) or spec.get("kind") not in NEEDED:
        raise SpecError(f"The spec's kind must be one of {', '.join(NEEDED)}.", field="kind")
    for name in NEEDED[spec["kind"]]:
        if not isinstance(spec.get(name), str):
            raise SpecError(f"The spec needs {name} as text, got {spec.get(name)!r}.", field=name)
    return spec


def _recipe(spec: Mapping[str, Any]) -> Recipe:
    seed = spec.get("seed", 17)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise SpecError(f"Seed must be a whole number from 0 to 2,147,483,647, got {seed!r}.", field="seed")
    given = {field.name: spec[field.name] for field in fields(Recipe) if field.name in spec}
    return Recipe(**{"mapping": {}, "splits": {}, **given, "seed": seed})


def _count_tokens(args: argparse.Namespace, spec: Mapping[str, Any], out: Path) -> None:
    """Adds token lengths to report.json where the base model is at hand; characters are always there."""
    base = spec.get("base")
    if args.models is None or not isinstance(base, str) or not (args.models / base / "tokenizer.json").is_file():
        return
    from ml.data.lengths import token_lengths

    args.emit("phase", text="Counting tokens")
    path = out / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["tokens"] = token_lengths(out, models_dir=args.models, base=base)
    path.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")


def _progress(emit: Callable[..., None], size_bytes: int, words: str = "% of the file read") -> Callable[[int], None]:
    """Tells how much of the file has been read, at most twice a second."""
    last = 0.0

    def progress(position: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_S:
            last = now
            share = min(99, int(100 * position / max(1, size_bytes)))
            emit("progress", done=share, total=100, text=f"{share} {words}")

    return progress
