"""`python -m ml VERB …`: the table of verbs and what each kind of failure exits with.

A verb is a module `ml.cli_<verb>` with `add_arguments(parser)` and `run(args) -> int`; it is imported only when named.
`args.emit` is the event emitter (`ml.events`): standard output carries JSON lines only.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from typing import NoReturn

from ml.errors import (
    ArtifactError,
    ColdframeError,
    ContextTooLongError,
    DataError,
    DivergedError,
    ModelError,
    OutOfMemoryError,
    SpecError,
    StorageError,
    UnavailableError,
)
from ml.events import Emitter, claim_stdout

VERBS = {
    "train": "train an adapter from a spec",
    "plan": "say how much memory a run will need",
    "evaluate": "measure a base model or an adapter on a data set",
    "study": "measure several techniques on one data set, each with its own search",
    "inspect": "check an adapter folder and say what it is",
    "import": "check an adapter made by plain peft and write it as an artifact",
    "merge": "write base model and adapter as one whole model",
    "upload": "put an adapter, or the model it makes, on the Hugging Face Hub",
    "starter": "fetch the starter models",
    "ingest": "read, cut and embed documents",
    "validate": "check an upload and make a data set version",
}
EXIT_CODES: tuple[tuple[type[ColdframeError], int], ...] = (
    (SpecError, 64),
    (ContextTooLongError, 64),
    (DataError, 65),
    (ArtifactError, 65),
    (ModelError, 69),
    (UnavailableError, 69),
    (OutOfMemoryError, 71),
    (DivergedError, 72),
    (StorageError, 74),
)
UNEXPECTED = 70
_USAGE = """usage: python -m ml VERB …   (each has --help)

{verbs}

Progress is one JSON object a line on standard output; the log goes to standard error. Exit codes: 0 done · 64 spec or
arguments refused · 65 data or adapter refused · 69 base model or service missing · 70 unexpected · 71 out of memory ·
72 loss NaN, infinite or flat · 74 disk full · 75 stopped after a checkpoint: run the same command again."""

logger = logging.getLogger("ml")


class Parser(argparse.ArgumentParser):
    """Bad arguments exit 64, as the supervisor expects."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


def exit_code(error: ColdframeError) -> int:
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), UNEXPECTED)


def main(argv: list[str] | None = None, emit: Emitter | None = None) -> int:
    """Runs a verb and returns the exit status. `emit` replaces the process's standard output."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in VERBS:
        table = "\n".join(f"  {verb:10}{text}" for verb, text in VERBS.items())
        asked = bool(words) and words[0] in ("-h", "--help")
        print(_USAGE.format(verbs=table), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 64
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve the engine on a shared machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, which warns of a kernel nobody needs
    module = importlib.import_module(f"ml.cli_{words[0]}")
    parser = Parser(prog=f"python -m ml {words[0]}", description=module.__doc__)
    module.add_arguments(parser)
    args = parser.parse_args(words[1:])
    args.emit = emit or claim_stdout()
    try:
        return int(module.run(args))
    except ColdframeError as error:
        logger.error("%s %s", error.message, error.hint)
        args.emit("failed", error=error.as_dict())
        return exit_code(error)
    except Exception as error:
        logger.exception("%s failed", words[0])
        failure = ColdframeError(f"{type(error).__name__}: {error}", hint="The log has the details.", code="unexpected")
        args.emit("failed", error={**failure.as_dict(), "permanent": False})
        return UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
