"""The types every part of ocuseg speaks: frozen, checked when made, always valid.

Arrays are numpy wherever data is in the SOURCE frame (Scan, Prediction) and torch wherever a network is near (Target, Batch).
This module imports neither torch nor any reader, so that the command line stays quick.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Laterality = Literal["R", "L"]
LateralitySource = Literal["tag", "functional_group", "filename", "card", "user", "unknown"]
SpacingSource = Literal["tag", "axial_length", "user", "unknown"]
Modality = Literal["fundus", "oct", "octa", "slo", "unknown"]
Unit = Literal["1", "px", "mm", "mm2", "um", "deg"]
IGNORE = -1

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Geometry:
    """Where pixels lie. Unknown is None: never 1.0, never guessed.

    ``shape`` is (rows, columns) or (slices, rows, columns); ``spacing_mm`` has the same order; ``affine`` is a 4 x 4 matrix
    from voxel index (column, row, slice) to patient coordinates in millimetres, LPS (DICOM PS3.3 C.7.6.2.1.1).
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    spacing_source: SpacingSource = "unknown"
    affine: npt.NDArray[np.float64] | None = field(default=None, compare=False)
    laterality: Laterality | None = None
    laterality_source: LateralitySource = "unknown"

    def __post_init__(self) -> None:
        _require(len(self.shape) in (2, 3) and all(n > 0 for n in self.shape), f"shape {self.shape} must be 2 or 3 positive numbers")
        if self.spacing_mm is not None:
            _require(len(self.spacing_mm) == len(self.shape), f"spacing {self.spacing_mm} does not match shape {self.shape}")
            _require(all(math.isfinite(s) and s > 0 for s in self.spacing_mm), f"spacing {self.spacing_mm} must be positive")
        _require((self.spacing_mm is None) == (self.spacing_source == "unknown"), "spacing and its source must be known together")
        _require((self.laterality is None) == (self.laterality_source == "unknown"), "laterality and its source must be known together")
        if self.affine is not None:
            _require(self.affine.shape == (4, 4) and bool(np.isfinite(self.affine).all()), "affine must be a finite 4 x 4 matrix")

    @property
    def slices(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def plane(self) -> tuple[int, int]:
        """(rows, columns) of one slice."""
        return self.shape[-2], self.shape[-1]


@dataclass(frozen=True, order=True)
class CaseKey:
    """Pseudonymous name of one image: sortable, and safe as a file name."""

    patient: str
    eye: Literal["R", "L", "U"]
    visit: str
    image: str

    def __post_init__(self) -> None:
        for name in ("patient", "visit", "image"):
            value = getattr(self, name)
            _require(bool(_SAFE.fullmatch(value)), f"{name} {value!r} must be 1-64 letters, digits, dots or dashes")
        _require(self.eye in ("R", "L", "U"), f"eye {self.eye!r} must be R, L or U")

    def __str__(self) -> str:
        return f"{self.patient}_{self.eye}_{self.visit}_{self.image}"

    @classmethod
    def parse(cls, text: str) -> CaseKey:
        """The inverse of ``str``."""
        parts = text.split("_")
        _require(len(parts) == 4, f"{text!r} is not PATIENT_EYE_VISIT_IMAGE")
        return cls(*parts)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Scan:
    """One image as stored: ``pixels`` (C, H, W) or (C, D, H, W) in the stored dtype, C = 1 or 3 (RGB).

    ``source`` is for opening the file again while the program runs; it is never written anywhere.
    """

    pixels: npt.NDArray[Any]
    geometry: Geometry
    modality: Modality
    case: CaseKey
    sha256: str
    source: Path | None = None
    sop_instance_uid: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.pixels.ndim in (3, 4) and self.pixels.shape[0] in (1, 3),
            f"pixels {self.pixels.shape} must be (1 or 3, [slices,] rows, columns)",
        )
        _require(self.pixels.shape[1:] == self.geometry.shape, f"pixels {self.pixels.shape} do not match geometry {self.geometry.shape}")
        _require(self.modality in get_args(Modality), f"modality {self.modality!r} is unknown")
        _require(bool(re.fullmatch(r"[0-9a-f]{64}", self.sha256)), "sha256 must be 64 hexadecimal digits")


