"""Tiny random models of every shape that is supported, with tokenizers: made on the spot in a second, no download.

Two layers, width 32, four heads, 384 tokens, float32, and the settings that a real checkpoint of that shape has
(dropout, tied embeddings, special tokens). Weights are random but wide enough that answers differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

SHAPES = {
    "llama": "decoder",
    "qwen2": "decoder",
    "mistral": "decoder",
    "gemma": "decoder",
    "gpt2": "decoder",
    "bert": "encoder",
    "t5": "encoder_decoder",
    "bart": "encoder_decoder",
}
"""Each shape's family."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "user assistant system My lights went out. What should I do? Check the breaker, then call us.",
    "red green blue The sky is blue, the grass is green, a tomato is red. Answer with the colour.",
    "neighbours and a tree on the boundary line of a garden in Seattle; the court found for the owner.",
] * 4
N_VOCABULARY = 384
_SPECIAL: dict[str, dict[str, str]] = {
    "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "bart": {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}
_AROUND = {"bert": ("[CLS]", "[SEP]"), "t5": ("", "</s>"), "bart": ("<s>", "</s>")}
_LLAMA_KIND = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
_SIZES: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA_KIND, "tie_word_embeddings": True},
    "qwen2": {**_LLAMA_KIND, "tie_word_embeddings": True},
    "mistral": {**_LLAMA_KIND, "sliding_window": None},
    "gemma": {**_LLAMA_KIND, "head_dim": 8, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.15},
    "bert": {
        **{k: v for k, v in _LLAMA_KIND.items() if k != "num_key_value_heads"},
        "type_vocab_size": 2,
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 512,
        "init_std": 0.15,
    },
}
_SAVED_AS = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
}


def _byte_level_bpe(special: list[str]) -> Tokenizer:
    """384 tokens, `special` first; any text round-trips."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    return raw


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 384 tokens (any text round-trips) with a ChatML template and eos `<|im_end|>`."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_tokenizer_for(shape: str) -> PreTrainedTokenizerFast:
    """The tokenizer for `shape`: ChatML for decoders; special tokens around a text as BERT, T5 and BART put them."""
    if shape not in _SPECIAL:
        return tiny_tokenizer()
    special = _SPECIAL[shape]
    raw = _byte_level_bpe(list(special.values()))
    first, last = _AROUND[shape]
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}".strip(),
        pair=f"{first} $A {last} $B:1 {last}:1".strip(),
        special_tokens=[(token, raw.token_to_id(token)) for token in (first, last) if token],
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def tiny_config(shape: str, changes: Mapping[str, Any]) -> Any:
    """A transformers configuration of `shape` with the tokenizer's special tokens."""
    tokenizer = tiny_tokenizer_for(shape)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if SHAPES[shape] == "encoder_decoder":
        ids["decoder_start_token_id"] = ids["pad_token_id"] if shape == "t5" else ids["eos_token_id"]
        ids |= {"forced_eos_token_id": None}
    return AutoConfig.for_model(shape, **{"vocab_size": N_VOCABULARY, **_SIZES[shape], **ids, **changes})


def save_tiny(folder: Path, shape: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A random model of `shape` (a key of SHAPES) and its tokenizer, saved in `folder`.

    `changes` replace settings of its configuration. BERT is saved without a classifier, as pretrained encoders are.
    """
    config = tiny_config(shape, changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, _SAVED_AS[shape])(config).to(dtype)
    model.save_pretrained(folder)
    tiny_tokenizer_for(shape).save_pretrained(folder)
    return folder


def save_tiny_llama(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A random fp32 Llama (2 layers, width 32, 4 heads over 2 KV heads) and its tokenizer, saved in `folder`."""
    return save_tiny(folder, "llama", seed=seed, **changes)
