"""Squares of images and the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phalanx.engines.face.framing import cut_square, letterbox, scaled_chip


def image(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(20, 230, width), np.linspace(20, 230, height))
    return np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (100, 640), (641, 99), (1, 1), (3, 2000), (192, 192)])
def test_a_letterbox_holds_the_whole_image_and_knows_the_way_back(height: int, width: int) -> None:
    square = letterbox(image(height, width), 192)
    assert square.pixels.shape == (192, 192, 3)
    rows, columns = (np.flatnonzero(square.pixels[:, :, 2].any(axis=axis)) for axis in (1, 0))
    first = np.array([columns[0], rows[0]]) / 192
    last = np.array([columns[-1] + 1, rows[-1] + 1]) / 192
    assert square.points(first) == pytest.approx([0, 0], abs=1e-3)
    # What fills no square of those that are averaged is left out.
    missing = max(0, 2 ** int(math.log2(max(height, width) / 192)) - 1) if max(height, width) >= 384 else 1e-3
    assert square.points(last) == pytest.approx([width, height], abs=missing + 1e-3)


def test_a_square_that_is_turned_knows_the_way_back_too() -> None:
    square = letterbox(image(300, 500), 192)
    turned = square.turned()
    assert np.array_equal(turned.pixels, square.pixels[::-1, ::-1])
    for part in ((0.0, 0.0), (0.25, 0.7), (1.0, 0.5)):
        assert turned.points(np.array(part)) == pytest.approx(square.points(1 - np.array(part)), abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2, math.pi])
@pytest.mark.parametrize("side", [40.0, 128.0, 300.0])
def test_a_square_shows_what_its_matrix_says(angle: float, side: float) -> None:
    """The level of a pixel tells where it came from."""
    source = image(400, 500)
    square = cut_square(source, (260, 190), side, angle, 128)
    for part in ((0.5, 0.5), (0.2, 0.7), (0.9, 0.4)):
        x, y = square.points(np.array(part))
        if 3 < x < 497 and 3 < y < 397:
            column, row = (min(127, int(p * 128)) for p in part)
            seen = square.pixels[row, column].astype(int)
            assert seen[0] == pytest.approx(20 + 210 * x / 500, abs=3)
            assert seen[1] == pytest.approx(20 + 210 * y / 400, abs=3)


def test_outside_the_image_it_is_black() -> None:
    assert not cut_square(image(50, 50), (500, 500), 20, 0, 128).pixels.any()
    corner = cut_square(image(50, 50), (0, 0), 40, 0, 128).pixels
    assert not corner[:60, :60].any()
    assert corner[70:, 70:].all()


def test_a_chip_is_scaled_to_the_model() -> None:
    assert scaled_chip(image(300, 200), 150).shape == (150, 150, 3)
    assert scaled_chip(image(10, 20), 112).shape == (112, 112, 3)
    same = image(150, 150)
    assert scaled_chip(same, 150) is same


@pytest.mark.parametrize("shrink", [1.3, 1.5, 1.9, 2.0, 2.7, 3.9, 4.1, 7.5])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_what_is_finer_than_a_pixel_becomes_grey(shrink: float, angle: float) -> None:
    """A chessboard of single pixels; sampling alone would make a coarse pattern of it, of 0 to 255."""
    board = (np.indices((1200, 1200)).sum(axis=0) % 2 * 255).astype(np.uint8)
    square = cut_square(np.repeat(board[:, :, None], 3, axis=2), (600, 600), 128 * shrink, angle, 128)
    inner = square.pixels[8:-8, 8:-8].astype(float)
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 20
