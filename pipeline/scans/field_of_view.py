"""The field of view of a fundus photograph: the bright disc on the dark surround.

The hull is ours rather than scikit-image's ``convex_hull_image``, which tests each pixel: the hull of a photograph of 4000 x 6000 took
25 ms here; there it took 1.3 s from the working size, enlarged, and 9 s at full size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# The longest side at which the field of view is sought; its edge is then placed to within a source pixel or two.
_WORKING_SIDE = 512
# Where the threshold lies, as a fraction of the way from the level of the surround to that of bright retina; the best on CHASE_DB1.
_THRESHOLD = 0.12
# A largest piece below this fraction of the picture is no field of view.
_SMALLEST = 0.1
# A field of view fills at least this fraction of its convex hull; what fills less is texture (OCT angiography), not a disc.
_SOLID = 0.85


def detect_field_of_view(pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Field of view of (C, H, W) in any dtype -> bool (H, W).

    The brightest channel is separated from the surround by a threshold a little above the surround's own level; the largest
    connected piece is kept and its convex hull filled, because dark rims and shadows are still retina. A picture without a
    surround is field of view everywhere.
    """
    import torch
    import torch.nn.functional as nn_functional
    from scipy import ndimage

    brightest = pixels[0]
    for plane in pixels[1:]:
        brightest = np.maximum(brightest, plane)
    brightest = brightest.astype(np.float32)
    rows, columns = brightest.shape
    everything = np.ones((rows, columns), dtype=bool)
    step = max(rows, columns) / _WORKING_SIDE
    if step > 1:
        size = (max(round(rows / step), 1), max(round(columns / step), 1))
        brightest = nn_functional.interpolate(torch.from_numpy(brightest)[None, None], size=size, mode="area")[0, 0].numpy()
    dark, bright = np.percentile(brightest, [0.5, 95])
    if bright <= dark:
        return everything
    above = brightest > dark + _THRESHOLD * (bright - dark)
    # Thin bridges to lettering and specks of noise are cut before the largest piece is chosen.
    above = _opened(above.astype(np.uint8), 5).astype(bool)
    pieces, count = ndimage.label(above)
    if count == 0:
        return everything
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    piece = pieces == int(sizes.argmax())
    hull = _filled_hull(piece, rows, columns)
    return hull if piece.mean() >= _SMALLEST and piece.mean() >= _SOLID * hull.mean() else everything


def field_diameter(valid: npt.NDArray[np.bool_]) -> int:
    """In pixels, of a field of view (H, W) that is not empty: its larger side, because many cameras cut the circle off at the top and
    bottom, or at the sides."""
    return max(int(np.ptp(np.flatnonzero(valid.any(axis=axis)))) for axis in (0, 1)) + 1


def _opened(piece: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Morphological opening of zeros and ones by a square, an axis at a time, which is several times as fast as by its pixels."""
    from scipy import ndimage

    for extreme in (ndimage.minimum_filter1d, ndimage.maximum_filter1d):
        for axis in (0, 1):
            piece = extreme(piece, side, axis=axis, mode="constant", cval=0)
    return piece


def _filled_hull(piece: npt.NDArray[np.bool_], rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Convex hull of a piece, drawn on a grid of (rows, columns) over the same picture.

    Each row of a convex shape is one interval, so only two chains of edges need to be found.
    """
    height, width = piece.shape
    lines = np.flatnonzero(piece.any(axis=1))
    left = piece[lines].argmax(axis=1).astype(float)
    right = width - piece[lines, ::-1].argmax(axis=1).astype(float)
    y = (np.arange(rows) + 0.5) * height / rows - 0.5
    x = (np.arange(columns) + 0.5) * width / columns
    starts = np.interp(y, *_lower_chain(lines.astype(float), left))
    ends = -np.interp(y, *_lower_chain(lines.astype(float), -right))
    starts[(y < lines[0] - 0.5) | (y > lines[-1] + 0.5)] = width + 1
    return np.asarray((x >= starts[:, None]) & (x < ends[:, None]))


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
