"""What a reading leaves of a case, mask and objects: the model's own where it was accepted, the correction's where it was edited."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OcusegError
from pipeline.inference.surface_files import SURFACE_FILE
from pipeline.metrics.matching import encode_mask, touched
from pipeline.reports.results import ReportCase, RunFacts, read_case
from pipeline.review.corrections import Correction, model_sha256, read_correction
from pipeline.review.instances import Segmentation, model_segmentations
from pipeline.types import LabelMap
from pipeline.types.case_record import DamagedObject, ObjectsRecord, first_fault

Mask = npt.NDArray[np.unsignedinteger[Any]]
Box = tuple[float, float, float, float]
_MOVED = 0.01
"""Pixels by which a surface must differ to have been moved: it is stored to hundredths."""


@dataclass(frozen=True)
class LabelledObject:
    """``box`` xyxy in source pixels · ``segmentation``: COCO run lengths of its mask, or None."""

    name: str
    plane: int
    box: Box
    segmentation: Segmentation | None = None


@dataclass(frozen=True, eq=False)
class Labels:
    """``mask`` (H, W) or (D, H, W) in the encoding of ``label_map``, whose ``by_pixels`` are marked pixel by pixel; the other classes are
    found as ``objects`` · ``surfaces`` of layers, (D, W) by name, where they and the mask say the same; {} where a layer was painted."""

    label_map: LabelMap
    mask: Mask
    by_pixels: tuple[str, ...]
    objects: tuple[LabelledObject, ...] = ()
    surfaces: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def layers(self) -> npt.NDArray[np.bool_]:
        """(K, ...) bool of ``label_map``; where a mask marks no objects, of their boxes."""
        return self.label_map.layers(self.mask.astype(np.int64))

    def only(self, names: Sequence[str]) -> Labels:
        """These classes alone; see :func:`only`."""
        label_map = only(self.label_map, names)
        layers = self.layers()[[self.label_map.names.index(name) for name in label_map.names]]
        objects = tuple(one for one in self.objects if one.name in names)
        mask = label_map.mask(layers).astype(self.mask.dtype)
        return Labels(label_map, mask, tuple(name for name in self.by_pixels if name in names), objects)


def only(label_map: LabelMap, names: Sequence[str]) -> LabelMap:
    """These classes alone, in the order of the label map.

    Raises
    ------
    OcusegError: the case was not looked at for one of them.
    """
    if lacking := [name for name in names if name not in label_map.names]:
        raise OcusegError(f"nobody looked for {lacking[0]} in it")
    return label_map.only([name for name in label_map.names if name in names])


def by_pixels(run: RunFacts, case: ReportCase) -> tuple[str, ...]:
    """The classes that a case marks pixel by pixel; the others are found as objects."""
    return tuple(name for name in run.of(case).label_map.names if name not in case.found or case.found[name].objects is None)


def find_cases(predictions: Path) -> Iterator[ReportCase | tuple[str, str]]:
    """Each case of the folder, by name; (name, reason) of one that cannot be read."""
    for folder in sorted(path for path in (predictions / "cases").iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            yield read_case(folder)
        except OcusegError as error:
            yield folder.name, str(error)


def read_labels(predictions: Path, run: RunFacts, case: ReportCase, correction: str = "", seen: str = "") -> Labels:
    """What a reading left of a case: of the model's own answer, or of the ``correction`` of this name.

    ``seen``: hash of what the model had found when the reading was made.

    Raises
    ------
    OcusegError: the case was predicted anew since, or its files are damaged.
    """
    if seen and model_sha256(case.folder) != seen:
        raise OcusegError("it was predicted anew after the review; review it again")
    label_map = run.of(case).label_map
    made = read_correction(predictions, correction) if correction else None
    planes = [case.mask(plane) for plane in case.planes] if made is None or not made.masks else list(made.masks)
    if any(plane.shape != case.geometry.plane for plane in planes) or len(planes) != case.geometry.slices:
        raise OcusegError("the correction is of another size than the case")
    kind = np.min_scalar_type(1 << len(label_map) if label_map.overlapping else len(label_map))
    mask = np.stack(planes).astype(kind)
    surfaces = _model_surfaces(case) if label_map.layered else {}
    if made is not None and made.surfaces:
        mask = redrawn(mask, label_map, made.surfaces, surfaces)
        model = np.stack([case.mask(plane) for plane in case.planes]).astype(kind)
        painted = _layers_differ(mask, redrawn(model, label_map, made.surfaces, surfaces), label_map)
        surfaces = {} if painted else dict(made.surfaces)
    marked = by_pixels(run, case)
    objects = _objects(case, made, mask, label_map) if len(marked) < len(label_map) else ()
    return Labels(label_map, mask if case.volume else mask[0], marked, objects, surfaces)


def redrawn(
    mask: Mask, label_map: LabelMap, moved: Mapping[str, npt.NDArray[np.float32]], before: Mapping[str, npt.NDArray[np.float32]]
) -> Mask:
    """A mask (D, H, W) whose layers follow the surfaces (D, W), by name, in the columns where a reviewer moved one.

    A pixel's row r belongs to the layer that its middle, r + 0.5, lies in; fluid and other classes that are no layers stay. A column
    where a surface is missing stays as the mask has it.
    """
    names = label_map.surface_names
    if not names or any(name not in moved or moved[name].shape != mask[:, 0].shape for name in names):
        return mask
    now = np.stack([moved[name] for name in names])
    if all(name in before and before[name].shape == now.shape[1:] for name in names):
        then = np.stack([before[name] for name in names])
        changed = (np.abs(now - then) > _MOVED).any(axis=0) | (np.isnan(now) != np.isnan(then)).any(axis=0)
    else:
        changed = np.ones(now.shape[1:], np.bool_)
    changed &= ~np.isnan(now).any(axis=0)
    middle = (np.arange(mask.shape[1]) + 0.5)[None, :, None]
    layer = np.zeros_like(mask)
    indices = [label_map.names.index(name) + 1 for name in label_map.layered]
    for index, top, bottom in zip(indices, now, now[1:], strict=False):
        with np.errstate(invalid="ignore"):
            layer[(middle >= top[:, None]) & (middle < bottom[:, None])] = index
    free = np.isin(mask, [0, *indices]) & changed[:, None]
    return np.where(free, layer, mask)


def _layers_differ(one: Mask, other: Mask, label_map: LabelMap) -> bool:
    """Whether two masks differ in layers; fluid and the like between them aside."""
    layers = [0, *(label_map.names.index(name) + 1 for name in label_map.layered)]
    return bool(((one != other) & np.isin(one, layers) & np.isin(other, layers)).any())


def _model_surfaces(case: ReportCase) -> dict[str, npt.NDArray[np.float32]]:
    """(D, W) by name, as ``surfaces.csv`` has them; {} where there is no such file."""
    try:
        with (case.folder / SURFACE_FILE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        table = np.array([[float(text) if text else np.nan for text in row[2:]] for row in rows[1:]], np.float32)
        return {name: table[:, place].reshape(case.geometry.slices, -1) for place, name in enumerate(rows[0][2:])}
    except (OSError, ValueError, IndexError):
        return {}


def _objects(case: ReportCase, made: Correction | None, mask: Mask, label_map: LabelMap) -> tuple[LabelledObject, ...]:
    """Those at or above their class's threshold, or those that a reviewer left; with masks where the model gives them masks."""
    try:
        found = ObjectsRecord.read(case.folder)
    except (OSError, ValueError) as error:
        raise OcusegError(f"objects.json is damaged ({first_fault(error)}); predict this case again") from None
    if any(isinstance(one, DamagedObject) for one in found.objects):
        raise OcusegError("objects.json holds a damaged object; predict this case again")
    known = [one for one in found.objects if not isinstance(one, DamagedObject)]
    if made is None or made.objects is None:
        least = {name: value for name, value in found.thresholds.items() if value is not None}
        listed = [(one.id, one.name, one.plane, one.box) for one in known if one.score >= least.get(one.name, 2.0)]
    else:
        listed = [(one.id, one.name, one.plane, one.box) for one in made.objects]
    painted = {} if made is None or made.objects is None else {one.id: one.segmentation for one in made.objects if one.segmentation}
    objects = [LabelledObject(name, plane, box) for _, name, plane, box in listed]
    if not found.has_masks:
        return tuple(objects)
    own = painted if made is not None else model_segmentations(case)
    layers = label_map.layers(mask.astype(np.int64))
    out = []
    for (number, name, plane, box), one in zip(listed, objects, strict=True):
        inside = np.zeros(case.geometry.plane, np.bool_)
        left, top, right, bottom = touched(box, case.geometry.plane)
        inside[top:bottom, left:right] = layers[label_map.names.index(name), plane, top:bottom, left:right]
        out.append(replace(one, segmentation=own.get(number) or encode_mask(inside, box)))
    return tuple(out)
