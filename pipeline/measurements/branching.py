"""Where vessels branch, and at what angles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline.measurements.vessel_lines import Line
from pipeline.measurements.vessel_tree import FREE, Tree

Floats = npt.NDArray[np.float64]

REACH = 12.0
"""Pixels of a branch that its direction is taken from, beyond the branch point's own width."""


def branch_angles(tree: Tree, lines: Sequence[Line]) -> list[float]:
    """The smallest angle between two of the three branches, in degrees, at each branch point whose branches are long enough to have a
    direction. It is the one between the daughters, unless a daughter turns back towards the parent."""
    degrees, found = tree.degrees, directions_at_nodes(tree, lines)
    whole = [[own for _, own in arms] for node, arms in sorted(found.items()) if degrees[node] == 3 and len(arms) == 3]
    return [min(angle_between(a, b) for a, b in combinations(own, 2)) for own in whole]


def directions_at_nodes(tree: Tree, lines: Sequence[Line]) -> dict[int, list[tuple[int, Floats]]]:
    """{branch point: (place of a line, its direction away from there) of each line that is long enough to have one}."""
    found: dict[int, list[tuple[int, Floats]]] = {}
    for place, line in enumerate(lines):
        for end, points in zip(line.ends, (line.points, line.points[::-1]), strict=True):
            if end != FREE and (own := _direction(points, float(tree.radii[end]))) is not None:
                found.setdefault(end, []).append((place, own))
    return found


def angle_between(a: Floats, b: Floats) -> float:
    """Of two directions (2), in degrees, 0 to 180."""
    return float(np.degrees(np.arctan2(abs(a[0] * b[1] - a[1] * b[0]), a @ b)))


def _direction(points: Floats, radius: float) -> Floats | None:
    """From the branch point, where ``points`` (n, 2) begin, outwards; None of a branch that is too short."""
    far = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    begin, end = np.searchsorted(far, [1.5 * radius, 1.5 * radius + REACH]).tolist()
    end = min(end, len(points) - 1)
    return None if far[end] - far[min(begin, end)] < REACH / 2 else points[end] - points[begin]
