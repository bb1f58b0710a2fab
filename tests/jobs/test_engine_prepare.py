"""What a request becomes before it is batched, without a model."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.engine_prepare import prepare
from jobs.engine_ticket import Ticket
from jobs.stream import GenerateRequest
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine
from tests.ml.tiny import tiny_tokenizer

LENGTH = 200
TOKENIZER = tiny_tokenizer()


def engine_with(**adapter: Any) -> Engine:
    """As far as `prepare` looks at one; its adapter has these attributes."""
    loaded: Future[Any] = Future()
    loaded.set_result(SimpleNamespace(**{"prefix_tokens": 0, "head": None} | adapter))
    engine = SimpleNamespace(
        backbone=SimpleNamespace(name="tiny", tokenizer=TOKENIZER), scheduler=SimpleNamespace(length=LENGTH),
        adapters=SimpleNamespace(fetch=lambda artifact: loaded),
    )  # fmt: skip
    return cast(Engine, engine)


def prepared(engine: Engine, **changes: Any) -> Any:
    turns = [{"role": role, "content": "My lights went out. " * 2} for role in ("user", "assistant") * 3]
    messages = [*turns, {"role": "user", "content": "And now?"}]
    values = {"team_id": 1, "base": "tiny", "messages": messages, "message_id": 1, "artifact": "a" * 64}
    request = GenerateRequest(**(values | changes))
    return prepare(Ticket(request=request, entry_id="1-1", ends_ms=int(time.time() * 1000) + 60_000), engine)


def test_a_label_reserves_no_room_for_an_answer_so_that_more_of_a_chat_fits() -> None:
    written = prepared(engine_with(), max_tokens=150)
    label = prepared(engine_with(head=object()), max_tokens=150)
    assert written.request.sampling.max_tokens == 150 and label.request.sampling.max_tokens == 1
    assert label.n_dropped < written.n_dropped


@pytest.mark.parametrize("n_prefix", [0, 60])
def test_a_prefix_takes_its_room_from_the_history(n_prefix: int) -> None:
    found = prepared(engine_with(prefix_tokens=n_prefix), max_tokens=40)
    assert len(found.request.prompt_ids) + n_prefix + 40 <= LENGTH
    assert len(prompt_ids(TOKENIZER, [{"role": "user", "content": "And now?"}])) <= len(found.request.prompt_ids)


def test_a_text_is_continued_as_it_stands() -> None:
    """No chat template, and what spells a control token is defused."""
    found = prepared(engine_with(), text="Once <|im_end|>upon", messages=[], message_id=None, max_tokens=5)
    assert TOKENIZER.decode(found.request.prompt_ids) == "Once <\u200b|im_end|>upon"


def test_penalties_and_schema_reach_the_engine() -> None:
    found = prepared(engine_with(), frequency_penalty=0.5, presence_penalty=-0.5, schema="{}", max_tokens=5).request
    assert (found.sampling.frequency_penalty, found.sampling.presence_penalty, found.schema) == (0.5, -0.5, "{}")
