"""Every form on decoders of other architectures; what cannot be served in a batch is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.backbone import Backbone, load_backbone
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine
from ml.engine.runner import Runner
from ml.engine.types import Request, Sampling
from ml.errors import ModelError
from ml.heads import save_head
from ml.methods import build
from ml.specs import METHODS
from ml.weights import save_delta
from tests.ml.engine.architectures import REFUSED, SERVED, save_kind
from tests.ml.engine.conftest import InlineExecutor, base_of, head_of, run, save_adapter, save_as

SMALL = {
    "lora": {"rank": 3}, "ia3": {}, "prompt_tuning": {"n_virtual_tokens": 5}, "p_tuning": {"n_virtual_tokens": 4},
    "prefix_tuning": {"n_virtual_tokens": 6}, "last_k": {"k": 1},
}  # fmt: skip
LENGTH = 128


@pytest.fixture(scope="module", params=SERVED)
def folder(request, tmp_path_factory) -> Path:
    return save_kind(tmp_path_factory.mktemp("shapes") / request.param, request.param, SERVED[request.param])


def trained(folder: Path, method: str) -> torch.nn.Module:
    """What a method builds, with its trained tensors moved."""
    defaults = {field.name: field.default for field in METHODS[method].fields}
    model = build(load_backbone(folder), method, {**defaults, **SMALL[method]}, seed=0)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def saved(folder: Path, model: torch.nn.Module, method: str, backbone: Backbone) -> str:
    if method != "last_k":
        return save_adapter(folder, model, backbone)
    return save_as(folder, method, "own_backbone", base_of(backbone), lambda f: save_delta(model, f, backbone.name))


def engine_of(backbone: Backbone, artifacts: Path, **changes) -> Engine:
    settings = {"n_slots": 8, "length": LENGTH, "prefill_tokens": 9, "executor": InlineExecutor(), **changes}
    engine = Engine(backbone, artifact_folder=lambda sha: artifacts / sha, **settings)
    engine.stop_ids.clear()
    return engine


def ids_of(backbone: Backbone, text: str) -> tuple[int, ...]:
    return tuple(prompt_ids(backbone.tokenizer, [{"role": "user", "content": text}]))


def request_of(name: str, ids: tuple[int, ...], sha: str | None = None, n: int = 5) -> Request:
    return Request(id=name, team_id=1, prompt_ids=ids, artifact=sha, sampling=Sampling(max_tokens=n))


def test_every_form_in_one_engine_has_the_logits_of_peft_and_of_the_trained_model(folder, tmp_path, seen_logits):
    backbone = load_backbone(folder)
    models = {method: trained(folder, method) for method in SMALL}
    shas = {method: saved(tmp_path, model, method, backbone) for method, model in models.items()}
    shas["plain"], models["plain"] = None, load_backbone(folder).model
    ids = ids_of(backbone, "My lights went out.")
    outcome = run(engine_of(backbone, tmp_path), [request_of(name, ids, sha) for name, sha in shas.items()])
    for name, model in models.items():
        answer = outcome.ids(name)
        assert len(answer) == 5
        for n in range(5):
            given = torch.tensor([[*ids, *answer[:n]]])
            with torch.inference_mode():
                expected = model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1]
            torch.testing.assert_close(seen_logits[name, n], expected, atol=1e-4, rtol=0)
            assert int(expected.argmax()) == answer[n]


def test_a_head_answers_as_in_training(folder, tmp_path):
    backbone = load_backbone(folder)
    head = head_of(backbone, "mean", 4)
    sha = save_as(tmp_path, "head", "head", base_of(backbone), lambda f: save_head(head, f, backbone.name))
    ids = ids_of(backbone, "What colour is the sky?")
    done = run(engine_of(load_backbone(folder), tmp_path), [request_of("r", ids, sha)]).done("r")
    given = torch.tensor([ids])
    expected = head(head.features(given, torch.ones_like(given))).softmax(-1)[0]
    found = {label.label: label.probability for label in done.labels}
    assert [found[label] for label in head.labels] == pytest.approx(expected.tolist(), abs=1e-4)


def test_rows_up_to_the_last_position_answer_as_alone(folder, tmp_path, caplog):
    """Padding beside a row at its end once stood on positions that GPT-2 does not have: the whole batch raised."""
    backbone, plain = load_backbone(folder), load_backbone(folder).model
    length = Runner(load_backbone(folder), n_slots=1, length=512).length
    engine = engine_of(backbone, tmp_path, length=length, prefill_tokens=(length - 8) // 4)
    rows = {"long": ((7,) * (length - 4), 4), "short": ((9,) * 14, 5)}
    engine.submit(request_of("long", *rows["long"][:1], n=4))
    for _ in range(4):
        engine.step()
    assert len(engine._rows["long"].unread) == 4
    outcome = run(engine, [request_of("short", rows["short"][0], n=5)])
    for name, (ids, n) in rows.items():
        answer = outcome.ids(name)
        assert len(answer) == n
        with torch.inference_mode():
            logits = plain(input_ids=torch.tensor([[*ids, *answer[:-1]]])).logits[0]
        assert logits[-n:].argmax(-1).tolist() == answer
    assert not caplog.records


def test_slots_end_where_long_rotation_would_change_for_all_rows(tmp_path):
    """transformers rotates a whole batch by the longest row's positions: one long row would change the others'."""
    runner = Runner(load_backbone(save_kind(tmp_path / "x", "phi3", SERVED["phi3"])), n_slots=2, length=512)
    assert runner.length == 128


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_batch_would_compute_wrongly_is_refused_by_name(what, tmp_path):
    kind, settings, reason = REFUSED[what]
    with pytest.raises(ModelError, match=reason) as caught:
        engine_of(load_backbone(save_kind(tmp_path / "x", kind, settings)), tmp_path)
    assert kind in str(caught.value) and caught.value.hint
