"""The centrelines of a vessel mask as a tree: segments from one branch point to the next, without what thinning alone brings about.

Thinning (Zhang and Suen 1984, doi:10.1145/357994.358023) leaves a spur at every bump of a wall, and of two vessels that cross two branch
points with a short bridge. A spur within the width of its vessel is cut off, and branch points whose vessels overlap are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import skeletonize

from pipeline.measurements.wall_distance import distance_to_wall

BoolArray = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FREE = -1
"""In place of a node: the segment ends there."""
SMALLEST_HOLE = 16
"""Pixels of a hole that is one: smaller ones (a reflex along a vessel's middle) are filled."""
MOST_SEGMENTS = 5000
"""More than ten times as many as readers draw in a photograph."""
_AROUND = np.ones((3, 3), dtype=np.int64)
_OFFSETS = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]


@dataclass(eq=False)
class Segment:
    """``path`` float64 (n, 2): (row, column) of its pixels in order, from the node ``ends[0]`` to ``ends[1]``, whose own pixels are not
    part of it; FREE where the vessel ends."""

    path: Floats
    ends: tuple[int, int]

    @property
    def length(self) -> float:
        """In pixels along the chain, from pixel to pixel."""
        return float(np.hypot(*np.diff(self.path, axis=0).T).sum())


@dataclass(eq=False)
class Tree:
    """``nodes`` (N, 2): places of the branch points · ``radii`` (N): distance from each to the vessel's wall · ``widest``: the largest
    distance from a centreline to the wall · ``degrees`` (N): segments that meet at a node: 3 at a branching, 4 or more at a crossing; 0 of
    a node that is none any more."""

    segments: list[Segment]
    nodes: Floats
    radii: Floats
    widest: float

    @property
    def degrees(self) -> npt.NDArray[np.int64]:
        ends = np.array([end for segment in self.segments for end in segment.ends if end != FREE], np.int64)
        return np.bincount(ends, minlength=len(self.nodes))

    def whole_path(self, segment: Segment) -> Floats:
        """Its path with the places of its nodes."""
        first, last = ([] if end == FREE else [self.nodes[end]] for end in segment.ends)
        return np.array([*first, *segment.path, *last], np.float64).reshape(-1, 2)


def fill_small_holes(mask: BoolArray) -> BoolArray:
    """The mask bool (H, W) without holes of less than SMALLEST_HOLE pixels."""
    parts, _ = ndimage.label(~mask)
    small: BoolArray = np.bincount(parts.ravel()) < SMALLEST_HOLE
    filled: BoolArray = mask | small[parts]
    return filled


def find_tree(mask: BoolArray) -> Tree | None:
    """Centrelines of a mask bool (H, W), which may be empty; None of noise, whose skeleton has more than MOST_SEGMENTS pieces."""
    skeleton = np.pad(skeletonize(mask), 1)
    rows, columns = np.nonzero(skeleton)
    joint = np.zeros_like(skeleton)
    joint[rows, columns] = sum(skeleton[rows + r, columns + c].astype(np.int64) for r, c in _OFFSETS) > 2
    clusters, count = ndimage.label(joint, _AROUND)
    if max(count, ndimage.label(skeleton & ~joint, _AROUND)[1]) > MOST_SEGMENTS:
        return None
    to_wall = distance_to_wall(mask, rows - 1, columns - 1)
    at = joint[rows, columns]
    own = clusters[rows[at], columns[at]] - 1
    size = np.bincount(own, minlength=count)
    nodes = np.stack([np.bincount(own, weights=axis[at] - 1, minlength=count) / size for axis in (rows, columns)], axis=1)
    radii = np.zeros(count)
    np.maximum.at(radii, own, to_wall[at])
    tree = Tree(_arms(skeleton & ~joint, clusters), nodes, radii, float(to_wall.max(initial=0)))
    for _ in range(4):  # a cut spur may leave another one behind
        before = len(tree.segments)
        _merge_nodes(tree)
        _cut_spurs(tree)
        _join_segments(tree)
        if len(tree.segments) == before:
            break
    return tree


