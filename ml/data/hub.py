"""One file of a data set repository on a model hub. With ml/hub.py the only place in `ml` that talks to a network.

Guarantees: public repositories only, no token is sent; a file above the limit is refused by its declared size before it
is fetched, and again while it comes; a hub that cannot be reached is said within seconds. No code of a repository ever
runs: files are data, read like any upload. HF_ENDPOINT names another hub than huggingface.co.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ml.errors import DataError, SpecError, UnavailableError
from ml.hub import ENDPOINT

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_NOT_ROWS = ("dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json", "config.json")
_REPO = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
CONNECT_S = 5.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came: which file of which commit."""

    path: Path
    repo: str
    file: str
    commit: str
    n_bytes: int


def check_source(repo: str, file: str, revision: str) -> None:
    """Raises SpecError for names that no repository, file or revision can have."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise SpecError(f"{repo[:100]!r} is no repository name.", hint="Give owner/name, as on its page.", field="repo")
    parts = PurePosixPath(file).parts if file else ()
    if len(file) > 300 or ".." in parts or file.startswith("/") or "\\" in file:
        raise SpecError(f"{file[:100]!r} is no file of a repository.", field="file",
                        hint="Give its path there, for example data/train.jsonl.")  # fmt: skip
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SpecError(f"{revision[:100]!r} is no revision.", hint="Give a branch, tag or commit.", field="revision")


def fetch(
    repo: str, into: Path, *, file: str = "", revision: str = "", max_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> Fetched:  # fmt: skip
    """Fetches `file`, or the one file of rows that there is, to `into`. `progress` is told (bytes, of how many).

    Raises SpecError for impossible names, DataError for what is not there, not public or too large, and
    UnavailableError when the hub does not answer.
    """
    check_source(repo, file, revision)
    endpoint = os.environ.get("HF_ENDPOINT", "").strip() or ENDPOINT
    _check_reachable(endpoint)
    os.environ.update({"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]  # httpx's, whichever it uses

    try:
        about = HfApi(endpoint=endpoint, token=False).dataset_info(repo, revision=revision or None, files_metadata=True)
        sizes = {str(entry.rfilename): int(entry.size or 0) for entry in about.siblings or []}
        name = choose(sizes, file, repo)
        _check_size(sizes[name], name, max_bytes)
        commit = str(about.sha or revision or "main")
        url = hf_hub_url(repo, name, repo_type="dataset", revision=commit, endpoint=endpoint)
        n_bytes = _download(url, into, name, max_bytes, sizes[name], progress)
    except HFValidationError as error:
        raise SpecError(f"{repo[:100]!r} is no repository name.", hint="Give owner/name.", field="repo") from error
    except HfHubHTTPError as error:
        raise _refusal(error.response.status_code, repo, revision, endpoint) from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _unreachable(endpoint, type(error).__name__) from error
    return Fetched(path=into, repo=repo, file=name, commit=commit, n_bytes=n_bytes)


def choose(sizes: dict[str, int], file: str, repo: str) -> str:
    """The file that is meant. Raises DataError naming those that there are."""
    rows = [name for name in sizes if name.lower().endswith(SUFFIXES) and PurePosixPath(name).name not in _NOT_ROWS]
    if file:
        if file in rows:
            return file
        known = file in sizes
        raise DataError(f"{file} of {repo} is no file of rows." if known else f"{repo} has no file {file!r}.",
                        hint=_named(rows), field="file")  # fmt: skip
    training = [name for name in rows if "train" in name.lower()]
    for found in (rows, training):
        if len(found) == 1:
            return found[0]
    if not rows:
        raise DataError(f"{repo} has no CSV, TSV, JSONL, JSON or Parquet file.", field="repo",
                        hint="Try the revision refs/convert/parquet, where the hub keeps its own copy.")  # fmt: skip
    raise DataError(f"{repo} has {len(rows)} files of rows.", hint=_named(rows), field="file")


def _named(rows: Sequence[str]) -> str:
    shown = ", ".join(sorted(rows)[:12]) + " …" * (len(rows) > 12)
    return f"Name one of its files: {shown}." if rows else "It has no file of rows at all."


def _check_size(n_bytes: int, name: str, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise DataError(
            f"{name} has {n_bytes / 1e6:,.1f} MB; files may have {max_bytes // 1_048_576} MB.", field="file",
            hint="Choose a smaller file, or ask the operator to raise MAX_UPLOAD_MB.", code="too_large",
        )  # fmt: skip


def _check_reachable(endpoint: str) -> None:
    """A quick word where nothing answers: the client itself would try for half a minute."""
    if urllib.request.getproxies():
        return
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except OSError as error:
        raise _unreachable(endpoint, str(error)) from error


def _unreachable(endpoint: str, why: str) -> UnavailableError:
    return UnavailableError(
        f"The hub {endpoint} does not answer ({why}).",
        hint="This server may have no network. Fetch the file elsewhere and upload it here.",
    )


def _refusal(status: int, repo: str, revision: str, endpoint: str) -> Exception:
    if status >= 500 or status == 429:
        return UnavailableError(f"The hub {endpoint} answered {status}.", hint="Try again in some minutes.")
    at = f" at {revision}" if revision else ""
    return DataError(
        f"There is no public data set {repo}{at} on {endpoint} (it answered {status}).", field="repo",
        hint="Check owner and name. Private and gated data sets are not fetched: download the file and upload it here.",
    )  # fmt: skip


def _download(
    url: str, into: Path, name: str, max_bytes: int, expected: int, progress: Callable[[int, int], None] | None
) -> int:
    from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

    into.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = 0
    session: Any = get_session()
    with session.stream("GET", url, follow_redirects=True, timeout=30) as response, into.open("wb") as out:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes(CHUNK_BYTES):
            n_bytes += len(chunk)
            _check_size(n_bytes, name, max_bytes)
            out.write(chunk)
            if progress is not None:
                progress(n_bytes, expected)
    if expected and n_bytes != expected:
        raise UnavailableError(f"The hub sent {n_bytes:,} of {expected:,} bytes of {name}.", hint="Try again.")
    return n_bytes
