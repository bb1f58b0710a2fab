"""The contract with a vLLM server: what is sent, what is understood, what is refused, what stays local."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ml.engine.types import Done, Failed, Token
from ml.errors import ArtifactError, ModelError, SpecError, StaysLocalError, UnavailableError
from ml.vllm.engine import VllmEngine
from tests.ml.engine.conftest import Zoo, request_of
from tests.ml.engine.remote import next_logits_of, run_to_end, server_of, steps_until, vllm_engine
from tests.ml.engine.vllm_stub import Refusal, Stub, running_stub

PROMPT = (5, 40, 7, 99, 23)


@pytest.fixture
def stub(zoo: Zoo, tiny_llama_dir: Path) -> Iterator[Stub]:
    matrix = zoo.backbone.model.get_input_embeddings().weight.detach()
    with running_stub(tiny_llama_dir, matrix, next_logits_of(zoo)) as running:
        yield running


@pytest.fixture
def engine(stub: Stub, zoo: Zoo, tiny_llama_dir: Path) -> VllmEngine:
    return vllm_engine(stub, zoo, tiny_llama_dir)


def sha_of(zoo: Zoo, kind: str) -> str:
    sha = zoo.shas[kind]
    assert sha is not None
    return sha


def test_every_setting_is_sent_so_that_no_default_of_the_server_applies(stub: Stub, engine: VllmEngine, zoo: Zoo):
    run_to_end(engine, [request_of(zoo, "plain", PROMPT, team=3, temperature=0.5, top_p=0.9, top_k=7, seed=11,
                                   repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.3)])  # fmt: skip
    body = stub.bodies[0]
    assert body == {
        "model": "tiny-llama", "prompt": list(PROMPT), "stream": True, "n": 1, "max_tokens": 6, "temperature": 0.5,
        "top_p": 0.9, "top_k": 7, "min_p": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.2,
        "presence_penalty": 0.3, "seed": 11, "stop_token_ids": sorted(engine.backbone.stop_ids),
        "return_token_ids": True, "cache_salt": "team-3",
    }  # fmt: skip


def test_the_rest_of_an_answer_asks_for_less_with_other_random_numbers(stub: Stub, engine: VllmEngine, zoo: Zoo):
    request = request_of(zoo, "plain", PROMPT, seed=11, max_tokens=5)
    run_to_end(engine, [replace(request, emitted=(50, 51))])
    body = stub.bodies[0]
    assert body["prompt"] == [*PROMPT, 50, 51] and body["max_tokens"] == 3
    assert body["seed"] != 11 and 0 <= body["seed"] < 2**63


def test_trained_vectors_go_before_the_tokens_embeddings(stub: Stub, engine: VllmEngine, zoo: Zoo):
    """Decoded as vLLM does it, with torch.load(weights_only=True)."""
    run_to_end(engine, [request_of(zoo, "prompt_tuning", PROMPT)])
    sha = sha_of(zoo, "prompt_tuning")
    vectors = load_file(zoo.folder / sha / "adapter_model.safetensors")["prompt_embeddings"].to(torch.bfloat16)
    tokens = stub.matrix[torch.tensor(PROMPT)].to(torch.bfloat16)
    assert torch.equal(stub.embeds[0], torch.cat([vectors, tokens]))
    assert stub.embeds[0].shape == (7 + len(PROMPT), 32) and stub.embeds[0].dtype == torch.bfloat16
    assert "prompt" not in stub.bodies[0] and stub.bodies[0]["model"] == "tiny-llama"


def test_a_lora_is_loaded_once_by_its_sha256_and_then_named(stub: Stub, engine: VllmEngine, zoo: Zoo):
    for name in ("a", "b"):
        run_to_end(engine, [request_of(zoo, "lora", PROMPT, name=name)])
    sha = sha_of(zoo, "lora")
    assert stub.loras == {sha: str(zoo.folder / sha)} and stub.n_loads == 1
    assert [body["model"] for body in stub.bodies] == [sha, sha]


def test_a_lora_is_loaded_from_where_the_server_sees_it(
    stub: Stub, zoo: Zoo, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "theirs"
    seen.symlink_to(zoo.folder)
    engine = vllm_engine(stub, zoo, tiny_llama_dir, loras=f"{seen}/")
    assert run_to_end(engine, [request_of(zoo, "lora", PROMPT)]).done("lora")
    assert stub.loras == {sha_of(zoo, "lora"): f"{seen}/{sha_of(zoo, 'lora')}"}


def test_a_lora_that_the_server_knows_already_is_no_error(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.loras[sha_of(zoo, "lora")] = str(zoo.folder / sha_of(zoo, "lora"))
    assert run_to_end(engine, [request_of(zoo, "lora", PROMPT)]).done("lora") and stub.n_loads == 0


def test_a_lora_that_the_server_has_forgotten_is_loaded_again(stub: Stub, engine: VllmEngine, zoo: Zoo):
    first = run_to_end(engine, [request_of(zoo, "lora", PROMPT, name="a")]).ids("a")
    stub.loras.clear()
    assert run_to_end(engine, [request_of(zoo, "lora", PROMPT, name="b")]).ids("b") == first and stub.n_loads == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_rank": 2}, "LoRA rank 4 is greater than max_lora_rank 2"),
        ({"takes_loras": False}, "Not Found"),
    ],
)
def test_a_lora_that_the_server_refuses_fails_with_its_words_and_what_to_do(
    changes: dict[str, Any], words: str, stub: Stub, engine: VllmEngine, zoo: Zoo
):
    vars(stub).update(changes)
    error = run_to_end(engine, [request_of(zoo, "lora", PROMPT)]).failed("lora").error
    assert isinstance(error, ArtifactError) and words in error.message
    assert "--max-lora-rank" in error.hint and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in error.hint


@pytest.mark.parametrize("kind", ["prefix_tuning", "ia3", "dora", "last_k", "full", "head_mean", "lora_odd"])
def test_what_vllm_has_no_form_for_stays_local(kind: str, stub: Stub, engine: VllmEngine, zoo: Zoo):
    """Of a LoRA with ranks or scales of its own for some layers vLLM would read past these, and answer wrongly."""
    with pytest.raises(StaysLocalError, match="cannot be answered by the vLLM server"):
        engine.adapters.fetch(sha_of(zoo, kind)).result(10)
    assert stub.loras == {}


def test_the_weights_of_what_stays_local_are_not_read(engine: VllmEngine, zoo: Zoo, monkeypatch: pytest.MonkeyPatch):
    """They may be as large as the model, and every request for it would have hashed them."""
    monkeypatch.setattr("ml.artifact.verify", lambda folder: pytest.fail(f"{folder} was read"))
    monkeypatch.setattr("ml.engine.adapters.verify", lambda folder: pytest.fail(f"{folder} was read"))
    with pytest.raises(StaysLocalError):
        engine.adapters.fetch(sha_of(zoo, "full")).result(10)


def test_scoring_given_texts_stays_local(engine: VllmEngine, zoo: Zoo):
    with pytest.raises(StaysLocalError, match="scores given texts"):
        engine.submit(replace(request_of(zoo, "plain", PROMPT), choices=((40, 2),)))


def test_a_repetition_penalty_over_trained_vectors_stays_local(engine: VllmEngine, zoo: Zoo):
    """vLLM penalizes the prompt's tokens too, and knows none when it gets embeddings."""
    engine.adapters.fetch(sha_of(zoo, "prompt_tuning")).result(10)
    with pytest.raises(StaysLocalError, match="repetition penalty"):
        engine.submit(request_of(zoo, "prompt_tuning", PROMPT, repetition_penalty=1.2))
    assert run_to_end(engine, [request_of(zoo, "lora", PROMPT, repetition_penalty=1.2)]).done("lora")


