"""Tiny random models, tokenizers and data sets, made on the spot: seconds on a CPU, no download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "user assistant system My lights went out. What should I do? Check the breaker, then call us.",
    "red green blue The sky is blue, the grass is green, a tomato is red. Answer with the colour.",
    "neighbours and a tree on the boundary line of a garden in Seattle; the court found for the owner.",
] * 4
COLOURS = {
    "blue": ["sky", "sea", "jeans", "ice"],
    "green": ["grass", "leaf", "frog", "moss"],
    "red": ["rose", "tomato"],
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 384 tokens (any text round-trips) with a ChatML template and eos `<|im_end|>`."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny_llama(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A random fp32 Llama (2 layers, width 32, 4 heads over 2 KV heads) and its tokenizer, saved in `folder`."""
    tokenizer = tiny_tokenizer()
    values: dict[str, Any] = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**values, **changes})).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_dataset(
    folder: Path, splits: dict[str, Sequence[dict[str, Any]]], *, task: str, labels: list[str] | None
) -> Path:
    """A data set folder in the form that dataset validation writes."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "schema": 1,
        "task": task,
        "labels": labels,
        "columns": ["prompt", "completion"],
        "mapping": {},
        "splits": {name: len(rows) for name, rows in splits.items()},
        "sha256": folder.name,
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    for name, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _row(number: int, question: str, completion: str) -> dict[str, Any]:
    return {"row": number, "messages": [{"role": "user", "content": question}], "completion": completion}


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder holding `tiny-llama`."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    return folder


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_models_dir: Path) -> Path:
    return tiny_models_dir / "tiny-llama"


@pytest.fixture(scope="session")
def tiny_dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classification into three colours: 30 training, 10 validation and 10 test rows."""
    pairs = [(thing, colour) for colour, things in COLOURS.items() for thing in things]
    rows = [
        _row(i + 1, f"What colour is the {'very ' * (i % 4)}{pairs[i % 10][0]}?", pairs[i % 10][1]) for i in range(50)
    ]
    splits = {"train": rows[:30], "validation": rows[30:40], "test": rows[40:]}
    folder = tmp_path_factory.mktemp("data") / ("a" * 64)
    return save_dataset(folder, splits, task="classification", labels=sorted(COLOURS))


@pytest.fixture(scope="session")
def tiny_generation_dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Free answers: 24 training, 6 validation and 6 test rows."""
    things = [thing for names in COLOURS.values() for thing in names]
    rows = [_row(i + 1, f"Say {things[i % 10]}.", f"A {things[i % 10]}, then.") for i in range(36)]
    splits = {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]}
    return save_dataset(tmp_path_factory.mktemp("data") / ("b" * 64), splits, task="generation", labels=None)
