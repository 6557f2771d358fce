"""The model that is measured: where it lies, and a folder that others can load it from."""

from __future__ import annotations

import json
import os
from pathlib import Path

NAME = "all-MiniLM-L6-v2"
REPOSITORY = Path(__file__).parents[2]
BUILD = REPOSITORY / ".build"

PEER_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 256,
    },
}  # fmt: skip
"""What sentence-transformers wants beside weights, configuration and tokeniser."""


def models_dir() -> Path:
    """Return the model store of tests and benchmarks. Raises `SystemExit` naming the command that fills it."""
    folder = Path(os.environ.get("PHALANX_TEST_MODELS") or BUILD / "models")
    if not (folder / NAME / "active.json").is_file():
        raise SystemExit(f"there is no {NAME} in {folder}; run: make model")
    return folder


def model_folder() -> Path:
    """Return the folder of the active version."""
    root = models_dir() / NAME
    pointer = json.loads((root / "active.json").read_bytes())
    return root / str(pointer["versions"][0]["version"])


def peer_folder() -> Path:
    """Return a folder from which sentence-transformers loads the same files, without a hub."""
    source, folder = model_folder(), BUILD / "peer-model"
    for name, content in PEER_FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    tokenizer = json.loads((source / "tokenizer.json").read_bytes())
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(ids, key=ids.__getitem__)))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(source / name)
    return folder


def vocabulary(letters: int = 4) -> list[str]:
    """Return the lower-case words of `letters` to 9 letters that are one token each, in the vocabulary's order."""
    tokenizer = json.loads((model_folder() / "tokenizer.json").read_bytes())
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    return [word for word in ids if word.isascii() and word.isalpha() and word.islower() and letters <= len(word) <= 9]
