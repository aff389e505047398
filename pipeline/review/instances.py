"""Objects that have a mask each, as a page paints them and a correction holds them: pixel by pixel, also where two overlap."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from pipeline.errors import OcusegError
from pipeline.inference.object_files import COCO_FILE
from pipeline.metrics.matching import encode_mask, touched
from pipeline.reports.results import ReportCase
from pipeline.review.corrections import CorrectedObject
from pipeline.types import LabelMap
from pipeline.types.case_record import ObjectsRecord

Segmentation = Mapping[str, Any]
"""COCO run lengths of a mask: its ``size`` (rows, columns) and ``counts``."""
Box = tuple[float, float, float, float]


class Runs(BaseModel):
    """A mask as pages hold it: the rectangle around its pixels, and in it, row by row, the lengths of stretches that lie outside and inside
    by turns, the first outside."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    runs: list[int]

    def segmentation(self, shape: tuple[int, int]) -> tuple[Segmentation, Box]:
        """Run lengths in a plane of (rows, columns), and the box xyxy around the pixels.

        Raises
        ------
        ValueError: it leaves the plane, its runs do not fill its rectangle, or it has no pixel.
        """
        right, bottom = self.x + self.width, self.y + self.height
        if right > shape[1] or bottom > shape[0] or any(run < 0 for run in self.runs) or sum(self.runs) != self.width * self.height:
            raise ValueError
        inside = np.repeat(np.arange(len(self.runs)) % 2 == 1, self.runs).reshape(self.height, self.width)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            raise ValueError
        mask = np.zeros(shape, np.bool_)
        mask[self.y : bottom, self.x : right] = inside
        left, top = float(self.x + columns[0]), float(self.y + rows[0])
        box = (left, top, float(self.x + columns[-1] + 1), float(self.y + rows[-1] + 1))
        return encode_mask(mask, box), box


def have_masks(case: ReportCase) -> bool:
    """Whether the model gives the objects of a case a mask each."""
    try:
        return ObjectsRecord.read(case.folder).has_masks
    except (OSError, ValueError):
        return False


def model_segmentations(case: ReportCase) -> dict[int, Segmentation]:
    """The masks that the model gave the objects of a case, by their ids.

    Raises
    ------
    OcusegError: the file that holds them is damaged.
    """
    try:
        listed = json.loads((case.folder / COCO_FILE).read_text(encoding="utf-8"))["annotations"]
        return {one["id"]: one["segmentation"] for one in listed if one["segmentation"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OcusegError(f"{COCO_FILE} is damaged ({type(error).__name__}); predict this case again") from None


def decoded(segmentation: Segmentation) -> npt.NDArray[np.bool_]:
    """(rows, columns) bool."""
    from faster_coco_eval.core import mask as run_lengths

    mask: npt.NDArray[np.bool_] = run_lengths.decode(dict(segmentation)).astype(np.bool_)
    return mask


def _within(segmentation: Segmentation, box: Box) -> npt.NDArray[np.bool_]:
    """The part of a mask that a box touches. The library decodes whole planes, 4 ms of each megapixel and object: of hundreds of objects
    that is seconds."""
    rows = segmentation["size"][0]
    left, top, right, bottom = touched(box, tuple(segmentation["size"]))
    columns = np.zeros((right - left) * rows, np.bool_)  # runs go down the columns
    edges = np.clip(np.cumsum(_counts(segmentation["counts"])) - left * rows, 0, len(columns)).tolist()
    for start, stop in zip(edges[::2], edges[1::2], strict=False):
        columns[start:stop] = True
    return columns.reshape(right - left, rows).T[top:bottom]


def _counts(text: str) -> list[int]:
    """Lengths of the runs outside and inside by turns: COCO's text holds six bits a character, the lowest first, and from the fourth length
    on the difference to the one before the last."""
    counts = list[int]()
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        value -= (bits & 0x10) << (shift - 4)  # the sign
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def runs_of(segmentation: Segmentation, box: Box) -> dict[str, Any] | None:
    """As a page gets it; ``box``: beyond it there is nothing. None of a mask without pixels."""
    left, top, right, bottom = touched(box, tuple(segmentation["size"]))
    inside = _within(segmentation, box)
    if not inside.any():
        return None
    edges = np.flatnonzero(np.diff(inside.ravel(), prepend=False))
    runs = np.diff(edges, prepend=0, append=inside.size).tolist()
    return {"x": left, "y": top, "width": right - left, "height": bottom - top, "runs": runs}


def with_objects(
    masks: Iterable[npt.NDArray[Any]], objects: Sequence[CorrectedObject], names: Sequence[str], label_map: LabelMap
) -> tuple[npt.NDArray[Any], ...]:
    """The planes of a case, (H, W) in the encoding of ``label_map``, in which the classes ``names`` are what their objects' masks hold
    together; where classes exclude each other, of the object with the higher score (a reviewer's counts as sure)."""
    indices = {name: label_map.names.index(name) + 1 for name in names}
    painted = sorted((one for one in objects if one.segmentation is not None), key=lambda one: 1.0 if one.score is None else one.score)
    out = []
    for at, plane in enumerate(masks):
        mask = plane.copy()
        for index in indices.values():
            if label_map.overlapping:
                mask &= ~mask.dtype.type(1 << (index - 1))
            else:
                mask[mask == index] = 0
        for one in (one for one in painted if one.plane == at):
            assert one.segmentation is not None  # as chosen above
            left, top, right, bottom = touched(one.box, mask.shape)
            own, inside = mask[top:bottom, left:right], _within(one.segmentation, one.box)
            own[inside] = own[inside] | (1 << (indices[one.name] - 1)) if label_map.overlapping else indices[one.name]
        out.append(mask)
    return tuple(out)
