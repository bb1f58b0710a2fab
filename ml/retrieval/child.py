"""`read_document`: parsing in a child process of its own, bounded in time and memory, and killed when it does not stop.

Guarantees: a document that loops, grows without end or crashes the parser costs one child process and becomes a
DataError; the child inherits no environment beyond what Python needs and is killed with its whole process group. Run as
`python -m ml.retrieval.child SOURCE FILENAME OUT`, it writes OUT as JSON: text, pages, note, or error.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ml.errors import ColdframeError, DataError
from ml.retrieval.parse import Parsed, parse

TIMEOUT_S = 30.0
MEMORY_BYTES = 1 << 30
_KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "HOME", "TMPDIR")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    root = str(Path(__file__).resolve().parent.parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH", ""))))
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}


def _limited(timeout_s: float, memory_bytes: int) -> None:
    """In the child, before it reads a byte: processor time, memory, size of what it writes, no core dump."""
    seconds = int(timeout_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _too_much(filename: str) -> DataError:
    if filename.lower().endswith(".pdf"):
        from ml.retrieval.pdf import over_limit

        return over_limit(filename)
    return DataError(
        f"{filename} could not be read within {TIMEOUT_S:.0f} s and {MEMORY_BYTES >> 20} MB of memory.",
        hint="Split the document and add the parts.",
        code="too_large",
    )


def _run(command: list[str], *, timeout_s: float) -> tuple[int | None, str]:
    """Exit code (None when killed for time) and the end of what it wrote to standard error."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        code: int | None = None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                code = process.poll()
            process.wait()
        log.seek(max(0, log.tell() - 2000))
        return code, log.read().decode(errors="replace")


def read_document(
    path: Path, *, filename: str, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> Parsed:
    """The document's text. Raises DataError saying why it cannot be read; takes at most about `timeout_s` seconds."""
    with tempfile.TemporaryDirectory(prefix="coldframe-parse-") as folder:
        out = Path(folder) / "out.json"
        limits = [str(timeout_s), str(memory_bytes)]
        command = [sys.executable, "-m", "ml.retrieval.child", str(path), filename, str(out), *limits]
        code, log = _run(command, timeout_s=timeout_s)
        if code is None or code in (-signal.SIGXCPU, -signal.SIGKILL) or "MemoryError" in log:
            raise _too_much(filename)
        if code != 0 or not out.is_file():
            raise DataError(
                f"{filename} made its reader fail (exit code {code}).",
                hint="It is probably damaged. Save it anew and add that one.",
                code="damaged",
            )
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if error := found.get("error"):
        raise DataError(error["message"], hint=error["hint"], code=error["code"])
    return Parsed(text=found["text"], pages=tuple(found["pages"]), note=found["note"])


def main(arguments: list[str]) -> int:
    source, filename, out, timeout_s, memory_bytes = arguments
    _limited(float(timeout_s), int(memory_bytes))
    try:
        parsed = parse(Path(source), filename=filename)
        found: dict[str, Any] = {"text": parsed.text, "pages": parsed.pages, "note": parsed.note}
    except ColdframeError as error:
        found = {"error": error.as_dict()}
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
