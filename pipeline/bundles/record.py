"""What ``bundle.json`` must hold, checked before anything is built from it: a bundle may come from anywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.cards.card import Name
from pipeline.models.precision import Precision
from pipeline.types import LabelMap, Modality, Role

FORMAT = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Of a file in the bundle's own folder: no path leads out of it."""
Byte = Annotated[int, Field(ge=0, le=255)]
Threshold = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]


class _Fields(BaseModel):
    """Types are those of JSON, never turned into each other; keys that a newer version adds are passed over."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class ClassRecord(_Fields):
    index: int
    name: Name  # names of classes become names of files
    colour: list[Byte] = Field(min_length=3, max_length=3)
    code: str | None = Field(None, max_length=64)
    inside: str | None = None
    role: Role | None = None
    mirrors_to: str | None = None


class LabelMapRecord(_Fields):
    overlapping: bool = False
    classes: list[ClassRecord] = Field(min_length=1, max_length=1000)
    layered: list[str] = []
    surfaces: list[Name] = []
    ordered: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> LabelMapRecord:
        LabelMap.from_json(self.model_dump())
        return self


class BundleRecord(_Fields):
    """``config`` is checked as a run's config by itself; metrics may be undefined (NaN)."""

    format: Literal[1]
    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    config: dict[str, Any]
    label_map: LabelMapRecord
    thresholds: dict[str, Threshold]
    input_channels: int = Field(ge=1, le=64)
    modality: Modality
    spacing_mm: list[Millimetres | None] | None = Field(min_length=2, max_length=3)
    card_sha256: Sha256
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=True)]]
    versions: dict[str, str]
    precision: Precision = "float32"  # of bundles before there was a choice
    files: dict[FileName, Sha256]

    @model_validator(mode="after")
    def _thresholds_of_classes(self) -> BundleRecord:
        strange = set(self.thresholds) - {cls.name for cls in self.label_map.classes}
        if strange:
            raise ValueError(f"thresholds speak of {min(strange)!r}, which is no class of the label map")
        return self
