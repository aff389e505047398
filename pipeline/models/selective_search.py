"""Selective search: boxes around whatever may be an object, from pixels alone and without training.

Paper: Uijlings, van de Sande, Gevers, Smeulders, "Selective Search for Object Recognition", IJCV 104, 2013,
doi:10.1007/s11263-013-0620-5. Superpixels: Felzenszwalb, Huttenlocher, IJCV 59, 2004, doi:10.1023/B:VISI.0000022288.19776.77
(scikit-image). Our own code.

Superpixels are merged pair by pair until one region is left, and the box of every region on the way is a proposal. That is done for several
colour spaces, superpixel scales and similarities, each of which fails elsewhere.

What differs: where the paper merges the most similar pair of the whole picture and looks again, all pairs that are each other's most
similar neighbour merge at once, so that a picture takes some fifty rounds of a few array operations instead of one for every
superpixel. The picture is reduced first, and texture is measured by eight directions of one Gaussian gradient instead of by eight
derivatives. The paper puts large regions first, OpenCV's implementation small ones, as is done here: lesions are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.registry import Strict

Colour = Literal["lab", "hsv", "rgb", "grey"]
Similarity = Literal["colour", "texture", "size", "fill"]
Boxes = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Plane = npt.NDArray[np.float32]

_COLOUR_BINS, _TEXTURE_BINS, _DIRECTIONS = 25, 10, 8
_SIGMA = 0.8
"""Of the Gaussian before the superpixels, in pixels of the reduced picture, as the paper has it."""
_SAME = 1e-12


class SelectiveSearchConfig(Strict):
    """The defaults are the paper's "fast" mode, four hierarchies a colour space, on a picture of 240 rows."""

    side: int = Field(240, ge=32, description="pictures are reduced to this shorter side in pixels; smaller ones stay as they are")
    colours: tuple[Colour, ...] = Field(("lab", "hsv"), min_length=1, description="colour spaces: lab, hsv, rgb, grey")
    scales: tuple[float, ...] = Field((15, 40), min_length=1, description="scales of the superpixels (Felzenszwalb's k, of 0..255 values)")
    min_size: int = Field(40, ge=1, description="pixels of the smallest superpixel in the reduced picture")
    similarities: tuple[tuple[Similarity, ...], ...] = Field(
        (("colour", "texture", "size", "fill"), ("texture", "size", "fill")),
        min_length=1,
        description="which similarities are summed, one hierarchy for each combination",
    )
    boxes: int = Field(2000, ge=1, description="maximum number of boxes kept per image")
    min_side: float = Field(8, ge=1, description="boxes with a shorter side, in pixels of the image, are dropped")


def selective_search(image: npt.NDArray[Any], config: SelectiveSearchConfig | None = None) -> Boxes:
    """Boxes float32 (P, 4) xyxy of an image (C, H, W) of any number type, in its own pixels; no two are the same.

    Regions of few superpixels tend to come first, in an order that is drawn at random but always the same for one image (section 3.4 of
    the paper, turned around). Values are stretched to 0..1, so that neither their offset nor their scale matters; one channel counts as
    grey, of more than three the first three count.
    """
    config = config or SelectiveSearchConfig()
    rows, columns = image.shape[-2:]
    picture = _reduced(image, config.side)
    random = np.random.default_rng(0)
    boxes, priorities = [], []
    for found, levels in hierarchies(picture, config):
        boxes.append(found)
        priorities.append(levels * random.random(len(found)))
    every = np.concatenate(boxes)[np.argsort(np.concatenate(priorities), kind="stable")]
    _, first = np.unique(every, axis=0, return_index=True)
    scale = np.array([columns / picture.shape[1], rows / picture.shape[0]] * 2)
    distinct = every[np.sort(first)] * scale
    large = (distinct[:, 2:] - distinct[:, :2]).min(axis=1) >= config.min_side
    return np.asarray(distinct[large][: config.boxes], np.float32)


