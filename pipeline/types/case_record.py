"""What a predicted case holds: the one schema of ``case.json`` and ``objects.json``, which the writer fills and every reader checks.

A reader may meet an older version's file, a newer one's (unknown keys are passed over), or one that somebody changed: whatever
does not fit is a ``pydantic.ValidationError`` that names its key, except where a single damaged object may be left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.types.assessment import DoubtRecord, FileName, FlagRecord, MeasureRecord, QualityRecord, Record
from pipeline.types.scan import Geometry, Laterality, LateralitySource, Modality, ModalitySource, PatientSource, Spacing, SpacingSource

CASE_FILE, OBJECTS_FILE = "case.json", "objects.json"

PictureName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.(png|jpg)$")]
"""Of a picture in the case's own folder: no path leads out of it."""
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PlaneRecord(Record):
    """One slice: file names inside the case's folder; no mask where no bundle marks pixels or objects."""

    index: int = Field(ge=0)
    image: PictureName
    mask: FileName | None = None


class ClassRecord(Record):
    """How much of one class was found: pixels (voxels of a volume), the slices that hold any, and of a detector how many objects.

    ``bundle_id``: which of several bundles found it.
    """

    pixels: int = Field(0, ge=0)
    slices: int = Field(0, ge=0)
    objects: int | None = Field(None, ge=0)
    bundle_id: str = ""


class LayerRecord(Record):
    """Mean thickness of one layer; None where both of its surfaces were found nowhere."""

    mean_thickness: float | None = Field(None, ge=0)
    unit: Literal["um", "px"]


class FluidRecord(Record):
    """Connected components of one class between layers: how many, and the volume of all of them."""

    number: int = Field(ge=0)
    volume: int | float = Field(ge=0)
    unit: Literal["mm3", "voxels"]


class DeviceRecord(Record):
    """How far a surface found lies from the device's own line, in the mean of ``columns`` where both are; None without any."""

    mean_abs: float | None = Field(None, ge=0)
    unit: Literal["um", "px"]
    columns: int = Field(0, ge=0)


class AnswerRecord(Record):
    """What a bundle says that the scan as a whole is: ``answer`` is a class, or None where the highest of the ``probabilities`` is below
    ``threshold`` · ``name`` of the bundle · ``attention``: of each plane the picture of where the network looked, white where most."""

    name: str
    answer: str | None
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(min_length=2)
    threshold: float = Field(0.0, ge=0, le=1)
    bundle_id: str = ""
    attention: tuple[FileName, ...] = ()

    @property
    def most_probable(self) -> tuple[str, float]:
        """The class of the highest probability, and that."""
        return max(self.probabilities.items(), key=lambda pair: pair[1])


class GeometryRecord(Record):
    """What is kept of a :class:`Geometry`; the mask's NIfTI header holds the rest."""

    shape: tuple[int, ...]
    spacing_mm: Spacing | None = None
    spacing_source: SpacingSource = "unknown"
    laterality: Laterality | None = None
    laterality_source: LateralitySource = "unknown"
    spacing_error: float | None = Field(None, ge=0)
    spacing_note: str = ""

    @classmethod
    def of(cls, geometry: Geometry) -> GeometryRecord:
        return cls.model_validate({name: getattr(geometry, name) for name in cls.model_fields})

    def geometry(self) -> Geometry:
        """Raises ValueError where the fields do not go together."""
        return Geometry(**{name: getattr(self, name) for name in type(self).model_fields})


