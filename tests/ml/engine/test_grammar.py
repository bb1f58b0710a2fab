"""Answers that satisfy a schema: always, in any company, and refusals for schemas that cannot be kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.data.chat import prompt_ids, stop_ids
from ml.engine.grammar import MAX_SCHEMA_BYTES, Grammars
from ml.engine.types import Request, Sampling
from ml.errors import SpecError
from tests.ml.engine.conftest import request_of, run
from tests.ml.tiny import tiny_tokenizer

SHAPE = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "deep blue"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["colour", "n", "tags"],
    "additionalProperties": False,
}
TEXT = json.dumps(SHAPE)
GRAMMARS = Grammars(tiny_tokenizer(), stop_ids(tiny_tokenizer()))


@pytest.fixture
def ids(zoo):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])


def shaped(zoo, kind, ids, *, schema=TEXT, **values) -> Request:
    return replace(request_of(zoo, kind, ids, **{"max_tokens": 60, **values}), schema=schema)


@pytest.mark.parametrize("kind", ["plain", "prompt_tuning", "lora", "last_k"])
def test_an_answer_of_any_form_satisfies_its_schema_and_then_ends(zoo, make_engine, ids, kind):
    requests = [shaped(zoo, kind, ids, name=str(seed), temperature=1.3, seed=seed) for seed in range(6)]
    outcome = run(make_engine(length=160), requests)
    for request in requests:
        done = outcome.done(request.id)
        answer = json.loads(done.text)
        assert done.finish_reason == "stop"
        assert set(answer) == {"colour", "n", "tags"} and answer["colour"] in ("red", "deep blue")
        assert 0 <= answer["n"] <= 99 and all(len(tag) <= 5 for tag in answer["tags"])


def test_a_schema_changes_nothing_for_the_rows_beside_it(zoo, make_engine, ids):
    free = [
        request_of(zoo, kind, ids, name=f"{kind}{t}", temperature=t, seed=3, max_tokens=25)
        for kind in ("plain", "lora") for t in (0.0, 1.0)
    ]  # fmt: skip
    alone = {request.id: run(make_engine(), [request]).ids(request.id) for request in free}
    mixed = run(make_engine(n_slots=8), [*free, shaped(zoo, "plain", ids, name="shaped", temperature=1.0)])
    assert {request.id: mixed.ids(request.id) for request in free} == alone
    assert json.loads(mixed.done("shaped").text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_engine_goes_on_inside_the_schema(temperature, zoo, make_engine, ids):
    request = shaped(zoo, "plain", ids, name="r", temperature=temperature, seed=3)
    whole = run(make_engine(), [request])
    answer = whole.ids("r")
    for n in range(0, len(answer) + 1, 3):
        rest = run(make_engine(), [replace(request, emitted=tuple(answer[:n]))])
        assert rest.ids("r") == answer[n:] and rest.done("r").text == whole.done("r").text


def test_log_probabilities_are_the_models_own_not_those_within_the_schema(zoo, make_engine, ids):
    outcome = run(make_engine(), [shaped(zoo, "plain", ids, name="r", n_logprobs=1)])
    first = outcome.tokens("r")[0]
    assert first.logprobs is not None and first.logprobs["logprob"] < 0
    assert first.logprobs["top_logprobs"][0]["logprob"] >= first.logprobs["logprob"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), penalty=st.sampled_from([0.0, 1.5]))
def test_penalties_never_lead_out_of_the_schema(seed, penalty, zoo, make_engine, ids):
    values = {"temperature": 1.5, "frequency_penalty": penalty, "repetition_penalty": 1.3, "seed": seed}
    done = run(make_engine(), [shaped(zoo, "plain", ids, name="r", **values)]).done("r")
    assert done.finish_reason == "length" or json.loads(done.text)["colour"]


REFUSED = [
    ("[1]", "is an object"),
    ("nonsense", "no JSON"),
    ('{"type": "strin"}', "strin"),
    ('{"not": {}}', "not"),
    ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
    ('{"type": "string", "pattern": "(?=a)b"}', "look-around"),
    ('{"$ref": "http://127.0.0.1:1/schema.json"}', "http://127.0.0.1:1"),
    ('{"$ref": "#"}', "no text satisfies"),
    ('{"type": "object", "x-guidance": {"lenient": true}}', "x-guidance"),
    (json.dumps({"enum": ["x" * MAX_SCHEMA_BYTES]}), "65,536 bytes"),
    ('{"items":' * 100 + "{}" + "}" * 100, "96 levels"),
    ("[" * 60_000, "no JSON"),
    (
        json.dumps({"allOf": [
            {"anyOf": [{"properties": {f"a{i}": {"const": j}}} for j in range(3)]} for i in range(12)
        ]}),
        "too large",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(schema, reason):
    with pytest.raises(SpecError, match=reason) as caught:
        GRAMMARS.guide(schema)
    assert caught.value.field == "response_format"


def test_the_engine_refuses_such_a_request_before_it_is_queued(zoo, make_engine, ids):
    engine = make_engine()
    with pytest.raises(SpecError, match="uniqueItems"):
        engine.submit(shaped(zoo, "plain", ids, schema='{"type": "array", "uniqueItems": true}'))
    assert engine.is_idle


def test_a_stop_string_ends_an_answer_inside_its_schema(zoo, make_engine, ids):
    done = run(make_engine(), [shaped(zoo, "plain", ids, name="r", stop=('"n"',))]).done("r")
    assert done.finish_reason == "stop" and done.text.startswith('{"colour": ') and '"n"' not in done.text


def test_a_dead_end_ends_its_row_with_a_reason_and_no_other(zoo, make_engine, ids):
    """The parser gives up in the middle, as it does beyond its limits."""
    engine = make_engine()
    engine.submit(shaped(zoo, "plain", ids, name="broken"))
    engine.submit(request_of(zoo, "plain", ids, name="free"))
    events = engine.step()
    row = engine._rows["broken"]
    row.guide._matcher.consume_token(2**15)
    events += run(engine).events
    failed = next(event for event in events if event.id == "broken" and hasattr(event, "error"))
    assert failed.error.field == "response_format"
    assert any(event.id == "free" and hasattr(event, "finish_reason") for event in events)


def test_sampling_has_neutral_penalties():
    assert Sampling().frequency_penalty == Sampling().presence_penalty == 0
