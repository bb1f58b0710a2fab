"""HTTP to a vLLM server: short questions, and answers that come piece by piece (server-sent events).

The standard library's client, one connection a call. Guarantees: the address is checked before each connection and that
very address is used; redirects and proxies are not followed; what a server may send at once is bounded; nothing is
unpickled; the key goes into one header and into no log or error. `Call.close` may come from any thread and ends an
answer at once: vLLM stops writing when its client is gone.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from ml.errors import ColdframeError, SpecError, UnavailableError
from ml.vllm.address import Address, ip_of

CONNECT_S = 10.0
ANSWER_S = 600.0
"""Silence after which a server is taken for dead. A request's own deadline mostly comes first."""
_MAX_BODY = 4 << 20
_MAX_LINE = 1 << 20
_BROKEN = (OSError, HTTPException, ValueError)
"""What a connection that ends, also by our own hand, may raise."""


class NotThereError(ColdframeError):
    """The server knows no such path or model."""

    code = "vllm_unknown"
    status = 404


class FaultError(UnavailableError):
    """The server answered with a fault of its own."""


class _Connection(HTTPConnection):
    """To the address that was checked, whatever the name says a moment later."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.host, address.port, timeout=ANSWER_S)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((ip_of(self._address), self.port), CONNECT_S)
        if self._address.is_tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self._address.host)
        self.sock.settimeout(ANSWER_S)


class Call:
    """One answer under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_closed = False

    def close(self) -> None:
        """Any thread; ends what is being read."""
        with self._lock:
            self.is_closed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def hold(self, sock: socket.socket) -> None:
        """Called with the connection's socket, before anything is asked."""
        with self._lock:
            self._socket = sock
            if self.is_closed:
                raise ConnectionAbortedError("closed before it began")


class Client:
    def __init__(self, address: Address, *, key: str = "") -> None:
        self.address = address
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, path: str) -> Any:
        """The JSON that `path` answers with. Raises as `post`."""
        return self._json(self._ask("GET", path, None))

    def post(self, path: str, body: dict[str, Any]) -> str:
        """The text of the answer. Raises SpecError (400), NotThereError (404) or UnavailableError."""
        return self._ask("POST", path, body).decode(errors="replace")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        connection = _Connection(self.address)
        try:
            return self._read(self._begin(connection, method, path, body))
        except _BROKEN as error:
            raise self._away(error) from error
        finally:
            connection.close()

    def lines(self, path: str, body: dict[str, Any], call: Call) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, up to its end or until `call` is closed. Raises as `post`."""
        connection = _Connection(self.address)
        response = None
        try:
            connection.connect()
            call.hold(connection.sock)
            response = self._begin(connection, "POST", path, body)
            while line := response.readline(_MAX_LINE + 1):
                if len(line) > _MAX_LINE:
                    raise UnavailableError("vLLM sent a line of more than 1 MB.", hint="Look at its log.")
                name, _, data = line.decode(errors="replace").strip().partition(":")
                if name == "data" and data.strip() == "[DONE]":
                    return
                if name == "data":
                    yield self._json(data.encode())
        except _BROKEN as error:
            if not call.is_closed:
                raise self._away(error) from error
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _begin(
        self, connection: HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> HTTPResponse:  # fmt: skip
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, self.address.path + path, body=data, headers=self._headers)
        response = connection.getresponse()
        if response.status != 200:
            raise refusal(response.status, self._read(response))
        return response

    def _read(self, response: HTTPResponse) -> bytes:
        data = response.read(_MAX_BODY + 1)
        if len(data) > _MAX_BODY:
            raise UnavailableError("vLLM answered with more than 4 MB.", hint="Is that address a vLLM server?")
        return data

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise UnavailableError(
                f"{self.address.url} did not answer in JSON.", hint="Is that address a vLLM server?"
            ) from None

    def _away(self, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"The vLLM server {self.address.url} does not answer ({type(error).__name__}).",
            hint="Look whether it is running and can be reached from the engine's machine.",
        )


def refusal(status: int, body: bytes) -> ColdframeError:
    """What an HTTP status of vLLM means, with its own words where they are about what was asked."""
    said = _words(body)
    if status == 404:
        return NotThereError(f"vLLM does not know it: {said}")
    if status in (401, 403):
        return UnavailableError("vLLM refused the engine's key.", hint="Set ENGINE_VLLM_KEY to its --api-key.")
    if status in (400, 413, 422):
        return SpecError(f"vLLM refused the request: {said}")
    return FaultError(f"vLLM answered {status}: {said}", hint="Try again; its log says what happened.")


def _words(body: bytes) -> str:
    """The message in vLLM's, FastAPI's or any other server's way of saying it, at most a few lines."""
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    if isinstance(given, dict):
        inner = given.get("error", given)
        given = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
    text = given if isinstance(given, str) else body.decode(errors="replace")
    return " ".join(text.split())[:300] or "nothing said."
