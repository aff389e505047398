"""A class's mask as vector outlines for the web page: exact, small, crisp at every zoom.

The contour crosses every gap between a pixel inside and a neighbour outside, between their two centres. So after all
simplification every pixel centre of the mask lies inside what is drawn, and every other one outside (a property test holds it).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

_GATE = 0.9
"""Half the width of the gap a contour may pass through, in half pixels; 1 would let it touch the pixel centres."""
_RING_FRACTION = 0.015
_LESION_FRACTION = 0.06
_MOST_RINGS = 400
_MOST_EDGES = 250_000
_INWARDS = ((0, 1), (-1, 0), (0, -1), (1, 0))
"""(x, y) towards the inside for a pixel edge that runs right, down, left, up."""


def trace(layer: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Closed outlines of a boolean layer (H, W): loops (N, 3) of x, y in HALF pixels from the image's top left corner, and the
    direction (0 right, 1 down, 2 left, 3 up) of the pixel edge whose middle that is.

    The inside is on the right of the way the loop runs; holes are loops of their own, so an even-odd fill is right. Pixels that
    touch at a corner are connected, because one-pixel vessels run diagonally. Middles within a straight row of edges are left out.
    """
    if layer.ndim != 2:
        raise ValueError(f"layer must be (H, W), not {layer.shape}")
    inside = np.pad(layer, 1)
    below, above = inside[1:, 1:-1], inside[:-1, 1:-1]  # of the edge on top of each row
    right, left = inside[1:-1, 1:], inside[1:-1, :-1]
    edges = []  # start y, start x, direction
    for direction, found, offset in (
        (0, below & ~above, (0, 0)),
        (1, left & ~right, (0, 0)),
        (2, above & ~below, (0, 1)),
        (3, right & ~left, (1, 0)),
    ):
        y, x = np.nonzero(found)
        edges.append(np.stack([y + offset[0], x + offset[1], np.full(len(y), direction)], axis=1))
    table = np.concatenate(edges).astype(np.int64)
    if not len(table):
        return []
    columns = layer.shape[1] + 1
    key = (table[:, 0] * columns + table[:, 1]) * 4 + table[:, 2]
    order = np.argsort(key)
    table, key = table[order], key[order]
    step = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])[table[:, 2]]
    end = (table[:, 0] + step[:, 0]) * columns + table[:, 1] + step[:, 1]
    following = np.full(len(table), -1)
    for turn in (1, 0, -1):  # the last that exists wins: left before straight before right joins pixels that touch at a corner
        wanted = end * 4 + (table[:, 2] + turn) % 4
        place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        following = np.where(key[place] == wanted, place, following)
    middles = np.column_stack([2 * table[:, 1] + step[:, 1], 2 * table[:, 0] + step[:, 0], table[:, 2]])
    return _loops(following, middles)


