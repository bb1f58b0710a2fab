"""How a process of jobs/asking.py begins and ends: `--workdir DIR`, events on stdout, an error as its last event."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs import stream_redis
from jobs.asking import Emit
from ml.__main__ import UNEXPECTED, exit_code
from ml.errors import ColdframeError
from ml.events import claim_stdout

logger = logging.getLogger(__name__)


def run_asking(
    argv: Sequence[str] | None, work: Callable[[Path, Emit], int], *, module: str, about: str | None, what: str
) -> int:
    """The exit code. `what` failed is said in the log when it was nothing foreseen."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stream_redis.configure(os.environ["REDIS_URL"])
    emit = claim_stdout()
    try:
        return work(args.workdir, emit)
    except ColdframeError as error:
        emit("failed", error=error.as_dict())
        return exit_code(error)
    except Exception as error:
        logger.exception("%s failed", what)
        failure = ColdframeError(f"{type(error).__name__}: {error}", hint="The log has the details.", code="unexpected")
        emit("failed", error={**failure.as_dict(), "permanent": False})
        return UNEXPECTED
