"""Where the lines of the parts go: the terminal, named in front, and a file for each in <var>/logs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import IO, TextIO

COLOURS = (36, 35, 33, 32, 34, 96, 95, 93, 92, 94)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LIMIT_BYTES = 10 * 1024 * 1024


class UpLog:
    """`line` for what a part says, `note` for what the supervisor itself says."""

    def __init__(
        self, *, folder: Path, names: tuple[str, ...], quiet: frozenset[str] = frozenset(), out: TextIO | None = None
    ) -> None:
        """What `quiet` parts say goes to their files only."""
        self.folder, self.quiet, self.out = folder, quiet, out or sys.stdout
        self.width = max((len(name) for name in names), default=0)
        self.colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
        self._files: dict[str, IO[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def line(self, name: str, text: str) -> None:
        plain = ANSI.sub("", text)
        if not plain.strip():
            return
        if name not in self.quiet:
            head = f"{name:<{self.width}} |"
            is_tty = self.out.isatty()
            self._write(f"\x1b[{self.colour.get(name, 37)}m{head}\x1b[0m {text}" if is_tty else f"{head} {plain}")
        file = self._file(name)
        file.write(plain + "\n")
        file.flush()

    def note(self, text: str) -> None:
        for one in text.splitlines():
            self._write(f"\x1b[1m{one}\x1b[0m" if self.out.isatty() else one)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _write(self, text: str) -> None:
        try:
            self.out.write(text + "\n")
            self.out.flush()
        except (OSError, ValueError):
            # The terminal is gone; the parts must be stopped all the same, so this is no reason to fail.
            return

    def _file(self, name: str) -> IO[str]:
        """The part's file, begun anew (one old copy kept) when it has grown beyond the limit."""
        path = self.folder / f"{name}.log"
        file = self._files.get(name)
        if file is not None and file.tell() < LIMIT_BYTES:
            return file
        if file is not None:
            file.close()
        if path.exists() and path.stat().st_size >= LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        self._files[name] = path.open("a", encoding="utf-8")
        return self._files[name]
