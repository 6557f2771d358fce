"""The face detector: BlazeFace over the whole image, then a second, nearer look at each face that it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, get_args

import numpy as np

from phalanx.contract.faces import MIN_CONFIDENCE
from phalanx.engines.backends.graphs import ImageBackend
from phalanx.engines.face.blazeface import FULL_RANGE, SHORT_RANGE, Candidates, Layout, decode, merge
from phalanx.engines.face.facts import LEFT_EYE, MOUTH_CORNERS, RIGHT_EYE, Box, Face
from phalanx.engines.face.framing import Image, Square, cut_square, letterbox
from phalanx.engines.face.tiling import HALVES, LEVELS, THIRDS, count_tiles, tiles
from phalanx.engines.face.turning import quarter_turns, turned_back
from phalanx.errors import PhalanxError

Mode = Literal["full", "short", "auto", "tiled"]
"""full: full range finds the faces; short: short range does, for selfies and other near faces; auto: full range, short
range where that sees nothing, full range upside down where that does not either, and full range in the halves of a picture in
which more and smaller faces are to be expected, and in its thirds where they are smaller still; a picture most of whose
faces lie on their side or their head is looked at upright too; tiled: full range, in the whole picture and in overlapping parts of it, for
many or small faces. In each, short range then looks nearer."""

THRESHOLD: Final = 0.5
"""Score from which something is a face. Full range finds faces of a twentieth of the image with it, and no false one
in the photos tried, where MediaPipe's 0.6 lost some."""

MIN_SCORE: Final = MIN_CONFIDENCE
"""Black, noise and bodies without a face reach 0.15 in short range, 0.25 in full range."""

SECOND_LOOK: Final = 2.0
"""Side of the square of the second look, as a multiple of the face's. From 1.3 to 3 all do."""

NEARER: Final = 0.25
"""How far the middle of the second look's face may be from the square's, as a part of it: beyond is another face."""

ALIKE: Final = 2.0
"""Ratio of the sizes in which the two looks see one face: all but one of 4,184 have 0.49 to 1.9, and what short range sees in the noise
within a face is half of it or less."""

MAX_SECOND_LOOKS: Final = 64
"""Faces of one image that are looked at again, the largest: half a millisecond each. In tiles, all are."""

SUSPECTED: Final = 0.1
"""By how much the score of full range may be below the threshold for a second look, which then must be all the surer."""

SURER: Final = 0.2
"""By how much full range must exceed the threshold where short range does not see the face."""

AGREED: Final = 0.175
"""By how much the mean of both scores must exceed the threshold. Of 1,475 places with a face in photos, scaled, turned and
compressed, this and the two above take 14 more than 0.7 from either network, from 0.5 on, does; and of 228 in other pictures
(animals, cells, stars, engines, letters) one, a dog, instead of five."""

ALONE: Final = 0.3
"""By how much short range must exceed the threshold where full range saw nothing: a cat and a wheel of colours reach 0.7, of 81
near faces, cut to chin and brow, dark and blurred ones too, all that are found at all have 0.8."""

UPRIGHT: Final = 0.85
"""Score of short range below which a face is looked at upside down too, and from which it then lies so. Of 409 finds in ten photos
and their mirror images, turned by 15° each, 373 of the 374 that are the right way round have 0.86 or more, and 0.77 at most
looked at the other way; of 35 that full range took the wrong way 33 have 0.81 at most, and 31 have 0.86 or more the other way."""

GROUP: Final = 7
CROWD: Final = 14
"""Smaller than this part of the picture's longer side, a face has smaller ones beside it that full range may miss: in montages it
finds all of those from an eighth on, nine in ten from a tenth, a third from a sixteenth; with halves all but one in a hundred.
Below the second, halves miss some, and thirds are looked at too."""

TILE_SUSPECTED: Final = 0.3
TILE_CONFIRMED: Final = 0.8
TILE_LIKELY: Final = 0.625
TILE_AGREED: Final = 0.75
"""Scores of full range from which something in a tile is looked at again, and of short range from which it then is a face, where
the mean of both is likely; and the mean from which it is one in any case. Of 2,076 faces in photos, scaled, turned and
compressed, halves show 1,323 so, and 1,307 by short range alone, and of 2,200 other things no more; a coin is no longer one."""

SMALLEST_TILED: Final = 20.0
"""Pixels of the smallest face that is found in tiles: smaller ones score no more than a button."""

MAX_TILED: Final = 500
"""Places of a picture in tiles that are looked at again, the surest."""

