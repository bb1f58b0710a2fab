"""Fetches the starter models once and shows how far it is: on the terminal and, where redis answers, in the browser.

`python -m jobs.starter --into var/models`. Does nothing, quickly, when the models are there: each folder was renamed
into place when whole, so its coldframe.json is proof enough here (`python -m ml starter --verify` compares hashes). The
work itself is a child's, `python -m ml starter`, whose JSON lines are copied into the redis hash `cf:setup`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.errors import UnavailableError

SETUP_KEY = "cf:setup"
STARTER_NAMES = ("smollm2-135m-instruct", "minilm-l6")


def are_there(models: Path) -> bool:
    return all((models / name / "coldframe.json").is_file() for name in STARTER_NAMES)


def tell(progress: Mapping[str, str | int]) -> None:
    """Best effort: without redis there is no browser to show it in."""
    if not os.environ.get("REDIS_URL"):
        return
    from jobs import stream_redis

    stream_redis.configure(os.environ["REDIS_URL"])
    try:
        with stream_redis.redis_errors("show the progress of set-up"):
            stream_redis.client().hset(SETUP_KEY, mapping=dict(progress))
    except UnavailableError as error:
        sys.stderr.write(f"{error}\n")


def follow(line: str) -> str:
    """What one line of the child means for people; also told to redis. Returns the text to print, or ''."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return line.rstrip()
    if event.get("event") == "progress":
        done, total, text = int(event.get("done", 0)), int(event.get("total", 0)), str(event.get("text", ""))
        tell({"state": "running", "text": text, "done": done, "total": total})
        return f"{text} ({done} of {total})"
    if event.get("event") == "failed":
        error = event.get("error") or {}
        text = f"{error.get('message', 'unknown error')} {error.get('hint', '')}".strip()
        tell({"state": "failed", "text": text})
        return text
    return ""


def fetch(models: Path) -> int:
    tell({"state": "running", "text": "fetching the starter models", "done": 0, "total": 1})
    environ = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-m", "ml", "starter", "--into", str(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as child:
        assert child.stdout is not None  # noqa: S101 - asked for above
        for line in child.stdout:
            if text := follow(line):
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
    if child.returncode:
        tell({"state": "failed"})
    return child.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--into", type=Path, required=True, help="the models folder")
    models: Path = parser.parse_args().into
    if not are_there(models) and (code := fetch(models)):
        return code
    tell({"state": "ready", "text": "the starter models are there", "done": 1, "total": 1})
    return 0


if __name__ == "__main__":
    sys.exit(main())
