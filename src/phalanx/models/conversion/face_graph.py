"""What an ONNX file of someone else's says of itself, where it is a network of face vectors like ArcFace's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import onnx

from phalanx.models.conversion import UnsupportedModel

LOOKED_AT = 8
"""Nodes from the input on among which a network that scales its input itself has a subtraction and a product: the rule
of InsightFace's `arcface_onnx.py`."""


class FaceGraph(NamedTuple):
    """`side` of the chip in pixels, `dimensions` of the vector, whether levels of 0 to 255 are scaled in the graph."""

    side: int
    dimensions: int
    scales_itself: bool


def read_face_graph(path: Path) -> FaceGraph:
    """Read the facts. Raises `UnsupportedModel` saying what the graph has and what it needs."""
    graph = read_graph(path)
    weights = {tensor.name for tensor in graph.initializer}
    taken = [shape_of(value) for value in graph.input if value.name not in weights]
    given = [shape_of(value) for value in graph.output]
    if len(taken) != 1 or len(taken[0]) != 4 or taken[0][1] != 3 or not taken[0][2] or taken[0][2] != taken[0][3]:
        raise UnsupportedModel(f"{path.name} takes {said(taken)}; a network of face vectors takes [n, 3, side, side]")
    if len(given) != 1 or len(given[0]) != 2 or not given[0][1]:
        raise UnsupportedModel(f"{path.name} gives {said(given)}; a network of face vectors gives [n, dimensions]")
    first = {node.op_type for node in list(graph.node)[:LOOKED_AT]}
    return FaceGraph(taken[0][2], given[0][1], "Sub" in first and bool(first & {"Mul", "Div"}))


def read_graph(path: Path) -> onnx.GraphProto:
    """Read a graph with its weights. Raises `UnsupportedModel` when the file is none, or has not all of it."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's, and whatever else a damaged file meets
        raise UnsupportedModel(f"{path.name} cannot be read as ONNX: {error}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise UnsupportedModel(f"{path.name} keeps its weights in other files; save it as one")
    return graph


def shape_of(value: Any) -> list[int]:
    """Return the sizes of a value, 0 where one is free."""
    return [size.dim_value for size in value.type.tensor_type.shape.dim]


def said(shapes: list[list[int]]) -> str:
    """Word shapes, free sizes as ?."""
    return " and ".join(str([size or "?" for size in shape]).replace("'", "") for shape in shapes) or "nothing"