def _arms(arms: BoolArray, clusters: npt.NDArray[Any]) -> list[Segment]:
    """The pixels between branch points, in order. Each has at most two neighbours."""
    rows, columns = np.nonzero(arms)
    number = np.full(arms.shape, -1)
    number[rows, columns] = np.arange(len(rows))
    near = np.stack([number[rows + r, columns + c] for r, c in _OFFSETS], axis=1)
    # The neighbours first, in their order; -1 in place of those that are not there.
    two = np.take_along_axis(near, np.argsort(near < 0, axis=1, kind="stable")[:, :2], axis=1)
    first_of, second_of = two.T.tolist()

    def touched(pixel: int) -> list[int]:
        beside = [int(clusters[rows[pixel] + r, columns[pixel] + c]) - 1 for r, c in _OFFSETS]
        return list(dict.fromkeys(n for n in beside if n >= 0))

    segments, seen = [], [False] * len(rows)
    for start in np.argsort(two[:, 1] >= 0, kind="stable").tolist():  # from an end where there is one, else round a circle
        if seen[start]:
            continue
        chain = []
        following = start
        while following >= 0:
            chain.append(following)
            seen[following] = True
            one, other = first_of[following], second_of[following]
            following = one if one >= 0 and not seen[one] else -1 if other < 0 or seen[other] else other
        path = np.stack([rows[chain], columns[chain]], axis=1).astype(np.float64) - 1
        if len(chain) == 1:
            first, last = ([*touched(start), FREE, FREE])[:2]
        else:
            first, last = (next(iter(touched(end)), FREE) for end in (chain[0], chain[-1]))
        segments.append(Segment(path, (first, last)))
    return segments


def _merge_nodes(tree: Tree) -> None:
    """Make one node of those that lie within each other's vessel."""
    into = list(range(len(tree.nodes)))

    def root(node: int) -> int:
        while into[node] != node:
            node = into[node]
        return node

    left = []
    for segment in tree.segments:
        a, b = segment.ends
        if (
            FREE not in (a, b)
            and np.hypot(*(tree.nodes[a] - tree.nodes[b])) < tree.radii[a] + tree.radii[b]
            and segment.length <= 2 * (tree.radii[a] + tree.radii[b])
        ):
            into[root(max(a, b))] = root(min(a, b))
        else:
            left.append(segment)
    roots = np.array([root(node) for node in range(len(into))], np.int64)
    size = np.bincount(roots, minlength=len(roots)).clip(1)
    tree.nodes = np.stack([np.bincount(roots, weights=axis, minlength=len(roots)) / size for axis in tree.nodes.T], axis=1)
    np.maximum.at(tree.radii, roots, tree.radii.copy())
    for segment in left:
        segment.ends = tuple(end if end == FREE else root(end) for end in segment.ends)  # type: ignore[assignment]
    tree.segments = left


def _cut_spurs(tree: Tree) -> None:
    """Leave out segments that end within the width of their vessel, and pieces of vessel that are shorter than they are wide."""

    def kept(segment: Segment) -> bool:
        own = [end for end in segment.ends if end != FREE]
        if len(own) == 2:
            return own[0] != own[1] or segment.length > 2 * np.pi * tree.radii[own[0]]
        return len(own) == 0 or segment.length > tree.radii[own[0]] + 1

    tree.segments = [segment for segment in tree.segments if kept(segment)]


def _join_segments(tree: Tree) -> None:
    """Where only two segments meet, or a single one ends, there is no branch point."""
    meeting: dict[int, list[Segment]] = {}
    for segment in tree.segments:
        for end in segment.ends:
            if end != FREE:
                meeting.setdefault(end, []).append(segment)
    left = {id(segment): segment for segment in tree.segments}
    for node, own in meeting.items():
        if len(own) == 1:
            _reach(tree, own[0], node)
        elif len(own) == 2 and own[0] is not own[1]:
            joined = _joined(own, node, tree)
            for segment in own:
                del left[id(segment)]
            left[id(joined)] = joined
            for end in joined.ends:
                if end != FREE:
                    meeting[end] = [joined if segment in own else segment for segment in meeting[end]]
    tree.segments = list(left.values())


def _joined(pair: Sequence[Segment], node: int, tree: Tree) -> Segment:
    """Two segments that meet at a node as one."""
    first, second = pair
    a = first.path if first.ends[1] == node else first.path[::-1]
    b = second.path if second.ends[0] == node else second.path[::-1]
    begin, end = (segment.ends[1] if segment.ends[0] == node else segment.ends[0] for segment in pair)
    return Segment(np.concatenate([a, tree.nodes[node][None], b]), (begin, end))


def _reach(tree: Tree, segment: Segment, node: int) -> None:
    """End a segment at the place of its node."""
    if segment.ends[0] == node:
        segment.path, segment.ends = np.concatenate([tree.nodes[node][None], segment.path]), (FREE, segment.ends[1])
    else:
        segment.path, segment.ends = np.concatenate([segment.path, tree.nodes[node][None]]), (segment.ends[0], FREE)
