"""Artifacts that cannot be served are refused by name, and a row that fails never hurts the others."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.artifact import artifact_id
from ml.backbone import load_backbone
from ml.data.chat import prompt_ids
from ml.engine.types import Request, Sampling
from ml.errors import ArtifactError, BusyError, ContextTooLongError, ModelError, SpecError
from ml.files import stamp, write_json
from ml.specs import why_not_served
from tests.ml.conftest import save_tiny_llama
from tests.ml.engine.conftest import CAUSAL, request_of, run, save_adapter


@pytest.fixture
def ids(zoo):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "Hello"}])


def copied(zoo, kind: str, folder: Path, *, config=None, change=None, **about: str) -> str:
    """A copy of an adapter with another configuration or other weights, and a manifest that vouches for it; `about`
    changes the manifest."""
    source, stage = zoo.folder / zoo.shas[kind], folder / "stage"
    stage.mkdir()
    manifest = json.loads((source / "manifest.json").read_text())
    given = json.loads((source / "adapter_config.json").read_text()) | (config or {})
    (stage / "adapter_config.json").write_text(json.dumps(given))
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(change(tensors) if change else tensors, stage / "adapter_model.safetensors")
    write_json(stage / "manifest.json", manifest | about | {"files": stamp(stage)})
    sha = artifact_id(stage)
    stage.rename(folder / sha)
    return sha


def refusal(make_engine, folder: Path, sha: str, ids) -> str:
    """What the row that asks for the artifact is told, while a plain row beside it is served."""
    engine = make_engine(artifact_folder=lambda name: folder / name)
    good = Request(id="good", team_id=1, prompt_ids=tuple(ids), sampling=Sampling(max_tokens=3))
    bad = Request(id="bad", team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=3))
    outcome = run(engine, [bad, good])
    assert outcome.done("good").completion_tokens == 3
    assert isinstance(outcome.failed("bad").error, ArtifactError)
    return str(outcome.failed("bad").error)


def test_an_adapter_for_another_base_model_is_refused_by_both_names(zoo, make_engine, tmp_path, ids):
    other = load_backbone(save_tiny_llama(tmp_path / "other-llama", seed=9))
    model = peft.get_peft_model(other.model, peft.PromptTuningConfig(task_type=CAUSAL, num_virtual_tokens=3))
    message = refusal(make_engine, tmp_path, save_adapter(tmp_path, model, other), ids)
    assert "other-llama" in message and "tiny-llama" in message


def test_a_flipped_byte_is_refused_by_the_file_s_name(zoo, make_engine, tmp_path, ids):
    sha = copied(zoo, "lora", tmp_path)
    weights = tmp_path / sha / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert "adapter_model.safetensors" in refusal(make_engine, tmp_path, sha, ids)


def test_a_manifest_that_was_changed_is_refused(zoo, make_engine, tmp_path, ids):
    sha = copied(zoo, "lora", tmp_path)
    (tmp_path / sha).rename(tmp_path / ("a" * 64))
    assert "has been changed" in refusal(make_engine, tmp_path, "a" * 64, ids)


def test_an_adapter_that_is_not_stored_is_refused(make_engine, tmp_path, ids):
    assert "not in the storage" in refusal(make_engine, tmp_path, "b" * 64, ids)


@pytest.mark.parametrize("name", ["../../etc", "", "A" * 64])
def test_a_name_that_is_no_hash_never_becomes_a_path(name, make_engine, tmp_path, ids):
    assert "not the sha256" in refusal(make_engine, tmp_path, name, ids)


def test_an_adapter_whose_training_diverged_is_refused(zoo, make_engine, tmp_path, ids):
    sha = copied(
        zoo, "prompt_tuning", tmp_path, change=lambda t: {k: torch.full_like(v, float("nan")) for k, v in t.items()}
    )
    assert "NaN" in refusal(make_engine, tmp_path, sha, ids)


@pytest.mark.parametrize(
    ("kind", "config", "word"),
    [
        ("lora", {"use_dora": True}, "use_dora"),
        ("lora", {"bias": "all"}, "bias=all"),
        ("lora", {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ("lora", {"peft_type": "IA3"}, "IA3"),
        ("prompt_tuning", {"peft_type": "PREFIX_TUNING"}, "shape"),
        ("prefix_tuning", {"peft_type": "PROMPT_TUNING"}, "shape"),
        ("prompt_tuning", {"peft_type": "LORA"}, "prompt_embeddings"),
    ],
)
def test_what_cannot_be_served_in_a_batch_is_named(kind, config, word, zoo, make_engine, tmp_path, ids):
    assert word in refusal(make_engine, tmp_path, copied(zoo, kind, tmp_path, config=config), ids)


def test_what_is_not_served_is_refused_with_the_reason_of_the_pages(zoo, make_engine, tmp_path, ids):
    message = refusal(make_engine, tmp_path, copied(zoo, "lora", tmp_path, family="encoder"), ids)
    assert "is not served in chat yet" in message and why_not_served("lora_delta", "encoder") in message


def test_a_head_without_the_files_of_one_is_refused(zoo, make_engine, tmp_path, ids):
    assert "cannot be read" in refusal(make_engine, tmp_path, copied(zoo, "lora", tmp_path, form="head"), ids)


@pytest.mark.parametrize("change", [lambda v: v[:, :5], lambda v: v.flatten()])
def test_scales_that_do_not_fit_their_layer_are_refused(change, zoo, make_engine, tmp_path, ids):
    sha = copied(zoo, "ia3", tmp_path, change=lambda t: {k: change(v).contiguous() for k, v in t.items()})
    assert "shape" in refusal(make_engine, tmp_path, sha, ids)


def test_weights_for_layers_that_do_not_exist_are_refused(zoo, make_engine, tmp_path, ids):
    sha = copied(zoo, "lora", tmp_path, change=lambda t: {k.replace("layers.1.", "layers.7."): v for k, v in t.items()})
    assert "layers.7" in refusal(make_engine, tmp_path, sha, ids)


def test_an_adapter_that_failed_once_is_tried_again(zoo, make_engine, tmp_path, ids):
    engine = make_engine(artifact_folder=lambda name: tmp_path / name)
    request = request_of(zoo, "lora", ids)
    assert run(engine, [request]).failed("lora")
    (tmp_path / zoo.shas["lora"]).symlink_to(zoo.folder / zoo.shas["lora"])
    assert run(engine, [request]).done("lora")


def test_a_row_with_values_that_are_not_finite_fails_alone_and_leaves_no_trace(zoo, make_engine, tmp_path, ids):
    """0 x NaN is NaN: what such a row leaves in its slot must not reach the slot's next row."""
    sha = copied(zoo, "lora", tmp_path, change=lambda t: {k: v * 1e25 for k, v in t.items()})
    engine = make_engine(artifact_folder=lambda n: (tmp_path if n == sha else zoo.folder) / n, n_slots=2)
    bad = Request(id="bad", team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=3))
    expected = zoo.greedy("plain", ids, 6, engine.stop_ids)
    outcome = run(engine, [bad, *(request_of(zoo, "plain", ids, name=str(n)) for n in range(4))])
    assert isinstance(outcome.failed("bad").error, ModelError) and "not finite" in str(outcome.failed("bad").error)
    assert all(outcome.ids(str(n)) == expected for n in range(4))


