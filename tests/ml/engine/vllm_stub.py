"""A vLLM server of some dozen lines on the loopback: what its API of 0.30 answers, errors included.

Written after vllm/entrypoints/openai/{completion,models}, vllm/renderers and vllm/lora, so that a test here fails where
the real server would refuse. It answers with tiny models, or with tokens that a test lays down.
"""

from __future__ import annotations

import base64
import io
import json
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NextLogits = Callable[[str, Tensor], Tensor]
"""(model's name, embeddings of all before [T, D]) → logits [V]."""


class Refusal(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


class Stub:
    def __init__(self, base: Path, matrix: Tensor, next_logits: NextLogits) -> None:
        self.url = ""
        self.version, self.name, self.root, self.max_model_len = "0.30.1", base.name, str(base), 128
        self.key, self.max_rank, self.takes_embeds, self.takes_loras = "", 16, True, True
        self.matrix, self.next_logits = matrix, next_logits
        self.loras: dict[str, str] = {}
        self.n_loads = 0
        self.bodies: list[dict[str, Any]] = []
        self.embeds: list[Tensor] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[int] | None = None
        """Tokens of the next answers, instead of the model's."""
        self.refusal: Refusal | None = None
        """What every answer is refused with."""
        self.breaks: str = ""
        """After two tokens: `error` sends an error, `cut` ends the connection, `hold` waits for the client to go."""
        self.dropped = threading.Event()
        """The client went away while an answer was held."""
        self.tells_ids = True

    def models(self) -> dict[str, Any]:
        base = {"id": self.name, "object": "model", "root": self.root, "parent": None,
                "max_model_len": self.max_model_len}  # fmt: skip
        loras = [{"id": name, "object": "model", "root": path, "parent": self.name, "max_model_len": None}
                 for name, path in self.loras.items()]  # fmt: skip
        return {"object": "list", "data": [base, *loras]}

    def load(self, body: dict[str, Any]) -> str:
        name, folder = body["lora_name"], Path(body["lora_path"])
        if not self.takes_loras:
            raise Refusal(404, "Not Found", "detail")
        if name in self.loras:
            raise Refusal(400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                          "place, set 'load_inplace' to True.", "InvalidUserInput")  # fmt: skip
        if not (folder / "adapter_model.safetensors").is_file():
            raise Refusal(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
        if (rank := json.loads((folder / "adapter_config.json").read_text())["r"]) > self.max_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            raise Refusal(500, said, "InternalServerError")
        self.loras[name] = str(folder)
        self.n_loads += 1
        return f"Success: LoRA adapter '{name}' added successfully."

    def prompt(self, body: dict[str, Any]) -> Tensor:
        """[T, D] of what was asked, checked as vLLM does."""
        if body["model"] not in (self.name, *self.loras):
            raise Refusal(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if given := body.get("prompt_embeds"):
            if not self.takes_embeds:
                raise Refusal(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
            found = torch.load(io.BytesIO(base64.b64decode(given, validate=True)), weights_only=True)
            if found.dim() != 2 or found.shape[1] != self.matrix.shape[1] or not found.is_floating_point():
                raise Refusal(400, f"`prompt_embeds` must be (num_tokens, hidden_size), got {tuple(found.shape)}.")
            self.embeds.append(found)
            found = found.to(self.matrix.dtype)
        else:
            found = self.matrix[torch.tensor(body["prompt"])]
        if len(found) + body["max_tokens"] > self.max_model_len:
            raise Refusal(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        return found

    def tokens(self, body: dict[str, Any], before: Tensor) -> Iterator[tuple[int, Tensor]]:
        random = torch.Generator().manual_seed(body["seed"] % 2**63)
        for n in range(body["max_tokens"]):
            with torch.inference_mode():
                logits = self.next_logits(body["model"], before)
            if self.script is not None:
                token = self.script[n]
            elif body["temperature"] == 0:
                token = int(logits.argmax())
            else:
                probabilities = (logits / body["temperature"]).softmax(-1)
                token = int(torch.multinomial(probabilities, 1, generator=random))
            before = torch.cat([before, self.matrix[token : token + 1]])
            yield token, logits.log_softmax(-1)

    def events(self, body: dict[str, Any], before: Tensor) -> Iterator[dict[str, Any]]:
        """One token an event, as with --stream-interval 1; the stop token is told, as vLLM does."""
        for n, (token, logprobs) in enumerate(self.tokens(body, before), start=1):
            is_stop = token in body["stop_token_ids"]
            reason = "stop" if is_stop else "length" if n == body["max_tokens"] else None
            choice: dict[str, Any] = {"index": 0, "text": "" if is_stop else "~", "logprobs": None,
                                      "finish_reason": reason, "stop_reason": token if is_stop else None}  # fmt: skip
            if body.get("return_token_ids") and self.tells_ids:
                choice["token_ids"] = [token]
            if body.get("logprobs"):
                top = torch.topk(logprobs, body["logprobs"])
                said = {token: float(logprobs[token])} | dict(
                    zip(top.indices.tolist(), top.values.tolist(), strict=True)
                )
                choice["logprobs"] = {
                    "text_offset": [0], "tokens": [f"token_id:{token}"], "token_logprobs": [said[token]],
                    "top_logprobs": [{f"token_id:{i}": value for i, value in said.items()}],
                }  # fmt: skip
            yield {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"],
                   "choices": [choice]}  # fmt: skip
            if reason:
                return


class Server(ThreadingHTTPServer):
    def __init__(self, stub: Stub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stub = stub


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def _say(self, value: Any, status: int = 200) -> None:
        raw = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.kind == "detail":
            self._say({"detail": refusal.message}, refusal.status)
        else:
            said = {"message": refusal.message, "type": refusal.kind, "param": None, "code": refusal.status}
            self._say({"error": said}, refusal.status)

    def _is_let_in(self) -> bool:
        self.server.stub.headers.append(dict(self.headers))
        if (
            self.path.startswith("/v1")
            and self.server.stub.key
            and self.headers["Authorization"] != f"Bearer {self.server.stub.key}"
        ):
            self._say({"error": "Unauthorized"}, 401)
            return False
        return True

    def do_GET(self) -> None:
        if self._is_let_in():
            known = {"/version": {"version": self.server.stub.version}, "/v1/models": self.server.stub.models()}
            self._say(known[self.path]) if self.path in known else self._say({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_let_in():
            return
        try:
            if self.path == "/v1/load_lora_adapter":
                self._say(self.server.stub.load(body))
            elif self.path == "/v1/completions":
                self._answer(body)
        except Refusal as refusal:
            self._refuse(refusal)
        except OSError:  # the client is gone; vLLM gives the row up as well
            self.server.stub.dropped.set()

    def _answer(self, body: dict[str, Any]) -> None:
        self.server.stub.bodies.append(body)
        if self.server.stub.refusal:
            raise self.server.stub.refusal
        before = self.server.stub.prompt(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n, event in enumerate(self.server.stub.events(body, before)):
            if n == 2 and self.server.stub.breaks and not self._goes_on():
                return
            self._send(json.dumps(event))
        self._send("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _goes_on(self) -> bool:
        """Breaks off as the test wants it."""
        if self.server.stub.breaks == "error":
            self._send(json.dumps({"error": {"message": "EngineCore died", "type": "x", "code": 500}}))
            return True
        if self.server.stub.breaks == "hold":
            select.select([self.connection], [], [], 30)
            if self.connection.recv(1) == b"":
                self.server.stub.dropped.set()
        self.close_connection = True
        return False

    def _send(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()


@contextmanager
def running_stub(base: Path, matrix: Tensor, next_logits: NextLogits) -> Iterator[Stub]:
    stub = Stub(base, matrix, next_logits)
    server = Server(stub)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