TILE_COST: Final = 8
"""What a tile counts for in the queue, where an image counts for 16: it is looked at once."""


class Looks(NamedTuple):
    """An image to detect faces in, with the square that the first network will see. Part of `Engine`'s contract."""

    image: Image
    first: Square
    mode: Mode
    min_score: float

    @property
    def length(self) -> int:
        """What it counts for in the queue: all images are equal, but for those in tiles."""
        if self.mode != "tiled":
            return 1
        height, width = self.image.shape[:2]
        return 1 + TILE_COST * count_tiles(width, height)


class Unopened:
    """An image that the engine itself makes ready: one that is decoded sooner than another thread is woken for it.

    An image that cannot be read has no faces, and what was wrong with it is in `error`. Part of `Engine`'s contract.
    """

    length: Final = 1

    def __init__(self, ready: Callable[[], Looks]) -> None:
        self._ready = ready
        self.error: PhalanxError | None = None

    def looks(self) -> Looks | None:
        """Open the image; None when that fails."""
        try:
            return self._ready()
        except PhalanxError as error:
            self.error = error
            return None


def prepare(image: Image, *, mode: Mode = "auto", min_score: float = THRESHOLD) -> Looks:
    """Make an upright RGB image, uint8 `[height, width, 3]`, ready for the detector. Any thread.

    Faces of at least `min_score`, 0.2 to 1, will be returned.
    """
    return Looks(image, letterbox(image, (SHORT_RANGE if mode == "short" else FULL_RANGE).size), mode, min_score)


class Range:
    """One of the two networks, with how its outputs are read."""

    def __init__(self, backend: ImageBackend, layout: Layout) -> None:
        self.backend = backend
        self._layout = layout
        self._anchors = layout.anchors()
        self._pixels = np.empty((1, layout.size, layout.size, 3), np.float32)

    def find(self, square: Square, min_score: float) -> Candidates:
        """Return the faces in a square, the surest first, in parts of it."""
        # -1 to 1, where it lies already: one thread uses a network.
        self._pixels[0] = square.pixels
        self._pixels *= np.float32(1 / 127.5)
        self._pixels -= 1.0
        outputs = list(self.backend.infer(self._pixels).values())
        return merge(decode(self._layout, self._anchors, outputs, min_score))


