"""What `ocuseg predict` left in its OUT folder, read defensively: a damaged part is named, never fatal, never trusted."""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import NothingUsableError, OcusegError
from pipeline.metrics.useless import useless_sentence, validation_dice
from pipeline.scans.jpeg import frame_of
from pipeline.scans.raster import read_image
from pipeline.types import CaseKey, Geometry, LabelMap, Laterality, Modality
from pipeline.types.case_record import CASE_FILE, AnswerRecord, CaseRecord, ClassRecord, FluidRecord, LayerRecord, PlaneRecord, first_fault
from pipeline.types.run_record import RunRecord

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_LONGEST_HEAD = 1 << 16
"""Bytes before a JPEG's frame header: tables alone, as nothing else is passed on."""


@dataclass(frozen=True)
class ReportCase:
    """One predicted case; its files are known by name and not opened yet."""

    key: CaseKey
    folder: Path
    modality: Modality
    geometry: Geometry
    sha256: str
    bundle_id: str
    warnings: tuple[str, ...]
    seconds: float | None
    found: Mapping[str, ClassRecord]
    planes: tuple[PlaneRecord, ...]
    record: CaseRecord
    """The whole of ``case.json``: also its quality, flags, measures and doubt."""
    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    fluid_components: Mapping[str, FluidRecord] = field(default_factory=dict)
    label_map: LabelMap | None = None
    """The case's own classes, where several bundles made it; else those of the run."""
    answers: tuple[AnswerRecord, ...] = ()

    def by_pixels(self, name: str) -> bool:
        """Whether a class of a run with objects was found as pixels by another bundle of several."""
        return self.label_map is not None and (name not in self.found or self.found[name].objects is None)

    @property
    def side(self) -> Literal["R", "L", "U"]:
        """The eye, also where it was found in the picture: a case's name holds only what the file said."""
        return self.geometry.laterality or self.key.eye

    def with_eye(self, eye: Laterality) -> ReportCase:
        """The same case of the eye that a reviewer set."""
        return replace(self, geometry=replace(self.geometry, laterality=eye, laterality_source="reviewer"))

    @property
    def volume(self) -> bool:
        return len(self.geometry.shape) == 3

    @property
    def pixel_size(self) -> float | None:
        """Area of a pixel in mm2, or volume of a voxel in mm3; None where the spacing of an axis is unknown, or only
        estimated."""
        sides = self.geometry.trusted().voxel_mm
        return None if sides is None else float(np.prod(sides))

    def image(self, plane: PlaneRecord) -> npt.NDArray[Any]:
        """The slice as displayed, (H, W) or (H, W, 3) uint8."""
        image = read_image(self.folder / plane.image)
        if image.dtype != np.uint8 or image.shape[:2] != self.geometry.plane:
            raise OcusegError(
                f"{plane.image} is {image.dtype} {image.shape[:2]} where the case says {self.geometry.plane}; predict it again"
            )
        return image

    def mask(self, plane: PlaneRecord) -> npt.NDArray[np.int64]:
        """The slice's mask, (H, W), in the label map's encoding; of a run that marks nothing an empty one."""
        if plane.mask is None:
            return np.zeros(self.geometry.plane, dtype=np.int64)
        mask = read_image(self.folder / plane.mask)
        if mask.shape != self.geometry.plane:
            raise OcusegError(f"{plane.mask} is {mask.shape} where the case says {self.geometry.plane}; predict it again")
        return mask.astype(np.int64)


