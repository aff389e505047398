"""Arteries and veins as trees: a vessel does not change from one to the other along its way.

A network decides pixel by pixel, and changes its mind where a vessel is thin or crossed. Here each segment takes the vote of its pixels,
weighted by how sure they are, together with the segment that it runs on into behind a branch point or a crossing; a branch that is in
doubt follows the vessel that it comes from.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.measurements.branching import angle_between, directions_at_nodes
from pipeline.measurements.vessels import Network, trace
from pipeline.types import LabelMap

BoolArray = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

STRAIGHT_DEG = 150.0
"""Two segments that meet at this angle or more are one vessel that runs on."""
SURE = 0.4
"""Mean difference of the two probabilities from which on an artery does not run on into a vein, however straight: they touch."""
IN_DOUBT = 0.2
"""Mean difference of the two probabilities along a branch, below which it follows the vessel that it comes from."""


def in_trees(layers: BoolArray, probabilities: Floats, label_map: LabelMap) -> BoolArray:
    """Boolean layers (K, H, W) with those of the first artery and the first vein made consistent by their probabilities (K, H, W)."""
    artery, vein = (label_map.roles.index(role) for role in ("artery", "vein"))
    out = layers.copy()
    out[artery], out[vein] = consistent_trees(layers[artery], layers[vein], probabilities[artery] - probabilities[vein])
    return out


def consistent_trees(artery: BoolArray, vein: BoolArray, lead: Floats) -> tuple[BoolArray, BoolArray]:
    """Masks of arteries and of veins, bool (H, W), that agree along every segment; what is vessel does not change.

    ``lead`` (H, W): probability of artery less that of vein. Pixels of both masks stay both where an artery and a vein meet. Islands
    that are no segment stay as they are.
    """
    vessel = artery | vein
    network = trace(vessel) if vessel.any() else None
    if network is None or not network.lines:
        return artery, vein
    is_artery = _votes(network, lead) > 0
    number = np.full(vessel.shape, -1)
    for place, line in enumerate(network.lines):
        rows, columns = np.rint(line.points).astype(np.int64).T
        number[rows.clip(0, vessel.shape[0] - 1), columns.clip(0, vessel.shape[1] - 1)] = place
    nearest = ndimage.distance_transform_edt(number < 0, return_distances=False, return_indices=True)
    as_artery = is_artery[number[tuple(nearest)]]
    parts, count = ndimage.label(vessel, np.ones((3, 3)))
    traced = np.zeros(count + 1, dtype=bool)
    traced[np.unique(parts[number >= 0])] = True
    both = (artery & vein & _meetings(network, is_artery)) | ~traced[parts]
    return (vessel & as_artery & ~both) | (artery & both), (vessel & ~as_artery & ~both) | (vein & both)


def _votes(network: Network, lead: Floats) -> npt.NDArray[np.float64]:
    """For each line, above 0 where it is an artery."""
    lines = network.lines
    sums, lengths = np.zeros(len(lines)), np.zeros(len(lines))
    for place, line in enumerate(lines):
        clear = line.points[np.isfinite(line.widths)] if np.isfinite(line.widths).any() else line.points
        rows, columns = np.rint(clear).astype(np.int64).T
        along = lead[rows.clip(0, lead.shape[0] - 1), columns.clip(0, lead.shape[1] - 1)]
        sums[place], lengths[place] = along.sum(), len(along)
    mean = sums / lengths.clip(1)
    onwards, beside = _meeting_pairs(network)
    onwards = [(a, b) for a, b in onwards if min(mean[a], mean[b]) > -SURE or max(mean[a], mean[b]) < SURE]
    first, second = np.array(onwards, np.int64).reshape(-1, 2).T
    count, vessel = connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(len(lines), len(lines))), directed=False)
    total, length = np.bincount(vessel, sums, count), np.bincount(vessel, lengths, count)
    own = total.copy()
    for branch, trunk in beside:
        b, t = vessel[branch], vessel[trunk]
        if abs(own[b]) < IN_DOUBT * length[b] and abs(own[t]) > abs(own[b]):
            total[b] = own[b] + np.copysign(length[b], own[t])
    return np.asarray(total[vessel])


def _meeting_pairs(network: Network) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of lines that are one vessel, and pairs of (branch, the vessel that it comes from)."""
    onwards, beside = [], []
    for arms in directions_at_nodes(network.tree, network.lines).values():
        left = dict(enumerate(arms))
        pairs = sorted(combinations(left, 2), key=lambda pair: -angle_between(arms[pair[0]][1], arms[pair[1]][1]))
        trunk = None
        for a, b in pairs:
            if a in left and b in left and angle_between(arms[a][1], arms[b][1]) >= STRAIGHT_DEG:
                onwards.append((arms[a][0], arms[b][0]))
                trunk = arms[a][0] if trunk is None else trunk
                del left[a], left[b]
        if trunk is not None and len(arms) == 3:
            beside += [(line, trunk) for line, _ in left.values()]
    return onwards, beside


def _meetings(network: Network, is_artery: BoolArray) -> BoolArray:
    """Where an artery and a vein meet: bool (H, W), a disc of twice its distance to the wall around each such branch point."""
    kinds: dict[int, set[bool]] = {}
    for line, own in zip(network.lines, is_artery.tolist(), strict=True):
        for end in line.ends:
            kinds.setdefault(end, set()).add(own)
    out = np.zeros_like(network.mask)
    for node, own in kinds.items():
        if node >= 0 and len(own) == 2:
            (row, column), reach = network.tree.nodes[node], 2 * network.tree.radii[node]
            top, left = (max(int(at - reach), 0) for at in (row, column))
            rows, columns = np.ogrid[top : int(row + reach) + 2, left : int(column + reach) + 2]
            part = out[top : int(row + reach) + 2, left : int(column + reach) + 2]
            part |= (np.hypot(rows - row, columns - column) <= reach)[: part.shape[0], : part.shape[1]]
    return out
