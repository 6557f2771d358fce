"""A model of the user's own, by `MODEL_PATH`: nothing is pinned, and its facts are read from the files beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from phalanx.engines.text.load import TextFiles
from phalanx.engines.text.spec import Pooling, TextSpec
from phalanx.errors import Unavailable

GRAPHS = ("model.onnx", "onnx/model.onnx")
DEFAULT_POSITIONS = 512
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Architectures whose positions start at 2, so that two of `max_position_embeddings` hold no token."""

S = TypeVar("S", bound=msgspec.Struct)


class _Config(msgspec.Struct, frozen=True):
    model_type: str = ""
    max_position_embeddings: int = DEFAULT_POSITIONS


class _SentenceConfig(msgspec.Struct, frozen=True):
    max_seq_length: int | None = None


class _TokenizerConfig(msgspec.Struct, frozen=True):
    model_max_length: float | None = None


class _Prompts(msgspec.Struct, frozen=True):
    prompts: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """What `load_text_model` needs; the dimensions of the spec are 0, which means those of the graph."""

    spec: TextSpec
    files: TextFiles


def find_local_model(
    path: Path, *, cache: Path, convert: Callable[[Path], object], max_tokens: int | None = None
) -> LocalModel:
    """Find graph, tokeniser and facts of a model: an ONNX file beside `tokenizer.json` (or in `onnx/` below it), a
    folder of that kind, or a folder with `model.safetensors` and `config.json`, for which `convert` writes a graph
    into a folder of `cache`.

    Pooling is read from `1_Pooling/config.json` (mean where there is none), the limit from `sentence_bert_config.json`
    or `tokenizer_config.json`, positions from `config.json`, prompts from `config_sentence_transformers.json`;
    `max_tokens` replaces the limit. Raises `Unavailable` naming what is missing or cannot be used.
    """
    graph, root = _locate(path)
    if not (root / "tokenizer.json").is_file():
        raise Unavailable(f"MODEL_PATH: {root.name} has no tokenizer.json, which a text model needs")
    weights = graph or root / "model.safetensors"
    sha256 = _sha256(weights)
    if graph is None:
        graph = _converted(root, cache / sha256[:12], convert)
    positions = _positions(root)
    limit = max_tokens or _limit(root, positions)
    if limit > positions:
        raise Unavailable(f"MAX_TOKENS is {limit}; the model in {root.name} has room for {positions}")
    spec = TextSpec(
        name=root.name,
        version=sha256[:12],
        sha256=sha256,
        dimensions=0,
        max_tokens=limit,
        positions=positions,
        pooling=_pooling(root),
        prompts=_read(root / "config_sentence_transformers.json", _Prompts).prompts,
    )
    return LocalModel(spec=spec, files=TextFiles(graph=graph, tokenizer=root / "tokenizer.json"))


def _locate(path: Path) -> tuple[Path | None, Path]:
    """Return the graph, None when it has to be made, and the folder with the tokeniser."""
    path = path.absolute()
    if path.is_file() and path.suffix == ".onnx":
        beside = (path.parent / "tokenizer.json").is_file() or path.parent.name != "onnx"
        return path, path.parent if beside else path.parent.parent
    for graph in GRAPHS:
        if (path / graph).is_file():
            return path / graph, path
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return None, path
    raise Unavailable(
        f"MODEL_PATH: {path.name} is no .onnx file and no folder with model.onnx, onnx/model.onnx, "
        "or model.safetensors and config.json"
    )


def _converted(root: Path, folder: Path, convert: Callable[[Path], object]) -> Path:
    """Bring the weights into a folder of the cache, since a graph points at weights beside it, and write the graph."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        _bring(root / "model.safetensors", weights)
    shutil.copyfile(root / "config.json", folder / "config.json")
    convert(folder)
    return folder / "model.onnx"


def _bring(origin: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(origin.resolve(), partial)
    except OSError:  # another file system
        shutil.copyfile(origin, partial)
    partial.replace(target)


def _sha256(weights: Path) -> str:
    """Digest a file, and after it the external data that a graph has beside it."""
    digest = hashlib.sha256()
    for path in (weights, weights.with_name(f"{weights.name}_data"), weights.with_name(f"{weights.name}.data")):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def _positions(root: Path) -> int:
    config = _read(root / "config.json", _Config)
    return config.max_position_embeddings - (2 if config.model_type in OFFSET_POSITIONS else 0)


def _limit(root: Path, positions: int) -> int:
    stated = (
        _read(root / "sentence_bert_config.json", _SentenceConfig).max_seq_length
        or _read(root / "tokenizer_config.json", _TokenizerConfig).model_max_length
        or positions
    )
    # Tokenisers without a limit state an enormous one.
    return int(min(stated, positions))


def _pooling(root: Path) -> Pooling:
    path = root / "1_Pooling" / "config.json"
    modes = [name for name, on in _read_raw(path).items() if name.startswith("pooling_mode_") and on is True]
    match modes:
        case [] | ["pooling_mode_mean_tokens"]:
            return "mean"
        case ["pooling_mode_cls_token"]:
            return "cls"
    raise Unavailable(f"MODEL_PATH: 1_Pooling/config.json asks for {', '.join(modes)}; mean and cls are supported")


def _read(path: Path, kind: type[S]) -> S:
    """Read a JSON file of facts; what it does not say, or a file that is not there, leaves the defaults."""
    try:
        return msgspec.convert(_read_raw(path), kind)
    except msgspec.ValidationError as error:
        raise Unavailable(f"MODEL_PATH: {path.name} cannot be used: {error}") from error


def _read_raw(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"MODEL_PATH: {path.name} is no JSON object: {error}") from error
