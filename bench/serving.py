"""What web and Redis cost: the running product under many streaming clients, beside the bare engine.

    python bench/serving.py [--clients 1 8 32 128] [--quick]

Starts the product as `make up` does, in a folder of its own, and asks it through the API with streams; the bare engine
has the same model, slots and requests in this process. Both take turns in every repetition, so that a noisy machine
disturbs both alike; a ratio is formed within a repetition, and its median is shown. At best the product is as fast as
the engine and adds nothing to the first token; the clients' and the web's processor seconds, which the engine lacks on
the same cores, are shown beside it. A dropped stream is one that ends without its last event or with another text than
the engine's own. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the product: threads that spin would slow it

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
TOPICS = ("a power cut", "a late bill", "moving house", "a slow line", "the meter", "a refund", "the tariff", "the app")
READY_S = 300.0


def question(place: int) -> list[dict[str, str]]:
    """A conversation that no other client has."""
    topic = TOPICS[place % len(TOPICS)]
    return [{"role": "user", "content": f"Customer {place} asks about {topic}. Explain at length what to do."}]


@dataclass(kw_only=True)
class Answer:
    """What one client got."""

    first_s: float = 0.0
    text: str = ""
    n_tokens: int = 0
    is_whole: bool = False


@dataclass(kw_only=True)
class Round:
    """All answers of one round."""

    seconds: float
    answers: list[Answer]
    busy_s: dict[str, float] = field(default_factory=dict)
    """Processor seconds by part."""

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.n_tokens for answer in self.answers) / self.seconds

    def first_s(self, percent: int) -> float:
        """Of the clients' first tokens."""
        firsts = sorted(answer.first_s for answer in self.answers)
        return firsts[min(len(firsts) - 1, round(percent / 100 * (len(firsts) - 1)))]


class Product:
    """The product, running."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, env: dict[str, str]) -> None:
        self.process, self.address, self.env = process, address, env
        self.token = ""

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.address}/healthz", timeout=5).status_code == 200
        return False

    def make_token(self) -> None:
        command = [sys.executable, "manage.py", "create_token", "--team", "demo", "--name", "bench"]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=True)
        self.token = done.stdout.strip()

    def busy_s(self) -> dict[str, float]:
        """Processor seconds so far: of the clients, which are in this process, and of the product's parts."""
        own = psutil.Process().cpu_times()
        found = {"clients": own.user + own.system}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                times, words = child.cpu_times(), " ".join(child.cmdline())
                name = next((name for name in ("uvicorn", "engine", "valkey", "redis") if name in words), "others")
                found[name] = found.get(name, 0.0) + times.user + times.system
        return found


@contextmanager
def running(folder: Path, models: Path, slots: int, length: int) -> Iterator[Product]:
    """Starts the product, ends it whatever happens."""
    from jobs.embedded import free_port

    var, port = folder / "var", free_port()
    var.mkdir()
    (var / "models").symlink_to(models.absolute(), target_is_directory=True)
    env = {**os.environ, "COLDFRAME_VAR": str(var), "PORT": str(port), "ENGINE_SLOTS": str(slots),
           "ENGINE_LENGTH": str(length), "DEMO": "1", "DEMO_TRAINS": "0"}  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "manage.py", "up"], cwd=ROOT, env=env, stdout=log, stderr=log)
        product = Product(process, f"http://127.0.0.1:{port}", env)
        try:
            deadline = time.monotonic() + READY_S
            while not product.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the product did not start:\n{(folder / 'log').read_text()[-3000:]}")
                time.sleep(0.5)
            product.make_token()
            yield product
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


async def ask(client: httpx.AsyncClient, place: int, max_tokens: int) -> Answer:
    """One stream, read to its end."""
    body = {"model": "base", "messages": question(place), "max_tokens": max_tokens, "temperature": 0,
            "repetition_penalty": 1, "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
    answer, began = Answer(), time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread())[:500]!r}")
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                answer.is_whole = True
            elif line.startswith("data: "):
                take(answer, json.loads(data), time.monotonic() - began)
    return answer


def take(answer: Answer, chunk: dict[str, Any], seconds: float) -> None:
    """One chunk of a stream, `seconds` after its request."""
    if "error" in chunk:
        raise SystemExit(f"an answer failed: {chunk['error']}")
    for choice in chunk["choices"]:
        text = choice["delta"].get("content") or ""
        answer.first_s = answer.first_s or (seconds if text else 0.0)
        answer.text += text
    if usage := chunk.get("usage"):
        answer.n_tokens = usage["completion_tokens"]


async def through_product(product: Product, n: int, max_tokens: int) -> Round:
    """n clients at once."""
    headers = {"Authorization": f"Bearer {product.token}"}
    limits = httpx.Limits(max_connections=n, max_keepalive_connections=n)
    async with httpx.AsyncClient(base_url=product.address, headers=headers, limits=limits, timeout=600) as client:
        before, began = product.busy_s(), time.monotonic()
        answers = await asyncio.gather(*(ask(client, place, max_tokens) for place in range(n)))
        seconds, after = time.monotonic() - began, product.busy_s()
    busy = {name: round(value - before.get(name, 0.0), 2) for name, value in after.items()}
    return Round(seconds=seconds, answers=list(answers), busy_s=busy)


