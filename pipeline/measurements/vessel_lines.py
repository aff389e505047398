"""Smooth centrelines of vessels with their calibre, to a fraction of a pixel.

The pixels of a skeleton lie up to half a pixel beside the middle, and a chain of pixels is up to 8 % longer than the line that it stands
for. So each chain is smoothed, the two walls are looked for along its normals, and the line is moved to their middle: the distance
between the walls is the calibre, wherever the skeleton lay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.measurements.vessel_tree import FREE, Segment, Tree

BoolArray = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

CHAIN_SIGMA = 2.0
"""Pixels of the first smoothing, for the normals."""
LINE_SIGMA = 5.0
"""Pixels of the second, which curvature is taken from; bends down to a wavelength of 40 px keep 97 % of their height."""
FURTHEST_WALL = 60.0
"""Pixels: what is wider than twice that is no vessel, and has no calibre."""
_NEAR = 6.0
"""Pixels within which most walls are; only what is left is looked for further away."""
_STEP = 0.5
_MARGIN = 3.0


@dataclass(frozen=True, eq=False)
class Line:
    """One segment of the tree. ``points`` float64 (n, 2), about a pixel apart · ``widths`` (n) in pixels, NaN where the walls are not those
    of this vessel alone (near a branch point) · ``ends`` as of the segment."""

    points: Floats
    widths: Floats
    ends: tuple[int, int]

    @property
    def length(self) -> float:
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    @property
    def chord(self) -> float:
        return float(np.hypot(*(self.points[-1] - self.points[0])))


def find_lines(mask: BoolArray, tree: Tree) -> list[Line]:
    """The tree's segments of at least 3 points as lines, with the calibre of a mask bool (H, W) along them."""
    whole = [(segment, tree.whole_path(segment)) for segment in tree.segments]
    kept = [(segment, path) for segment, path in whole if len(path) >= 3]
    if not kept:
        return []
    paths = smooth([path for _, path in kept], CHAIN_SIGMA)
    points, normals = np.concatenate(paths), np.concatenate([_normals(path) for path in paths])
    reach = min(tree.widest + _MARGIN, FURTHEST_WALL)
    level = mask.astype(np.float32)
    left, right = (_to_wall(level, points, sign * normals, reach) for sign in (-1, 1))
    widths = left + right
    middle = points + normals * ((right - left) / 2)[:, None]
    clear = np.isfinite(widths) & np.concatenate(
        [_clear_of_nodes(path, segment, tree) for (segment, _), path in zip(kept, paths, strict=True)]
    )
    begins = np.cumsum([len(path) for path in paths])[:-1]
    lines = smooth(np.split(np.where(clear[:, None], middle, points), begins), LINE_SIGMA)
    calibres = np.split(np.where(clear, widths, np.nan), begins)
    return [Line(line, own, segment.ends) for (segment, _), line, own in zip(kept, lines, calibres, strict=True)]


def smooth(paths: Sequence[Floats], sigma: float) -> list[Floats]:
    """Paths (n, 2), at least one, through a Gaussian twice over (Tukey's twicing), which leaves slow bends as high as they are; their ends
    stay. All at once: as each is continued beyond its ends as far as the Gaussian reaches, none sees another."""
    reach = int(4 * sigma + 0.5)

    def once(values: Sequence[Floats]) -> list[Floats]:
        padded = [_continued(own, reach) for own in values]
        smoothed = np.asarray(ndimage.gaussian_filter1d(np.concatenate(padded), sigma, axis=0), np.float64)
        return [own[reach:-reach] for own in np.split(smoothed, np.cumsum([len(own) for own in padded])[:-1])]

    first = once(paths)
    return [own + more for own, more in zip(first, once([path - own for path, own in zip(paths, first, strict=True)]), strict=True)]


def _continued(path: Floats, reach: int) -> Floats:
    """A path (n, 2) with ``reach`` more points at both ends, as it would look turned about them."""
    if len(path) <= reach:
        return np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    # The same, in a tenth of the time: most paths are longer.
    return np.concatenate([2 * path[:1] - path[reach:0:-1], path, 2 * path[-1:] - path[-2 : -reach - 2 : -1]])


def _normals(path: Floats) -> Floats:
    """Unit vectors across a path (n, 2)."""
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    return np.asarray(across / np.maximum(np.hypot(*across.T), 1e-9)[:, None])


def _to_wall(mask: Floats32, points: Floats, directions: Floats, reach: float) -> Floats:
    """Distance from points (n, 2) to where the mask, between pixels, falls to one half; NaN where that is further than ``reach``."""
    distance = _wall_within(mask, points, directions, min(reach, _NEAR))
    if reach > _NEAR:
        further = np.isnan(distance)
        distance[further] = _wall_within(mask, points[further], directions[further], reach)
    return distance


def _wall_within(mask: Floats32, points: Floats, directions: Floats, reach: float) -> Floats:
    far = np.arange(0, reach + _STEP, _STEP)
    rays = points[:, :, None] + directions[:, :, None] * far  # (n, 2, steps)
    inside = ndimage.map_coordinates(mask, rays.transpose(1, 0, 2), order=1, mode="constant")
    outside = inside < 0.5
    first = outside.argmax(axis=1)
    before = np.maximum(first - 1, 0)
    own = np.arange(len(points))
    high, low = inside[own, before].astype(np.float64), inside[own, first].astype(np.float64)
    part = np.where(first > 0, (high - 0.5) / np.maximum(high - low, 1e-9), 0.0)
    distance = (before + part) * _STEP
    return np.where(outside.any(axis=1), distance, np.nan)


def _clear_of_nodes(path: Floats, segment: Segment, tree: Tree) -> BoolArray:
    """Points whose walls are not those of another branch: one and a half times a branch point's distance to the wall away from it."""
    clear = np.ones(len(path), dtype=bool)
    for end in segment.ends:
        if end != FREE:
            clear &= np.hypot(*(path - tree.nodes[end]).T) > 1.5 * tree.radii[end]
    return clear
