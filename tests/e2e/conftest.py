"""The whole product, started as `make up` starts it, in a folder of its own, and a real browser in front of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "screenshots"
AXE = ROOT / "webapp" / "static" / "vendor" / "axe.min.js"
READY_S = 240


@dataclass
class Product:
    """A running Coldframe."""

    url: str
    var: Path
    process: subprocess.Popen[str]

    def manage(self, *arguments: str) -> str:
        """Output of a manage.py command on this product's database."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def env(self) -> dict[str, str]:
        return {**os.environ, "COLDFRAME_VAR": str(self.var)}

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")
        except OSError:
            return {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """All processes of `make up`, ready; stopped by Ctrl-C at the end, as a person would."""
    var = tmp_path_factory.mktemp("product")
    (var / "models").symlink_to(ROOT / "var" / "models")
    port = _free_port()
    environment = {**os.environ, "COLDFRAME_VAR": str(var), "PORT": str(port), "DEMO_TRAINS": "0"}
    for name in ("REDIS_URL", "CHROMA_URL", "DATABASE_URL", "STORAGE_URL", "DJANGO_SETTINGS_MODULE"):
        environment.pop(name, None)
    log = (var / "up.log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up"], cwd=ROOT, env=environment, stdout=log, stderr=log, text=True,
        start_new_session=True,
    )  # fmt: skip
    started = Product(f"http://127.0.0.1:{port}", var, process)
    try:
        deadline = time.monotonic() + READY_S
        while not started.health().get("ready"):
            log.seek(0)
            assert process.poll() is None, log.read()[-4000:]
            assert time.monotonic() < deadline, f"not ready: {started.health()}\n{log.read()[-4000:]}"
            time.sleep(0.5)
        yield started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        log.close()


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(product: Product, browser: Browser) -> Iterator[Page]:
    """A signed-in page of the demo user; a script error or a refused resource on any page fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=product.url)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
    opened.goto("/accounts/login/")
    opened.fill("input[name=login]", "demo")
    opened.fill("input[name=password]", "cold-frame-demo")
    opened.click("button[type=submit]")
    opened.wait_for_url(f"{product.url}/")
    yield opened
    context.close()
    assert problems == []


def shoot(page: Page, name: str) -> None:
    """Saves what is on the screen now into screenshots/ (git-ignored); axe-core must find nothing serious there."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run().then((result) => result.violations)")
    serious = [
        f"{name}: {rule['id']}: {rule['help']} {[node['html'][:160] for node in rule['nodes'][:3]]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == []
