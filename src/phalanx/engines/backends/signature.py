"""What a text encoder's graph must take and give, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from phalanx.errors import Unavailable

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "token_embeddings", "sentence_embedding")
"""Names of outputs, the wanted first: vectors of tokens serve every use, pooled ones only texts as a whole."""


class Signature(NamedTuple):
    """The output to read, the length of its vectors, whether it is pooled, whether token types must be fed."""

    output: str
    dimensions: int
    pooled: bool
    wants_kinds: bool


def read_signature(graph: str, inputs: Mapping[str, int], outputs: Mapping[str, tuple[int | None, ...]]) -> Signature:
    """Check a graph's inputs (name to rank) and outputs (name to shape, None where a size is free).

    Raises `Unavailable` naming what the graph has and what it needs.
    """
    strange = sorted(set(inputs) - set(INPUTS))
    lacking = sorted(set(INPUTS[:2]) - set(inputs))
    flat = sorted(name for name, rank in inputs.items() if rank != 2)
    if strange or lacking or flat:
        raise Unavailable(
            f"{graph} takes {', '.join(f'{name} (rank {rank})' for name, rank in inputs.items())}; it must take "
            "input_ids and attention_mask, and may take token_type_ids, each int64 of rank 2"
        )
    for name in OUTPUTS:
        shape = outputs.get(name)
        if shape is None or len(shape) not in (2, 3):
            continue
        width = shape[-1]
        if width is None:
            raise Unavailable(f"{graph}: the last size of {name} is free; export it with a fixed one")
        return Signature(name, width, len(shape) == 2, "token_type_ids" in inputs)
    raise Unavailable(
        f"{graph} gives {', '.join(outputs) or 'nothing'}; it must give last_hidden_state or token_embeddings "
        "[batch, seq, d], or sentence_embedding [batch, d]"
    )
