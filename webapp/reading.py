"""Reading what people bring in a child process: `python -m ml validate`, with a time and a memory limit.

Guarantees: a file that makes the reader hang, crash or grow takes only the child with it, and what the child says about
bad data comes back as a ChildError with its row-numbered problems. No model weights are loaded.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.errors import ColdframeError

MEMORY_BYTES = 4 * 1024**3
SECRETS = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "STORAGE_URL")


class ChildError(ColdframeError):
    """What a child said when it failed; `as_dict()` keeps the problems by row."""

    code = "invalid_data"

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(
            str(error.get("message") or "The file could not be read."),
            hint=str(error.get("hint") or ""),
            field=str(error.get("field") or ""),
            code=str(error.get("code") or ""),
        )
        self.error = error

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), **self.error}


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def read_in_child(*, spec: dict[str, Any], workdir: Path, timeout_s: float) -> Path:
    """Runs the spec (kind `inspect` or `validate`) in `workdir`; returns what it made. Raises ChildError."""
    path = workdir / "spec.json"
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if key not in SECRETS}
    command = [sys.executable, "-m", "ml", "validate", str(path), "--workdir", str(workdir)]
    try:
        done = subprocess.run(
            command, cwd=settings.BASE_DIR, env={**env, "HF_HUB_OFFLINE": "1"}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=timeout_s, check=False, preexec_fn=_limit_memory,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ChildError({
            "code": "too_slow", "message": f"The file could not be read within {timeout_s:.0f} s.",
            "hint": "Cut it into smaller files.", "permanent": True,
        }) from None  # fmt: skip
    return _result(done)


def _result(done: subprocess.CompletedProcess[bytes]) -> Path:
    for line in reversed(done.stdout.splitlines()):
        event = json.loads(line)
        if event.get("event") == "finished":
            return Path(event["out"])
        if event.get("event") == "failed":
            raise ChildError(event["error"])
    raise ChildError({
        "code": "reader_died", "message": f"The reader stopped (exit {done.returncode}) without saying why.",
        "hint": "The file may need more memory than a reader is given. Cut it into smaller files.", "permanent": True,
    })  # fmt: skip
