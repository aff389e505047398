"""Crops, flips, turns and warps of a Sample: whatever moves the image moves its target.

Continuous coordinates are pixel edges, as boxes have them: pixel i covers i to i + 1 and its centre is i + 0.5.
Of a volume (C, D, H, W) every slice is moved alike.
Boxes of objects with instance masks are fitted to the moved masks. Of an object without one only the box can be turned, and what
encloses a turned box is larger than what would enclose the object: by up to 2 for a square one at 45 degrees, so keep
``rotation_deg`` small for boxes alone, or give them ``weak_masks: ellipse``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as nn_functional
from torch import Tensor

from pipeline.cards.objects import LEAST_SHARE
from pipeline.datasets.sample import Sample
from pipeline.types import IGNORE, Laterality, Placement, Target

# Control points of an elastic displacement lie this many pixels apart.
_ELASTIC_GRID_PX = 48
_EDGE_POINTS = 17


def cut(sample: Sample, top: int, left: int, rows: int, columns: int) -> Sample:
    """A window; where it reaches past the edge, the image is 0, not valid, and its mask ignored. Objects outside are dropped, and
    those of which less than ``LEAST_SHARE`` stays inside."""
    height, width = sample.image.shape[-2:]
    if (top, left, rows, columns) == (0, 0, height, width):
        return sample
    inner = (slice(max(top, 0), max(min(top + rows, height), 0)), slice(max(left, 0), max(min(left + columns, width), 0)))
    pad = (inner[1].start - left, left + columns - inner[1].stop, inner[0].start - top, top + rows - inner[0].stop)

    def window(tensor: Tensor, fill: int) -> Tensor:
        piece = tensor[..., inner[0], inner[1]]
        return nn_functional.pad(piece, pad, value=fill) if any(pad) else piece

    target = sample.target
    boxes = None if target.boxes is None else target.boxes - target.boxes.new_tensor([left, top, left, top])
    moved = Target(
        mask=None if target.mask is None else window(target.mask, IGNORE),
        boxes=boxes,
        labels=target.labels,
        instance_masks=None if target.instance_masks is None else window(target.instance_masks, 0),
    )
    return replace(
        sample,
        image=window(sample.image, 0),
        valid=window(sample.valid, 0),
        target=_inside(moved, rows, columns, _areas(target)),
        placement=Placement.identity(rows, columns),
    )


def flip(sample: Sample, *, horizontal: bool, vertical: bool) -> Sample:
    """Mirror. The mirror image of a right eye is a left eye, whichever way the mirror stands; both together are a half turn."""
    axes = [axis for axis, wanted in ((-2, vertical), (-1, horizontal)) if wanted]
    if not axes:
        return sample
    rows, columns = sample.image.shape[-2:]

    def turn_boxes(boxes: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(1)
        if horizontal:
            x1, x2 = columns - x2, columns - x1
        if vertical:
            y1, y2 = rows - y2, rows - y1
        return torch.stack([x1, y1, x2, y2], dim=1)

    laterality = _other(sample.laterality) if len(axes) == 1 else sample.laterality
    return replace(_moved(sample, lambda tensor: tensor.flip(axes), turn_boxes), laterality=laterality)


def quarter_turn(sample: Sample, turns: int) -> Sample:
    """Turn by ``turns`` times 90 degrees against the clock; the eye stays the eye it is."""
    turns %= 4
    for_boxes = sample
    if turns == 0:
        return sample

    def turn_boxes(boxes: Tensor) -> Tensor:
        rows, columns = for_boxes.image.shape[-2:]
        for _ in range(turns):
            x1, y1, x2, y2 = boxes.unbind(1)
            boxes = torch.stack([y1, columns - x2, y2, columns - x1], dim=1)
            rows, columns = columns, rows
        return boxes

    return _moved(sample, lambda tensor: torch.rot90(tensor, turns, (-2, -1)), turn_boxes)


@dataclass(frozen=True, eq=False)
class Warp:
    """A rotation, zoom and elastic displacement about the middle of a region.

    ``matrix`` (2, 2) takes a result's offset from its middle (x, y) to the region's; ``displacement`` (2, gy, gx), control points
    in region pixels, x first, stretched over the result, is added.
    """

    size: tuple[int, int]
    matrix: Tensor
    displacement: Tensor | None

    @staticmethod
    def _matrix(angle_deg: float, zoom: float) -> Tensor:
        cosine, sine = math.cos(math.radians(angle_deg)) / zoom, math.sin(math.radians(angle_deg)) / zoom
        return torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float32)

    @classmethod
    def region(cls, window: tuple[int, int, int, int], angle_deg: float, zoom: float, elastic: float) -> tuple[int, int, int, int]:
        """(top, left, rows, columns) of all source pixels that a warped window can need; it has the window's middle."""
        top, left, rows, columns = window
        reach = cls._matrix(angle_deg, zoom).abs() @ torch.tensor([columns / 2, rows / 2])
        wider = max(math.ceil(float(reach[0]) + elastic + 2 - columns / 2), 0)
        higher = max(math.ceil(float(reach[1]) + elastic + 2 - rows / 2), 0)
        return top - higher, left - wider, rows + 2 * higher, columns + 2 * wider

    @classmethod
    def make(
        cls,
        size: tuple[int, int],
        region: tuple[int, int],
        angle_deg: float,
        zoom: float,
        elastic: float,
        generator: torch.Generator,
    ) -> Warp:
        displacement = None
        if elastic > 0:
            points = [max(math.ceil(extent / _ELASTIC_GRID_PX), 1) + 3 for extent in size]
            displacement = (torch.rand(2, *points, generator=generator) * 2 - 1) * elastic
        return cls(size, cls._matrix(angle_deg, zoom), displacement)

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample.image.shape[-2:]
        rows, columns = self.size
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        source = self._to_region(torch.stack([x, y], dim=-1), (height, width))
        grid = source / torch.tensor([width, height]) * 2 - 1
        planes = sample.image.flatten(0, -3)[None]  # the slices of a volume are warped alike
        image = nn_functional.grid_sample(planes, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
        image = image.view(*sample.image.shape[:-2], rows, columns)
        column, row = source.floor().long().unbind(-1)
        known = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)

        def nearest(tensor: Tensor, fill: int) -> Tensor:
            return torch.where(known, tensor[..., row, column], torch.tensor(fill, dtype=tensor.dtype))

        target = sample.target
        valid = nearest(sample.valid, 0)
        moved = Target(
            mask=None if target.mask is None else nearest(target.mask, IGNORE),
            boxes=None if target.boxes is None else self._boxes(target.boxes, (height, width)),
            labels=target.labels,
            instance_masks=None if target.instance_masks is None else nearest(target.instance_masks, 0),
        )
        # Of instance masks the area grows by the zoom; boxes without masks are compared with themselves, before they are clipped.
        areas = _areas(moved if target.instance_masks is None else target)
        if target.instance_masks is not None and areas is not None:
            areas = areas / torch.linalg.det(self.matrix)
        return replace(
            sample,
            image=image * valid,
            valid=valid,
            target=_inside(moved, rows, columns, areas),
            placement=Placement.identity(rows, columns),
        )

    def _to_region(self, points: Tensor, region: tuple[int, int]) -> Tensor:
        """Points (..., 2) xy of the result -> of the region."""
        middle = torch.tensor([self.size[1] / 2, self.size[0] / 2])
        return (points - middle) @ self.matrix.T + torch.tensor([region[1] / 2, region[0] / 2]) + self._displaced(points)

    def _displaced(self, points: Tensor) -> Tensor:
        """Displacement (..., 2) xy in region pixels at points of the result."""
        if self.displacement is None:
            return torch.zeros_like(points)
        grid = points / torch.tensor([self.size[1], self.size[0]]) * 2 - 1
        flat = grid.reshape(1, 1, -1, 2)
        # Bilinear over control points smoothed once; bicubic would overshoot the largest displacement, which the region relies on.
        smooth = nn_functional.avg_pool2d(self.displacement[None], 3, stride=1)
        found = nn_functional.grid_sample(smooth, flat, mode="bilinear", padding_mode="border", align_corners=True)
        return found.reshape(2, -1).T.reshape(points.shape)

    def _boxes(self, boxes: Tensor, region: tuple[int, int]) -> Tensor:
        """Boxes of the region -> tight boxes around their warped outlines in the result.

        The warp leads from the result to the region; the way back is found by fixed-point iteration, which converges because the
        displacement changes slowly.
        """
        steps = torch.linspace(0, 1, _EDGE_POINTS)
        ones = torch.ones_like(steps)
        along = torch.cat([steps, ones, steps, 0 * ones]), torch.cat([0 * ones, steps, ones, steps])
        x1, y1, x2, y2 = boxes.unbind(1)
        outline = torch.stack([x1[:, None] + (x2 - x1)[:, None] * along[0], y1[:, None] + (y2 - y1)[:, None] * along[1]], dim=-1)
        inverse = torch.linalg.inv(self.matrix)
        offset = outline - torch.tensor([region[1] / 2, region[0] / 2])
        middle = torch.tensor([self.size[1] / 2, self.size[0] / 2])
        points = offset @ inverse.T + middle
        for _ in range(20 if self.displacement is not None else 0):
            points = (offset - self._displaced(points)) @ inverse.T + middle
        return torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1) if len(boxes) else boxes


