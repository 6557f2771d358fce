"""Tiles: the whole picture is covered, twice at their borders, and a face that one cuts is left to the next."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.engines.face.facts import Box, Face
from phalanx.engines.face.tiling import LEVELS, OVERLAP, SMALLEST_TILE, Tile, count_tiles, tiles


def face(x: float, y: float, side: float) -> Face:
    return Face(Box(x, y, side, side), np.zeros((6, 2), np.float32), 0.9)


def by_side(width: int, height: int) -> dict[int, list[Tile]]:
    found: dict[int, list[Tile]] = {}
    for tile in tiles(width, height):
        found.setdefault(max(tile.right - tile.left, tile.bottom - tile.top), []).append(tile)
    return found


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_what_fits_the_overlap_lies_whole_within_a_tile_of_each_level(
    width: int, height: int, across: float, down: float
) -> None:
    """Wherever it lies; and each tile lies within the picture."""
    for side, level in by_side(width, height).items():
        small = min(side * OVERLAP * 0.98, width, height)
        one = face(across * (width - small), down * (height - small), small)
        assert any(
            tile.left <= one.box.x + 1
            and one.box.x + small <= tile.right + 1
            and tile.top <= one.box.y + 1
            and one.box.y + small <= tile.bottom + 1
            for tile in level
        )
        assert all(0 <= t.left < t.right <= width and 0 <= t.top < t.bottom <= height for t in level)


@pytest.mark.parametrize(
    ("size", "count"), [((2000, 1500), 12 + 108), ((600, 600), 16), ((2048, 300), 4 + 24), ((200, 200), 0), ((1, 1), 0)]
)
def test_there_are_as_many_as_it_takes(size: tuple[int, int], count: int) -> None:
    """None where the whole picture shows as much."""
    assert count_tiles(*size) == count
    assert all(side >= SMALLEST_TILE for side in by_side(*size))


def test_a_face_beyond_an_inner_border_is_cut() -> None:
    """One beyond the border of the picture is not: no other tile sees more of it."""
    (left, *_), right = by_side(1000, 300)[334][:1], by_side(1000, 300)[334][-1]
    assert not left.cuts(face(-20, -20, 60))
    assert left.cuts(face(300, 100, 60))
    assert not left.cuts(face(100, 100, 60))
    assert right.cuts(face(right.left - 10, 100, 60))
    assert not right.cuts(face(980, 260, 60))


def test_a_tile_shows_its_part_and_knows_where_it_was() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (900, 1200, 3), np.uint8)
    for tile in itertools.islice(tiles(1200, 900), 20):
        square = tile.cut(picture, 192)
        corner = square.points(np.array([[0.0, 0.0], [1.0, 1.0]]))
        assert corner.tolist() == [[tile.left, tile.top], [tile.right, tile.bottom]]
        assert (
            abs(float(square.pixels.mean()) - float(picture[tile.top : tile.bottom, tile.left : tile.right].mean())) < 2
        )


def test_levels_overlap() -> None:
    """Full range sees from a twentieth of its square on: what it just sees in one level is no more than a quarter of the next."""
    assert all(fine / coarse / 20 < OVERLAP for coarse, fine in itertools.pairwise([1, *LEVELS]))
