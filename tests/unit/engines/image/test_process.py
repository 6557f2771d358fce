"""Operations on images: geometry to the pixel, quality that ranks as eyes do, files without secrets."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from phalanx.contract.images import Align, Crop, Normalize, ProcessResult, Resize, Rotate, Step
from phalanx.engines.face.align import TEMPLATES, align
from phalanx.engines.face.facts import Keypoints
from phalanx.engines.image import process as module
from phalanx.engines.image.decode import Pixels, decode
from phalanx.engines.image.encode import encode, to_tensor
from phalanx.engines.image.geometry import crop, resize, rotate, scaled_size
from phalanx.engines.image.header import Header
from phalanx.engines.image.process import process, sufficient_side
from phalanx.engines.image.quality import measure_quality
from phalanx.errors import InvalidRequest, TooLarge
from pictures import BLUE, GREEN, GREY, RED, astronaut, jpeg_with, noise, oriented, quarters, saved

MAX_PIXELS = 1_000_000


def run(
    data: bytes, *steps: dict[str, Any], find: Callable[[Pixels], Keypoints] | None = None, **options: Any
) -> ProcessResult:
    """Process an image; `find` says where the face is that `align` asks for."""
    work = process(data, msgspec.convert(list(steps), list[Step]), **{"max_pixels": MAX_PIXELS, **options})
    try:
        sought = next(work)
        while True:
            assert find is not None, "a face was sought"
            sought = work.send(find(sought))
    except StopIteration as end:
        result: ProcessResult = end.value
        return result


def pixels_of(result: ProcessResult) -> Any:
    assert result.image is not None
    return decode(result.image, max_pixels=MAX_PIXELS).pixels


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        (Resize(width=100), (100, 50)), (Resize(height=100), (200, 100)), (Resize(width=100, height=100), (100, 50)),
        (Resize(width=1000, height=100), (200, 100)), (Resize(width=100, height=100, mode="fill"), (200, 100)),
        (Resize(width=100, height=100, mode="exact"), (100, 100)), (Resize(width=100, mode="exact"), (100, 50)),
        (Resize(width=1), (1, 1)), (Resize(width=800), (800, 400)),
    ],
)  # fmt: skip
def test_sizes_follow_the_mode(wanted: Resize, size: tuple[int, int]) -> None:
    """Of an image of 400 × 200; fill is cut afterwards."""
    assert scaled_size((400, 200), wanted) == size


def test_a_size_beyond_all_bounds_is_refused() -> None:
    """A sliver that is to fill a square."""
    with pytest.raises(InvalidRequest, match="a side may have 16384"):
        scaled_size((1, 20_000), Resize(width=1000, height=10, mode="fill"))


def test_shrinking_averages() -> None:
    """A checkerboard of single pixels becomes its mean, not a pattern of its own."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    small = resize(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8), Resize(width=16))
    assert small.shape == (16, 16, 3)
    assert set(small.ravel().tolist()) <= {127, 128}


def test_fill_cuts_evenly() -> None:
    """The middle of the longer side stays."""
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert resize(wide, Resize(width=10, height=10, mode="fill")).min() == 255


def test_a_crop_is_exact() -> None:
    """The very pixels; one beyond the border is refused."""
    pixels = noise(30, 20)
    assert np.array_equal(crop(pixels, Crop(x=10, y=5, width=20, height=15)), pixels[5:20, 10:30])
    with pytest.raises(InvalidRequest, match=r"reaches to \(31, 20\); the image has 30 × 20"):
        crop(pixels, Crop(x=11, y=5, width=20, height=15))


