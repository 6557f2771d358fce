"""dlib's face network a second time: written as a file from random weights, and computed in numpy, layer by layer.

Nothing here is shared with `phalanx.models.conversion`, so that a mistake in one shows against the other.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MEAN = (122.75, 117.0, 104.25)
"""Near the real ones, and exact in the format's few bits."""


class Layer(NamedTuple):
    """A convolution with its affine layer."""

    weight: Array
    bias: Array
    gamma: Array
    beta: Array
    stride: int
    padding: int


class Network(NamedTuple):
    """Stem; blocks as (first, second, whether it halves); head `[256, 128]`."""

    mean: tuple[float, float, float]
    stem: Layer
    blocks: list[tuple[Layer, Layer, bool]]
    head: Array


def random_network(seed: int = 5) -> Network:
    rng = np.random.default_rng(seed)

    def layer(filters: int, channels: int, size: int, stride: int) -> Layer:
        deviation = (2 / (channels * size * size)) ** 0.5
        return Layer(
            rng.normal(0, deviation, (filters, channels, size, size)).astype(np.float32),
            rng.normal(0, 0.1, filters).astype(np.float32),
            rng.normal(1, 0.1, filters).astype(np.float32),
            rng.normal(0, 0.1, filters).astype(np.float32),
            stride,
            size // 2 if stride == 1 else 0,
        )

    blocks, channels = [], 32
    plan = [(32, 0)] * 3 + [(64, 1)] + [(64, 0)] * 3 + [(128, 1)] + [(128, 0)] * 2 + [(256, 1)] + [(256, 0)] * 2
    for filters, halves in [*plan, (256, 1)]:
        blocks.append((layer(filters, channels, 3, 1 + halves), layer(filters, filters, 3, 1), bool(halves)))
        channels = filters
    head = rng.normal(0, 0.06, (256, 128)).astype(np.float32)
    return Network(MEAN, layer(32, 3, 7, 2), blocks, head)


def forward(network: Network, chip: Array) -> Array:
    """Compute the vector of one chip, RGB `[150, 150, 3]`, in float64."""
    x = (chip.astype(np.float64).transpose(2, 0, 1) - np.array(network.mean)[:, None, None]) / 256
    x = _pool(np.maximum(_layer(network.stem, x), 0), 3, np.max)
    for first, second, halves in network.blocks:
        inner = _layer(second, np.maximum(_layer(first, x), 0))
        x = np.maximum(_sum(inner, _pool(x, 2, np.mean) if halves else x), 0)
    return np.asarray(x.mean(axis=(1, 2)) @ network.head.astype(np.float64))


def _layer(layer: Layer, x: Array) -> Array:
    x = np.pad(x, ((0, 0), *[(layer.padding, layer.padding)] * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, layer.weight.shape[2:], axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]
    y = np.tensordot(layer.weight.astype(np.float64), windows, axes=([1, 2, 3], [0, 3, 4]))
    y = y + layer.bias[:, None, None]
    return np.asarray(y * layer.gamma[:, None, None] + layer.beta[:, None, None])


def _pool(x: Array, size: int, how: Any) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::2, ::2]
    return np.asarray(how(windows, axis=(3, 4)))


def _sum(a: Array, b: Array) -> Array:
    """Add as dlib's `add_prev` does: what one of them lacks counts as zero."""
    total = np.zeros(np.maximum(a.shape, b.shape))
    total[tuple(map(slice, a.shape))] += a
    total[tuple(map(slice, b.shape))] += b
    return total


def encoded(network: Network) -> bytes:
    """Return the file of a network."""
    stages = [(len([1 for *_, h in blocks if not h]), any(h for *_, h in blocks)) for blocks in _stages(network)]
    versions = [2, 2]
    for plain, halves in reversed(stages):
        versions += ([2] * 7 + [1]) * plain + ([2, 2, 2, 1, 1, 2, 2, 2, 2, 2, 1] if halves else [])
    versions += [2, 2, 2, 3]
    parts = [_int(1), _text("loss_metric_2"), _float(0.04), _float(0.6), *map(_int, versions)]
    parts += [_text("input_rgb_image_sized"), *map(_float, network.mean), _int(150), _int(150)]
    parts += [_unit(network.stem, innermost=True), _named("relu_"), _named("max_pool_2", 3, 3, 2, 2, 0, 0)]
    for first, second, halves in network.blocks:
        parts += [_unit(first), _named("relu_"), _unit(second)]
        parts += [_named("avg_pool_2", 2, 2, 2, 2, 0, 0)] if halves else []
        parts += [_named("add_prev_"), _named("relu_")]
    parts += [_named("avg_pool_2", 0, 0, 1, 1, 0, 0)]
    parts += [_text("fc_2"), _int(128), _int(256), _tensor(network.head, (256, 128, 1, 1)), _alias(256, 128, 1, 1)]
    parts += [_alias(0, 0, 0, 0), _int(1), _float(1) * 4, _trailer()]
    return b"".join(parts)


def write(network: Network, path: Path) -> Path:
    path.write_bytes(encoded(network))
    return path


def _stages(network: Network) -> list[list[tuple[Layer, Layer, bool]]]:
    stages: list[list[tuple[Layer, Layer, bool]]] = [[]]
    for block in network.blocks:
        if block[2]:
            stages.append([])
        stages[-1].append(block)
    return stages


def _unit(layer: Layer, *, innermost: bool = False) -> bytes:
    filters, channels, size, _ = layer.weight.shape
    params = np.concatenate([layer.weight.ravel(), layer.bias])
    both = np.concatenate([layer.gamma, layer.beta])
    convolution = [
        _text("con_4"), _tensor(params, (len(params), 1, 1, 1)),
        *map(_int, (filters, size, size, layer.stride, layer.stride, layer.padding, layer.padding)),
        _alias(filters, channels, size, size), _alias(1, filters, 1, 1), _float(1) * 4, _trailer(innermost=innermost),
    ]  # fmt: skip
    affine = [_text("affine_"), _tensor(both, (len(both), 1, 1, 1)), _alias(1, filters, 1, 1) * 2, _int(0), _trailer()]
    return b"".join([*convolution, *affine])


def _named(name: str, *numbers: int) -> bytes:
    return b"".join([_text(name), *map(_int, numbers), _trailer()])


def _trailer(*, innermost: bool = False) -> bytes:
    return b"100" + (_int(2) + _int(0) * 4) * 3 + (_int(1) if innermost else b"")


def _tensor(values: Array, shape: tuple[int, int, int, int]) -> bytes:
    return _int(2) + b"".join(map(_int, shape)) + values.astype("<f4").tobytes()


def _alias(*shape: int) -> bytes:
    return _int(1) + b"".join(map(_int, shape))


def _text(text: str) -> bytes:
    return _int(len(text)) + text.encode()


def _float(value: float) -> bytes:
    mantissa, exponent = value, 0
    while mantissa != int(mantissa):
        mantissa, exponent = mantissa * 2, exponent - 1
    return _int(int(mantissa)) + _int(exponent)


def _int(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return struct.pack("B", size | (0x80 if value < 0 else 0)) + abs(value).to_bytes(size, "little")
