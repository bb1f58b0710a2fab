"""Every row's answer is the one it would get alone, and that one is PEFT's own."""

from __future__ import annotations

import pytest
import torch

from ml.engine.types import Request, Sampling
from tests.ml.engine.conftest import KINDS, OWN, TEXTS, check_answers, ids_of, request_of, run, save_adapter


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_has_the_logits_and_tokens_of_peft(kind, zoo, make_engine, seen_logits):
    engine, ids = make_engine(), ids_of(zoo, TEXTS[1])
    answer = run(engine, [request_of(zoo, kind, ids)]).ids(kind)
    assert answer == zoo.greedy(kind, ids, 6, engine.stop_ids)
    assert answer, "the tiny model stops at once: choose another text"
    for n in range(len(answer)):
        expected = zoo.logits(kind, [*ids, *answer[:n]])
        torch.testing.assert_close(seen_logits[kind, n], expected, atol=1e-4, rtol=0)


def test_rows_of_every_form_in_one_batch_answer_as_alone(zoo, make_engine, seen_logits):
    engine = make_engine(n_slots=len(KINDS))
    outcome = check_answers(zoo, engine, seen_logits, KINDS)
    assert max(token.rows for kind in KINDS for token in outcome.tokens(kind)) > 4


@pytest.mark.parametrize("prefill_tokens", [1, 3, 17, 1000])
def test_a_prompt_read_in_chunks_answers_as_one_read_whole(prefill_tokens, zoo, make_engine):
    engine, ids = make_engine(prefill_tokens=prefill_tokens), ids_of(zoo, TEXTS[2])
    for kind in ("plain", "p_tuning", "lora", "ia3", "last_k"):
        assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_prefix_from_the_store_gives_the_same_logits_as_one_computed_now(kind, zoo, make_engine, seen_logits):
    engine, ids = make_engine(), ids_of(zoo, TEXTS[0])
    run(engine, [request_of(zoo, kind, ids, name="miss")])
    run(engine, [request_of(zoo, kind, ids, name="hit")])
    assert engine.prefixes.store.n_computed == (0 if kind == "prefix_tuning" else 1)
    assert torch.equal(seen_logits["miss", 0], seen_logits["hit", 0])


def test_a_prefix_that_memory_has_no_room_for_is_computed_again(zoo, make_engine):
    engine, ids = make_engine(prefix_bytes=1), ids_of(zoo, TEXTS[0])
    for kind in ("prompt_tuning", "p_tuning", "prompt_tuning"):
        assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)
    assert engine.prefixes.store.n_computed == 3


def test_lora_rows_agree_with_pefts_mixed_batch(zoo, make_engine, tiny_llama_dir, seen_logits):
    """ENGINE.md, test 3: the oracle is PEFT's adapter_names with rows of equal length."""
    from peft import PeftModel

    from ml.backbone import load_backbone

    ids, kinds = ids_of(zoo, TEXTS[0]), ["lora", "lora_other"]
    model = PeftModel.from_pretrained(load_backbone(tiny_llama_dir).model, zoo.folder / zoo.shas["lora"], "lora")
    model.load_adapter(zoo.folder / zoo.shas["lora_other"], "lora_other")
    with torch.inference_mode():
        given = torch.tensor([ids, ids, ids])
        expected = model.eval()(input_ids=given, adapter_names=[*kinds, "__base__"]).logits[:, -1]
    run(make_engine(), [request_of(zoo, kind, ids) for kind in [*kinds, "plain"]])
    for row, kind in enumerate([*kinds, "plain"]):
        torch.testing.assert_close(seen_logits[kind, 0], expected[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_plain_rows_are_exact_to_the_bit_beside_rows_that_change_layers(kind, zoo, make_engine, seen_logits):
    ids = ids_of(zoo, TEXTS[0])
    requests = [request_of(zoo, "plain", ids, name=f"plain {i}") for i in range(3)]
    run(make_engine(prefill_tokens=1000), requests)
    alone = dict(seen_logits)
    engine = make_engine(prefill_tokens=1000)
    run(engine, [request_of(zoo, kind, ids)])
    mixed = [requests[0], request_of(zoo, kind, ids), requests[2]]
    run(engine, mixed)
    for name in ("plain 0", "plain 2"):
        assert all(torch.equal(alone[name, n], seen_logits[name, n]) for n in range(6))


def test_the_model_is_untouched_after_serving_what_changes_layers(zoo, make_engine):
    engine = make_engine()
    before = {name: weight.clone() for name, weight in engine.backbone.model.state_dict().items()}
    run(engine, [request_of(zoo, kind, ids_of(zoo, TEXTS[0])) for kind in ("lora", "ia3", *OWN)])
    engine.runner.sites.remove()
    engine.runner.packs.remove()
    after = engine.backbone.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert type(engine.backbone.model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_a_lora_that_was_trained_on_a_base_in_4_bits_answers_on_the_whole_one(
    zoo, make_engine, tiny_llama_dir, tmp_path
):
    """QLoRA's artifact is a LoRA: the oracle is plain peft on the unquantized base."""
    from peft import PeftModel

    from ml.backbone import load_backbone
    from ml.methods import build
    from ml.specs import METHODS

    quantized = load_backbone(tiny_llama_dir, quantization="nf4")
    options = {field.name: field.default for field in METHODS["qlora"].fields}
    model = build(quantized, "qlora", options, seed=0)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.2 * torch.randn_like(parameter)
    sha, ids = save_adapter(tmp_path, model, zoo.backbone), ids_of(zoo, TEXTS[1])
    oracle = PeftModel.from_pretrained(load_backbone(tiny_llama_dir).model, tmp_path / sha).eval()
    engine = make_engine(artifact_folder=lambda name: tmp_path / name)
    request = Request(id="r", team_id=1, prompt_ids=tuple(ids), artifact=sha, sampling=Sampling(max_tokens=6))
    answer = run(engine, [request]).ids("r")
    with torch.inference_mode():
        for n, token in enumerate(answer):
            logits = oracle(input_ids=torch.tensor([[*ids, *answer[:n]]])).logits[0, -1]
            assert int(logits.argmax()) == token
    assert answer and answer != zoo.greedy("plain", ids, 6, engine.stop_ids)


def test_the_same_text_under_two_tasks_and_teams_shares_nothing(zoo, make_engine):
    ids, engine = ids_of(zoo, TEXTS[3]), make_engine(n_slots=8)
    kinds = ["prompt_tuning", "p_tuning", "lora", "plain"]
    requests = [request_of(zoo, kind, ids, name=f"{kind} {team}", team=team) for kind in kinds for team in (1, 2)]
    outcome = run(engine, requests)
    for kind in kinds:
        expected = zoo.greedy(kind, ids, 6, engine.stop_ids)
        assert outcome.ids(f"{kind} 1") == outcome.ids(f"{kind} 2") == expected
    keys = set(engine.prefixes.store._kept)
    assert len(keys) == 2 and all(key[0] == engine.backbone.fingerprint for key in keys)
