"""Faces come to lie where a template has them, whatever their size and turn, and shrink without aliasing."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage.data import astronaut

from phalanx.engines.face.align import TEMPLATES, Template, TemplateName, align, fit_similarity, warp
from phalanx.engines.face.golden import FACE
from phalanx.errors import InvalidRequest

ASTRONAUT = np.array(
    [[202.4, 102.9], [245.7, 104.4], [223.3, 130.4], [223.3, 149.3], [180.2, 108.8], [268.8, 111.1]], dtype=np.float32
)
"""Landmarks in the order of `facts`: eyes, nose, mouth, ears, each pair from left to right."""

Floats = npt.NDArray[np.float64]


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> Floats:
    turn = math.radians(degrees)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def moved(matrix: Floats, points: npt.ArrayLike) -> Floats:
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (0.1, 30.0), (7.0, -90.0), (2.0, 180.0)])
def test_a_similarity_is_found_again(scale: float, degrees: float) -> None:
    points = np.random.default_rng(2).normal(0, 50, (4, 2))
    matrix = similarity(scale, degrees, (30, -12))
    np.testing.assert_allclose(fit_similarity(points, moved(matrix, points)), matrix, atol=1e-9)


def test_the_fit_is_the_least_squares_one() -> None:
    """Written as a linear system in (cos, sin, x, y) and given to numpy's solver."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        source, target, weights = rng.normal(0, 40, (5, 2)), rng.normal(0, 40, (5, 2)), rng.uniform(0.1, 4, 5)
        (x, y), one, none = source.T, np.ones(5), np.zeros(5)
        rows = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
        root = np.sqrt(np.tile(weights, 2))
        cos, sin, right, down = np.linalg.lstsq(rows * root[:, None], target.T.ravel() * root, rcond=None)[0]
        expected = [[cos, -sin, right], [sin, cos, down]]
        np.testing.assert_allclose(fit_similarity(source, target, weights), expected, atol=1e-9)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, 1e-200])
@pytest.mark.parametrize("name", TEMPLATES)
def test_landmarks_that_show_no_face_are_refused(name: TemplateName, wrong: float) -> None:
    points = np.full((6, 2), 20.0, dtype=np.float32)
    points[0] = wrong if not np.isfinite(wrong) else points[0] + wrong
    with pytest.raises(InvalidRequest, match=r"they coincide|not finite"):
        align(np.zeros((40, 40, 3), dtype=np.uint8), points, TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (1.4, 25.0), (0.6, -70.0), (3.0, 175.0)])
def test_what_lies_at_a_landmark_lies_at_its_place_in_the_chip(
    name: TemplateName, scale: float, degrees: float
) -> None:
    template = TEMPLATES[name]
    pixels = moved(similarity(scale, degrees, (500, 500)), template.places)
    image = np.zeros((1000, 1000, 3), dtype=np.uint8)
    keypoints = np.zeros((6, 2), dtype=np.float32)
    for number, landmark in enumerate(template.landmarks):
        keypoints[landmark] = pixels[number] + 0.5
    for channel, (x, y) in enumerate(pixels[:3]):
        grid_y, grid_x = np.mgrid[:1000, :1000]
        image[..., channel] = 255 * np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * (3 * scale) ** 2))
    chip = align(image, keypoints, template)
    assert chip.image.shape == (template.side, template.side, 3)
    assert chip.scale == pytest.approx(1 / scale, rel=1e-5)
    assert chip.residual < 0.01
    for channel, place in enumerate(template.places[:3]):
        spot = chip.image[..., channel].astype(float)
        rows, columns = np.mgrid[: template.side, : template.side]
        centre = (columns * spot).sum() / spot.sum(), (rows * spot).sum() / spot.sum()
        np.testing.assert_allclose(centre, place, atol=0.25)


def test_a_face_that_no_similarity_brings_to_the_template_has_a_residual() -> None:
    stretched = ASTRONAUT * np.array([1.0, 1.3], dtype=np.float32)
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    frontal, slim = (align(image, points, TEMPLATES["dlib"]) for points in (ASTRONAUT, stretched))
    assert frontal.residual < 1
    assert slim.residual > 3


