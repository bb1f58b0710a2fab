"""What a child process tells its supervisor: one JSON object a line on standard output.

Guarantees: every line is one valid JSON object (numbers that are not finite become null), flushed at once; nothing
else reaches that stream, since `claim_stdout` moves the file descriptor away from libraries that print. Logs for people
go to standard error. This module does not know what the events mean.
"""

from __future__ import annotations

import json
import math
import os
import sys
from functools import cache
from typing import Any, TextIO


def finite(value: Any) -> Any:
    """`value` with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class Emitter:
    """Writes events to a text stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def fileno(self) -> int:
        return self._stream.fileno()

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **finite(values)}, ensure_ascii=False, allow_nan=False)
        self._stream.write(line + "\n")
        self._stream.flush()


def release_stdout() -> None:
    """Standard output as it was before `claim_stdout`, for a program that takes this process's place."""
    sys.stderr.flush()
    os.dup2(claim_stdout().fileno(), 1)


@cache
def claim_stdout() -> Emitter:
    """The Emitter that owns the process's standard output; from now on `print` and C code write to standard error."""
    sys.stdout.flush()
    owned = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    return Emitter(owned)
