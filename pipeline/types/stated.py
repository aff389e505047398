"""What the user states of scans, for those whose own files do not say it; kept in ``run.json``, because a run goes on with the same."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.types.assessment import Record

StatedModality = Literal["fundus", "oct", "octa", "slo"]


class Stated(Record):
    """``modality``: the kind of scan · ``pixel_mm``: ([slices,] rows, columns), or one number for the square pixels of pictures ·
    ``field_angle``: degrees that the whole field of view of a photograph spans · ``axial_length``: of the eye, in mm · ``patients``: what
    counts for one where no tag says it, the folder's name or each file's · ``img_geometry``: "ROWS,COLUMNS,SLICES" of raw .img volumes."""

    modality: StatedModality | None = None
    pixel_mm: tuple[Annotated[float, Field(gt=0, le=10)] | None, ...] | None = Field(None, min_length=1, max_length=3)
    field_angle: float | None = Field(None, ge=5, le=60)
    axial_length: float | None = Field(None, ge=14, le=40)
    patients: Literal["folder", "file"] = "folder"
    img_geometry: str | None = None

    def options(self) -> str:
        """As a command line has it: "--modality oct"; "" where nothing is stated."""
        said = {name: value for name, value in self if value is not None and (name, value) != ("patients", "folder")}
        if self.pixel_mm is not None:
            said["pixel_mm"] = "x".join("?" if size is None else f"{size:g}" for size in self.pixel_mm)
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in said.items())
