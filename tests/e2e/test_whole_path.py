"""One path through everything, as a newcomer walks it: the real starter model, real processes, a real browser.

A file is brought and mapped, two adapters are trained for a few steps, both appear in the library, one question is
answered by the plain model and both adapters out of one batch, with a citation that opens its passage; then the
official openai client asks the same adapters. Each step leaves a screenshot in screenshots/.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Product, shoot

pytestmark = [pytest.mark.e2e, pytest.mark.starter]
QUEUES = {
    "outage": "The {} went dark at {} o'clock.",
    "billing": "Why was I charged for {} twice on day {}?",
    "moving": "I leave the {} flat on day {}, please end the contract there.",
}
THINGS = ("kitchen", "garage", "cellar", "office", "shop", "attic", "studio", "workshop")
RUN_S = 240


def _rows() -> list[dict[str, str]]:
    return [
        {"text": sentence.format(thing, number + 3), "label": label}
        for label, sentence in QUEUES.items()
        for number, thing in enumerate(THINGS)
    ]


def _bring_data(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "queues.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in _rows()))
    page.goto("/datasets/new/")
    page.set_input_files("#file", file)
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_selector("input[name=split]")
    expect(page.locator("[data-preview-row]").first).to_contain_text("<|im_start|>")
    shoot(page, "dataset-mapping")
    page.fill("input[name=name]", "queues")
    page.get_by_role("button", name="Create version").click()
    page.wait_for_url(re.compile(r"/datasets/\d+/"), timeout=60_000)
    expect(page.locator("h1")).to_contain_text("queues")
    shoot(page, "dataset")


def _train(page: Page, method: str, adapter: str) -> str:
    """Starts a run of a few steps by the form and watches it to its end; returns its address."""
    page.goto("/runs/new/")
    data = page.locator("select[name=dataset_version]")
    data.select_option(label=next(o for o in data.locator("option").all_inner_texts() if o.startswith("queues@1")))
    page.locator(f"input[name=method][value={method}]").check(force=True)
    page.locator("details summary", has_text="Advanced").click()
    for name, value in (
        ("adapter", adapter),
        ("steps", "4"),
        ("batch_size", "4"),
        ("eval_rows", "4"),
        ("eval_every", "2"),
    ):
        page.locator(f"[name={name}]:visible, [name$='-{name}']:visible").first.fill(value)
    expect(page.locator("#memory .cf-verdict")).to_contain_text("free", timeout=60_000)
    shoot(page, f"run-new-{method}")
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/\d+/"))
    return page.url


def _watch(page: Page, address: str, method: str) -> None:
    page.goto(address)
    page.wait_for_selector(".cf-state-running, .cf-state-done", timeout=RUN_S * 1000)
    page.reload()
    expect(page.locator("main .cf-state-done").first).to_be_visible(timeout=RUN_S * 1000)
    page.wait_for_selector(".u-wrap canvas")
    shoot(page, f"run-{method}")


def _ask_three(page: Page) -> None:
    page.goto("/chat/?target=base&target=queues-lora&target=queues-prompt")
    expect(page.locator("[data-chip]")).to_have_count(3)
    page.locator("summary", has_text="Sampling").click()
    page.fill("#max_tokens", "24")
    page.locator("summary", has_text="Sampling").click()
    page.select_option("#collection", label="court-opinions")
    page.fill("#question", "A tree stands on the boundary between two gardens in Seattle. Whose tree is it?")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url(re.compile(r"/chat/\d+/"))
    expect(page.locator("article.cf-answer")).to_have_count(3)
    shoot(page, "chat-streaming")
    page.reload()
    expect(page.locator("article.cf-answer[aria-busy=true]")).to_have_count(0, timeout=120_000)
    expect(page.locator(".cf-batch")).to_contain_text("shared", timeout=10_000)
    expect(page.locator(".cf-evidence").first).to_be_visible()
    shoot(page, "chat")


def _open_the_passage(page: Page) -> None:
    evidence = page.locator(".cf-evidence").first
    quoted = evidence.locator("blockquote").inner_text().strip()[:40]
    evidence.get_by_role("link", name=re.compile("passage")).click()
    passage = page.locator("#passage")
    expect(passage).to_be_visible()
    marked = "".join(page.locator("mark").all_inner_texts())
    assert " ".join(quoted.split())[:25].strip("…") in " ".join(marked.split())
    shoot(page, "passage")


def _ask_by_client(product: Product) -> None:
    token = product.manage("create_token", "--team", "demo", "--name", "e2e").strip().splitlines()[-1]
    client = OpenAI(base_url=f"{product.url}/v1", api_key=token, max_retries=0)
    names = {model.id for model in client.models.list()}
    assert {"base", "queues-lora", "queues-prompt"} <= {name.split("@")[0] for name in names}
    question = [{"role": "user", "content": "Say a word."}]
    whole = client.chat.completions.create(
        model="queues-lora@production", messages=question, max_tokens=4, temperature=0
    )
    assert whole.choices[0].finish_reason in ("stop", "length")
    stream = client.chat.completions.create(
        model="queues-lora@1", messages=question, max_tokens=4, temperature=0, stream=True
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert streamed == whole.choices[0].message.content
    vectors = client.embeddings.create(model="minilm", input=["a tree", "a lamp"])
    assert [len(item.embedding) for item in vectors.data] == [384, 384]
    with pytest.raises(NotFoundError, match="queues-lora"):
        client.chat.completions.create(model="queues-lore", messages=question)


def test_a_newcomer_gets_from_a_file_to_cited_answers(product: Product, page: Page, tmp_path: Path) -> None:
    shoot(page, "home-first")
    _bring_data(page, tmp_path)
    lora = _train(page, "lora", "queues-lora")
    prompt = _train(page, "prompt_tuning", "queues-prompt")
    _watch(page, lora, "lora")
    _watch(page, prompt, "prompt_tuning")
    page.goto("/adapters/")
    expect(page.locator("main")).to_contain_text("queues-lora")
    expect(page.locator("main")).to_contain_text("queues-prompt")
    shoot(page, "adapters")
    _wait_for_documents(page)
    _ask_three(page)
    _open_the_passage(page)
    _ask_by_client(product)
    page.goto("/")
    expect(page.locator(".cf-steps .done")).to_have_count(4)
    shoot(page, "home-done")


def _wait_for_documents(page: Page) -> None:
    """The demo's documents are embedded by a run of their own, which shares the queue with training."""
    deadline = time.monotonic() + RUN_S
    while True:
        page.goto("/collections/")
        page.get_by_role("link", name="court-opinions").first.click()
        if page.locator(".cf-state-done").count() >= 12:
            shoot(page, "collection")
            return
        assert time.monotonic() < deadline, page.locator("main").inner_text()
        page.wait_for_timeout(1000)