class Bare:
    """The engine without web and Redis, with the product's settings."""

    def __init__(self, folder: Path, slots: int, length: int) -> None:
        import torch

        from ml.backbone import load_backbone
        from ml.engine.engine import Engine

        torch.set_num_threads(os.cpu_count() or 1)
        self.backbone = load_backbone(folder, families=("decoder",))
        self.engine = Engine(self.backbone, artifact_folder=lambda sha: folder / sha, n_slots=slots, length=length)

    def run(self, n: int, max_tokens: int) -> Round:
        """n requests at once."""
        from ml.data.chat import prompt_ids
        from ml.engine.types import Done, Failed, Request, Sampling, Token

        answers = {str(place): Answer() for place in range(n)}
        began = time.monotonic()
        for place in range(n):
            ids = tuple(prompt_ids(self.backbone.tokenizer, question(place)))
            self.engine.submit(Request(id=f"{place}", team_id=1, prompt_ids=ids,
                                       sampling=Sampling(max_tokens=max_tokens)))  # fmt: skip
        while not self.engine.is_idle:
            for event in self.engine.step():
                answer = answers[event.id]
                if isinstance(event, Failed):
                    raise SystemExit(f"a row failed: {event.error.message}")
                if isinstance(event, Token):
                    answer.first_s = answer.first_s or (time.monotonic() - began if event.text else 0.0)
                if isinstance(event, Done):
                    answer.text, answer.n_tokens, answer.is_whole = event.text, event.completion_tokens, True
        return Round(seconds=time.monotonic() - began, answers=list(answers.values()))


def figures(pairs: Sequence[tuple[Round, Round]]) -> dict[str, Any]:
    """Of one number of clients: (product, bare engine) of each repetition."""

    def middle(values: Iterator[float]) -> float:
        return round(statistics.median(values), 3)

    ours = [round_ for round_, _ in pairs]
    kept = [(a, b) for product, bare in pairs for a, b in zip(product.answers, bare.answers, strict=True)]
    return {
        "ratio": middle(a.tokens_per_s / b.tokens_per_s for a, b in pairs),
        "tokens_per_s": middle(a.tokens_per_s for a in ours),
        "bare_tokens_per_s": middle(b.tokens_per_s for _, b in pairs),
        "added_first_token_p50_ms": middle(1000 * (a.first_s(50) - b.first_s(50)) for a, b in pairs),
        "added_first_token_p95_ms": middle(1000 * (a.first_s(95) - b.first_s(95)) for a, b in pairs),
        "first_token_p50_ms": middle(1000 * a.first_s(50) for a in ours),
        "first_token_p95_ms": middle(1000 * a.first_s(95) for a in ours),
        "dropped": sum(not a.is_whole or a.text != b.text for a, b in kept),
        "streams": len(kept),
        "busy_s": {name: middle(a.busy_s.get(name, 0.0) for a in ours) for name in ours[0].busy_s},
    }  # fmt: skip


def measure(args: argparse.Namespace, folder: Path) -> dict[int, dict[str, Any]]:
    bare = Bare(args.models / args.base, args.slots, args.length)
    found: dict[int, list[tuple[Round, Round]]] = {n: [] for n in args.clients}
    with running(folder, args.models, args.slots, args.length) as product:
        asyncio.run(through_product(product, 8, 4))
        bare.run(8, 4)
        for repetition in range(args.repetitions):
            for n in args.clients:
                pair = asyncio.run(through_product(product, n, args.tokens)), bare.run(n, args.tokens)
                found[n].append(pair)
                print(f"run {repetition + 1}: {n:4} clients, product {pair[0].tokens_per_s:7.1f} tok/s, bare engine "
                      f"{pair[1].tokens_per_s:7.1f}, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    return {n: figures(pairs) for n, pairs in found.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "var" / "models")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=64, help="the longest answer")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 and 8 clients, 16 tokens, three repetitions")
    args = parser.parse_args()
    if args.quick:
        args.clients, args.tokens, args.repetitions = [1, 8], 16, 3
    return args


def main() -> None:
    args, began = arguments(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = measure(args, Path(name))
    for n, one in found.items():
        print(f"{n:4} clients: {one['ratio']:.2f} of the bare engine's tokens/s (at best 1), first token "
              f"+{one['added_first_token_p50_ms']:.0f} ms p50, +{one['added_first_token_p95_ms']:.0f} ms p95, "
              f"{one['dropped']} of {one['streams']} streams dropped; processor seconds {one['busy_s']}")  # fmt: skip
    print(json.dumps({
        "bench": "serving", "clients": {str(n): one for n, one in found.items()},
        "dropped": sum(one["dropped"] for one in found.values()), "base": args.base, "tokens": args.tokens,
        "slots": args.slots, "repetitions": args.repetitions, "cores": os.cpu_count(), "load": os.getloadavg(),
        "seconds": round(time.monotonic() - began),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