def test_the_rest_of_an_answer_by_a_schema_stays_local(engine: VllmEngine, zoo: Zoo):
    with pytest.raises(StaysLocalError, match="by a schema"):
        engine.submit(replace(request_of(zoo, "plain", PROMPT), schema='{"type": "object"}', emitted=(40,)))


def test_a_schema_goes_to_the_server(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.script = engine.backbone.tokenizer("{}")["input_ids"] + sorted(engine.backbone.stop_ids)[:1]
    outcome = run_to_end(engine, [replace(request_of(zoo, "plain", PROMPT), schema='{"type": "object"}')])
    assert stub.bodies[0]["structured_outputs"] == {"json": {"type": "object"}}
    assert (outcome.done("plain").text, outcome.done("plain").finish_reason) == ("{}", "stop")


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.script = [50, 51, *sorted(engine.backbone.stop_ids)]
    outcome = run_to_end(engine, [request_of(zoo, "plain", PROMPT)])
    assert outcome.ids("plain") == [50, 51] and outcome.done("plain").finish_reason == "stop"


def test_a_character_of_several_tokens_is_never_sent_in_halves(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.script = engine.backbone.tokenizer("é€")["input_ids"]
    outcome = run_to_end(engine, [request_of(zoo, "plain", PROMPT, max_tokens=len(stub.script))])
    assert len(stub.script) > 2 and outcome.done("plain").text == "é€"
    assert all("\ufffd" not in token.text for token in outcome.tokens("plain"))


@pytest.mark.parametrize("how", ["cancel", "stop string"])
def test_the_connection_is_closed_when_the_answer_ends_early(how: str, stub: Stub, engine: VllmEngine, zoo: Zoo):
    """vLLM stops writing when its client is gone; the stub holds the stream open and waits for that."""
    stub.breaks, stub.script = "hold", [50, 51, 52, 53]
    stop = (engine.backbone.tokenizer.decode([50, 51]),) if how == "stop string" else ()
    engine.submit(request_of(zoo, "plain", PROMPT, max_tokens=4, stop=stop))
    events = steps_until(engine, lambda events: sum(isinstance(event, Token) for event in events) > 1)
    if how == "cancel":
        engine.cancel("plain")
        events += steps_until(engine, lambda events: engine.is_idle)
    assert stub.dropped.wait(10)
    done = [event for event in events if isinstance(event, Done)]
    assert [event.finish_reason for event in done] == ["cancelled" if how == "cancel" else "stop"]


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (Refusal(400, "temperature must be non-negative, got -1."), SpecError, "temperature must be"),
        (Refusal(422, "body -> seed: too large", "detail"), SpecError, "seed: too large"),
        (Refusal(401, "Unauthorized"), UnavailableError, "refused the engine's key"),
        (Refusal(404, "The model `x` does not exist."), UnavailableError, "does not exist"),
        (Refusal(500, "EngineCore encountered an issue."), UnavailableError, "EngineCore"),
        (Refusal(503, "overloaded"), UnavailableError, "overloaded"),
    ],
)
def test_a_refusal_of_the_server_is_one_of_ours(
    refusal: Refusal, kind: type[Exception], words: str, stub: Stub, engine: VllmEngine, zoo: Zoo
):
    stub.refusal = refusal
    error = run_to_end(engine, [request_of(zoo, "plain", PROMPT)]).failed("plain").error
    assert isinstance(error, kind) and words in error.message
    assert error.permanent == (kind is SpecError)