def test_rows_that_fail_together_leave_nothing_in_any_slot_that_they_were_in(zoo, make_engine, tmp_path, ids):
    """The second moved into the first's slot before it failed; where it had been, and where its padding went, values
    that are not finite stayed, and 0 x NaN spoiled a later row."""
    sha = copied(zoo, "lora", tmp_path, change=lambda t: {k: v * 1e25 for k, v in t.items()})
    engine = make_engine(artifact_folder=lambda _: tmp_path / sha, n_slots=2, length=63, prefill_tokens=46)
    short, long = tuple(ids), (*ids, *ids, *ids)[: len(ids) + 4]
    bad = [
        Request(id=f"bad {n}", team_id=1, prompt_ids=given, artifact=sha, sampling=Sampling(max_tokens=3))
        for n, given in enumerate((short, long))
    ]
    outcome = run(engine, bad)
    assert all("not finite" in str(outcome.failed(request.id).error) for request in bad)
    rows = [request_of(zoo, "plain", ids, name=str(n), max_tokens=63 - len(ids)) for n in range(2)]
    engine.stop_ids.clear()
    outcome = run(engine, rows)
    expected = zoo.greedy("plain", ids, 63 - len(ids), set())
    assert all(outcome.ids(str(n)) == expected for n in range(2))


