"""Turns and warps: exact ones while windows are cut, all others as one sampling grid per batch.

Continuous coordinates are pixel edges, as boxes have them: pixel i covers i to i + 1 and its centre is i + 0.5.
Boxes of objects with instance masks are fitted to the moved masks. Of an object without one only the box can be turned, and what
encloses a turned box is larger than what would enclose the object: by up to 2 for a square one at 45 degrees, so keep
``rotation_deg`` small for boxes alone, or give them ``weak_masks: ellipse``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nn_functional
from torch import Tensor

from pipeline.cards.objects import MIN_FRACTION_LEFT

# Control points of an elastic displacement lie this many pixels apart.
_ELASTIC_GRID_PX = 48
_EDGE_POINTS = 17
_FIXED_POINT_STEPS = 20


@dataclass(frozen=True)
class Turn:
    """One of the eight exact symmetries of a pixel grid: transposed, then mirrored (left to right), then stood on its head."""

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, quarters: int, *, mirrored: bool, upside_down: bool) -> Turn:
        """``quarters`` times 90 degrees against the clock, then the flips."""
        quarters %= 4
        return cls(quarters % 2 == 1, mirrored != (quarters in (2, 3)), upside_down != (quarters in (1, 2)))

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        return (columns, rows) if self.transposed else (rows, columns)

    def array(self, array: Any) -> Any:
        """An array or tensor (..., H, W), turned; of an array it is a view."""
        if self.transposed:
            array = array.swapaxes(-1, -2)
        axes = [axis for axis, wanted in ((-2, self.upside_down), (-1, self.mirrored)) if wanted]
        if not axes:
            return array
        return array.flip(axes) if isinstance(array, Tensor) else np.flip(np.asarray(array), tuple(axes))

    def boxes(self, boxes: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
        """Boxes (N, 4) xyxy of a frame of (rows, columns) before the turn."""
        x1, y1, x2, y2 = boxes.T
        if self.transposed:
            x1, y1, x2, y2, rows, columns = y1, x1, y2, x2, columns, rows
        if self.mirrored:
            x1, x2 = columns - x2, columns - x1
        if self.upside_down:
            y1, y2 = rows - y2, rows - y1
        return np.stack([x1, y1, x2, y2], axis=1)


Matrix = tuple[float, float, float, float]
"""Row by row: takes an offset (x, y) from the result's middle to one from the region's middle."""


def warp_matrix(angle_deg: float, zoom: float) -> Matrix:
    cosine, sine = math.cos(math.radians(angle_deg)) / zoom, math.sin(math.radians(angle_deg)) / zoom
    return cosine, sine, -sine, cosine


def warp_margin(size: tuple[int, int], matrix: Matrix, elastic: float) -> tuple[int, int]:
    """(rows, columns) that a warp to a result of ``size`` needs on each side beyond a region of that size."""
    rows, columns = size
    a, b, c, d = map(abs, matrix)
    higher = math.ceil((c * columns + d * rows) / 2 + elastic + 2 - rows / 2)
    wider = math.ceil((a * columns + b * rows) / 2 + elastic + 2 - columns / 2)
    return max(higher, 0), max(wider, 0)


def warp_canvas(size: tuple[int, int], rotation_deg: float, zoom: float, elastic: float) -> tuple[int, int]:
    """(rows, columns) that hold the region of every warp to ``size`` with at most this rotation and at least this zoom.

    Its own size would do for one region, but sampling rounds by the size of what it samples from: only with one for all is a sample the
    same to the bit whichever others are in its batch.
    """
    sides = []
    for along, across in (size, size[::-1]):
        # A side grows as along * cos + across * sin, which is largest where the diagonal comes to lie along it.
        worst = min(math.radians(rotation_deg), math.atan2(across, along))
        reach = (along * math.cos(worst) + across * math.sin(worst)) / (2 * zoom) + elastic + 2
        sides.append(along + 2 * max(math.ceil(reach - along / 2 + 1e-3), 0))
    return sides[0], sides[1]


def elastic_control(size: tuple[int, int], elastic: float, generator: torch.Generator) -> Tensor:
    """Control points float32 (2, gy, gx), x first, in pixels, of a smooth displacement of a result of ``size``, none above ``elastic``."""
    points = [max(math.ceil(extent / _ELASTIC_GRID_PX), 1) + 3 for extent in size]
    drawn = (torch.rand(2, *points, generator=generator) * 2 - 1) * elastic
    # Bilinear over control points smoothed once; bicubic would overshoot the largest displacement, which the margin relies on.
    return nn_functional.avg_pool2d(drawn[None], 3, stride=1)[0]


def source_points(matrix: Tensor, middle: Tensor, control: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where in its region each pixel centre of a result of ``size`` comes from: x and y, each float32 (B, rows, columns).

    ``matrix`` (B, 4) as :data:`Matrix`, ``middle`` (B, 2) of the region (x, y), ``control`` (B, 2, gy, gx) or None.
    """
    rows, columns = size
    x = torch.arange(columns, device=matrix.device) + (0.5 - columns / 2)
    y = torch.arange(rows, device=matrix.device)[:, None] + (0.5 - rows / 2)
    a, b, c, d = matrix[:, :, None, None].unbind(1)
    across, down = middle[:, :, None, None].unbind(1)
    source_x, source_y = (a * x + across) + b * y, c * x + (d * y + down)
    if control is not None:
        displaced = nn_functional.interpolate(control, size=size, mode="bilinear", align_corners=True)
        source_x, source_y = source_x.add_(displaced[:, 0]), source_y.add_(displaced[:, 1])
    return source_x, source_y


