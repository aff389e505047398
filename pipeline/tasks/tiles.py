"""Large images by overlapping tiles: where the tiles lie, and how the objects found in them become one list.

An object smaller than the overlap lies whole in at least one tile; what its other tiles show of it is cut off at a seam (a tile's
edge inside the image) and goes. An object larger than the overlap may be cut in every tile that shows it; its pieces, which agree in
the strip that two tiles share, are united: one box around them, one mask of all of them. What two tiles show whole is one object by
class-wise non-maximum suppression. Within one tile nothing is compared: there the network has decided already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.detector import Detections

SAME = 0.5
"""Two boxes of one class in different tiles with this intersection over union are one object."""
CONTAINED = 0.5
"""A cut piece of which at least this fraction lies in a whole object of its class is a part of it."""
AGREE = 0.5
"""Pieces whose parts in the tiles' common strip have this intersection over the smaller part belong together."""
REACH_PX, REACH_FRACTION = 2.0, 0.05
"""A box that ends within so many pixels, or this fraction of its own extent, of a seam is taken to be cut by it: no box is exact."""


@dataclass(frozen=True)
class Tile:
    """Pixels [top, top + rows) x [left, left + columns) of an image."""

    top: int
    left: int
    rows: int
    columns: int

    def of(self, image: Tensor) -> Tensor:
        """These pixels of an image (..., H, W), as a view."""
        return image[..., self.top : self.top + self.rows, self.left : self.left + self.columns]


@dataclass(frozen=True, eq=False)
class WholeObjects:
    """Objects of a whole image, highest-scoring first. ``boxes`` (N, 4), ``labels`` (N), ``scores`` (N) as of Detections, on the CPU.

    ``pieces``: of each object the rows of ``piece_boxes`` float32 (P, 4), on the CPU, and ``piece_masks`` float32 (P, M, M), on the
    network's device (None without masks), that show it; more than one where seams cut it.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    pieces: tuple[tuple[int, ...], ...]
    piece_boxes: Tensor
    piece_masks: Tensor | None

    @classmethod
    def whole(cls, found: Detections) -> WholeObjects:
        """Objects of an image that was seen at once."""
        boxes, labels, scores = on_cpu(found)
        return cls(boxes, labels, scores, tuple((number,) for number in range(len(boxes))), boxes, found.masks)


def on_cpu(found: Detections) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float32 (N, 4), labels int64 (N) and scores float32 (N) by one transfer: the host waits for the device at each.

    Of some hundred boxes each of the small steps that follow would cost more on a GPU than all of them on the CPU.
    """
    table = torch.cat([found.boxes.float(), found.labels[:, None].float(), found.scores[:, None].float()], dim=1).cpu()
    return table[:, :4].contiguous(), table[:, 4].long(), table[:, 5].contiguous()


def grid(rows: int, columns: int, tile: tuple[int, int], overlap: float) -> list[Tile]:
    """Tiles of ``tile`` (rows, columns) pixels (less only where the image has less) that cover the image evenly.

    Neighbours share at least the fraction ``overlap`` of a side.
    """
    height, width = tile
    return [
        Tile(top, left, min(height, rows), min(width, columns))
        for top in _starts(rows, height, overlap)
        for left in _starts(columns, width, overlap)
    ]