@dataclass(frozen=True)
class Lane:
    """Both networks, once. One thread uses them."""

    full: Range
    short: Range

    @property
    def backend(self) -> ImageBackend:
        """What the first look runs on."""
        return self.full.backend

    def detect(self, looks: Looks) -> list[Face]:
        """Return the faces of one image from left to right."""
        # Who wants surer faces gets those of the usual ones that are so: the rules below are for their scores.
        threshold = min(max(looks.min_score, MIN_SCORE), THRESHOLD)
        found = self._find(looks.image, looks.first, looks.mode, threshold)
        turns = quarter_turns([roll_of(face) for face in found]) if looks.mode == "auto" else 0
        if turns:
            height, width = looks.image.shape[:2]
            image = np.ascontiguousarray(np.rot90(looks.image, turns))
            upright = self._find(image, letterbox(image, FULL_RANGE.size), looks.mode, threshold)
            back = [turned_back(face, turns, width, height) for face in upright]
            found = back + [face for face in found if not any(_is_same(face.box, other.box) for other in back)]
        return sorted((face for face in found if face.score >= looks.min_score), key=_middle)

    def _find(self, image: Image, first: Square, mode: Mode, threshold: float) -> list[Face]:
        """Return the faces of an image as it lies, in no order; `first` is what the first network sees of it."""
        if mode == "short":
            return self._look_again(image, self._seen(self.short, first, threshold), threshold)
        suspected = self._seen(self.full, first, max(threshold - SUSPECTED, MIN_SCORE))
        kept = self._look_again(image, suspected, threshold + SURER, threshold + AGREED)
        if mode == "auto" and not kept:
            near = self._seen(self.short, letterbox(image, SHORT_RANGE.size), threshold)
            kept = self._look_again(image, near, threshold + ALONE)
        if mode == "auto" and not kept:
            kept = self._look_again(image, self._seen(self.full, first.turned(), threshold), threshold + ALONE)
        if mode == "tiled":
            kept += self._in_tiles(image, kept, LEVELS)
        elif mode == "auto" and _is_small(kept, image, GROUP):
            kept += self._in_tiles(image, kept, HALVES)
            if kept and _is_small(kept, image, CROWD):
                kept += self._in_tiles(image, kept, THIRDS)
        return _apart(kept)

    def _in_tiles(self, image: Image, known: list[Face], levels: Sequence[int]) -> list[Face]:
        """Return the faces that only the tiles of a picture show.

        Such a one counts when short range, looking nearer, sees it too: a small part of a picture has much in it that
        resembles a face.
        """
        found: list[Face] = []
        for tile in tiles(image.shape[1], image.shape[0], levels):
            seen = self._seen(self.full, tile.cut(image, FULL_RANGE.size), TILE_SUSPECTED)
            found += [face for face in seen if not tile.cuts(face)]
        new = [face for face in _merged(found) if not any(_is_same(face.box, other.box) for other in known)]
        sure = []
        for face in new[:MAX_TILED]:
            nearer, score = self._seen_again(image, face)
            enough = TILE_LIKELY if score >= TILE_CONFIRMED else TILE_AGREED
            if nearer is not None and nearer.box.width >= SMALLEST_TILED and (face.score + score) / 2 >= enough:
                sure.append(nearer)
        return sure

    def _seen(self, network: Range, square: Square, threshold: float) -> list[Face]:
        found = network.find(square, threshold)
        return [_face(found, index, square, score=float(found.scores[index])) for index in range(len(found.scores))]

    def _look_again(self, image: Image, faces: list[Face], least: float, agreed: float | None = None) -> list[Face]:
        """Return each face with what short range sees in an upright square around it, if it sees it at all.

        Landmarks then come back within a pixel of the last time in a chip of 150, rather than within 2.5. Kept are faces to
        which either look gives at least `least`; with `agreed`, to which the first does or both on average give that. Of
        those that there is no second look for, the first decides.
        """
        faces = sorted(faces, key=lambda face: -face.box.width)
        kept = [face for face in faces[MAX_SECOND_LOOKS:] if face.score >= least]
        for face in faces[:MAX_SECOND_LOOKS]:
            seen, score = self._seen_again(image, face)
            other = (face.score + score) / 2 - agreed if agreed is not None else score - least
            if face.score >= least or other >= 0:
                kept.append(seen or face)
        return _apart(kept)

    def _seen_again(self, image: Image, face: Face) -> tuple[Face | None, float]:
        """Return what short range sees of a face in an upright square around it, with its score; None and 0 for nothing.

        Full range takes some faces that are upside down for upright ones, so what is not sure is turned round too.
        """
        seen, score = self._nearest(image, face, 0.0, MIN_SCORE)
        if score >= UPRIGHT:
            return seen, score
        turned, turned_score = self._nearest(image, face, math.pi, UPRIGHT)
        return (seen, score) if turned is None else (turned, turned_score)

    def _nearest(self, image: Image, face: Face, turn: float, threshold: float) -> tuple[Face | None, float]:
        """Return what short range sees in a square around a face, turned by `turn` beyond upright, with its score; 0 for none."""
        box = face.box
        centre = (box.x + box.width / 2, box.y + box.height / 2)
        angle = roll_of(face) + turn
        square = cut_square(image, centre, SECOND_LOOK * max(box.width, box.height), angle, SHORT_RANGE.size)
        found = self.short.find(square, threshold)
        if not len(found.scores):
            return None, 0.0
        offsets = [math.hypot((x + r) / 2 - 0.5, (y + b) / 2 - 0.5) for x, y, r, b in found.boxes.tolist()]
        nearest = offsets.index(min(offsets))
        left, _, right, _ = found.boxes[nearest].tolist()
        if offsets[nearest] > NEARER or not 1 / ALIKE < SECOND_LOOK * (right - left) < ALIKE:
            return None, 0.0
        score = float(found.scores[nearest])
        return _face(found, nearest, square, score=max(face.score, score)), score


class Looker(Protocol):
    """What finds faces on one thread: a lane of whatever networks."""

    @property
    def backend(self) -> ImageBackend:
        """What the first look runs on."""
        ...

    def detect(self, looks: Looks) -> list[Face]:
        """Return the faces of one image from left to right."""
        ...


