"""What a page sends, checked before anything of it is stored."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import OcusegError, ScanError
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.review.case_facts import classes, label_map_of, model_objects, model_surfaces
from pipeline.review.corrections import CorrectedObject, Correction, CorrectionRecord, surfaces_of
from pipeline.review.instances import Runs, have_masks, model_segmentations, with_objects
from pipeline.scans.raster import read_image, read_pages
from pipeline.types import LabelMap

REASONS = {
    "quality": "the picture's quality",
    "wrong_eye": "wrong eye or patient",
    "missed": "something was missed",
    "extra": "something was found that is not there",
    "border": "a border is wrong",
}
MOST_OBJECTS = 20_000
_PNG = b"\x89PNG\r\n\x1a\n"
_SLACK = 0.011
"""Surfaces are sent with two decimals; by so much one may seem to cross the next."""

Reason = Literal["quality", "wrong_eye", "missed", "extra", "border"]
Comment = Annotated[str, Field(max_length=4_000)]
Version = Annotated[int, Field(ge=0)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    version: Version


class _Judged(_Sent):
    """``model``: hash of the model's answer that was shown; "" where it was not noted."""

    model: Annotated[str, Field(max_length=64)] = ""


class SentVerdict(_Judged):
    """``take``: of several masks the one that the verdict is about; without it ``base``, the correction that was shown, or "" the model's
    answer; None: whatever stands now."""

    action: Literal["accept", "reject"]
    reasons: Annotated[tuple[Reason, ...], Field(max_length=len(REASONS))] = ()
    comment: Comment = ""
    take: Literal["model", "reader", "second"] | None = None
    base: Annotated[str, Field(max_length=64)] | None = None


class SentEye(_Sent):
    eye: Literal["R", "L"]


class SentComment(_Sent):
    comment: Annotated[Comment, Field(min_length=1)]


class _Plane(BaseModel):
    index: int = Field(ge=0)
    mask: str


class _Surface(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    plane: int = Field(ge=0)
    rows: list[float | None]


class _Object(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    id: int | None = Field(None, ge=1)
    plane: int = Field(0, ge=0)
    index: int = Field(alias="class")
    score: float | None = Field(None, ge=0, le=1)
    box: tuple[float, float, float, float]
    mask: Runs | None = None


class SentEdit(_Judged):
    """``base``: the correction that the edit goes on from, "" the model's answer, None whatever stands now; what was not changed is as
    there · ``planes`` and ``surfaces``: those that were changed · ``objects``: all of the case, or None where none was changed; of those
    with a mask, that of the new and the painted ones."""

    base: Annotated[str, Field(max_length=64)] | None = None
    planes: Annotated[tuple[_Plane, ...], Field(max_length=10_000)] = ()
    surfaces: tuple[_Surface, ...] = ()
    objects: Annotated[tuple[_Object, ...], Field(max_length=MOST_OBJECTS)] | None = None
    comment: Comment = ""
    tools: Annotated[tuple[Annotated[str, Field(max_length=40)], ...], Field(max_length=40)] = ()
    seconds: float | None = Field(None, ge=0)


class Unfit(OcusegError):
    """A correction that cannot be one of this case."""


def correction_of(sent: SentEdit, case: ReportCase, run: RunFacts, record: CorrectionRecord, before: Correction | None) -> Correction:
    """The whole of the corrected case: what was sent in place of what was there before, the model's answer or a correction.

    Raises
    ------
    Unfit: a mask has another size or values than the case's classes, surfaces cross or leave the picture, a box lies outside it, or a
        class is not known.
    """
    label_map = label_map_of(case, run)
    masks = _masks(sent, case, label_map, before)
    surfaces = _surfaces(sent, case, run, label_map, before)
    kept = None if before is None else before.objects
    objects = _objects(sent, case, run) if sent.objects is not None else kept
    if objects is None:
        objects = tuple(model_objects(case, run)) or None
    if objects is not None and have_masks(case):
        names = [cls["name"] for cls in classes(case, run) if cls["kind"] == "object"]
        objects = with_segmentations(objects, case, before)
        masks = with_objects(masks, objects, names, label_map)
    return Correction(record, masks, surfaces, objects)


def with_segmentations(objects: Sequence[CorrectedObject], case: ReportCase, before: Correction | None) -> tuple[CorrectedObject, ...]:
    """Each object with a mask: one that was not painted has that of the same id in the correction ``before``, else the model's.

    Raises
    ------
    Unfit: it has none.
    """
    held = {} if before is None or before.objects is None else {one.id: one.segmentation for one in before.objects if one.segmentation}
    known = held or model_segmentations(case)
    out = [one if one.segmentation else one.model_copy(update={"segmentation": known.get(one.id)}) for one in objects]
    if bare := [one.name for one in out if not one.segmentation]:
        raise Unfit(f"an object of class {bare[0]} has no mask, as all of this case have")
    return tuple(out)


def _masks(sent: SentEdit, case: ReportCase, label_map: LabelMap, before: Correction | None) -> tuple[npt.NDArray[Any], ...]:
    changed = {plane.index: plane.mask for plane in sent.planes}
    if changed and any(plane.mask is None for plane in case.planes):
        raise Unfit("this case has no mask: its model marks no pixels")
    if strange := set(changed) - {plane.index for plane in case.planes}:
        raise Unfit(f"there is no slice {min(strange)} in this case")
    if all(plane.mask is None for plane in case.planes):
        return ()
    out = []
    for at, plane in enumerate(case.planes):
        own = before.masks[at] if before is not None else read_image(case.folder / str(plane.mask))
        out.append(_mask(changed[plane.index], own, label_map) if plane.index in changed else own)
    return tuple(out)


def _mask(sent: str, own: npt.NDArray[Any], label_map: LabelMap) -> npt.NDArray[Any]:
    """A sent mask as one of the same size and kind as the model's."""
    try:
        content = base64.b64decode(sent, validate=True)
        if not content.startswith(_PNG):
            raise Unfit("a mask must be a PNG")
        (mask,) = read_pages(io.BytesIO(content), "png", max_pixels=own.size)
    except (binascii.Error, ValueError):
        raise Unfit("a mask is not base64 of a PNG") from None
    except ScanError as error:
        raise Unfit(f"a mask cannot be read: {error}") from None
    if mask.shape != own.shape or mask.dtype.kind != "u":
        raise Unfit(f"a mask is {_size(mask)} where the case is {_size(own)} in grey values")
    highest = (1 << len(label_map)) - 1 if label_map.overlapping else len(label_map)
    if int(mask.max(initial=0)) > highest:
        raise Unfit(f"a mask holds {int(mask.max())}, and the classes of this case reach {highest}")
    return mask.astype(own.dtype)


def _size(mask: npt.NDArray[Any]) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]}" + ("" if mask.ndim == 2 else " in colour")