def test_a_server_without_prompt_embeddings_says_which_flag_is_missing(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.takes_embeds = False
    error = run_to_end(engine, [request_of(zoo, "p_tuning", PROMPT)]).failed("p_tuning").error
    assert "--enable-prompt-embeds" in error.message


@pytest.mark.parametrize("breaks", ["error", "cut"])
def test_an_answer_that_breaks_off_fails_and_the_others_go_on(breaks: str, stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.breaks = breaks
    outcome = run_to_end(engine, [request_of(zoo, "plain", PROMPT, name="long"),
                                  request_of(zoo, "plain", PROMPT, name="short", max_tokens=2)])  # fmt: skip
    error = outcome.failed("long").error
    assert isinstance(error, UnavailableError) and len(outcome.tokens("long")) == 2
    assert outcome.done("short").completion_tokens == 2


def test_a_server_that_tells_no_token_ids_is_not_guessed_at(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.tells_ids = False
    assert "token_ids" in run_to_end(engine, [request_of(zoo, "plain", PROMPT)]).failed("plain").error.message


def test_a_server_that_is_away_is_unavailable_and_nothing_is_left(zoo: Zoo, tiny_llama_dir: Path):
    matrix = zoo.backbone.model.get_input_embeddings().weight.detach()
    with running_stub(tiny_llama_dir, matrix, next_logits_of(zoo)) as stub:
        engine = vllm_engine(stub, zoo, tiny_llama_dir)
    outcome = run_to_end(engine, [request_of(zoo, "plain", PROMPT)])
    failed = outcome.failed("plain")
    assert isinstance(failed, Failed) and isinstance(failed.error, UnavailableError)
    assert "does not answer" in failed.error.message and engine.snapshot().rows == []


def test_the_key_is_sent_and_told_nobody(stub: Stub, zoo: Zoo, tiny_llama_dir: Path):
    stub.key = "s3cret"
    engine = vllm_engine(stub, zoo, tiny_llama_dir)
    assert run_to_end(engine, [request_of(zoo, "plain", PROMPT)]).done("plain")
    assert {headers["Authorization"] for headers in stub.headers} == {"Bearer s3cret"}
    stub.key = "changed"
    error = run_to_end(engine, [request_of(zoo, "plain", PROMPT)]).failed("plain").error
    assert "s3cret" not in json.dumps(error.as_dict()) and "ENGINE_VLLM_KEY" in error.hint


@pytest.mark.parametrize("version", ["0.30.0", "0.31.2rc1.dev5+g1a2b3c", "1.0", "v0.30.1"])
def test_a_server_of_a_later_version_is_taken(version: str, stub: Stub):
    stub.version = version
    server = server_of(stub)
    server.check()
    assert (server.model, server.length) == ("tiny-llama", 128)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.29.4"}, "is version 0.29.4"),
        ({"version": "dev"}, "its version is 'dev'"),
        ({"name": "other-7b", "root": "/models/other-7b"}, "serves other-7b; this engine is for tiny-llama"),
        ({"max_model_len": None}, "a row may have None tokens"),
    ],
)
def test_a_server_that_is_not_the_one_is_refused_by_name(changes: dict[str, Any], words: str, stub: Stub):
    vars(stub).update(changes)
    with pytest.raises(ModelError) as found:
        server_of(stub).check()
    assert words in found.value.message and found.value.hint


def test_the_folder_s_name_says_which_model_it_is_as_well(stub: Stub):
    stub.name, stub.root = "company/base", "/srv/models/tiny-llama/"
    server = server_of(stub)
    server.check()
    assert server.model == "company/base"


def test_a_server_that_came_back_with_another_model_is_refused(stub: Stub, engine: VllmEngine, zoo: Zoo):
    stub.refusal = Refusal(503, "shutting down")
    run_to_end(engine, [request_of(zoo, "plain", PROMPT)])
    stub.refusal, stub.name, stub.root = None, "other-7b", "/models/other-7b"
    error = run_to_end(engine, [request_of(zoo, "plain", PROMPT)]).failed("plain").error
    assert isinstance(error, ModelError) and "serves other-7b" in error.message


def test_a_row_is_at_most_as_long_as_the_server_allows(stub: Stub, zoo: Zoo, tiny_llama_dir: Path):
    stub.max_model_len = 64
    assert vllm_engine(stub, zoo, tiny_llama_dir, length=2048).scheduler.length == 64