def _starts(extent: int, tile: int, overlap: float) -> list[int]:
    if extent <= tile:
        return [0]
    stride = max(1, int(tile * (1 - overlap)))
    steps = -(-(extent - tile) // stride)
    return [round(number * (extent - tile) / steps) for number in range(steps + 1)]


def merge(tiles: Sequence[Tile], found: Sequence[Detections], size: tuple[int, int]) -> WholeObjects:
    """Objects of each tile, in the tile's pixels -> objects of the image of ``size`` (rows, columns), each once."""
    views = torch.tensor([[t.left, t.top, t.left + t.columns, t.top + t.rows] for t in tiles], dtype=torch.float32)
    counts = torch.tensor([len(f.boxes) for f in found])
    tile_of = torch.repeat_interleave(torch.arange(len(tiles)), counts)
    boxes, labels, scores = (torch.cat(parts) for parts in zip(*map(on_cpu, found), strict=True))
    boxes += views[tile_of][:, [0, 1, 0, 1]]
    masks = [f.masks for f in found if f.masks is not None]
    groups = _groups(boxes, labels, views[tile_of], tile_of, size)

    # A united object has seen several tiles (-1 - its number is none of them), and stands up for itself against all others.
    firsts = torch.tensor([group[0] for group in groups], dtype=torch.int64)
    united = torch.stack([torch.cat([boxes[group][:, :2].amin(0), boxes[group][:, 2:].amax(0)]) for group in groups]) if groups else boxes
    best = torch.stack([scores[group].max() for group in groups]) if groups else scores
    origin = torch.tensor([int(tile_of[g[0]]) if len(g) == 1 else -1 - n for n, g in enumerate(groups)], dtype=torch.int64)
    kept = _suppress(united, labels[firsts], best, origin)
    return WholeObjects(
        united[kept],
        labels[firsts][kept],
        best[kept],
        tuple(tuple(groups[number]) for number in kept),
        boxes,
        torch.cat(masks) if masks else None,
    )


def _groups(boxes: Tensor, labels: Tensor, views: Tensor, tile_of: Tensor, size: tuple[int, int]) -> list[list[int]]:
    """Rows of ``boxes`` that are one object: alone what is whole, together what seams have cut; parts of a whole one are left out."""
    cut = _cut(boxes, views, size)
    whole, pieces = (~cut).nonzero()[:, 0].tolist(), cut.nonzero()[:, 0].tolist()
    if pieces and whole:
        fraction = _intersection(boxes[pieces], boxes[whole]) / _area(boxes[pieces])[:, None].clamp(min=1e-6)
        other = (labels[pieces][:, None] == labels[whole]) & (tile_of[pieces][:, None] != tile_of[whole])
        inside = ((fraction >= CONTAINED) & other).any(dim=1).tolist()
        pieces = [piece for piece, part in zip(pieces, inside, strict=True) if not part]
    groups = {piece: [piece] for piece in pieces}
    for place, first in enumerate(pieces):
        rest = pieces[place + 1 :]
        joined = _agree(boxes, views, first, rest) & (labels[rest] == labels[first]) & (tile_of[rest] != tile_of[first])
        for second in (piece for piece, together in zip(rest, joined.tolist(), strict=True) if together):
            if groups[second] is not groups[first]:
                groups[first].extend(groups[second])
                for member in groups[second]:
                    groups[member] = groups[first]
    united = list({id(group): group for group in groups.values()}.values())
    return [[number] for number in whole] + united


def _cut(boxes: Tensor, views: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (N): whether a box ends at an edge of its tile that is not the image's own."""
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    reach = (REACH_FRACTION * extent).clamp(min=REACH_PX)
    end = boxes.new_tensor([0, 0, size[1], size[0]])
    return (((boxes - views).abs() <= reach) & (views != end)).any(dim=1)


def _agree(boxes: Tensor, views: Tensor, first: int, rest: list[int]) -> Tensor:
    """bool (len(rest)): whether two pieces show the same in what both their tiles show."""
    low, high = torch.maximum(views[first, :2], views[rest][:, :2]), torch.minimum(views[first, 2:], views[rest][:, 2:])
    common = torch.cat([low, torch.maximum(low, high)], dim=1)
    one, other = _clip(boxes[first].expand(len(rest), 4), common), _clip(boxes[rest], common)
    smaller = torch.minimum(_area(one), _area(other))
    return (smaller > 0) & (_area(_clip(one, other)) >= AGREE * smaller)


def _suppress(boxes: Tensor, labels: Tensor, scores: Tensor, origin: Tensor) -> list[int]:
    """Rows that stay, highest-scoring first: of boxes of one class and different origins that overlap, the highest-scoring."""
    overlap = _intersection(boxes, boxes)
    union = _area(boxes)[:, None] + _area(boxes) - overlap
    rivals = (overlap >= SAME * union.clamp(min=1e-6)) & (labels[:, None] == labels) & (origin[:, None] != origin)
    gone, kept = torch.zeros(len(boxes), dtype=torch.bool), []
    for number in torch.argsort(scores, descending=True, stable=True).tolist():
        if not gone[number]:
            kept.append(number)
            gone |= rivals[number]
    return kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


def _clip(boxes: Tensor, to: Tensor) -> Tensor:
    """What lies of each box in the box of the same row; empty boxes have no area."""
    return torch.cat([torch.maximum(boxes[:, :2], to[:, :2]), torch.minimum(boxes[:, 2:], to[:, 2:])], dim=1)


def _intersection(one: Tensor, other: Tensor) -> Tensor:
    """float32 (N, M): area that each pair shares."""
    low, high = torch.maximum(one[:, None, :2], other[:, :2]), torch.minimum(one[:, None, 2:], other[:, 2:])
    return (high - low).clamp(min=0).prod(dim=2)