def hierarchies(picture: Plane, config: SelectiveSearchConfig) -> Iterator[tuple[Boxes, Ints]]:
    """Of a picture float32 (H, W, 3) in 0..1: boxes and levels (:func:`grouped`) for each colour space, scale and combination of
    similarities."""
    from skimage.segmentation import felzenszwalb

    for colour in config.colours:
        converted = _converted(picture, colour)
        bins = _colour_bins(converted), _texture_bins(converted)
        for scale in config.scales:
            labels = felzenszwalb(converted, scale=scale, sigma=_SIGMA, min_size=config.min_size)
            superpixels, edges = Regions.of(labels, *bins), neighbours(labels)
            for similarities in config.similarities:
                yield grouped(superpixels, edges, similarities)


@dataclass(frozen=True, eq=False)
class Regions:
    """N regions of a picture of ``area`` pixels: ``boxes`` float32 (N, 4) xyxy, ``sizes`` float32 (N) in pixels, and the counts of their
    ``colours`` and ``textures``, float32 (N, bins) each. Counts add up when regions merge."""

    area: int
    boxes: Boxes
    sizes: npt.NDArray[np.float32]
    colours: npt.NDArray[np.float32]
    textures: npt.NDArray[np.float32]

    @classmethod
    def of(cls, labels: Ints, colours: npt.NDArray[np.uint8], textures: npt.NDArray[np.uint8]) -> Self:
        """Of a segmentation int (H, W), 0 to N - 1, and the bin of each pixel in every histogram, (histograms, H, W)."""
        from scipy.ndimage import find_objects

        count = int(labels.max()) + 1
        places = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(labels + 1)]
        histograms = [
            np.concatenate([np.bincount((labels * size + plane).ravel(), minlength=count * size).reshape(count, size) for plane in bins], 1)
            for bins, size in ((colours, _COLOUR_BINS), (textures, _TEXTURE_BINS))
        ]
        sizes = np.bincount(labels.ravel(), minlength=count)
        return cls(labels.size, *(np.asarray(values, np.float32) for values in (places, sizes, *histograms)))

    def room_for(self, count: int) -> Regions:
        """The same, with zeros behind them, ``count`` regions in all."""
        arrays = [np.zeros((count, *values.shape[1:]), np.float32) for values in self._arrays]
        for larger, values in zip(arrays, self._arrays, strict=True):
            larger[: len(values)] = values
        return Regions(self.area, *arrays)

    @property
    def _arrays(self) -> tuple[npt.NDArray[np.float32], ...]:
        return self.boxes, self.sizes, self.colours, self.textures

    def merge(self, pairs: Ints, first: int) -> None:
        """Write the union of each pair (M, 2) into the places from ``first`` on."""
        a, b = pairs.T
        new = slice(first, first + len(pairs))
        self.boxes[new] = self._boxes_around(pairs)
        for values in self._arrays[1:]:
            values[new] = values[a] + values[b]

    def _boxes_around(self, pairs: Ints) -> Boxes:
        one, other = self.boxes[pairs[:, 0]], self.boxes[pairs[:, 1]]
        return np.concatenate([np.minimum(one[:, :2], other[:, :2]), np.maximum(one[:, 2:], other[:, 2:])], 1)

    def alike(self, pairs: Ints, similarities: tuple[Similarity, ...]) -> npt.NDArray[np.float32]:
        """The sum of similarities, 0..1 each, of pairs (M, 2); section 3.2 of the paper."""
        a, b = pairs.T
        size_a, size_b = self.sizes[a], self.sizes[b]
        total, together = np.zeros(len(pairs), np.float32), size_a + size_b
        for name, counts, pixels in (("colour", self.colours, _COLOUR_BINS), ("texture", self.textures, _TEXTURE_BINS)):
            if name in similarities:
                shared = np.minimum(counts[a] * size_b[:, None], counts[b] * size_a[:, None]).sum(1)
                total += shared / (size_a * size_b * (counts.shape[1] // pixels))
        if "size" in similarities:
            total += 1 - together / self.area
        if "fill" in similarities:
            box = self._boxes_around(pairs)
            total += 1 - ((box[:, 2:] - box[:, :2]).prod(1) - together) / self.area
        return total


def grouped(superpixels: Regions, edges: Ints, similarities: tuple[Similarity, ...]) -> tuple[Boxes, Ints]:
    """Boxes (2 N - 1, 4) of the N superpixels and of all that they merge into, the whole last; ``edges`` int64 (E, 2) connect them.

    With the level of each, int64 (2 N - 1): 1 of a superpixel, and one more than that of its higher part of a merged region.
    """
    number = len(superpixels.sizes)
    total = 2 * number - 1
    regions = superpixels.room_for(total)
    levels = np.ones(total, np.int64)
    alike = regions.alike(edges, similarities)
    while len(edges):
        order = np.argsort(alike, kind="stable")
        best = np.zeros(number, np.int64)
        best[edges[order].ravel()] = np.repeat(order, 2)  # of several assignments the last one stays
        chosen = np.flatnonzero((best[edges] == np.arange(len(edges))[:, None]).all(1))
        regions.merge(edges[chosen], number)
        levels[number : number + len(chosen)] = levels[edges[chosen]].max(axis=1) + 1
        now = np.arange(number)
        now[edges[chosen]] = number + np.arange(len(chosen))[:, None]
        number += len(chosen)
        renamed = now[edges]
        kept = (renamed == edges).all(1)
        fresh = _distinct(renamed[~kept & (renamed[:, 0] != renamed[:, 1])], total)
        edges, alike = np.concatenate([edges[kept], fresh]), np.concatenate([alike[kept], regions.alike(fresh, similarities)])
    return regions.boxes[:number], levels[:number]


def _distinct(pairs: Ints, count: int) -> Ints:
    """Each pair of ``count`` regions once, the smaller number first."""
    codes = np.unique(pairs.min(1) * count + pairs.max(1))
    return np.stack([codes // count, codes % count], 1)


def neighbours(labels: Ints) -> Ints:
    """Pairs (E, 2), the smaller number first, of regions that touch by an edge or a corner of a pixel."""
    height, width = labels.shape
    pairs = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = labels[: height - down, max(-across, 0) : width - max(across, 0)]
        other = labels[down:, max(across, 0) : width + min(across, 0)]
        apart = one != other
        pairs.append(np.stack([one[apart], other[apart]], 1))
    return _distinct(np.concatenate(pairs), int(labels.max()) + 1)


def _reduced(image: npt.NDArray[Any], side: int) -> Plane:
    """(C, H, W) -> (h, w, 3) in 0..1, reduced by averaging where it is larger than ``side``."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(image[:3] if len(image) >= 3 else image[:1], dtype=np.float32))
    factor = min(1.0, side / min(values.shape[-2:]))
    size = [max(1, round(extent * factor)) for extent in values.shape[-2:]]
    if factor < 1:
        values = torch.nn.functional.interpolate(values[None], size=size, mode="bilinear", antialias=True)[0]
    low, high = values.min(), values.max()
    stretched = (values - low) / (high - low).clamp(min=_SAME)
    return np.ascontiguousarray(np.moveaxis(stretched.expand(3, -1, -1).numpy(), 0, -1))


def _converted(picture: Plane, colour: Colour) -> Plane:
    """(H, W, 3) of RGB in 0..1 -> the same picture in another colour space, (H, W, channels), all in 0..1."""
    from skimage.color import rgb2hsv, rgb2lab

    if colour == "lab":
        return np.asarray(rgb2lab(picture) / (100, 255, 255) + (0, 128 / 255, 128 / 255), np.float32).clip(0, 1)
    if colour == "hsv":
        return np.asarray(rgb2hsv(picture), np.float32)
    return picture if colour == "rgb" else (picture @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _colour_bins(picture: Plane) -> npt.NDArray[np.uint8]:
    """uint8 (channels, H, W): the bin of each value."""
    return np.moveaxis((picture * _COLOUR_BINS).clip(0, _COLOUR_BINS - 1).astype(np.uint8), -1, 0)


def _texture_bins(picture: Plane) -> npt.NDArray[np.uint8]:
    """uint8 (channels x directions, H, W): the bin of the gradient's component in each of eight directions, 0 where it points away."""
    from scipy.ndimage import gaussian_filter

    bins = []
    for channel in np.moveaxis(picture, -1, 0):
        across, down = (gaussian_filter(channel, 1.0, order=order) for order in ((0, 1), (1, 0)))
        steepest = max(float(np.hypot(across, down).max()), _SAME)
        for angle in np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS):
            along = (across * np.cos(angle) + down * np.sin(angle)) / steepest
            bins.append((along * _TEXTURE_BINS).clip(0, _TEXTURE_BINS - 1).astype(np.uint8))
    return np.stack(bins)