def test_when_a_batch_raises_only_the_row_at_fault_fails(zoo, make_engine, ids, monkeypatch):
    engine = make_engine()
    forward = engine.runner.forward

    def fails_for_long_rows(first, given, positions, **options):
        if any(position >= len(ids) + 2 and len(row) == 1 for row, position in zip(given, positions, strict=True)):
            live = engine.scheduler.live[first : first + len(given)]
            if any(row.request.id == "bad" for row in live):
                raise RuntimeError("the device says no")
        return forward(first, given, positions, **options)

    monkeypatch.setattr(engine.runner, "forward", fails_for_long_rows)
    names = ["a", "bad", "b", "c"]
    outcome = run(engine, [request_of(zoo, "plain", ids, name=name) for name in names])
    assert "the device says no" in str(outcome.failed("bad").error) and len(outcome.ids("bad")) == 3
    expected = zoo.greedy("plain", ids, 6, engine.stop_ids)
    assert all(outcome.ids(name) == expected for name in "abc")


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(make_engine, ids):
    engine = make_engine(length=64)
    with pytest.raises(ContextTooLongError, match=r"100 tokens .* 105 in all, and 64 fit"):
        engine.submit(Request(id="long", team_id=1, prompt_ids=(5,) * 100, sampling=Sampling(max_tokens=5)))
    assert engine.is_idle


def test_a_prefix_that_makes_it_too_long_is_refused_once_it_is_known(zoo, make_engine, ids):
    engine = make_engine(length=64)
    request = request_of(zoo, "prompt_tuning", (5,) * 50, max_tokens=12)
    assert "its adapter 7" in str(run(engine, [request]).failed("prompt_tuning").error)


def test_a_prompt_exactly_at_the_limit_is_served_and_one_token_more_refused(zoo, make_engine, ids):
    """Plain, and with a prefix, which is known only once the adapter is loaded; the rows beside them are untouched."""
    engine = make_engine(length=64)
    engine.stop_ids.clear()
    other, at = request_of(zoo, "lora", ids, name="other", max_tokens=20), (5,) * (64 - 6)
    with pytest.raises(ContextTooLongError, match="65 in all, and 64 fit"):
        engine.submit(request_of(zoo, "plain", (*at, 5)))
    requests = [request_of(zoo, "plain", at), request_of(zoo, "prompt_tuning", at[7:], name="exact")]
    outcome = run(engine, [other, *requests, request_of(zoo, "prompt_tuning", at[6:], name="over")])
    error = outcome.failed("over").error
    assert isinstance(error, ContextTooLongError) and "65 in all, and 64 fit" in str(error) and error.hint
    assert outcome.ids("plain") == zoo.greedy("plain", at, 6, set())
    assert outcome.ids("exact") == zoo.greedy("prompt_tuning", at[7:], 6, set())
    assert outcome.ids("other") == zoo.greedy("lora", ids, 20, set())


def test_an_empty_prompt_and_a_full_queue_are_refused(zoo, make_engine, ids):
    engine = make_engine(queue_limit=2)
    with pytest.raises(SpecError):
        engine.submit(Request(id="empty", team_id=1, prompt_ids=()))
    for name in "ab":
        engine.submit(request_of(zoo, "plain", ids, name=name))
    with pytest.raises(BusyError):
        engine.submit(request_of(zoo, "plain", ids, name="c"))


def test_a_model_whose_logits_would_differ_is_refused_at_the_start(make_engine, monkeypatch):
    from ml.engine.cache import SlotCache

    places = SlotCache.places

    def shifted(self, first, positions, n_new):
        found = places(self, first, positions, n_new)
        return found._replace(at=found.at + torch.arange(found.at.shape[1]))

    monkeypatch.setattr(SlotCache, "places", shifted)
    with pytest.raises(ModelError, match="logits differ"):
        make_engine()
