"""The field of view of a fundus photograph: what the camera lit, on a surround of one colour.

Everything is judged by its distance from the surround's colour, which is read in the picture's corners, because a surround may be
tinted, brighter than dark retina, or white. The hull is ours rather than scikit-image's ``convex_hull_image``, which tests each pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types import Scan

# The longest side at which the field of view is sought; its edge is then placed to within a source pixel or two.
_WORKING_SIDE = 512
# The side of a corner in which the surround's colour is read, in working pixels.
_CORNER = 8
# Corners are surround that differ from the darkest by at most this fraction of the picture's range.
_ALIKE = 0.15
# Where the threshold lies, as a fraction of the way from the surround's colour to bright retina; the best on CHASE_DB1.
_THRESHOLD = 0.12
# Up to this fraction of that way a pixel has the surround's own colour; between the two it may be a dark rim.
_OWN_COLOUR = 0.06
# Across its edge, from so many working pixels outside to as many inside, a field of view rises by this fraction of that way (median along
# the edge). A photograph without a surround that grows dark towards a corner rises by less.
_ACROSS, _RISE = 3, 0.12
# A largest piece below this fraction of the picture is no field of view.
_SMALLEST = 0.1
# A field of view fills at least this fraction of its convex hull; what fills less is texture (OCT angiography), not a disc.
_SOLID = 0.85

Mask = npt.NDArray[np.bool_]


def field_of_view(scan: Scan) -> Mask:
    """:func:`detect_field_of_view` of a picture, sought once for the same pixels, whoever asks; not to be written into."""
    found = scan.field_found.of_pixels
    if found is None or found[0] is not scan.pixels:
        found = scan.field_found.of_pixels = (scan.pixels, detect_field_of_view(scan.pixels))
    return found[1]


def detect_field_of_view(pixels: npt.NDArray[Any]) -> Mask:
    """Field of view of (C, H, W) in any dtype -> bool (H, W).

    Of what differs from the surround by more than a threshold, the largest connected piece is kept and its convex hull filled, because
    dark rims and shadows are still retina. Out of the hull is cut what has the surround's own colour and is connected with it: notches,
    straight cuts, the corners beside a tab. A picture without a surround is field of view everywhere; so is one whose retina ends as dark
    as a surround of its own colour: 3 of 38 with the red ones that workflows/benchmarks/field_of_view.py draws.
    """
    from scipy import ndimage

    rows, columns = pixels.shape[-2:]
    everything = np.ones((rows, columns), dtype=bool)
    distance = _distance_from_surround(_at_working_size(pixels))
    bright = float(np.percentile(distance[::2, ::2], 95))
    # Thin bridges to lettering and specks of noise are cut before the largest piece is chosen.
    piece = _largest(_opened((distance > _THRESHOLD * bright).view(np.uint8), 5))
    if bright <= 0 or piece.mean() < _SMALLEST:
        return everything
    hull = _filled_hull(piece)
    if piece.sum() < _SOLID * hull.sum() or not _has_an_edge(hull, distance, _RISE * bright):
        return everything
    pieces, _ = ndimage.label(distance <= _OWN_COLOUR * bright)
    along = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    surround = np.zeros(int(pieces.max()) + 1, dtype=bool)
    surround[along[along > 0]] = True
    return _enlarged(_largest(hull & ~surround[pieces]), rows, columns)


def field_diameter(valid: npt.NDArray[np.bool_]) -> int:
    """In pixels, of a field of view (H, W) that is not empty: its larger side, because many cameras cut the circle off at the top and
    bottom, or at the sides."""
    return max(int(np.ptp(np.flatnonzero(valid.any(axis=axis)))) for axis in (0, 1)) + 1


def _at_working_size(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(C, H, W) in any dtype -> float32 (C, h, w) of at most the working size, each value the mean of two by two pixels spread over its
    place: of a large picture not every pixel needs to be read."""
    rows, columns = pixels.shape[-2:]
    step = max(rows, columns) / _WORKING_SIDE
    if step <= 1:
        return pixels.astype(np.float32)
    y, x = (((np.arange(2 * max(round(side / step), 1)) + 0.5) * step / 2).astype(int).clip(0, side - 1) for side in (rows, columns))
    sampled = np.stack([plane[y].take(x, axis=1) for plane in pixels]).astype(np.float32)
    return np.asarray((sampled[:, ::2, ::2] + sampled[:, ::2, 1::2] + sampled[:, 1::2, ::2] + sampled[:, 1::2, 1::2]) / 4)


