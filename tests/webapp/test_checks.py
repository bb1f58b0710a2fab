"""`manage.py check`: what it notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webapp import checks


def ids(found: list[Any]) -> list[str]:
    return [message.id for message in found]


def test_missing_browser_assets_are_noticed(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "BASE_DIR", tmp_path)
    found = checks.check_assets(None)
    assert ids(found) == ["coldframe.W003"]
    assert "htmx.min.js" in found[0].msg
    assert found[0].hint == "Run: make setup"


def test_missing_packages_are_noticed(monkeypatch: Any) -> None:
    monkeypatch.setattr(checks, "NEEDED", ("torch", "no-such-package"))
    assert checks.check_packages(None)[0].msg == "Not installed: no-such-package."


def test_a_model_that_is_not_there_is_noticed(settings: Any, tmp_path: Path) -> None:
    settings.MODELS_DIR = tmp_path
    assert ids(checks.check_models(None)) == ["coldframe.W005", "coldframe.W005"]


@pytest.mark.parametrize("name", ["secret_key", "metrics_token"])
def test_a_secret_that_others_can_read_is_noticed(name: str, settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path
    path = tmp_path / name
    path.write_text("secret")
    path.chmod(0o644)
    assert ids(checks.check_secret_file(None)) == ["coldframe.E006"]
    path.chmod(0o600)
    assert checks.check_secret_file(None) == []


def test_being_reachable_with_the_demo_login_and_without_tls_is_noticed(settings: Any) -> None:
    settings.IS_LOOPBACK, settings.DEMO, settings.SESSION_COOKIE_SECURE = False, True, False
    assert ids(checks.check_exposure(None)) == ["coldframe.W007", "coldframe.W008"]
    settings.IS_LOOPBACK = True
    assert checks.check_exposure(None) == []


def test_a_shared_broker_over_local_files_is_noticed(monkeypatch: Any) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    monkeypatch.setenv("DATABASE_URL", "postgres://elsewhere/x")
    assert "STORAGE_URL is not" in checks.check_embedded_services(None)[0].msg
    monkeypatch.setenv("STORAGE_URL", "s3://bucket")
    assert checks.check_embedded_services(None) == []