class FaceDetector:
    """The engine: images in, faces out. Each image has one thread; `lanes` are how many are under way at once.

    An image that comes alone is looked at by `alone`, which may use the cores that the other lanes leave idle; without it,
    by the first lane. As a batch images gain little: four in full range took 5.29 ms as one, 5.36 one by one.
    """

    def __init__(self, lanes: Sequence[Looker], alone: Looker | None = None) -> None:
        self._lanes = list(lanes)
        self._alone = alone or self._lanes[0]
        self._pool = ThreadPoolExecutor(len(lanes) - 1, "faces") if len(lanes) > 1 else None

    @property
    def backend(self) -> ImageBackend:
        """What the first look runs on."""
        return self._lanes[0].backend

    @property
    def modes(self) -> tuple[Mode, ...]:
        """How it can look."""
        return get_args(Mode)

    @property
    def estimated(self) -> tuple[str, ...]:
        """The landmarks that it does not see: the corners of the mouth follow from its middle."""
        return MOUTH_CORNERS

    def prepare(self, image: Image, *, mode: Mode = "auto", min_score: float = THRESHOLD) -> Looks:
        """Make an image ready; as `prepare` of the module."""
        return prepare(image, mode=mode, min_score=min_score)

    @property
    def lanes(self) -> int:
        """Images that are computed at once."""
        return len(self._lanes)

    def run(self, batch: Sequence[Looks | Unopened]) -> list[list[Face]]:
        """Return the faces of each image, from left to right. On the engine thread."""
        if len(batch) == 1:
            return [_detect(self._alone, batch[0])]
        if self._pool is None:
            return [_detect(self._lanes[0], item) for item in batch]
        shares = [list(range(at, len(batch), len(self._lanes))) for at in range(len(self._lanes))]
        results: list[list[Face]] = [[] for _ in batch]

        def work(lane: Looker, share: list[int]) -> None:
            for index in share:
                results[index] = _detect(lane, batch[index])

        waiting = [self._pool.submit(work, *pair) for pair in zip(self._lanes[1:], shares[1:], strict=True)]
        try:
            work(self._lanes[0], shares[0])
        finally:
            failures = [task.exception() for task in waiting]
        for failure in failures:
            if failure is not None:
                raise failure
        return results

    def close(self) -> None:
        """End the threads of the other lanes."""
        if self._pool is not None:
            self._pool.shutdown()


def _detect(lane: Looker, item: Looks | Unopened) -> list[Face]:
    looks = item.looks() if isinstance(item, Unopened) else item
    return [] if looks is None else lane.detect(looks)


def roll_of(face: Face) -> float:
    """Return by how much the line of the eyes is turned clockwise from the horizontal, in radians, -pi to pi."""
    across = face.keypoints[RIGHT_EYE] - face.keypoints[LEFT_EYE]
    return math.atan2(float(across[1]), float(across[0]))


def _face(found: Candidates, index: int, square: Square, *, score: float) -> Face:
    """Bring a find to the image. Of a turned square the box keeps its size and its middle, so that it stays upright."""
    left, top, right, bottom = found.boxes[index].tolist()
    (a, b, c), (d, e, f) = square.to_image.tolist()
    u, v = (left + right) / 2, (top + bottom) / 2
    x, y = a * u + b * v + c, d * u + e * v + f
    width, height = (right - left) * math.hypot(a, d), (bottom - top) * math.hypot(b, e)
    return Face(Box(x - width / 2, y - height / 2, width, height), square.points(found.keypoints[index]), score)


def _is_small(found: list[Face], image: Image, part: int) -> bool:
    """Whether there may well be faces too small to have been seen: where none was, or one below a part of the longer side."""
    return not found or min(face.box.width for face in found) * part < max(image.shape[:2])


def _middle(face: Face) -> float:
    return face.box.x + face.box.width / 2


def _merged(faces: list[Face]) -> list[Face]:
    """Make one of those that overlap, the surest first, as `blazeface.merge` does within one square."""
    if not faces:
        return []
    boxes = np.array([(f.box.x, f.box.y, f.box.x + f.box.width, f.box.y + f.box.height) for f in faces], np.float32)
    scores = np.array([face.score for face in faces], np.float32)
    merged = merge(Candidates(boxes, np.stack([face.keypoints for face in faces]), scores))
    return [
        Face(Box(*map(float, (box[0], box[1], box[2] - box[0], box[3] - box[1]))), keypoints, float(score))
        for box, keypoints, score in zip(merged.boxes, merged.keypoints, merged.scores, strict=True)
    ]


def _apart(faces: list[Face]) -> list[Face]:
    """Drop faces whose middle lies within a surer one's inner half: the second look led two finds to the same face."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if not any(_is_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def _is_same(one: Box, other: Box) -> bool:
    across = abs(one.x + one.width / 2 - other.x - other.width / 2)
    down = abs(one.y + one.height / 2 - other.y - other.height / 2)
    return across < other.width / 4 and down < other.height / 4