def _distance_from_surround(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 (C, h, w) -> (h, w): by how much a pixel lies outside the range of the surround's colours, in the channel where most.

    The range is that of the corners that are like the darkest: a surround is seldom even, and the field of view may cover a corner.
    """
    near, far = slice(None, _CORNER), slice(-_CORNER, None)
    corners = np.stack([np.median(planes[:, y, x], axis=(1, 2)) for y in (near, far) for x in (near, far)])
    from_darkest = np.abs(corners - corners[corners.max(axis=1).argmin()]).max(axis=1)
    alike = corners[from_darkest <= _ALIKE * np.ptp(planes[:, ::4, ::4])]
    middle, half = (alike.max(axis=0) + alike.min(axis=0)) / 2, np.ptp(alike, axis=0) / 2
    return np.asarray((np.abs(planes - middle[:, None, None]) - half[:, None, None]).max(axis=0))


def _largest(mask: npt.NDArray[Any]) -> Mask:
    """The largest connected piece of what is not 0; nothing of nothing."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray((pieces == int(sizes.argmax())) & (pieces > 0))


def _has_an_edge(hull: Mask, distance: npt.NDArray[np.float32], rise: float) -> bool:
    """Whether ``distance`` rises by ``rise`` across the edge of ``hull``, at the median along it; where it has none in the picture, yes."""
    inner = hull[:-2, 1:-1] & hull[2:, 1:-1] & hull[1:-1, :-2] & hull[1:-1, 2:]
    y, x = np.nonzero(hull[1:-1, 1:-1] & ~inner)
    if len(y) == 0:
        return True
    outward = np.stack([y + 1 - hull.shape[0] / 2, x + 1 - hull.shape[1] / 2])
    outward *= _ACROSS / np.maximum(np.hypot(*outward), 1)

    def at(offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        rows, columns = (np.rint(p + o).astype(int).clip(0, n - 1) for p, o, n in zip((y + 1, x + 1), offset, hull.shape, strict=True))
        return np.asarray(distance[rows, columns])

    return bool(np.median(at(-outward) - at(outward)) >= rise)


def _enlarged(mask: Mask, rows: int, columns: int) -> Mask:
    """A mask (h, w) on a grid of (rows, columns) over the same picture: drawn smoothly at twice its size, and from there by the nearest
    pixel, which is three times as fast as smoothly all the way."""
    from PIL import Image

    if mask.shape == (rows, columns):
        return mask
    double = (2 * mask.shape[1], 2 * mask.shape[0])
    smooth = np.asarray(Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize(double, Image.Resampling.BILINEAR)) > 127
    y, x = (((np.arange(side) + 0.5) * (length / side)).astype(int) for side, length in zip((rows, columns), smooth.shape, strict=True))
    return np.asarray(smooth.take(x, axis=1)[y])


def _opened(piece: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Morphological opening of zeros and ones by a square, an axis at a time, which is several times as fast as by its pixels."""
    from scipy import ndimage

    for extreme in (ndimage.minimum_filter1d, ndimage.maximum_filter1d):
        for axis in (0, 1):
            piece = extreme(piece, side, axis=axis, mode="constant", cval=0)
    return piece


def _filled_hull(piece: Mask) -> Mask:
    """Convex hull of a piece. Each row of a convex shape is one interval, so only two chains of edges need to be found."""
    height, width = piece.shape
    lines = np.flatnonzero(piece.any(axis=1))
    left = piece[lines].argmax(axis=1).astype(float)
    right = width - piece[lines, ::-1].argmax(axis=1).astype(float)
    y = np.arange(lines[0], lines[-1] + 1, dtype=float)
    x = np.arange(width) + 0.5
    starts = np.interp(y, *_lower_chain(lines.astype(float), left))
    ends = -np.interp(y, *_lower_chain(lines.astype(float), -right))
    hull = np.zeros((height, width), dtype=bool)
    hull[lines[0] : lines[-1] + 1] = (x >= starts[:, None]) & (x < ends[:, None])
    return hull


def _lower_chain(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Lower convex hull of points in order of x (Andrew's monotone chain, doi:10.1016/0020-0190(79)90072-3)."""
    chain: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2:]
            if (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax) > 0:
                break
            chain.pop()
        chain.append(point)
    return [p[0] for p in chain], [p[1] for p in chain]
