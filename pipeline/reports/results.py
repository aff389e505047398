"""What `ocuseg predict` left in its OUT folder, read defensively: a damaged part is named, never fatal, never trusted."""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import NothingUsableError, OcusegError
from pipeline.scans.raster import read_image
from pipeline.types import CaseKey, Geometry, LabelMap, LateralitySource, Modality, Spacing, SpacingSource

_PLANE_FILE = Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.png$")
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"


class ReadJson(BaseModel):
    """Base of what is read from JSON: unknown keys may come with newer versions, numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Plane(ReadJson):
    """One slice: file names inside the case's folder."""

    index: int = Field(ge=0)
    image: Annotated[str, _PLANE_FILE]
    mask: Annotated[str, _PLANE_FILE]


class Found(ReadJson):
    """How much of one class was found: pixels (voxels in a volume), the slices that hold any, and for a detector how many objects."""

    pixels: int = Field(0, ge=0)
    slices: int = Field(0, ge=0)
    objects: int | None = Field(None, ge=0)


class Thickness(ReadJson):
    """Mean thickness of one layer; None where both of its surfaces were found nowhere."""

    mean_thickness: float | None = Field(None, ge=0)
    unit: Literal["um", "px"]


class Pockets(ReadJson):
    """Pockets of one class that is no layer: how many, and the volume of all of them."""

    number: int = Field(ge=0)
    volume: float = Field(ge=0)
    unit: Literal["mm3", "voxels"]


class _Geometry(ReadJson):
    shape: tuple[int, ...]
    spacing_mm: Spacing | None = None
    spacing_source: SpacingSource = "unknown"
    laterality: Any = None
    laterality_source: LateralitySource = "unknown"


class _CaseFile(ReadJson):
    case: str
    modality: Modality = "unknown"
    geometry: _Geometry
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bundle_id: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    classes: dict[str, Found] = {}
    layers: dict[str, Thickness] = {}
    pockets: dict[str, Pockets] = {}
    planes: tuple[Plane, ...] = Field(min_length=1)


class _RunFile(ReadJson):
    bundle_id: str = ""
    bundle_name: str = ""
    ocuseg: str = ""
    started: str = ""
    task: str = "semantic"
    classes: dict[str, Any]
    thresholds: dict[str, float] = {}
    metrics: dict[str, Any] = {}
    card_sha256: str = ""


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
    found: Mapping[str, Found]
    planes: tuple[Plane, ...]
    layers: Mapping[str, Thickness] = field(default_factory=dict)
    pockets: Mapping[str, Pockets] = field(default_factory=dict)

    @property
    def volume(self) -> bool:
        return len(self.geometry.shape) == 3

    @property
    def pixel_size(self) -> float | None:
        """Area of a pixel in mm2, or volume of a voxel in mm3; None where the spacing of an axis is unknown."""
        return None if self.geometry.voxel_mm is None else float(np.prod(self.geometry.voxel_mm))

    def image(self, plane: Plane) -> npt.NDArray[Any]:
        """The slice as displayed, (H, W) or (H, W, 3) uint8."""
        image = read_image(self.folder / plane.image)
        if image.dtype != np.uint8 or image.shape[:2] != self.geometry.plane:
            raise OcusegError(
                f"{plane.image} is {image.dtype} {image.shape[:2]} where the case says {self.geometry.plane}; predict it again"
            )
        return image

    def mask(self, plane: Plane) -> npt.NDArray[np.int64]:
        """The slice's mask, (H, W), in the label map's encoding."""
        mask = read_image(self.folder / plane.mask)
        if mask.shape != self.geometry.plane:
            raise OcusegError(f"{plane.mask} is {mask.shape} where the case says {self.geometry.plane}; predict it again")
        return mask.astype(np.int64)


@dataclass(frozen=True)
class RunFacts:
    """What made the predictions."""

    label_map: LabelMap
    bundle_id: str = ""
    bundle_name: str = ""
    version: str = ""
    started: str = ""
    card_sha256: str = ""
    thresholds: tuple[tuple[str, float], ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    task: str = "semantic"

    @property
    def detection(self) -> bool:
        """Whether each case has objects (boxes with scores) beside its mask."""
        return self.task == "detection"


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
        data = _RunFile.model_validate_json((out / "run.json").read_bytes())
        label_map = LabelMap.from_json(data.classes)
        if not label_map.classes:
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
        data.task,
    )


def read_case(folder: Path) -> ReportCase:
    """case.json of one case folder, checked against the folder's name and the first picture's header.

    Raises
    ------
    OcusegError: what is wrong, in one sentence without the path.
    """
    try:
        key = CaseKey.parse(folder.name)
        data = _CaseFile.model_validate_json((folder / "case.json").read_bytes())
        known = data.geometry
        geometry = Geometry(
            known.shape,
            known.spacing_mm,
            known.spacing_source,
            None,
            laterality=known.laterality,
            laterality_source=known.laterality_source,
        )
    except FileNotFoundError:
        raise OcusegError("case.json is missing; predict this case again") from None
    except (OSError, ValueError, TypeError) as error:
        raise OcusegError(f"case.json is damaged ({first_fault(error)}); predict this case again") from None
    if data.case != folder.name:
        raise OcusegError("case.json belongs to another case; predict this case again")
    if known.laterality not in (None, "R", "L"):
        raise OcusegError(f"laterality {known.laterality!r} is neither R, L nor unknown; predict this case again")
    if len(data.planes) != geometry.slices:
        raise OcusegError(f"{len(data.planes)} slices are listed where the shape says {geometry.slices}; predict this case again")
    for plane in data.planes:
        for name in (plane.image, plane.mask):
            if (size := _png_size(folder / name)) != geometry.plane:
                what = "missing or no PNG" if size is None else f"{size[0]} x {size[1]} where the case says {geometry.plane}"
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
        data.layers,
        data.pockets,
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


def _png_size(path: Path) -> tuple[int, int] | None:
    """(rows, columns) from a PNG's header, or None."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if len(head) < 24 or not head.startswith(_PNG_HEAD):
        return None
    columns, rows = struct.unpack(">II", head[16:24])
    return rows, columns


def first_fault(error: Exception) -> str:
    """What is wrong with a JSON file, in a few words without its path."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        return f"{where}: {fault['msg']}" if where else fault["msg"]
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__  # str(error) would quote the path
    return str(error) if isinstance(error, ValueError) else type(error).__name__


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