@dataclass(frozen=True)
class LabelClass:
    """One foreground class. ``colour`` is RGB 0-255; ``code`` is "SCHEME:VALUE" (DICOM) or None."""

    index: int
    name: str
    colour: tuple[int, int, int]
    code: str | None = None


@dataclass(frozen=True)
class LabelMap:
    """The classes a mask can hold: background 0, ignored pixels -1, foreground 1..K in order.

    Exclusive classes: a mask's value is the class index. Overlapping classes (the cup lies inside the disc): a mask is a bit
    field, bit k - 1 set where class k is present, so that one integer image says everything and moves as one through every
    transform.
    """

    classes: tuple[LabelClass, ...]
    overlapping: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.classes), "a label map needs at least one class")
        _require([c.index for c in self.classes] == list(range(1, len(self.classes) + 1)), "class indices must be 1, 2, 3, ... in order")
        _require(len({c.name for c in self.classes}) == len(self.classes), "class names must differ")
        _require(not self.overlapping or len(self.classes) <= 31, "at most 31 overlapping classes")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def independent(self) -> bool:
        """Whether each class is its own yes / no question (sigmoid), rather than one choice among all (softmax)."""
        return self.overlapping or len(self.classes) == 1

    @property
    def channels(self) -> int:
        """Output channels of a network for this map: K for independent classes, K + 1 (background first) otherwise."""
        return len(self.classes) if self.independent else len(self.classes) + 1

    def layers(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mask (...) -> one boolean layer a class (K, ...); ignored pixels are False everywhere."""
        known = mask != IGNORE
        if self.overlapping:
            return np.stack([((mask >> (c.index - 1)) & 1).astype(bool) & known for c in self.classes])
        return np.stack([mask == c.index for c in self.classes])

    def mask(self, layers: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Boolean layers (K, ...) -> mask int64 (...); of exclusive classes the later one wins."""
        _require(layers.shape[0] == len(self.classes), f"{layers.shape[0]} layers for {len(self.classes)} classes")
        out = np.zeros(layers.shape[1:], dtype=np.int64)
        for cls, layer in zip(self.classes, layers, strict=True):
            if self.overlapping:
                out |= layer.astype(np.int64) << (cls.index - 1)
            else:
                out[layer] = cls.index
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "overlapping": self.overlapping,
            "classes": [{"index": c.index, "name": c.name, "colour": list(c.colour), "code": c.code} for c in self.classes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelMap:
        classes = tuple(LabelClass(c["index"], c["name"], tuple(c["colour"]), c.get("code")) for c in data["classes"])
        return cls(classes, bool(data.get("overlapping", False)))


@dataclass(frozen=True, eq=False)
class Target:
    """What is true of one image; each field may be None, and N (objects) may be 0.

    ``mask`` int64 (H, W) · ``boxes`` float32 (N, 4) xyxy pixels, half open, x = column · ``labels`` int64 (N), 1..K ·
    ``instance_masks`` bool (N, H, W) · ``grade`` int. Tensors.
    """

    mask: Tensor | None = None
    boxes: Tensor | None = None
    labels: Tensor | None = None
    instance_masks: Tensor | None = None
    grade: int | None = None

    def __post_init__(self) -> None:
        for name, dtype, ndim in (("mask", "int64", 2), ("boxes", "float32", 2), ("labels", "int64", 1), ("instance_masks", "bool", 3)):
            value = getattr(self, name)
            if value is not None:
                _require(
                    str(value.dtype) == f"torch.{dtype}" and value.ndim == ndim,
                    f"{name} must be {dtype} with {ndim} dimensions, not {value.dtype} {tuple(value.shape)}",
                )
        _require((self.boxes is None) == (self.labels is None), "boxes and labels come together")
        if self.boxes is not None and self.labels is not None:
            _require(self.boxes.shape[1] == 4, "boxes must be (N, 4)")
            _require(len(self.boxes) == len(self.labels), f"{len(self.boxes)} boxes but {len(self.labels)} labels")
            if self.instance_masks is not None:
                _require(
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
        _require(min(self.source) > 0 and min(self.crop[2:]) > 0 and min(self.resized) > 0, f"empty placement {self}")
        _require(min(self.pad) >= 0, f"negative padding {self.pad}")

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
        """Maps (C, net rows, net columns) -> (C, source rows, source columns); ``fill`` stands outside the crop."""
        import torch
        import torch.nn.functional as nn_functional

        _require(tuple(maps.shape[-2:]) == self.net, f"maps {tuple(maps.shape)} are not of the network's size {self.net}")
        top, left, _, _ = self.pad
        inner = maps[:, top : top + self.resized[0], left : left + self.resized[1]]
        crop_top, crop_left, height, width = self.crop
        if (height, width) != self.resized:
            options: dict[str, Any] = {"mode": "nearest-exact"} if mode == "nearest" else {"mode": "bilinear", "antialias": True}
            stored = inner.dtype
            inner = nn_functional.interpolate(inner[None].float(), size=(height, width), **options)[0].to(stored)
        if (crop_top, crop_left, height, width) == (0, 0, *self.source):
            return inner
        out = torch.full((maps.shape[0], *self.source), fill, dtype=maps.dtype, device=maps.device)
        rows = slice(max(crop_top, 0), min(crop_top + height, self.source[0]))
        columns = slice(max(crop_left, 0), min(crop_left + width, self.source[1]))
        out[:, rows, columns] = inner[:, rows.start - crop_top : rows.stop - crop_top, columns.start - crop_left : columns.stop - crop_left]
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
    """What a network sees: ``images`` float32 (C, H, W) each, any size; ``valid`` bool (H, W), the field of view."""

    images: Sequence[Tensor]
    valid: Sequence[Tensor]
    placements: Sequence[Placement]
    cases: Sequence[CaseKey]
    targets: Sequence[Target] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.images), len(self.valid), len(self.placements), len(self.cases)}
        if self.targets is not None:
            sizes.add(len(self.targets))
        _require(len(sizes) == 1, "a batch's lists must have one length")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: Any) -> Batch:
        """The same batch with every tensor on ``device``."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if hasattr(value, "to") else value

        targets = None
        if self.targets is not None:
            targets = [Target(move(t.mask), move(t.boxes), move(t.labels), move(t.instance_masks), t.grade) for t in self.targets]
        return Batch([move(i) for i in self.images], [move(v) for v in self.valid], self.placements, self.cases, targets)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of one scan, in the SOURCE frame; whatever does not apply is None.

    ``probabilities`` float32 (K, H, W) or (K, D, H, W), foreground classes only · ``boxes`` float32 (N, 4) · ``labels`` int64 (N) ·
    ``scores`` float32 (N) · ``instance_masks`` bool (N, H, W) · ``grade_probabilities`` float32 (G) · ``uncertainty`` float32
    (H, W) or (D, H, W) in 0..1. numpy arrays.
    """

    probabilities: npt.NDArray[np.float32] | None = None
    boxes: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.int64] | None = None
    scores: npt.NDArray[np.float32] | None = None
    instance_masks: npt.NDArray[np.bool_] | None = None
    grade_probabilities: npt.NDArray[np.float32] | None = None
    uncertainty: npt.NDArray[np.float32] | None = None
    bundle_id: str | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.probabilities is not None:
            _require(self.probabilities.ndim in (3, 4), f"probabilities {self.probabilities.shape} must be (K, [D,] H, W)")
        counts = {len(v) for v in (self.boxes, self.labels, self.scores) if v is not None}
        _require(len(counts) <= 1, "boxes, labels and scores must have one length")


@dataclass(frozen=True)
class Measure:
    """A number with its unit and definition, or the reason why there is none. Never NaN."""

    value: float | None
    unit: Unit
    definition: str
    undefined: str | None = None

    def __post_init__(self) -> None:
        _require((self.value is None) == (self.undefined is not None), "a measure has a value, or the reason why it has none")
        _require(self.value is None or math.isfinite(self.value), f"a measure is finite, not {self.value}")
