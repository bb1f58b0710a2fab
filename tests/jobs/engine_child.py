"""An engine process of its own for tests: `python -m tests.jobs.engine_child REDIS_URL MODELS_DIR ARTIFACTS [options]`.

Chat messages are "kept" in the Redis list `kept`, so that a test sees what the web's database would.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from jobs.engine_config import EngineConfig
from jobs.engine_drains import AGAIN, begin_anew
from jobs.engine_main import EngineProcess
from jobs.engine_vllm import VllmConfig
from jobs.stream_redis import client


class ListedMessages:
    def __init__(self, n_failures: int) -> None:
        self.n_failures = n_failures

    def started(self, *, message_id: int, info: Any) -> None:
        self._keep("started", message_id)

    def finished(self, *, message_id: int, text: str, sources: Any, event: Any) -> None:
        if self.n_failures:
            self.n_failures -= 1
            raise OSError("database is locked")
        self._keep("finished", message_id, text)

    def failed(self, *, message_id: int, text: str, error: Any, info: Any) -> None:
        self._keep("failed", message_id, error["code"])

    def _keep(self, *what: Any) -> None:
        client().rpush("kept", json.dumps(what))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("models", type=Path)
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("--base", default="tiny-llama")
    parser.add_argument("--drain", type=float, default=60)
    parser.add_argument("--failures", type=int, default=0)
    parser.add_argument("--vllm", default="", help="address of a vLLM server that holds the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quantization", default="")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    process = EngineProcess(
        EngineConfig(
            base=args.base, models_dir=args.models, artifact_folder=lambda sha: args.artifacts / sha, n_slots=4,
            length=512, threads=1, drain_s=args.drain, redis_url=args.redis_url, messages=ListedMessages(args.failures),
            vllm=VllmConfig(url=args.vllm) if args.vllm else None,
            device=args.device, quantization=args.quantization,
            is_traced=False,  # answers take long enough for a test to meet them in the middle
        )
    )  # fmt: skip
    process.listen()
    code = process.run()
    if code == AGAIN:
        begin_anew()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
