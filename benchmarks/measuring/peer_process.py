"""The peers' process: sentence-transformers, ONNX Runtime and transformers, asked over lines of JSON.

It runs in the peers' environment and imports nothing of Phalanx. Matrices travel as base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch  # type: ignore[import-not-found]
from numpy.typing import NDArray
from onnxruntime.transformers import optimizer
from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel  # type: ignore[import-not-found]
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.lines import answer_lines

LIMIT = 256
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
THREADS = int(os.environ["OMP_NUM_THREADS"])

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str], int], Vectors]


def packed(array: Vectors) -> dict[str, Any]:
    """Return an array as JSON can carry it."""
    return {"shape": array.shape, "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


class States(torch.nn.Module):  # type: ignore[misc]
    """A BertModel as a graph of three inputs and one output: what the exporters of transformers models make."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        """Return the last hidden state."""
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def export(folder: Path, target: Path) -> None:
    """Write `target`, a BertModel's graph as torch exports it, and beside it the one that ONNX Runtime's tools fuse."""
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {name: {0: "batch", 1: "seq"} for name in (*INPUTS, "last_hidden_state")}
    torch.onnx.export(
        States(model), (ids, ids, ids * 0), str(target), input_names=list(INPUTS), output_names=["last_hidden_state"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    config = model.config
    fused = optimizer.optimize_model(
        str(target), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(fused_name(target)))


def fused_name(target: Path) -> Path:
    """Return the name of the fused graph beside a graph."""
    return target.with_name(f"{target.stem}-fused.onnx")


class OrtEncoder:
    """The loop that users of ONNX Runtime write: sort by length, pad to the longest, mean over the mask, unit length."""

    def __init__(self, graph: Path, tokenizer: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(LIMIT)
        self.tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str], batch: int) -> Vectors:
        """Return the unit vectors of texts, in their order."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            vectors[chosen] = self.run([texts[index] for index in chosen])
        return vectors

    def run(self, texts: list[str]) -> Vectors:
        """Return the unit vectors of one batch."""
        encodings = self.tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encodings], np.int64)
        mask = np.array([one.attention_mask for one in encodings], np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self.session.run(None, {name: given[name] for name in self.names})[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled = (states * weights).sum(1) / weights.sum(1)
        unit: Vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


class Peers:
    """The commands."""

    def __init__(self) -> None:
        self.encoders: dict[str, Encode] = {}

    def versions(self) -> dict[str, Any]:
        """Return the versions of what is compared with."""
        names = ("torch", "transformers", "sentence-transformers", "onnxruntime")
        return {name: importlib.metadata.version(name) for name in names}

    def load(self, folder: str, graphs: str) -> dict[str, Any]:
        """Load the peers of a model: `st`, `ort` and `ort-fused`, all float32."""
        torch.set_num_threads(THREADS)
        target = Path(graphs) / "peer.onnx"
        if not fused_name(target).exists():
            export(Path(folder), target)
        transformer = SentenceTransformer(folder, device="cpu")

        def encode(texts: Sequence[str], batch: int) -> Vectors:
            made: Vectors = transformer.encode(list(texts), batch_size=batch, normalize_embeddings=True)
            return made

        tokenizer = Path(folder) / "tokenizer.json"
        self.encoders = {
            "st": encode,
            "ort": OrtEncoder(target, tokenizer),
            "ort-fused": OrtEncoder(fused_name(target), tokenizer),
        }
        return {"peers": list(self.encoders)}

    def encode(self, peer: str, texts: list[str], batch: int, vectors: bool = False) -> dict[str, Any]:
        """Embed texts; return the seconds it took and, if wanted, the unit vectors."""
        began = time.perf_counter()
        made = self.encoders[peer](texts, batch)
        took = time.perf_counter() - began
        return {"seconds": took, **({"vectors": packed(made)} if vectors else {})}

    def tokenize(self, folder: str, texts: list[str]) -> dict[str, Any]:
        """Return the ids of each text, nothing cut, by both of transformers' tokenisers for BERT.

        `used` is what sentence-transformers loads; `python` is the original in Python, made from the vocabulary alone.
        """
        used = AutoTokenizer.from_pretrained(folder)
        python = BertTokenizerLegacy(str(Path(folder) / "vocab.txt"), do_lower_case=True)
        return {
            "used": [used(text, truncation=False)["input_ids"] for text in texts],
            "python": [python.encode(text, add_special_tokens=True) for text in texts],
        }

    def random_bert(self, folder: str, config: dict[str, Any], dtype: str, prefix: str, seed: int) -> dict[str, Any]:
        """Write the weights of a BertModel drawn at random, in a type and under names of the checkpoints in use."""
        torch.manual_seed(seed)
        made = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
        for name, parameter in made.named_parameters():
            # The usual start of training gives states so alike that a wrong layer hardly shows.
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.2)
        from safetensors.torch import save_file

        tensors = {f"{prefix}{name}": value.to(getattr(torch, dtype)) for name, value in made.state_dict().items()}
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in tensors.items()}, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps({**made.config.to_dict(), "model_type": "bert"}))
        return {"tensors": len(tensors)}

    def bert_states(self, folder: str, prefix: str, ids: list[list[int]], mask: list[list[int]]) -> dict[str, Any]:
        """Return BertModel's own last hidden state `[batch, seq, d]` in float32."""
        from safetensors.torch import load_file

        config = BertConfig(**json.loads((Path(folder) / "config.json").read_bytes()))
        model = BertModel(config, add_pooling_layer=False).eval()
        tensors = load_file(Path(folder) / "model.safetensors")
        model.load_state_dict({name.removeprefix(prefix): value.float() for name, value in tensors.items()})
        with torch.inference_mode():
            states = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
        return {"states": packed(states.numpy())}


def main() -> None:
    """Answer until stdin ends."""
    peers = Peers()
    names = ("versions", "load", "encode", "tokenize", "random_bert", "bert_states")
    answer_lines({name: getattr(peers, name) for name in names})


if __name__ == "__main__":
    main()
