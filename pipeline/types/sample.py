"""What a network learns from and sees: targets, placements, batches. Tensors; torch itself is imported only when used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.types.scan import CaseKey, require

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["train", "validation", "test"]
EvaluatedPart = Literal["train", "validation", "test", "all"]
"""Of a data set that is scored; ``all`` of one that no run has seen."""
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Target:
    """What is true of one image, or of the slices of a volume; each field may be None, and N (objects) may be 0.

    ``mask`` int64 (H, W), or (D, H, W) of a volume, which has no objects · ``boxes`` float32 (N, 4) xyxy pixels, half open, x =
    column · ``labels`` int64 (N), 1..K · ``instance_masks`` bool (N, H, W). Tensors. ``grade``: what the whole picture is, 0..G - 1, the
    place of its class in the label map.
    """

    mask: Tensor | None = None
    boxes: Tensor | None = None
    labels: Tensor | None = None
    instance_masks: Tensor | None = None
    grade: int | None = None

    def __post_init__(self) -> None:
        axes = 3 if self.boxes is None and self.mask is not None and self.mask.ndim == 3 else 2
        for name, dtype, ndim in (("mask", "int64", axes), ("boxes", "float32", 2), ("labels", "int64", 1), ("instance_masks", "bool", 3)):
            value = getattr(self, name)
            if value is not None:
                require(
                    str(value.dtype) == f"torch.{dtype}" and value.ndim == ndim,
                    f"{name} must be {dtype} with {ndim} dimensions, not {value.dtype} {tuple(value.shape)}",
                )
        require((self.boxes is None) == (self.labels is None), "boxes and labels come together")
        if self.boxes is not None and self.labels is not None:
            require(self.boxes.shape[1] == 4, "boxes must be (N, 4)")
            require(len(self.boxes) == len(self.labels), f"{len(self.boxes)} boxes but {len(self.labels)} labels")
            if self.instance_masks is not None:
                require(
                    len(self.instance_masks) == len(self.boxes), f"{len(self.instance_masks)} instance masks but {len(self.boxes)} boxes"
                )


@dataclass(frozen=True)
class Placement:
    """How a source image became a network's input: crop, then resize, then pad (crop may reach past the source's edge).

    ``source``: (rows, columns) of the source. ``crop``: (top, left, height, width) in source pixels. ``resized``: (rows,
    columns) that the crop was resized to. ``pad``: (top, left, bottom, right) added around it. Pixel areas are half open, so
    x_net = (x_source - left) * resized / crop + pad for box edges.
    """

    source: tuple[int, int]
    crop: tuple[int, int, int, int]
    resized: tuple[int, int]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        require(min(self.source) > 0 and min(self.crop[2:]) > 0 and min(self.resized) > 0, f"empty placement {self}")
        require(min(self.pad) >= 0, f"negative padding {self.pad}")

    @classmethod
    def identity(cls, rows: int, columns: int) -> Placement:
        return cls((rows, columns), (0, 0, rows, columns), (rows, columns))

    @property
    def net(self) -> tuple[int, int]:
        """(rows, columns) of the network's input."""
        top, left, bottom, right = self.pad
        return self.resized[0] + top + bottom, self.resized[1] + left + right

    @property
    def scale(self) -> tuple[float, float]:
        """Network pixels per source pixel, (rows, columns)."""
        return self.resized[0] / self.crop[2], self.resized[1] / self.crop[3]

    def to_source(self, maps: Tensor, *, mode: Literal["nearest", "linear"] = "linear", fill: float = 0.0) -> Tensor:
        """Maps (..., net rows, net columns) -> (..., source rows, source columns); ``fill`` stands outside the crop."""
        import torch
        import torch.nn.functional as nn_functional

        require(tuple(maps.shape[-2:]) == self.net, f"maps {tuple(maps.shape)} are not of the network's size {self.net}")
        top, left, _, _ = self.pad
        inner = maps[..., top : top + self.resized[0], left : left + self.resized[1]]
        crop_top, crop_left, height, width = self.crop
        if (height, width) != self.resized:
            options: dict[str, Any] = {"mode": "nearest-exact"} if mode == "nearest" else {"mode": "bilinear", "antialias": True}
            enlarged = nn_functional.interpolate(inner.flatten(0, -3)[None].float(), size=(height, width), **options)
            inner = enlarged.view(*inner.shape[:-2], height, width).to(inner.dtype)
        if (crop_top, crop_left, height, width) == (0, 0, *self.source):
            return inner
        out = torch.full((*maps.shape[:-2], *self.source), fill, dtype=maps.dtype, device=maps.device)
        first, last = max(crop_top, 0), min(crop_top + height, self.source[0])
        start, stop = max(crop_left, 0), min(crop_left + width, self.source[1])
        out[..., first:last, start:stop] = inner[..., first - crop_top : last - crop_top, start - crop_left : stop - crop_left]
        return out

    def boxes_to_net(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) xyxy in source pixels -> the same in network pixels; nothing is clipped."""
        (scale_y, scale_x), (top, left, _, _), (pad_top, pad_left, _, _) = self.scale, self.crop, self.pad
        scale = boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
        return (boxes - boxes.new_tensor([left, top, left, top])) * scale + boxes.new_tensor([pad_left, pad_top, pad_left, pad_top])

    def boxes_to_source(self, boxes: Tensor) -> Tensor:
        """The inverse of :meth:`boxes_to_net`, clipped to the source."""
        (scale_y, scale_x), (top, left, _, _), (pad_top, pad_left, _, _) = self.scale, self.crop, self.pad
        scale = boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
        out = (boxes - boxes.new_tensor([pad_left, pad_top, pad_left, pad_top])) / scale + boxes.new_tensor([left, top, left, top])
        rows, columns = self.source
        return out.clamp(min=0).minimum(out.new_tensor([columns, rows, columns, rows]))


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network sees: ``images`` float32 (C, H, W) each, any size; ``valid`` bool (H, W), the field of view.

    A volume, for a network that looks at neighbouring slices, is one image (C, D, H, W) with ``valid`` (D, H, W); its placement is
    that of each slice. Images of one size may come as one tensor (B, C, [D,] H, W), with ``valid`` (B, [D,] H, W) and ``masks``
    int64 (B, [D,] H, W), of which the targets' masks are views. ``proposals`` float32 (P, 4) xyxy of each image where a network looks
    at boxes that were made beforehand; None: it makes its own. ``seeds``: what a network draws from for each image in training.
    """

    images: Sequence[Tensor]
    valid: Sequence[Tensor]
    placements: Sequence[Placement]
    cases: Sequence[CaseKey]
    targets: Sequence[Target] | None = None
    masks: Tensor | None = None
    proposals: Sequence[Tensor] | None = None
    seeds: Sequence[int] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.valid), len(self.placements), len(self.cases)}
        if self.targets is not None:
            sizes.add(len(self.targets))
        if self.proposals is not None:
            sizes.add(len(self.proposals))
        if self.seeds is not None:
            sizes.add(len(self.seeds))
        require(len(sizes) == 1, "a batch's lists must have one length")

    def __len__(self) -> int:
        return len(self.images)

    def record_stream(self, stream: Any) -> None:
        """Tell CUDA that ``stream`` uses these tensors, which another one has made, so that none is overwritten before its time."""
        for tensor in self._tensors():
            tensor.record_stream(stream)

    def _tensors(self) -> Iterator[Any]:
        for many in (self.images, self.valid):
            yield from [many] if hasattr(many, "record_stream") else many
        yield from self.proposals or ()
        if self.masks is not None:
            yield self.masks
        for target in self.targets or ():
            fields = None if self.masks is not None else target.mask, target.boxes, target.labels, target.instance_masks
            yield from (tensor for tensor in fields if tensor is not None)


class OnDisk:
    """An array in a file that is mapped when it is indexed, and only then: a mapping holds a file open, and a process may hold
    about a thousand. What indexing gives is copy-on-write, so that a stray write never reaches the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = self[...]
        self.shape: tuple[int, ...] = whole.shape
        self.dtype = whole.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        return np.asarray(np.load(self._path, mmap_mode="c", allow_pickle=False)[place])