def _moved(sample: Sample, move: object, move_boxes: object) -> Sample:
    """The sample with ``move`` applied to every image-like tensor and ``move_boxes`` to the boxes."""
    assert callable(move)
    assert callable(move_boxes)
    target = sample.target
    image = move(sample.image)
    return replace(
        sample,
        image=image,
        valid=move(sample.valid),
        target=Target(
            mask=None if target.mask is None else move(target.mask),
            boxes=None if target.boxes is None else move_boxes(target.boxes),
            labels=target.labels,
            instance_masks=None if target.instance_masks is None else move(target.instance_masks),
        ),
        placement=Placement.identity(int(image.shape[-2]), int(image.shape[-1])),
    )


def _areas(target: Target) -> Tensor | None:
    """Area of each object in pixels (N), of its mask where there is one, else of its box."""
    if target.instance_masks is not None:
        return target.instance_masks.sum(dim=(1, 2)).float()
    return None if target.boxes is None else (target.boxes[:, 2:] - target.boxes[:, :2]).prod(dim=1)


def _inside(target: Target, rows: int, columns: int, areas: Tensor | None) -> Target:
    """Clip boxes to the frame, fit them to their instance masks where there are any, and drop what is no longer there.

    Dropped is what is less than a pixel wide or high, or has kept less than ``LEAST_SHARE`` of ``areas`` (N), what it would have
    with nothing cut off.
    """
    if target.boxes is None or target.labels is None or areas is None:
        return target
    limit = target.boxes.new_tensor([columns, rows, columns, rows])
    boxes = target.boxes.clamp(min=0).minimum(limit) if target.instance_masks is None else boxes_of(target.instance_masks)
    left = _areas(Target(boxes=boxes, labels=target.labels, instance_masks=target.instance_masks))
    assert left is not None
    kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1) & (left >= LEAST_SHARE * areas)
    masks = None if target.instance_masks is None else target.instance_masks[kept]
    return Target(target.mask, boxes[kept], target.labels[kept], masks)


def boxes_of(instance_masks: Tensor) -> Tensor:
    """Tight half-open boxes float32 (N, 4) of masks bool (N, H, W); an empty mask has the empty box 0, 0, 0, 0."""
    boxes = torch.zeros(len(instance_masks), 4)
    for index, mask in enumerate(instance_masks):
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        if len(rows):
            boxes[index] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    return boxes


def _other(laterality: Laterality | None) -> Laterality | None:
    return {"R": "L", "L": "R"}.get(laterality) if laterality else None  # type: ignore[return-value]
