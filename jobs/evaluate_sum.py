"""The end of an evaluation: every row's line with its score, and the summary of all."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs import stream
from ml.errors import ColdframeError
from ml.evaluate.answers import Answered, is_right
from ml.evaluate.scorers import row_scores
from ml.evaluate.summary import costs, summarize

LIBRARIES = ("torch", "transformers", "sacrebleu", "numpy")


def write_results(
    out: Path, answers: Sequence[dict[str, Any]], spec: dict[str, Any], *, seconds: float
) -> dict[str, Any]:
    """Writes results.jsonl and summary.json into `out`; returns the summary. `answers` in the rows' order."""
    out.mkdir(exist_ok=True)
    rows = [Answered.from_dict(answer) for answer in answers]
    main = spec["metrics"][0]
    scores = row_scores(main, rows)
    with (out / "results.jsonl").open("w", encoding="utf-8") as file:
        for answer, row, score in zip(answers, rows, scores, strict=True):
            line = {**answer, "is_right": is_right(row, main), "score": round(score, 4)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    found = summarize(rows, metrics=spec["metrics"], labels=spec["labels"])
    summary = {
        "main_metric": main, "metrics": found.pop("metrics"), "intervals": found.pop("intervals"),
        "figures": {
            **found, **costs(answers), "seconds": round(seconds, 1),
            "n_errors": sum("error" in answer for answer in answers),
            "errors": sorted({answer["error"]["message"] for answer in answers if "error" in answer})[:5],
        },
        "versions": versions(),
    }  # fmt: skip
    summary["metrics"] = {name: value if math.isfinite(value) else None for name, value in summary["metrics"].items()}
    (out / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return summary


def versions() -> dict[str, Any]:
    """Libraries of this machine, and which engines are there."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(ColdframeError):
        engines = stream.engines()
        found["engines"] = [str(engine.get("id")) for engine in engines]
        found["device"] = ", ".join(sorted({str(engine.get("device")) for engine in engines}))
        found["base_fingerprint"] = next((e["fingerprint"] for e in engines if e.get("fingerprint")), "")
    return found
