"""A small BERT of random weights with a tokeniser of its own, as files, so that the whole engine runs in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from phalanx.models.conversion import CONVERTERS

SIZE, WIDE, HEADS, LAYERS, POSITIONS = 64, 128, 4, 2, 64
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "house", "red", "blue", "runs", "sees", "big", "small", "un", "one", "##known", "##ly"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [*SPECIALS, *WORDS, *",.!?-日本", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # What its maker left in it must not matter.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))


def write_weights(path: Path) -> None:
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {}

    def dense(name: str, outputs: int, inputs: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 0.15, (outputs, inputs)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.05, outputs).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, SIZE).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, SIZE).astype(np.float32)

    for name, rows in (("word", len(VOCABULARY)), ("position", POSITIONS), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = rng.normal(0, 1, (rows, SIZE)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            dense(f"{at}.attention.self.{part}", SIZE, SIZE)
        dense(f"{at}.attention.output.dense", SIZE, SIZE)
        norm(f"{at}.attention.output.LayerNorm")
        dense(f"{at}.intermediate.dense", WIDE, SIZE)
        dense(f"{at}.output.dense", SIZE, WIDE)
        norm(f"{at}.output.LayerNorm")
    save_file(weights, str(path))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as a model is published: weights, configuration, tokeniser; no graph."""
    folder = tmp_path_factory.mktemp("published") / "tiny-bert"
    folder.mkdir()
    write_weights(folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")
    config = {
        "model_type": "bert", "hidden_size": SIZE, "intermediate_size": WIDE, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS, "vocab_size": len(VOCABULARY),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def version(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a graph, as a version in the store is."""
    folder = tmp_path_factory.mktemp("store") / "0123456789ab"
    folder.mkdir()
    for path in published.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    CONVERTERS["bert"](folder)
    return folder