def sample_linear(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Planes float32 (B, P, R, Q) at points (B, rows, columns) -> (B, P, rows, columns); 0 lies around them."""
    height, width = planes.shape[-2:]
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=-1)
    return nn_functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def nearest_index(x: Tensor, y: Tensor, canvas: tuple[int, int]) -> Tensor:
    """int64 (B, rows, columns): which pixel of a canvas of (R, Q), counted row by row, holds each point."""
    height, width = canvas
    # Regions hold all that is asked for; clamping only keeps a rounded last bit from reading elsewhere.
    return y.clamp(0, height - 1).long().mul_(width).add_(x.clamp(0, width - 1).long())


def take(planes: Tensor, index: Tensor) -> Tensor:
    """Pixels of planes (B, P, R, Q), of any type, at ``index`` -> (B, P, rows, columns)."""
    batch, depth, height, width = planes.shape
    wanted = index.view(batch, 1, -1).expand(-1, depth, -1)
    return planes.reshape(batch, depth, height * width).gather(2, wanted).view(batch, depth, *index.shape[1:])


def warp_boxes(boxes: Tensor, matrix: Matrix, region: tuple[int, int], control: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) of a region of (rows, columns) -> tight boxes around their warped outlines in a result of ``size``, not clipped.

    The warp leads from the result to the region; the way back is found by fixed-point iteration, which converges because the
    displacement changes slowly.
    """
    if not len(boxes):
        return boxes
    steps = torch.linspace(0, 1, _EDGE_POINTS)
    ones = torch.ones_like(steps)
    along = torch.cat([steps, ones, steps, 0 * ones]), torch.cat([0 * ones, steps, ones, steps])
    x1, y1, x2, y2 = boxes.unbind(1)
    outline = torch.stack([x1[:, None] + (x2 - x1)[:, None] * along[0], y1[:, None] + (y2 - y1)[:, None] * along[1]], dim=-1)
    inverse = torch.linalg.inv(torch.tensor(matrix).view(2, 2))
    offset = outline - torch.tensor([region[1] / 2, region[0] / 2])
    middle = torch.tensor([size[1] / 2, size[0] / 2])
    points = offset @ inverse.T + middle
    for _ in range(_FIXED_POINT_STEPS if control is not None else 0):
        points = (offset - _displacement(control, points, size)) @ inverse.T + middle  # type: ignore[arg-type]
    return torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1)


def _displacement(control: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) at points (..., 2) xy of the result, as :func:`source_points` has it at pixel centres."""
    last = torch.tensor([max(size[1] - 1, 1), max(size[0] - 1, 1)])
    grid = ((points - 0.5) / last * 2 - 1).reshape(1, 1, -1, 2)
    found = nn_functional.grid_sample(control[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found.reshape(2, -1).T.reshape(points.shape)


def clipped_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([columns, rows, columns, rows]))


def remains(boxes: Tensor, areas: Tensor, whole: Tensor) -> Tensor:
    """bool (N): which objects are still there: at least a pixel wide and high, with ``MIN_FRACTION_LEFT`` of ``whole`` (N), the area that
    they would have with nothing cut off."""
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1) & (areas >= MIN_FRACTION_LEFT * whole)


def boxes_of(instance_masks: Tensor) -> Tensor:
    """Tight half-open boxes float32 (N, 4) of masks bool (N, H, W); an empty mask has the empty box 0, 0, 0, 0."""
    sides = []
    for occupied in (instance_masks.any(dim=1), instance_masks.any(dim=2)):  # columns, then rows
        places = torch.arange(occupied.shape[1], device=occupied.device)
        first = torch.where(occupied, places, occupied.shape[1]).amin(dim=1)
        last = torch.where(occupied, places + 1, 0).amax(dim=1)
        sides.append((first.minimum(last), last))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], dim=1).float()