def _surfaces(
    sent: SentEdit, case: ReportCase, run: RunFacts, label_map: LabelMap, before: Correction | None
) -> dict[str, npt.NDArray[np.float32]]:
    surfaces = dict(before.surfaces) if before is not None and before.surfaces else surfaces_of(model_surfaces(case, run))
    if not sent.surfaces:
        return surfaces
    rows, columns = case.geometry.plane
    names, slices = label_map.surface_names, case.geometry.slices
    out = {name: surfaces.get(name, np.full((slices, columns), np.nan, np.float32)).copy() for name in names}
    for one in sent.surfaces:
        if one.name not in out:
            raise Unfit(f"surface {one.name!r} is none of this case: {', '.join(names) or 'it has none'}")
        if one.plane >= slices or len(one.rows) != columns:
            has = f"{len(one.rows)} columns in slice {one.plane}"
            raise Unfit(f"surface {one.name!r} has {has} where the case has {columns} columns and {slices} slices")
        depth = np.array(one.rows, np.float32)
        if ((depth < 0) | (depth > rows)).any():
            raise Unfit(f"surface {one.name!r} leaves the picture in slice {one.plane}")
        out[one.name][one.plane] = depth
    below = np.full((slices, columns), -np.inf, np.float32)
    for name in names:
        if (crossing := out[name] < below - _SLACK).any():
            at = int(np.argwhere(crossing)[0, 0])
            raise Unfit(f"surface {name!r} lies above the one before it in slice {at}; surfaces stay in order from the vitreous down")
        below = np.fmax(below, out[name])
    return out


def _objects(sent: SentEdit, case: ReportCase, run: RunFacts) -> tuple[CorrectedObject, ...]:
    rows, columns = case.geometry.plane
    known = {cls["index"]: cls["name"] for cls in classes(case, run) if cls["kind"] == "object"}
    given = [one.id for one in sent.objects or () if one.id is not None]
    if len(set(given)) != len(given):
        raise Unfit("two objects have the same id")
    free, out = max(given, default=0), []
    for one in sent.objects or ():
        segmentation, box = None, one.box
        if one.mask is not None:
            try:
                segmentation, box = one.mask.segmentation((rows, columns))
            except ValueError:
                raise Unfit("the mask of an object is empty, leaves the picture, or is not whole") from None
        left, top, right, bottom = box
        if one.index not in known:
            raise Unfit(f"class {one.index} is none that this case has objects of: {', '.join(known.values()) or 'it has none'}")
        if not (0 <= left < right <= columns and 0 <= top < bottom <= rows and one.plane < case.geometry.slices):
            raise Unfit(f"a box of class {known[one.index]} is empty or leaves the picture")
        free += one.id is None
        made = {"id": one.id or free, "plane": one.plane, "class": known[one.index], "score": one.score, "box": box}
        out.append(CorrectedObject.model_validate(made | {"segmentation": segmentation}))
    return tuple(out)
