"""The engine seen by people and by Prometheus: its figures follow what it does, without a reload."""

from __future__ import annotations

import re
import urllib.request

import pytest
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Product, shoot

pytestmark = pytest.mark.e2e


def tokens_told(product: Product) -> float:
    """`coldframe_engine_tokens_total` of all engines, as Prometheus would read it."""
    token = (product.var / "metrics_token").read_text()
    request = urllib.request.Request(f"{product.url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    return sum(sample.value for sample in families["coldframe_engine_tokens"].samples)


def test_the_engine_s_page_and_metrics_follow_an_answer(page: Page, product: Product) -> None:
    before = tokens_told(product)
    engine = page.context.new_page()
    engine.goto("/engines/")
    expect(engine.locator("h1")).to_have_text("Engine")
    expect(engine.locator("#engines")).to_contain_text("answering")
    written = engine.get_by_text(re.compile("tokens so far"))
    said = written.inner_text()
    page.goto("/chat/?target=base")
    page.fill("#question", "Say good morning.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#batch")).to_contain_text("Batch: 1 row", timeout=60_000)
    expect(written).not_to_have_text(said, timeout=60_000)
    assert tokens_told(product) > before
    shoot(engine, "engine")
