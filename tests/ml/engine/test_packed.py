"""Weights in half the bytes: the same numbers, for every shape of decoder, and only where nothing is lost."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ml.backbone import load_backbone
from ml.data.chat import prompt_ids
from ml.engine.packed import Packs
from tests.ml.engine.conftest import OWN, request_of, run
from tests.ml.tiny import SHAPES, save_tiny

DECODERS = sorted(shape for shape, family in SHAPES.items() if family == "decoder")
IDS = torch.tensor([[5, 9, 300, 17, 42]])


@pytest.fixture(scope="module", params=DECODERS)
def folder(request, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("packed") / request.param, request.param, dtype=torch.bfloat16)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits[0]


def layer(model, end: str):
    return next(module for name, module in model.named_modules() if name.endswith(end))


def test_a_packed_model_has_the_logits_of_the_plain_one(folder):
    plain, packed = load_backbone(folder).model, load_backbone(folder).model
    packs = Packs(packed)
    n_linear = sum(type(module).__name__.startswith(("Linear", "Conv1D")) for module in plain.modules())
    assert len(packs.by_name) == n_linear
    torch.testing.assert_close(logits(packed), logits(plain), atol=2e-5, rtol=0)


def test_every_weight_is_the_same_but_for_what_is_too_small_to_count(folder):
    model, plain = load_backbone(folder).model, load_backbone(folder).model
    packs = Packs(model)
    for name in packs.by_name:
        module, original = model.get_submodule(name), plain.get_submodule(name)
        weight = original.weight.T if isinstance(original, torch.nn.Linear) else original.weight  # [I, O]
        with torch.inference_mode():
            bias = module(torch.zeros(1, len(weight)))
            pack, at = module.coldframe_pack
            found = pack.product(at, torch.eye(len(weight))) - bias
        assert torch.equal(bias[0], original.bias if original.bias is not None else torch.zeros(weight.shape[1]))
        torch.testing.assert_close(found, weight, atol=2**-24, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_weights_that_are_all_tiny_stay_as_they_are(tiny_llama_dir):
    """float16 has few digits below 6e-5 and none below 6e-8."""
    model = load_backbone(tiny_llama_dir).model
    module = layer(model, "0.self_attn.q_proj")
    module.weight.mul_(1e-5)
    x = torch.randn(1, 2, 32)
    Packs(model)
    with torch.inference_mode():
        assert torch.equal(module(x), torch.nn.functional.linear(x, module.weight))


def test_layers_that_read_the_same_tensor_are_one_product(zoo, tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    packs = Packs(model)
    name = "model.layers.0"
    assert len({packs.by_name[f"{name}.self_attn.{part}_proj"] for part in "qkv"}) == 1
    assert packs.by_name[f"{name}.mlp.gate_proj"] is packs.by_name[f"{name}.mlp.up_proj"]
    assert packs.by_name[f"{name}.mlp.down_proj"] is not packs.by_name[f"{name}.mlp.up_proj"]
    assert packs.by_name[f"{name}.self_attn.q_proj"] is not packs.by_name["model.layers.1.self_attn.q_proj"]


def test_a_layer_called_twice_with_the_same_tensor_gives_a_product_of_its_own_each_time(tiny_llama_dir):
    """What was taken once may have been changed in place since."""
    model = load_backbone(tiny_llama_dir).model
    Packs(model)
    gate, up = layer(model, "gate_proj"), layer(model, "up_proj")
    x = torch.randn(2, 3, 32)
    with torch.inference_mode():
        first = gate(x)
        kept = first.clone()
        first.zero_()
        assert torch.equal(gate(x), kept)
        torch.testing.assert_close(up(x), torch.nn.functional.linear(x, up.weight), atol=1e-5, rtol=0)


def test_a_checkpoint_that_float16_cannot_hold_stays_as_it_is(tmp_path):
    model = load_backbone(save_tiny(tmp_path / "fp32", "llama")).model
    packs = Packs(model)
    assert not packs.by_name and packs.n_bytes == 0
    assert type(layer(model, "q_proj")) is torch.nn.Linear


def test_one_layer_that_float16_cannot_hold_stays_and_the_others_are_packed(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    with torch.no_grad():
        layer(model, "0.self_attn.k_proj").weight[3, 3] = 1e6
    packs = Packs(model)
    assert "model.layers.0.self_attn.k_proj" not in packs.by_name
    assert packs.by_name["model.layers.0.self_attn.q_proj"] is packs.by_name["model.layers.0.self_attn.v_proj"]


def test_packs_cost_two_bytes_a_weight(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    n = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert Packs(model).n_bytes == 2 * n


def test_weights_stay_as_they_are_when_memory_is_short(tiny_llama_dir, monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr("ml.engine.packed.psutil.virtual_memory", Memory)
    assert not Packs(load_backbone(tiny_llama_dir).model).by_name


def test_a_layer_whose_weights_were_replaced_goes_by_its_own(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    Packs(model)
    other, x = copy.deepcopy(model), torch.randn(1, 2, 32)
    module = layer(other, "q_proj")
    module.weight = torch.nn.Parameter(torch.randn_like(module.weight), requires_grad=False)
    with torch.inference_mode():
        assert torch.equal(module(x), torch.nn.functional.linear(x, module.weight))
        before = layer(model, "q_proj")
        torch.testing.assert_close(before(x), torch.nn.functional.linear(x, before.weight), atol=1e-5, rtol=0)


def test_a_copy_of_the_model_shares_its_packs(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    Packs(model)
    copied = copy.deepcopy(model)
    assert layer(copied, "q_proj").coldframe_pack[0] is layer(model, "q_proj").coldframe_pack[0]


def test_removing_gives_every_layer_its_own_class_back(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    packs = Packs(model)
    packs.remove()
    assert type(layer(model, "q_proj")) is torch.nn.Linear and not hasattr(layer(model, "q_proj"), "coldframe_pack")
    assert packs.n_bytes == 0


def test_a_base_in_four_bits_keeps_its_own_layers(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir, quantization="nf4").model
    names = Packs(model).by_name
    assert not any("layers" in name for name in names)


@pytest.mark.parametrize("kind", ["plain", "lora", "ia3", "prefix_tuning", *OWN])
def test_the_engine_says_the_same_with_packs_and_without(kind, zoo, make_engine, seen_logits):
    ids = prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])
    packed, plain = make_engine(), make_engine(is_packed=False)
    assert packed.runner.packs.n_bytes and plain.runner.packs is None
    answers = [run(e, [request_of(zoo, kind, ids, name=n)]).ids(n) for e, n in ((packed, "packed"), (plain, "plain"))]
    assert answers[0] == answers[1]
    for n in range(len(answers[0])):
        torch.testing.assert_close(seen_logits["packed", n], seen_logits["plain", n], atol=2e-5, rtol=0)


def test_peft_can_wrap_a_packed_model(tiny_llama_dir):
    """DoRA's own model is made by peft out of the shared one."""
    plain, packed = load_backbone(tiny_llama_dir).model, load_backbone(tiny_llama_dir).model
    Packs(packed)
    found = []
    for model in (plain, packed):
        torch.manual_seed(1)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
        found.append(logits(get_peft_model(model, config).eval()))
    torch.testing.assert_close(found[0], found[1], atol=5e-5, rtol=0)
