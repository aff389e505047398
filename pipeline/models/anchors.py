"""Reference boxes: fitted to a data set's own, and laid over a pyramid's levels.

k-means by overlap: Redmon, Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, arXiv:1612.08242. One size a level and a few
aspect ratios: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.registry import Strict

Sizes = npt.NDArray[np.float32]

ENOUGH = 20_000
"""So many boxes say what more would say."""


class Anchors(Strict):
    """Reference boxes of each level of a pyramid: every size in every aspect ratio."""

    sizes: tuple[tuple[float, ...], ...] = Field(
        ((32,), (64,), (128,), (256,), (512,)), description="square roots of the anchor areas in working pixels, per level, finest first"
    )
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height / width of the anchors, the same at each level")

    @model_validator(mode="after")
    def _fits(self) -> Anchors:
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            raise ValueError("each level needs the same number of anchor sizes, at least one")
        if min(min(level) for level in self.sizes) <= 0 or min(self.ratios) <= 0:
            raise ValueError("anchor sizes and ratios must be above 0")
        return self

    @property
    def count(self) -> int:
        """Anchors at each place of a level."""
        return len(self.sizes[0]) * len(self.ratios)

    def shapes(self, level: int) -> Sizes:
        """Width and height of one level's anchors, float32 (``count``, 2)."""
        return np.array([(size / ratio**0.5, size * ratio**0.5) for ratio in self.ratios for size in self.sizes[level]], np.float32)


class LevelAnchors(nn.Module):
    """Anchors at each place of a pyramid's levels; stands in for torchvision's AnchorGenerator.

    What differs: a level's step is its true stride. torchvision divides the image's size by the level's, so that in an image of 352
    rows the six rows of stride 64 are laid 58 pixels apart, and lie elsewhere once the image is padded.
    """

    def __init__(self, anchors: Anchors, strides: Sequence[int]) -> None:
        super().__init__()
        if len(anchors.sizes) != len(strides):
            raise ValueError(f"anchors of {len(anchors.sizes)} levels for a pyramid of {len(strides)}")
        self.strides = tuple(strides)
        self.count = anchors.count
        for level in range(len(strides)):
            half = torch.from_numpy(anchors.shapes(level)) / 2
            self.register_buffer(f"level_{level}", torch.cat([-half, half], dim=1), persistent=False)

    def num_anchors_per_location(self) -> list[int]:
        return [self.count] * len(self.strides)

    def forward(self, images: Any, levels: Sequence[Tensor]) -> list[Tensor]:
        """:meth:`over` for each image of torchvision's ImageList."""
        return [self.over(levels)] * len(images.image_sizes)

    def over(self, levels: Sequence[Tensor]) -> Tensor:
        """Boxes float32 (A, 4) xyxy of feature maps (B, C, rows, columns): level by level, ``count`` at each place."""
        grids = []
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            rows, columns = (torch.arange(side, device=level.device) * stride for side in level.shape[-2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            grids.append((places + self.get_buffer(f"level_{number}")).reshape(-1, 4))
        return torch.cat(grids)


def overlap(sizes: Sizes, anchors: Sizes, apart: Sizes | float = 0.0) -> npt.NDArray[np.float64]:
    """IoU (N, k) of boxes and anchors given by width and height alone; their centres lie ``apart`` pixels, both down and across."""
    boxes, others, apart = sizes[:, None].astype(np.float64), anchors[None].astype(np.float64), np.asarray(apart, np.float64)
    touching = (boxes + others) / 2 - apart.reshape(1, -1, 1)
    shared = np.minimum(np.minimum(boxes, others), touching).clip(min=0).prod(-1)
    return np.asarray(shared / (boxes.prod(-1) + others.prod(-1) - shared))


def coverage(sizes: Sizes, anchors: Sizes, apart: Sizes | float = 0.0) -> float:
    """Mean over boxes of the IoU with the best anchor, 0..1."""
    return float(overlap(sizes, anchors, apart).max(1).mean())


def kmeans_anchors(sizes: Sizes, k: int, seed: int = 0) -> Sizes:
    """``k`` anchors (width, height), smallest area first, by k-means with distance 1 - IoU; the best of ten starts.

    ``sizes`` float32 (N, 2), N at least 1. Where the boxes have fewer than k shapes, the rest are those at twice the size, four times
    and so on. One seed gives one answer.
    """
    if not len(sizes):
        raise ValueError("anchors are fitted to at least one box")
    random = np.random.default_rng(seed)
    if len(sizes) > ENOUGH:
        sizes = random.choice(sizes, ENOUGH, replace=False)
    shapes = np.unique(sizes, axis=0)
    if len(shapes) <= k:
        best = np.concatenate([shapes * 2.0**octave for octave in range(k)])[:k]
    else:
        best = max((_kmeans(sizes, shapes, k, random) for _ in range(10)), key=lambda centres: coverage(sizes, centres))
    return best[np.argsort(best.prod(1), kind="stable")].astype(np.float32)


def _kmeans(sizes: Sizes, shapes: Sizes, k: int, random: np.random.Generator) -> Sizes:
    """One run from ``k`` different shapes drawn far from each other (k-means++)."""
    centres: Sizes = shapes[random.integers(len(shapes))][None]
    while len(centres) < k:
        distance = 1 - overlap(shapes, centres).max(1)
        centres = np.concatenate([centres, shapes[random.choice(len(shapes), p=distance**2 / (distance**2).sum())][None]])
    nearest = np.full(len(sizes), -1)
    for _ in range(100):
        moved = overlap(sizes, centres).argmax(1)
        if np.array_equal(moved, nearest):
            break
        nearest = moved
        centres = np.stack([sizes[nearest == c].mean(0) if (nearest == c).any() else centres[c] for c in range(k)])
    return centres


def fitted_anchors(sizes: Sizes, levels: int = 5, finest: int = 4) -> Anchors:
    """Anchors for a pyramid from the boxes' (width, height), float32 (N, 2): of those tried, the ones that cover the boxes best.

    Sizes stay an octave apart, as the levels do; what is fitted is where they begin (8 to 64 pixels at stride ``finest``) and the three
    aspect ratios (the paper's, or the median of the boxes' own with one on each side, a factor of 1.4 away or where a sixth of the
    boxes lies beyond). Anchors are judged at a quarter of their level's step from the box, the mean distance: large ones on a coarse
    level would fit in shape and miss in place. Of equals the nearest to the paper's 32 pixels wins. Without boxes: the paper's.
    """
    if not len(sizes):
        return Anchors(sizes=tuple((32.0 * 2**level,) for level in range(levels)))
    low, median, high = (max(float(ratio), 0.01) for ratio in np.quantile(sizes[:, 1] / sizes[:, 0], (1 / 6, 1 / 2, 5 / 6)))
    own = (min(low, median / 1.4), median, max(high, median * 1.4))
    starts = sorted((8 * 2 ** (step / 4) for step in range(13)), key=lambda start: abs(np.log2(start / 32)))
    tried = [
        Anchors(sizes=tuple((round(start * 2**level, 1),) for level in range(levels)), ratios=ratios)
        for ratios in ((0.5, 1.0, 2.0), tuple(round(ratio, 3) for ratio in own))
        for start in starts
    ]
    apart = np.repeat([finest * 2**level / 4 for level in range(levels)], len(own)).astype(np.float32)
    return max(tried, key=lambda anchors: round(coverage(sizes, np.concatenate([anchors.shapes(n) for n in range(levels)]), apart), 2))
