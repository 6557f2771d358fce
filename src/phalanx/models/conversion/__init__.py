"""Conversions: what turns the published files of a model into the graph that a backend runs.

Each takes the folder of a version and returns the names of the files that it wrote there. The libraries that write
graphs are loaded when a conversion runs, never when a worker serves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from phalanx.errors import Unavailable


class UnsupportedModel(Unavailable):
    """The files are no model that this version of Phalanx can convert; the detail says what is, and what it can."""


def convert_bert(folder: Path) -> list[str]:
    """Write `model.onnx` beside `model.safetensors` and `config.json`. Raises `UnsupportedModel`."""
    from phalanx.models.conversion.bert import write_graph

    return write_graph(folder)


def convert_dlib_resnet(folder: Path) -> list[str]:
    """Write `model.onnx` beside dlib's `model.dat`. Raises `UnsupportedModel`."""
    from phalanx.models.conversion.dlib import write_graph

    return write_graph(folder)


CONVERTERS: dict[str, Callable[[Path], list[str]]] = {"bert": convert_bert, "dlib-resnet": convert_dlib_resnet}
"""Every conversion by the name that a catalogue entry gives it."""
