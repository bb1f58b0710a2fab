"""A real Chroma server of its own for a test module, on a free port."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from jobs import embedded, vectors


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/v2/heartbeat", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@pytest.fixture(scope="module")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address; `jobs.vectors` uses it for as long as the module's tests run."""
    folder = tmp_path_factory.mktemp("chroma")
    port = embedded.free_port()
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        embedded.chroma_command(folder=folder / "data", port=port), stdout=log, stderr=log, cwd=folder
    )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while not _answers(url):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    vectors.configure(url)
    yield url
    vectors.configure("")
    process.kill()
    process.wait()
    log.close()
