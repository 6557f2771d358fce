"""What an ONNX file of someone else's says of itself, where it is a face detector of the kind of YuNet."""

from __future__ import annotations

from pathlib import Path

from phalanx.models.conversion import UnsupportedModel
from phalanx.models.conversion.face_graph import read_graph, said, shape_of

STRIDES = (8, 16, 32)
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""What YuNet gives for each cell, in an output of this name and the stride; see `engines/face/yunet.py`."""
FREE_SIDE = 640
SIDES = range(32, 2049)


def read_detector_graph(path: Path) -> int:
    """Return the side in pixels of the square that a YuNet looks at, 640 where the file leaves that free.

    Raises `UnsupportedModel` saying what the graph has and what it needs.
    """
    graph = read_graph(path)
    weights = {tensor.name for tensor in graph.initializer}
    taken = [shape_of(value) for value in graph.input if value.name not in weights]
    given = {value.name: shape_of(value) for value in graph.output}
    fits = len(taken) == 1 and len(taken[0]) == 4 and taken[0][1] in (0, 3) and taken[0][0] in (0, 1)
    side = (taken[0][2] or FREE_SIDE) if fits else 0
    if not fits or taken[0][2] != taken[0][3] or side % max(STRIDES) or side not in SIDES:
        raise UnsupportedModel(
            f"{path.name} takes {said(taken)}; YuNet takes [1, 3, side, side], of a side from 32 to 2048 that 32 divides"
        )
    wanted = {f"{name}_{stride}": (side // stride, width) for name, width in WIDTHS.items() for stride in STRIDES}
    if set(given) != set(wanted):
        raise UnsupportedModel(
            f"{path.name} gives {', '.join(given) or 'nothing'}; YuNet, as OpenCV Zoo's "
            f"face_detection_yunet_2023mar.onnx, gives {', '.join(wanted)}"
        )
    for name, (cells, width) in wanted.items():
        shape = given[name]
        if len(shape) != 3 or any(
            has not in (0, want) for has, want in zip(shape, (1, cells * cells, width), strict=True)
        ):
            raise UnsupportedModel(f"{path.name} gives {name} as {said([shape])}; YuNet gives {[1, cells**2, width]}")
    return side
