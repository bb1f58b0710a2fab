"""`manage.py check`: what this installation lacks, and what to do about it.

Cheap and offline: it looks at files and settings, never at the network; /healthz says whether parts answer. Errors are
what cannot work at all; warnings are what works otherwise than an operator may think.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from webapp.config import BASE_DIR

ASSETS = ("tabler.min.css", "htmx.min.js", "sse.min.js", "uPlot.iife.min.js", "uPlot.min.css")
NEEDED = ("torch", "transformers", "peft", "celery", "chromadb")


@register(Tags.compatibility)
def check_packages(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """By their metadata: importing torch here would cost every command seconds."""
    missing = []
    for name in NEEDED:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if not missing:
        return []
    return [Error(f"Not installed: {', '.join(missing)}.", hint="Run: make setup", id="coldframe.E002")]


@register(Tags.staticfiles)
def check_assets(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    vendor = BASE_DIR / "webapp" / "static" / "vendor"
    missing = [name for name in ASSETS if not (vendor / name).is_file()]
    if not missing:
        return []
    return [Warning(f"Browser assets are missing: {', '.join(missing)}.", hint="Run: make setup", id="coldframe.W003")]


@register(Tags.files)
def check_folders(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    folders = {Path(settings.VAR_DIR), Path(settings.MODELS_DIR), Path(settings.STORAGE_DIR), Path(settings.RUNS_DIR)}
    return [
        Error(
            f"{folder} cannot be written to.",
            hint="Give this user the right to, or set COLDFRAME_VAR to another folder.",
            id="coldframe.E004",
        )
        for folder in sorted(folders)
        if not os.access(folder, os.W_OK | os.X_OK)
    ]


@register(Tags.files)
def check_models(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    wanted = [*(("BASE_MODELS", name) for name in settings.BASE_MODELS), ("EMBEDDING_MODEL", settings.EMBEDDING_MODEL)]
    return [
        Warning(
            f"{setting} names {name}, and there is no such model in {settings.MODELS_DIR}.",
            hint="Run: make models (or make up, which fetches it); for another model, put its folder there.",
            id="coldframe.W005",
        )
        for setting, name in wanted
        if not (Path(settings.MODELS_DIR) / name / "config.json").is_file()
    ]


@register(Tags.security)
def check_secret_file(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    paths = [Path(settings.VAR_DIR) / name for name in ("secret_key", "metrics_token")]
    return [
        Error(f"{path} can be read by other users.", hint=f"Run: chmod 600 {path}", id="coldframe.E006")
        for path in paths
        if path.is_file() and path.stat().st_mode & 0o077
    ]


@register(Tags.security)
def check_exposure(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Being reachable from elsewhere with the demo login, or without TLS, is hardly ever meant."""
    if settings.IS_LOOPBACK:
        return []
    found: list[CheckMessage] = []
    if settings.DEMO:
        found.append(
            Warning(
                f"HOST is {settings.HOST}: others can reach this server, and the demo login is public knowledge.",
                hint="Set DEMO=0, and change or remove the demo user.",
                id="coldframe.W007",
            )
        )
    if not settings.SESSION_COOKIE_SECURE:
        found.append(
            Warning(
                f"HOST is {settings.HOST} without TLS: passwords and tokens travel in clear text.",
                hint="Put a TLS proxy in front and set HTTPS=1 (docs/operating.md).",
                id="coldframe.W008",
            )
        )
    return found


@register(Tags.files)
def check_embedded_services(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Local files behind services that other machines use as well cannot be shared by them."""
    from webapp.config import Config

    config = Config()
    if not config.redis_url or (config.database_url and config.storage_url):
        return []
    lacking = [name for name in ("DATABASE_URL", "STORAGE_URL") if not getattr(config, name.lower())]
    return [
        Warning(
            f"REDIS_URL is set but {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not.",
            hint="Fine on one machine. Workers and engines on other machines need all four URLs (docs/operating.md).",
            id="coldframe.W009",
        )
    ]