@pytest.mark.parametrize(
    ("angle", "corners"),
    [
        (90, (BLUE, RED, GREY, GREEN)), (-270, (BLUE, RED, GREY, GREEN)), (180, (GREY, BLUE, GREEN, RED)),
        (270, (GREEN, GREY, RED, BLUE)), (-90, (GREEN, GREY, RED, BLUE)), (360, (RED, GREEN, BLUE, GREY)),
    ],
)  # fmt: skip
def test_quarter_turns_are_exact_and_clockwise(angle: float, corners: tuple[Any, ...]) -> None:
    """Left top, right top, left bottom, right bottom."""
    turned = rotate(quarters(8, 6), Rotate(angle=angle))
    assert [tuple(turned[y, x].tolist()) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == list(corners)


def test_any_turn_keeps_everything() -> None:
    """The picture grows, its new corners are white, its middle stays; turned back it is itself again."""
    photo = astronaut()[:200, :300]
    turned = rotate(photo, Rotate(angle=30))
    assert turned.shape[:2] == (round(300 * 0.5 + 200 * 3**0.5 / 2), round(300 * 3**0.5 / 2 + 200 * 0.5))
    assert turned[0, 0].tolist() == [255, 255, 255]
    back = rotate(turned, Rotate(angle=-30))
    top, left = (back.shape[0] - 200) // 2, (back.shape[1] - 300) // 2
    inner = back[top : top + 200, left : left + 300][20:-20, 20:-20]
    assert np.abs(inner.astype(int) - photo[20:-20, 20:-20]).mean() < 8


@pytest.mark.parametrize(("width", "height", "error"), [(65_000, 20, TooLarge), (33_000, 1, InvalidRequest)])
def test_a_turn_is_bounded_before_it_is_done(
    width: int, height: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 65,000 pixels on its corner would take 2 · 10⁹; a warp counts in 16 bits."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no picture is made to be refused")

    monkeypatch.setattr("phalanx.engines.image.geometry.cv2.warpAffine", refuse)
    angle = 45 if width == 65_000 else 0.001
    with pytest.raises(error):
        run(saved(noise(width, height), "PNG"), {"rotate": {"angle": angle}}, max_pixels=40_000_000)


def test_a_small_turn_is_clockwise() -> None:
    """A mark at the right of the middle moves down."""
    pixels = np.zeros((101, 101, 3), np.uint8)
    pixels[48:53, 88:93] = 255
    turned = rotate(pixels, Rotate(angle=10))
    assert turned.shape[0] == 117
    inner = turned[40:80, 85:105]
    assert 40 + np.argwhere(inner.min(axis=2) > 128)[:, 0].mean() == pytest.approx(
        58 + 40 * np.sin(np.radians(10)), abs=1
    )


@pytest.mark.parametrize(("width", "height"), [(8, 600), (600, 8)])
def test_the_side_that_shrinks_is_averaged_though_the_other_grows(width: int, height: int) -> None:
    """Of a fine grid nothing but its grey is left: to leave out pixels would make a pattern that was never there."""
    board = np.indices((301, 301)).sum(axis=0) % 2 * 255
    grid = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    made = resize(grid, Resize(width=width, height=height, mode="exact"))
    assert made.shape == (height, width, 3)
    assert np.abs(made.astype(int) - 127).max() < 10


@pytest.mark.parametrize("wanted", [Normalize(std=(1e-45, 1, 1)), Normalize(mean=(0, 1e308, 0)), Normalize(std=(1, float("nan"), 1))])  # fmt: skip
def test_a_tensor_has_numbers_only(wanted: Normalize) -> None:
    """Neither infinities nor what is no number."""
    with pytest.raises(InvalidRequest, match="beyond float32"):
        to_tensor(quarters(), wanted)


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_a_tensor_is_normalised(layout: Any) -> None:
    """ImageNet's means and deviations, against the formula in float64."""
    pixels, mean, std = noise(5, 4), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = to_tensor(pixels, Normalize(mean=mean, std=std, layout=layout))
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    expected = expected.transpose(2, 0, 1) if layout == "chw" else expected
    assert (tensor.shape, tensor.dtype, tensor.layout) == (expected.shape, "float32", layout)
    assert np.allclose(np.frombuffer(tensor.data, "<f4").reshape(tensor.shape), expected, atol=1e-6)


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (1.0, 1.0, 0.0)])
def test_no_tensor_is_divided_by_zero(std: tuple[float, float, float]) -> None:
    """An answer full of infinities would help nobody."""
    with pytest.raises(InvalidRequest, match="may not be 0"):
        to_tensor(noise(), Normalize(std=std))


def test_quality_ranks_as_eyes_do() -> None:
    """A photograph above its blurred, dark, bright, flat and tiny versions, each with its reason."""
    photo = astronaut()
    good = measure_quality(photo)
    assert good.reasons == []
    assert good.overall > 0.8
    worse = {
        "blurred": cv2.GaussianBlur(photo, (0, 0), 8), "too_dark": (photo * 0.2).astype(np.uint8),
        "too_bright": (255 - (255 - photo) * 0.15).astype(np.uint8),
        "low_contrast": (110 + photo * 0.1).astype(np.uint8), "too_small": cv2.resize(photo, (40, 40)),
    }  # fmt: skip
    for reason, pixels in worse.items():
        found = measure_quality(np.asarray(pixels, np.uint8))
        assert reason in found.reasons
        assert found.overall < good.overall


@pytest.mark.parametrize("value", [0, 255, 128])
def test_quality_of_nothing_is_zero(value: int) -> None:
    """One colour, one pixel: defined, within range."""
    for side in (1, 64):
        found = measure_quality(np.full((side, side, 3), value, np.uint8))
        assert found.overall == 0
        assert "low_contrast" in found.reasons
        assert "blurred" in found.reasons