def test_a_face_that_is_turned_is_fitted_as_its_network_learned_it() -> None:
    """dlib fits the template to the picture, InsightFace the picture to the template, where a misfit makes the face smaller."""
    turned = ASTRONAUT * np.array([0.7, 1.0], dtype=np.float32)
    turned[2, 0] += 12
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    for template in TEMPLATES.values():
        seen = turned[list(template.landmarks)].astype(np.float64) - 0.5
        places, weights = np.array(template.places), np.array(template.weights)[:, None]
        one, other = (points - (weights * points).sum(axis=0) / weights.sum() for points in (seen, places))
        # Complex numbers: a similarity is one, by which the other points are multiplied (Umeyama's in the plane).
        p, q = one @ [1, 1j], other @ [1, 1j]
        dot = np.sum(weights[:, 0] * p.conj() * q)
        scale = (
            np.sum(weights[:, 0] * abs(q) ** 2) / abs(dot)
            if template is TEMPLATES["dlib"]
            else abs(dot) / np.sum(weights[:, 0] * abs(p) ** 2)
        )
        assert align(image, turned, template).scale == pytest.approx(scale, rel=1e-6)


def test_shrinking_does_not_alias() -> None:
    """A chequered picture is grey from afar; sampled without a filter it would be black or white at random."""
    picture = np.where(np.add.outer(np.arange(800), np.arange(800)) % 2, 255, 0).astype(np.uint8)
    picture = np.repeat(picture[..., None], 3, axis=2)
    chip = warp(picture, similarity(5.0, 10.0, (120, 40)), 112)
    assert abs(float(chip.mean()) - 127.5) < 2
    assert chip.std() < 3


def test_shrinking_keeps_what_is_smooth_in_its_place() -> None:
    ramp = np.repeat(np.tile(np.arange(1000) / 4, (1000, 1))[..., None], 3, axis=2).astype(np.uint8)
    for scale in (1.0, 1.9, 2.1, 4.2, 8.0):
        chip = warp(ramp, similarity(scale, 0.0, (50, 50)), 100)
        expected = (50 + scale * np.arange(100)) / 4
        np.testing.assert_allclose(chip[50, 4:-4, 0], expected[4:-4], atol=1.0)


def test_only_the_part_that_is_covered_is_needed() -> None:
    picture = np.random.default_rng(4).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    matrix = similarity(1.2, 15.0, (90, 120))
    whole = cv2.warpAffine(picture, matrix, (112, 112), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert np.abs(warp(picture, matrix, 112).astype(int) - whole).max() <= 8  # cv2 rounds places to 1/32 pixel


@pytest.mark.parametrize("shift", [(-1e6, 0.0), (0.0, 1e6), (400.0, 0.0), (-2000.0, -2000.0)])
def test_outside_the_picture_is_black(shift: tuple[float, float]) -> None:
    picture = np.full((50, 60, 3), 255, dtype=np.uint8)
    assert not warp(picture, similarity(1.0, 0.0, shift), 112).any()


def test_a_face_cut_by_the_border_is_filled_with_black() -> None:
    chip = warp(np.full((200, 200, 3), 200, dtype=np.uint8), similarity(1.0, 0.0, (-50, 0)), 112)
    assert not chip[:, :49].any()
    assert (chip[:, 51:] == 200).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3)])
def test_the_smallest_pictures_are_no_trouble(shape: tuple[int, int, int]) -> None:
    assert warp(np.full(shape, 9, dtype=np.uint8), similarity(6.0, 0.0, (-100, -100)), 112).shape == (112, 112, 3)


def test_the_astronaut_is_aligned_as_the_golden_face_is() -> None:
    picture = astronaut()  # type: ignore[no-untyped-call]
    chip = align(picture, ASTRONAUT, TEMPLATES["dlib"])
    golden = cv2.imread(str(FACE), cv2.IMREAD_COLOR_RGB)
    assert golden is not None
    assert np.abs(chip.image.astype(int) - golden).mean() < 1.5
    assert chip.scale == pytest.approx(1.29, abs=0.02)


def test_a_template_scales_from_corner_to_corner() -> None:
    places = (-0.5, -0.5), (111.5, 111.5)
    template = Template(112, (0, 1), places, (1, 1), "picture", "none").scaled(224)
    assert template.places == ((-0.5, -0.5), (223.5, 223.5))
    assert TEMPLATES["dlib"].scaled(150) is TEMPLATES["dlib"]
