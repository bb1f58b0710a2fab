"""Prompt tuning, P-tuning and prefix-tuning: where they start, what their settings do, one forward for both paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import get_peft_model_state_dict

from ml.backbone import Backbone, load_backbone
from ml.data.chat import Example, example_ids
from ml.errors import SpecError
from ml.forward import completion_nll
from tests.ml.methods.building import DECODERS, LABELS, Shapes, built_on, forward, on_meta, train, trained
from tests.ml.tiny import SHAPES, save_tiny

every_decoder = pytest.mark.parametrize("shape", DECODERS)
every_shape = pytest.mark.parametrize("shape", sorted(SHAPES))


def vectors(model: Any) -> torch.Tensor:
    return next(p for name, p in trained(model).items() if "prompt_encoder" in name).detach()


def kept(model: Any) -> torch.Tensor:
    """What an export holds."""
    return get_peft_model_state_dict(model.eval(), save_embedding_layers=False)["prompt_embeddings"]


def embedded(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    return backbone.model.get_input_embeddings()(torch.tensor(ids)).detach()


def examples(backbone: Backbone) -> list[Example]:
    asked = ["the frog", "x", "the tomato that lay on the boundary"]
    return [
        example_ids(backbone.tokenizer, [{"role": "user", "content": f"What colour is {thing}?"}], "bluish green", 128)
        for thing in asked
    ]


@every_shape
def test_prompt_tuning_starts_from_a_text_repeated_to_length(shape: str, shapes: Shapes) -> None:
    text = "red green"
    backbone = shapes.backbone(shape)
    model = built_on(backbone, "prompt_tuning", init="text", init_text=text, n_virtual_tokens=7)
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(vectors(model), embedded(backbone, [ids[i % len(ids)] for i in range(7)]))


def test_prompt_tuning_from_an_empty_text_is_refused(shapes: Shapes) -> None:
    with pytest.raises(SpecError, match="needs a text, got ''") as caught:
        shapes.built("llama", "prompt_tuning", init="text")
    assert caught.value.field == "init_text"


def test_a_start_text_longer_than_the_virtual_tokens_is_refused(shapes: Shapes) -> None:
    text = "x" * 9
    with pytest.raises(SpecError, match=r"is 9 tokens long, but there are 4 virtual tokens\.") as caught:
        shapes.built("llama", "prompt_tuning", init="text", init_text=text)
    assert caught.value.field == "init_text"
    assert "9 virtual tokens" in caught.value.hint


def test_a_start_text_as_long_as_the_virtual_tokens_is_taken(shapes: Shapes) -> None:
    _, model = shapes.built("llama", "prompt_tuning", init="text", init_text="x" * 4)
    assert vectors(model).shape == (4, 32)


@every_shape
def test_prompt_tuning_samples_words_and_no_control_tokens(shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, "prompt_tuning", n_virtual_tokens=300)
    table = embedded(backbone, list(range(384)))
    nearest = torch.cdist(vectors(model), table).argmin(1).tolist()
    assert not set(nearest) & set(backbone.tokenizer.all_special_ids)
    assert torch.equal(vectors(model), table[torch.tensor(nearest)])


@pytest.mark.parametrize("shape", ["llama", "gemma"])
def test_prompt_tuning_from_random_numbers_has_the_embeddings_scale(shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, "prompt_tuning", init="random", n_virtual_tokens=200)
    scale = float(embedded(backbone, list(range(384))).std())
    assert float(vectors(model).std()) == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize(("encoder", "lstm"), [("lstm", True), ("mlp", False)])
def test_p_tuning_trains_the_network_asked_for(encoder: str, lstm: bool, shapes: Shapes) -> None:
    _, model = shapes.built("llama", "p_tuning", encoder=encoder)
    names = trained(model)
    assert any("lstm_head" in name for name in names) == lstm
    assert any("reverse" in name for name in names) == lstm
    assert any("mlp_head" in name for name in names)


def test_p_tunings_network_has_the_width_and_depth_asked_for(shapes: Shapes) -> None:
    _, model = shapes.built("llama", "p_tuning", encoder_width=24, encoder_layers=3, encoder_dropout=0.25)
    lstm = model.prompt_encoder["default"].lstm_head
    assert (lstm.hidden_size, lstm.num_layers, lstm.dropout, lstm.bidirectional) == (24, 3, 0.25, True)


@pytest.mark.filterwarnings("error::UserWarning")
def test_p_tunings_mlp_takes_the_lstms_settings_without_a_word(shapes: Shapes) -> None:
    _, model = shapes.built("llama", "p_tuning", encoder="mlp", encoder_width=24, encoder_layers=4, encoder_dropout=0.5)
    assert [layer.out_features for layer in model.prompt_encoder["default"].mlp_head[::2]] == [24, 24, 32]


def test_dropout_between_the_layers_of_a_single_layer_is_refused(shapes: Shapes) -> None:
    with pytest.raises(SpecError, match=r"it is 0\.5, but there is one layer") as caught:
        shapes.built("llama", "p_tuning", encoder_layers=1, encoder_dropout=0.5)
    assert caught.value.field == "encoder_dropout"


@every_shape
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_an_export_keeps_one_vector_a_virtual_token(method: str, shape: str, shapes: Shapes) -> None:
    _, model = shapes.built(shape, method)
    assert kept(model).shape == (4, 32)


@every_shape
@pytest.mark.parametrize("projection", [False, True])
def test_an_export_keeps_keys_and_values_with_projection_or_without(
    projection: bool, shape: str, shapes: Shapes
) -> None:
    backbone, model = shapes.built(shape, "prefix_tuning", projection=projection, projection_width=24)
    config = backbone.model.config
    n_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    assert kept(model).shape == (4, 2 * 2 * n_heads * 8)
    assert any(parameter.shape[0] == 24 for parameter in trained(model).values()) == projection


@every_decoder
def test_prefix_tuning_starts_from_what_the_model_keeps_of_words(shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, "prefix_tuning", n_virtual_tokens=3)
    first = model.get_prompt(1).layers[0].keys.detach()  # [1, heads, 3, width]
    every_word = backbone.model(torch.arange(384)[:, None], use_cache=True).past_key_values.layers[0].keys  # position 0
    distance = (every_word[:, :, 0] - first[:, :, 0]).flatten(1).norm(dim=1)
    assert distance.min().item() < 1e-5
    assert int(distance.argmin()) not in backbone.tokenizer.all_special_ids


@every_decoder
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_shared_and_whole_rows_have_equal_losses(method: str, shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, method)
    train(model, backbone)
    shared, owner = completion_nll(model, examples(backbone))
    whole, owner_whole = completion_nll(model, examples(backbone), whole_rows=True)
    assert torch.equal(owner, owner_whole)
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-4)


@every_decoder
def test_a_shared_prefix_gives_the_losses_of_pefts_own_forward(shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, "prefix_tuning")
    train(model, backbone)
    shared, _ = completion_nll(model, examples(backbone))
    alone = []
    for example in examples(backbone):
        ids = torch.tensor([example.ids])
        logits = model(input_ids=ids[:, :-1]).logits[0, example.n_prompt - 1 :]
        alone.append(torch.nn.functional.cross_entropy(logits, ids[0, example.n_prompt :], reduction="none"))
    torch.testing.assert_close(shared, torch.cat(alone), rtol=1e-4, atol=1e-4)


@every_decoder
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_shared_and_separate_rows_have_equal_gradients(method: str, shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, method)
    found = []
    for sharing in (True, False):
        model.zero_grad()
        completion_nll(model, examples(backbone), sharing=sharing)[0].mean().backward()
        found.append(torch.cat([p.grad.flatten().clone() for p in trained(model).values() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_an_encoder_decoder_writes_what_its_trained_prefix_says(shape: str, shapes: Shapes) -> None:
    """PEFT puts the prefix in at the first step of generation only: the later steps must find it in the cache."""
    backbone, model = shapes.built(shape, "prefix_tuning")
    train(model, backbone, n_steps=4)
    ids, start = torch.tensor([[60, 61, 62]]), backbone.model.config.decoder_start_token_id
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=written[:, :-1]).logits
    assert written[0, 0] == start
    assert written[0, 1:].tolist() == logits[0].argmax(-1).tolist()


def test_a_layout_with_heads_of_another_width_gets_a_prefix_that_fits(tmp_path: Path) -> None:
    """T5's heads need not share out the model's width: Flan-T5 small has 6 heads of 64 over 512."""
    backbone = load_backbone(save_tiny(tmp_path / "wide", "t5", d_kv=12, num_heads=3), labels=LABELS)
    model = built_on(backbone, "prefix_tuning")
    assert kept(model).shape == (4, 2 * 2 * 3 * 12)
    assert forward(model, backbone).shape == (2, 3, 384)


def test_a_start_text_is_not_looked_at_without_storage(shapes: Shapes) -> None:
    backbone = on_meta(shapes.backbone("llama"))
    assert vectors(built_on(backbone, "prompt_tuning", init="text", init_text="red")).device.type == "meta"