class CaseRecord(Record):
    """``case.json``. ``engine`` ran the network · ``seconds``: reading, network and making the masks · ``layers`` and ``fluid_components``
    (before: ``pockets``) of a bundle with layers, the latter of volumes alone · ``label_map``: the case's own classes, as the mask holds
    them, where the run has several bundles (``bundle_id`` and ``engine`` join those of the ones that fit it by "+"); else the classes are
    the run's · ``patient_source``: what counted for a patient; its visits are in ``visits.json`` (types/visits.py) ·
    ``answers`` of the bundles that say what the scan as a whole is · ``pixel_type`` of the scan as stored, such as uint16: its pictures
    have 8 bit · ``device``: surfaces beside the lines that the device drew (``device_surfaces.csv``), by name ·
    ``quality``, ``flags``, ``measures``, ``doubt``: how far the case may be believed (types/assessment.py); a
    case of an earlier version has none."""

    case: str
    modality: Modality = "unknown"
    modality_source: ModalitySource = "tag"
    patient_source: PatientSource = "unknown"
    geometry: GeometryRecord
    sha256: _Sha256
    bundle_id: str = ""
    engine: str = ""
    label_map: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    classes: dict[str, ClassRecord] = Field({})
    planes: tuple[PlaneRecord, ...] = Field(min_length=1)
    layers: dict[str, LayerRecord] = Field({})
    answers: tuple[AnswerRecord, ...] = ()
    pixel_type: str = ""
    device: dict[str, DeviceRecord] = Field({})
    fluid_components: dict[str, FluidRecord] = Field({}, validation_alias=AliasChoices("fluid_components", "pockets"))
    quality: QualityRecord | None = None
    flags: tuple[FlagRecord, ...] = ()
    measures: tuple[MeasureRecord, ...] = ()
    doubt: DoubtRecord | None = None

    @property
    def measurable(self) -> bool:
        """False where no number of the case may be shown."""
        graded = self.quality is None or self.quality.grade != "not_measurable"
        return graded and not any(flag.withholds and not flag.classes for flag in self.flags)

    @property
    def needs_eyes(self) -> bool:
        """Whether a person must look before anything is believed: a poor picture, or a flag."""
        return bool(self.flags) or (self.quality is not None and self.quality.grade in ("poor", "not_measurable"))

    def withheld(self, name: str) -> bool:
        """Whether numbers of this class are not shown."""
        return not self.measurable or any(flag.withholds and name in flag.classes for flag in self.flags)

    @classmethod
    def read(cls, folder: Path) -> CaseRecord:
        """Raises OSError, or ValueError (a ValidationError is one) where the file is no such record."""
        return cls.model_validate_json((folder / CASE_FILE).read_bytes())


class ObjectRecord(Record):
    """One object: ``plane`` counts slices from 0 · ``box`` xyxy in source pixels · ``size_mm`` (width, height), None where the size of
    a pixel is unknown · ``area_px`` of its mask, None without one."""

    id: int = Field(ge=1)
    plane: int = Field(0, ge=0)
    name: str = Field(alias="class")
    score: float = Field(ge=0, le=1)
    box: tuple[float, float, float, float]
    area_px: int | None = Field(None, ge=0)
    size_mm: tuple[float, float] | None = None


class DamagedObject(Record):
    """In place of an object that cannot be read: why."""

    reason: str


def _or_damaged(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError as error:
        return DamagedObject(reason=first_fault(error))


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Object = Annotated[ObjectRecord, WrapValidator(_or_damaged)]
_Threshold = Annotated[Annotated[float, Field(ge=0, le=1, strict=True)] | None, WrapValidator(_or_none)]


class ObjectsRecord(Record):
    """``objects.json`` of a detector's case: objects in descending order of score, also those below their class's threshold.

    A damaged object is a :class:`DamagedObject`, a damaged threshold None, and the rest is read all the same.
    """

    has_masks: bool = False
    thresholds: dict[str, _Threshold] = Field({})
    objects: tuple[_Object | DamagedObject, ...]

    @classmethod
    def read(cls, folder: Path) -> ObjectsRecord:
        """Raises OSError, or ValueError where the file is no such record."""
        return cls.model_validate_json((folder / OBJECTS_FILE).read_bytes())

    def write(self, folder: Path) -> None:
        (folder / OBJECTS_FILE).write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")


def first_fault(error: Exception) -> str:
    """What is wrong with a JSON file, in a few words without its path."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        return f"{where}: {fault['msg']}" if where else fault["msg"]
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__  # str(error) would quote the path
    return str(error) if isinstance(error, ValueError) else type(error).__name__