@dataclass(frozen=True)
class RunFacts:
    """What made the predictions; ``objects``: each case has objects (boxes with scores) beside its mask."""

    label_map: LabelMap
    bundle_id: str = ""
    bundle_name: str = ""
    version: str = ""
    started: str = ""
    card_sha256: str = ""
    thresholds: tuple[tuple[str, float], ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    objects: bool = False
    useless: str = ""
    """What the bundle's own validation says against it, or ""."""

    def of(self, case: ReportCase) -> RunFacts:
        """What of it is true of one case: of a run with several bundles the classes and objects of those that fit the case."""
        if case.label_map is None:
            return self
        names = case.label_map.names
        return replace(
            self,
            label_map=case.label_map,
            thresholds=tuple((name, least) for name, least in self.thresholds if name in names),
            objects=not all(map(case.by_pixels, names)),
        )


@dataclass(frozen=True)
class LedgerRow:
    """One row of ledger.csv; ``name`` is the case, or the file's token where no case was made of it."""

    name: str
    token: str
    status: str
    code: str
    reason: str


def read_run(out: Path) -> RunFacts:
    """run.json of a prediction folder.

    Raises
    ------
    NothingUsableError: it is missing or damaged, so nobody knows what the masks' values mean.
    """
    try:
        data = RunRecord.read(out)
        label_map = LabelMap.from_json(data.classes)
        if not label_map.classes and not data.answers:
            raise ValueError("it names no class")
    except FileNotFoundError:
        raise NothingUsableError("no run.json here: give the folder that `ocuseg predict ... --out FOLDER` wrote") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingUsableError(f"run.json is damaged ({first_fault(error)}); run `ocuseg predict` again into the same folder") from None
    return RunFacts(
        label_map,
        data.bundle_id,
        data.bundle_name,
        data.ocuseg,
        data.started,
        data.card_sha256,
        tuple(sorted(data.thresholds.items())),
        tuple(_numbers(data.metrics)),
        data.objects,
        useless_sentence(validation_dice(data.metrics), "validation") or "",
    )


def read_case(folder: Path) -> ReportCase:
    """case.json of one case folder, checked against the folder's name and the first picture's header.

    Raises
    ------
    OcusegError: what is wrong, in one sentence without the path.
    """
    try:
        key = CaseKey.parse(folder.name)
        data = CaseRecord.read(folder)
        geometry = data.geometry.geometry()
        label_map = None if data.label_map is None else LabelMap.from_json(data.label_map)
    except FileNotFoundError:
        raise OcusegError(f"{CASE_FILE} is missing; predict this case again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OcusegError(f"{CASE_FILE} is damaged ({first_fault(error)}); predict this case again") from None
    if data.case != folder.name:
        raise OcusegError(f"{CASE_FILE} belongs to another case; predict this case again")
    if len(data.planes) != geometry.slices:
        raise OcusegError(f"{len(data.planes)} slices are listed where the shape says {geometry.slices}; predict this case again")
    for plane in data.planes:
        for name in filter(None, (plane.image, plane.mask)):
            if (size := _picture_size(folder / name)) != geometry.plane:
                what = "missing or no picture" if size is None else f"{size[0]} x {size[1]} where the case says {geometry.plane}"
                raise OcusegError(f"{name} is {what}; predict this case again")
    return ReportCase(
        key,
        folder,
        data.modality,
        geometry,
        data.sha256,
        data.bundle_id,
        data.warnings,
        data.seconds,
        data.classes,
        data.planes,
        data,
        data.layers,
        data.fluid_components,
        label_map,
        data.answers,
    )


def read_ledger(out: Path) -> list[LedgerRow] | None:
    """Rows of ledger.csv, or None where it is missing or no ledger."""
    try:
        with (out / "ledger.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            rows = csv.DictReader(file)
            if not {"status", "reason"} <= set(rows.fieldnames or ()):
                return None
            return [
                LedgerRow(
                    row.get("case") or row.get("token") or "",
                    row.get("token") or "",
                    row["status"] or "",
                    row.get("code") or "",
                    row["reason"] or "",
                )
                for row in rows
            ]
    except (OSError, csv.Error):
        return None


def _picture_size(path: Path) -> tuple[int, int] | None:
    """(rows, columns) from the header of a PNG, or of a JPEG as `ocuseg predict` passes it on; None where it is neither."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".jpg":
                frame = frame_of(file.read(_LONGEST_HEAD))
                return None if frame is None else (frame.rows, frame.columns)
            head = file.read(24)
    except OSError:
        return None
    if len(head) < 24 or not head.startswith(_PNG_HEAD):
        return None
    columns, rows = struct.unpack(">II", head[16:24])
    return rows, columns


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Every number in a nest of mappings, named by its keys: {"validation": {"dice": 0.8}} -> ("validation dice", 0.8)."""
    out: list[tuple[str, float]] = []
    for key, value in metrics.items():
        name = f"{prefix} {re.sub('[_/.]+', ' ', str(key))}".strip()
        if isinstance(value, Mapping):
            out += _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out.append((name, float(value)))
    return out