def _loops(following: npt.NDArray[np.int64], middles: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Cut the permutation ``following`` into its cycles and drop the middles that straight rows do not need."""
    turns = middles[:, 2] != middles[following, 2]
    needed = turns.copy()
    needed[following] |= turns
    after, unseen = following.tolist(), bytearray(b"\1") * len(following)
    walk: list[int] = []
    ends = [0]
    for first in range(len(after)):
        if unseen[first]:
            at = first
            while unseen[at]:
                unseen[at] = 0
                walk.append(at)
                at = after[at]
            ends.append(len(walk))
    kept = needed[walk]
    points = middles[walk][kept]
    cuts = np.concatenate([[0], np.cumsum(kept)])[ends].tolist()
    return [points[begin:end] for begin, end in pairwise(cuts)]


def simplify(loop: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """The fewest x, y (half pixels) of a traced loop (N, 3) that a greedy walk needs to stay between inside and outside.

    Each pixel edge is a gate from the inner pixel's centre to the outer one's. A cone of sight from the last kept point narrows
    with every gate passed, and where the next point leaves it, the one before is kept: the sleeve of Williams (Computer J.
    1978; 21(1): 79) with gates in place of circles. Linear in the number of points.
    """
    points: list[tuple[int, int, int]] = [(x, y, direction) for x, y, direction in loop.tolist()]
    points.append(points[0])
    anchor_x, anchor_y, _ = points[0]
    kept = [(anchor_x, anchor_y)]
    previous = (anchor_x, anchor_y)
    open_cone = True
    outer_x = outer_y = inner_x = inner_y = 0.0
    index = 1
    while index < len(points):
        x, y, direction = points[index]
        dx, dy = x - anchor_x, y - anchor_y
        if not open_cone and (outer_x * dy < outer_y * dx or inner_x * dy > inner_y * dx):
            kept.append(previous)
            anchor_x, anchor_y = previous
            open_cone = True
            continue  # the same point again, seen from the new anchor
        inwards_x, inwards_y = _INWARDS[direction]
        far_x, far_y = dx - _GATE * inwards_x, dy - _GATE * inwards_y
        near_x, near_y = dx + _GATE * inwards_x, dy + _GATE * inwards_y
        if open_cone or outer_x * far_y > outer_y * far_x:
            outer_x, outer_y = far_x, far_y
        if open_cone or inner_x * near_y < inner_y * near_x:
            inner_x, inner_y = near_x, near_y
        open_cone = False
        previous = (x, y)
        index += 1
    return kept


def path_data(layer: npt.NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> str:
    """A layer (H, W) as the ``d`` of an SVG path in HALF pixels (draw it with ``scale(0.5)``, fill-rule evenodd); "" when empty.

    ``corner``: x, y in pixels of the layer's top left pixel, for a layer that is a crop.
    """
    parts = []
    for loop in trace(layer):
        (at_x, at_y), *rest = simplify(loop)
        steps: list[str] = []
        parts.append(f"M{at_x + 2 * corner[0]} {at_y + 2 * corner[1]}l")
        for x, y in rest:
            dx, dy = x - at_x, y - at_y
            steps.append(f"{'' if dx < 0 or not steps else ' '}{dx}{'' if dy < 0 else ' '}{dy}")
            at_x, at_y = x, y
        parts.append("".join(steps) + "z")
    return "".join(parts)


def drawable(layer: npt.NDArray[np.bool_], most_edges: int = _MOST_EDGES) -> tuple[npt.NDArray[np.bool_], int]:
    """The layer (H, W) with specks and pinholes left out until it has at most ``most_edges`` pixel edges, and the smallest part
    kept, in pixels (1: everything is there).

    Sound masks have far fewer edges (a vessel tree of 1752 x 1168 about 75,000); salt and pepper from a network that failed would
    make a page no browser can move.
    """
    from scipy import ndimage

    smallest = 1
    out = layer
    while _edges(out) > most_edges:
        smallest *= 4
        for value, structure in ((True, np.ones((3, 3))), (False, None)):  # specks, then holes: the background is 4-connected
            labelled, _ = ndimage.label(out == value, structure=structure)
            small = np.bincount(labelled.ravel()) < smallest
            small[0] = False
            out = out ^ small[labelled]
    return out, smallest


def instance_paths(ids: npt.NDArray[np.integer[Any]], most_edges: int = _MOST_EDGES) -> dict[int, str] | None:
    """``path_data`` of each instance in an image of ids (H, W), 0 background; None where they are too ragged to draw one by one."""
    from scipy import ndimage

    if _edges(ids) > most_edges:
        return None
    found: list[Any] = ndimage.find_objects(ids.astype(np.int32))
    return {at: path_data(ids[box] == at, (box[1].start, box[0].start)) for at, box in enumerate(found, start=1) if box is not None}


def _edges(layer: npt.NDArray[Any]) -> int:
    inside = np.pad(layer, 1)
    return int(np.count_nonzero(inside[1:] != inside[:-1]) + np.count_nonzero(inside[:, 1:] != inside[:, :-1]))


def small_finding_rings(layer: npt.NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """Circles (x, y, radius in pixels) round small findings, which a contour alone leaves easy to miss.

    Only for a class all of whose parts are small (each bounding box below 6 % of the image's diagonal: lesions, not vessels
    or a disc); of those, parts below 1.5 % get a ring, the 400 largest at most.
    """
    from scipy import ndimage

    labelled, count = ndimage.label(layer, structure=np.ones((3, 3)))
    if not count:
        return []
    boxes: list[Any] = ndimage.find_objects(labelled)
    bounds = np.array([(b[0].start, b[0].stop, b[1].start, b[1].stop) for b in boxes], dtype=float)
    size = np.hypot(bounds[:, 1] - bounds[:, 0], bounds[:, 3] - bounds[:, 2])
    diagonal = math.hypot(*layer.shape)
    if size.max() > _LESION_FRACTION * diagonal:
        return []
    chosen = np.argsort(-size, kind="stable")
    chosen = chosen[size[chosen] < _RING_FRACTION * diagonal][:_MOST_RINGS]
    radius = np.maximum(0.5 * size[chosen] + 0.004 * diagonal, 0.01 * diagonal)
    x = bounds[chosen, 2:].mean(axis=1)
    y = bounds[chosen, :2].mean(axis=1)
    return [(round(float(a), 1), round(float(b), 1), round(float(r), 1)) for a, b, r in zip(x, y, radius, strict=True)]
