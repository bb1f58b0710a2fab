"""Every setting an operator may give, by environment variable or `.env`; unknown or impossible values fail loudly.

The embedded parts (redis, vector store, SQLite, local folder) are used wherever a URL is left empty.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

BASE_DIR = Path(__file__).resolve().parent.parent


class Config(BaseSettings):
    """One field a variable; the field's name in upper case is the variable's."""

    model_config = SettingsConfigDict(env_file=BASE_DIR / ".env", extra="ignore")

    coldframe_var: Path = BASE_DIR / "var"
    """Folder of everything that is not code: database, models, artifacts, logs."""
    secret_key: str = ""
    """Django's signing key; made once into <var>/secret_key when empty."""
    debug: bool = False
    port: int = Field(default=8000, ge=1, le=65535)
    host: str = "127.0.0.1"
    """Address the web server binds."""
    web_requests: int = Field(default=2000, ge=1)
    """Requests under way at once in the web process, open streams included; more are answered with 503."""
    allowed_hosts: str = "localhost,127.0.0.1,[::1]"
    """Comma-separated host names under which the app may be asked for."""
    https: bool = False
    """True behind TLS: secure cookies, HSTS, redirects."""
    database_url: str = ""
    redis_url: str = ""
    chroma_url: str = ""
    storage_url: str = ""
    base_models: str = Field(
        default="smollm2-135m-instruct", validation_alias=AliasChoices("BASE_MODELS", "BASE_MODEL")
    )
    """Comma-separated folders in <var>/models that engines serve; the first is what `base` and prompts mean."""
    embedding_model: str = "minilm-l6"
    engine_slots: int = Field(default=32, ge=1, le=1024)
    engine_length: int = Field(default=2048, ge=64, le=1_048_576)
    """Tokens a row may hold: prefix, prompt and answer together."""
    engine_own_mb: int = Field(default=4096, ge=0)
    """Memory for adapters that need a model of their own (last layers, full, DoRA): changed weights and their rows."""
    engine_device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the engine computes on: cpu in float32; cuda in bfloat16 where the GPU has it; auto, a GPU where there is
    one."""
    engine_quantization: Literal["", "nf4"] = ""
    """nf4 holds the base model's layers in 4 bits: an eighth of float32's memory, slower on a CPU, and answers as those
    of a QLoRA's training base. Adapters that replace whole weights are refused by such an engine."""
    engine_packed: bool = True
    """On a CPU, keep the weights a second time as its kernels read them fastest (same numbers, half of float32's bytes
    more, more than twice the speed); 0 saves that memory."""
    engine_traced: bool = True
    """On a CPU, replay forwards without the Python between their operations (same numbers, up to twice the speed; some
    seconds more at the start, and 30 MB for each of up to 24 kinds of step of a model of 30 layers); 0 does not."""
    engine_threads: int = Field(default=0, ge=0)
    """Torch threads of an engine; 0 means all cores, which `make up` divides among the engines that it starts."""
    engine_drain_s: float = Field(default=60, ge=0)
    """How long an engine that got SIGTERM goes on with the answers it has begun; the rest goes to other engines."""
    engine_vllm_url: str = ""
    """A vLLM server that holds the base model instead of the engine, as http://10.0.0.5:8000 (docs/scaling.md)."""
    engine_vllm_key: str = ""
    """The server's --api-key."""
    engine_vllm_loras: str = ""
    """Folder in which the server sees the artifacts; empty: where this machine does."""
    engine_vllm_public: bool = False
    """Allow a server, over https, that is neither on this machine nor on a private network."""
    run_lease_s: float = Field(default=60, ge=1)
    """A run whose worker has not been heard of for so long goes to another; beats are six times as frequent."""
    run_nice: int = Field(default=10, ge=0, le=19)
    """How far the processes of runs stand back behind chat on the CPU (as in nice)."""
    run_memory_mb: int = Field(default=0, ge=0)
    """Memory a run's process may hold; 0 means nine tenths of the machine's, less what engines there need."""
    metrics_token: str = Field(default="", pattern=r"^(\S{16,})?$")
    """What Prometheus sends to read /metrics, 16 characters or more; made once into <var>/metrics_token when empty."""
    hf_token: str = ""
    """A Hugging Face token that may write; with it, members can upload adapters to the Hub. Only uploads see it."""
    max_upload_mb: int = Field(default=200, ge=1)
    demo: bool = True
    """Seed the demo team and show its login on the sign-in page when the app is bound to this machine only."""
    demo_trains: bool = True
    """Train the demo team's two adapters on a first start; 0 leaves that to its people."""

    @field_validator("base_models")
    @classmethod
    def _check_bases(cls, text: str) -> str:
        names = bases_of(text)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"BASE_MODELS must name models, each once, separated by commas; got {text!r}.")
        return text


def bases_of(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def secret_key_of(config: Config) -> str:
    """The configured key, else the one kept in <var>/secret_key."""
    return config.secret_key or _kept(config, "secret_key")


def metrics_token_of(config: Config) -> str:
    """The configured token, else the one kept in <var>/metrics_token."""
    return config.metrics_token or _kept(config, "metrics_token")


def _kept(config: Config, name: str) -> str:
    """A secret in a file of its own: made on first use, readable by the owner only."""
    path = config.coldframe_var / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    return path.read_text().strip()


def embedded_urls(config: Config) -> dict[str, str]:
    """Where the services of a running `make up` answer, so that commands beside it (create_token, shell) find them."""
    urls = {"redis_url": "redis://127.0.0.1:6399/0", "chroma_url": "http://127.0.0.1:6398"}
    try:
        saved = json.loads((config.coldframe_var / "services.json").read_text())
    except (OSError, ValueError):
        return urls
    return {name: str(saved.get(name) or url) for name, url in urls.items()}