def test_quality_hardly_depends_on_the_resolution() -> None:
    """The same picture at 512 and at 2048."""
    photo = astronaut()
    large = cv2.resize(photo, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    assert abs(measure_quality(np.asarray(large, np.uint8)).overall - measure_quality(photo).overall) < 0.05


def test_steps_run_in_order() -> None:
    """Crop, then turn, then resize is not the same as the other way round; measures are of their step."""
    data = saved(quarters(40, 40), "PNG")
    result = run(
        data, {"crop": {"x": 20, "y": 0, "width": 20, "height": 10}}, {"quality": {}}, {"rotate": {"angle": 90}},
        {"resize": {"width": 5}}, {"convert": {"format": "png"}},
    )  # fmt: skip
    assert (result.width, result.height) == (5, 10)
    assert np.array_equal(pixels_of(result), np.full((10, 5, 3), GREEN))
    assert result.quality is not None
    assert result.quality.size.value == 10


def test_one_decode_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at reduced size where the first thing asked of the pixels is to shrink them."""
    asked: list[Any] = []

    def listening(data: bytes, **options: Any) -> Any:
        asked.append(options)
        return decode(data, **options)

    monkeypatch.setattr(module, "decode", listening)
    photo = saved(astronaut(), "JPEG")
    run(photo, {"metadata": {}}, {"resize": {"width": 100}}, {"quality": {}}, {"rotate": {"angle": 5}})
    run(photo, {"quality": {}}, {"resize": {"width": 100}})
    assert [options["max_side"] for options in asked] == [200, None]


@pytest.mark.parametrize(
    ("wanted", "side"),
    [
        (Resize(width=100), 200), (Resize(width=100, height=100, mode="fill"), 400),
        (Resize(width=100, height=150, mode="exact"), 600), (Resize(width=800), 1600),
    ],
)  # fmt: skip
def test_a_reduced_decode_has_enough_both_ways(wanted: Resize, side: int) -> None:
    """Of 400 × 200, whatever the mode stretches."""
    assert sufficient_side(Header("jpeg", 400, 200), [Step(resize=wanted)]) == side


def test_a_reduced_decode_gives_the_size_that_was_asked_for() -> None:
    """Sizes are reckoned from the original, turned or not, and the picture is the same."""
    photo = astronaut()[:, :401]
    for orientation in (1, 6):
        data = jpeg_with(oriented(orientation), photo)
        reduced = run(data, {"resize": {"width": 37}}, {"convert": {"format": "png"}})
        whole = run(data, {"quality": {}}, {"resize": {"width": 37}}, {"convert": {"format": "png"}})
        assert (reduced.width, reduced.height) == (whole.width, whole.height)
        assert np.abs(pixels_of(reduced).astype(int) - pixels_of(whole)).mean() < 6


def test_no_step_makes_a_picture_over_the_bound() -> None:
    """By resizing or by turning; and nothing is computed to find out."""
    with pytest.raises(TooLarge, match="2000 × 2000 pixels, 1000000 are allowed"):
        run(saved(noise(), "PNG"), {"resize": {"width": 2000, "height": 2000, "mode": "exact"}})


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_files_carry_pixels_only(form: str) -> None:
    """No EXIF comes out, whatever went in."""
    result = run(jpeg_with(oriented(6) + b"SECRET"), {"convert": {"format": form}})
    assert result.image is not None
    assert b"SECRET" not in result.image
    assert b"Exif" not in result.image
    assert decode(result.image, max_pixels=MAX_PIXELS).header.orientation == 1
    assert (result.width, result.height) == (48, 64)


def test_quality_of_a_file_is_its_size() -> None:
    """Lower means smaller; PNG does not lose."""
    photo = astronaut()
    for form in ("jpeg", "webp"):
        assert len(encode(photo, form, quality=40)) < len(encode(photo, form, quality=90))
    assert np.array_equal(decode(encode(photo, "png"), max_pixels=MAX_PIXELS).pixels, photo)


def test_a_format_refuses_what_it_cannot_hold() -> None:
    """WebP's sides have fourteen bits."""
    with pytest.raises(InvalidRequest, match="a side of webp has at most 16383"):
        encode(np.zeros((1, 16_384, 3), np.uint8), "webp")


def test_a_webp_that_would_take_longer_than_a_request_may_is_refused() -> None:
    """And it is said what to do; a smaller one is made, and a JPEG of as many pixels."""
    large = np.zeros((3001, 4000, 3), np.uint8)
    with pytest.raises(
        InvalidRequest, match="4000 × 3001 pixels; a webp is made of at most 12000000: resize it, or convert it"
    ):
        encode(large, "webp")
    assert encode(large[:300], "webp")
    assert encode(large, "jpeg")


def test_without_steps_an_image_is_cleaned() -> None:
    """Upright, without EXIF, in its own format; BMP becomes PNG."""
    assert run(saved(noise(), "BMP")).format == "png"
    assert run(jpeg_with(oriented(3))).format == "jpeg"
    assert run(saved(noise(), "PNG"), return_image=False).image is None


EYES = np.array([[190, 112], [249, 112], [216, 150], [218, 168], [170, 130], [275, 130]], np.float32)
"""Landmarks of the astronaut, by hand, in the order of `facts`."""


def in_crop(marks: Keypoints) -> Keypoints:
    """Return landmarks in a picture of which 100 columns and 10 rows were cut off."""
    moved = marks.copy()
    moved -= (100, 10)
    return moved


def test_a_face_is_cut_out_as_the_embedders_have_it() -> None:
    """The same chip, for both templates and another size, from the pixels as decoded."""
    photo = saved(astronaut(), "PNG")
    for template, size, side in (("dlib", None, 150), ("arcface", None, 112), ("arcface", 224, 224)):
        wanted = {"template": template} if size is None else {"template": template, "size": size}
        result = run(photo, {"align": wanted}, find=lambda pixels: EYES)
        chip = align(astronaut(), EYES, TEMPLATES[template].scaled(side)).image  # type: ignore[index]
        assert (result.width, result.height) == (side, side)
        assert np.array_equal(pixels_of(result), chip)


def test_a_face_is_sought_in_the_picture_as_it_is_at_that_step() -> None:
    """After a crop, and again after another operation; what follows works on the chip."""
    sought: list[tuple[int, ...]] = []

    def find(pixels: Pixels) -> Keypoints:
        sought.append(pixels.shape)
        return in_crop(EYES) if len(sought) == 1 else (EYES / 4).astype(np.float32)

    crop_first = {"crop": {"x": 100, "y": 10, "width": 250, "height": 240}}
    align_to = {"align": {"template": "arcface"}}
    result = run(saved(astronaut(), "PNG"), crop_first, align_to, align_to, {"resize": {"width": 56}}, find=find)
    assert sought == [(240, 250, 3), (112, 112, 3)]
    assert (result.width, result.height) == (56, 56)
    once = run(
        saved(astronaut(), "PNG"),
        crop_first,
        align_to,
        find=lambda pixels: in_crop(EYES),
    )
    whole = run(saved(astronaut(), "PNG"), align_to, find=lambda pixels: EYES)
    assert np.abs(pixels_of(once).astype(int) - pixels_of(whole)).max() <= 1


def test_a_chip_is_low_passed_where_it_shrinks() -> None:
    """A face of a fine checkerboard becomes grey, not noise."""
    board = np.repeat(((np.indices((1000, 1000)).sum(axis=0) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    marks = np.array([[300, 400], [700, 400], [500, 550], [500, 750], [200, 450], [800, 450]], np.float32)
    chip = pixels_of(run(saved(board, "PNG"), {"align": {"template": "arcface"}}, find=lambda pixels: marks))
    assert chip[20:90, 20:90].std() < 10
    assert abs(float(chip[20:90, 20:90].mean()) - 127) < 10


@pytest.mark.parametrize(
    ("size", "wanted", "side"),
    [
        ((8000, 6000), Align(template="dlib"), 4000), ((8000, 6000), Align(template="arcface"), 2000),
        ((3000, 2000), Align(template="arcface", size=64), 1500), ((8000, 6000), Align(template="dlib", size=1024), 8000),
    ],
)  # fmt: skip
def test_a_large_photo_is_decoded_as_large_as_its_smallest_face_needs(
    size: tuple[int, int], wanted: Align, side: int
) -> None:
    header = Header(format="jpeg", width=size[0], height=size[1], orientation=1, bits=8, has_alpha=False, frames=1)
    enough = sufficient_side(header, [Step(align=wanted)])
    assert enough is not None
    divisor = next(d for d in (8, 4, 2, 1) if max(size) / d >= enough or d == 1)
    assert max(size) / divisor == side


def test_landmarks_that_coincide_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="coincide"):
        run(
            saved(noise(64, 64), "PNG"),
            {"align": {"template": "dlib"}},
            find=lambda pixels: np.ones((6, 2), np.float32),
        )


def test_a_chip_over_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge, match="1024 × 1024"):
        run(saved(noise(64, 64), "PNG"), {"align": {"template": "dlib", "size": 1024}}, find=lambda pixels: EYES)


def test_what_was_decoded_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as a step has replaced it: 36 MB of a camera's image."""
    seen: list[weakref.ref[Pixels]] = []

    def noted(*given: Any, **options: Any) -> Any:
        decoded = decode(*given, **options)
        seen.append(weakref.ref(decoded.pixels))
        return decoded

    monkeypatch.setattr(module, "decode", noted)
    steps = msgspec.convert([{"resize": {"width": 100}}, {"align": {"template": "dlib"}}], list[Step])
    work = process(saved(astronaut(), "PNG"), steps, max_pixels=MAX_PIXELS)
    assert next(work).shape == (100, 100, 3)
    assert seen[0]() is None
    work.close()
