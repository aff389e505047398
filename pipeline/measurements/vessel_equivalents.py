"""Central retinal artery and vein equivalents from the calibres of six vessels each.

Knudtson et al., "Revised formulas for summarizing retinal vessel diameters", Current Eye Research 27:143, 2003,
doi:10.1076/ceyr.27.3.143.16049: the widest and the narrowest of the six give one of factor x sqrt(widest^2 + narrowest^2), and so on,
until one is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.measurements.vessel_lines import Line
from pipeline.measurements.vessel_zones import Ring

KNUDTSON = "Knudtson et al., Current Eye Research 27:143, 2003, doi:10.1076/ceyr.27.3.143.16049"
ARTERY_FACTOR, VEIN_FACTOR = 0.88, 0.95
LARGEST = 6
"""Vessels that the equivalent is made of."""
LEAST_POINTS = 5
"""Points of a vessel in the zone at which its walls must be seen."""


def equivalent(widths: Sequence[float], factor: float) -> float:
    """Of vessels' calibres, at least one: widest and narrowest are paired until one is left; an odd one in the middle waits a round."""
    left = sorted(widths)
    while len(left) > 1:
        half = len(left) // 2
        pairs = [factor * math.hypot(left[k], left[-1 - k]) for k in range(half)]
        left = sorted(pairs + left[half : len(left) - half])
    return left[0]


def calibres_in(lines: Sequence[Line], ring: Ring) -> list[float]:
    """Mean calibre in px of each vessel in a zone, the widest first.

    A vessel that runs unbranched through at least half of the zone, beginning at its inner circle, is measured there; of another one each
    branch that is as long in the zone counts.
    """
    least = (ring.outer - ring.inner) / 2
    pieces = [(line, begin, end) for line in lines for begin, end in _runs(ring.holds(line.points))]
    trees: dict[int, list[tuple[bool, float]]] = {}  # of long pieces that are joined within the zone: whether it begins inside, calibre
    for (line, begin, end), tree in zip(pieces, _trees(pieces), strict=True):
        points, widths = line.points[begin:end], line.widths[begin:end]
        seen = widths[np.isfinite(widths)]
        if len(seen) >= LEAST_POINTS and np.hypot(*np.diff(points, axis=0).T).sum() >= least:
            nearest = float(np.hypot(*(points[[0, -1]] - ring.centre).T).min())
            trees.setdefault(tree, []).append((nearest < ring.inner + 2, float(seen.mean())))
    vessels = [[calibre for inside, calibre in own if inside] or [calibre for _, calibre in own] for own in trees.values()]
    return sorted((calibre for own in vessels for calibre in own), reverse=True)


def _trees(pieces: Sequence[tuple[Line, int, int]]) -> list[int]:
    """For each piece of a line, from one point to before another, the number of the tree that it belongs to."""
    pairs = [
        (number, len(pieces) + node)
        for number, (line, begin, end) in enumerate(pieces)
        for node, reached in ((line.ends[0], begin == 0), (line.ends[1], end == len(line.points)))
        if node >= 0 and reached
    ]
    size = len(pieces) + 1 + max((node for line, _, _ in pieces for node in line.ends), default=0)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(size, size))
    _, numbers = connected_components(graph, directed=False)
    return list(numbers[: len(pieces)].tolist())


def _runs(inside: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8))).tolist()
    return [(a, b) for k, (a, b) in enumerate(pairwise(edges)) if k % 2 == 0]
