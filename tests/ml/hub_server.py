"""A model hub of some dozen lines on the loopback: what `huggingface_hub` asks for when a folder is uploaded."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was sent to it."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        """What it answers everything with; 200 for what is right."""
        self.files: dict[str, bytes] = {}
        self.repos: list[dict[str, Any]] = []
        self.tokens: set[str] = set()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _say(self, value: Any, status: int = 200) -> None:
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self) -> None:
            body = self._body()
            hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
            if hub.status != 200:
                self._say({"error": "no: " + self.headers.get("Authorization", "")}, hub.status)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.repos.append(asked)
                owner = asked.get("organization") or "me"
                self._say({"url": f"{hub.url}/{owner}/{asked['name']}", "name": f"{owner}/{asked['name']}"})
            elif self.path == "/api/validate-yaml":
                self._say({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in files]
                self._say({"files": told})
            elif "/commit/" in self.path:
                self._keep(body)
                repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                self._say({"commitUrl": f"{hub.url}/{repo}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
            else:
                self._say({"error": f"unknown {self.path}"}, 404)

        def do_GET(self) -> None:
            self._say({"error": f"unknown {self.path}"}, 404)

        def _keep(self, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
