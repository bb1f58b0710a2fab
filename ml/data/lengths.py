"""How many tokens the rows of a version have, counted as training will: with the base model's own tokenizer, and its
chat template or, for encoders and encoder-decoders, as plain text.

Needs only the tokenizer, not the weights. At most 5,000 rows are counted, evenly spread over the splits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.data.chat import example_ids
from ml.data.plain_text import text_ids, text_pair
from ml.data.report import count_lengths
from ml.data.rows import Row, row_named
from ml.data.splitting import SPLITS
from ml.errors import ModelError
from ml.families import family_of, reads_plain_text
from ml.specs import COMMON_FIELDS

MAX_COUNTED = 5_000
_NO_LIMIT = 1_000_000


def load_tokenizer(models_dir: Path, base: str) -> Any:
    """The tokenizer of a model in the models folder, without importing torch. Raises ModelError when there is none.

    It is read from tokenizer.json directly; the class that `load_backbone` picks by name gives the same ids for text
    without special tokens, which is all that `ml.data.chat` asks for.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(models_dir) / base
    if Path(base).name != base or not (folder / "tokenizer.json").is_file():
        raise ModelError(f"There is no tokenizer of {base!r} in the models folder.", field="base",
                         hint="Fetch the starter models with `make models`, or wait until they are there.")  # fmt: skip
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The tokenizer of {base} cannot be loaded: {error}.", hint="Fetch the model again."
        ) from error


def _counter(tokenizer: Any, folder: Path) -> Callable[[Row], int]:
    """Tokens of a row. An encoder-decoder's answer counts, an encoder's label does not."""
    if not reads_plain_text(folder):
        return lambda row: example_ids(tokenizer, row.messages, row.completion, _NO_LIMIT).n_tokens
    if family_of(folder) == "encoder":
        return lambda row: len(text_ids(tokenizer, row.messages)[0])
    return lambda row: text_pair(tokenizer, row.messages, row.completion, _NO_LIMIT).n_tokens


def token_lengths(folder: Path, *, models_dir: Path, base: str) -> dict[str, Any]:
    """What `count_lengths` says of tokens a row; with the base's name, and how many rows a run cuts by default."""
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    step = max(1, -(-sum(about["splits"].values()) // MAX_COUNTED))
    count = _counter(load_tokenizer(models_dir, base), Path(models_dir) / base)
    lengths: Counter[int] = Counter()
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            for place, line in enumerate(file):
                if place % step == 0:
                    row = json.loads(line)
                    found = Row(number=row["row"], messages=row["messages"], completion=row["completion"])
                    with row_named(found):
                        lengths[count(found)] += 1
    limit = next(int(field.default) for field in COMMON_FIELDS if field.name == "max_length")
    n_over = sum(n for length, n in lengths.items() if length > limit)
    return {**count_lengths(lengths), "base": base, "limit": limit, "n_over": n_over}
