"""Options by which a user says of scans what their files do not: kind, size of a pixel, optics, patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.types.stated import Stated

ImgGeometry = Annotated[
    str | None,
    typer.Option("--img-geometry", help="ROWS,COLUMNS,SLICES of raw 8-bit .img volumes (Zeiss), which do not say it: 1024,512,128."),
]


@dataclass(frozen=True)
class StatedOptions:
    modality: Annotated[
        str | None,
        typer.Option(
            "--modality", help="fundus, oct, octa or slo: the kind of the scans whose files do not say it, as JPEG and PNG files do not."
        ),
    ] = None
    pixel_mm: Annotated[
        str | None,
        typer.Option(
            "--pixel-mm",
            help="Millimetres of a pixel where a file states none: 0.0072, or HEIGHTxWIDTH, or DISTANCExHEIGHTxWIDTH of slices.",
        ),
    ] = None
    field_angle: Annotated[
        float | None,
        typer.Option(
            "--field-angle", help="Degrees that the camera's whole field spans, such as 45: sizes of photographs are then estimated."
        ),
    ] = None
    axial_length: Annotated[
        float | None,
        typer.Option("--axial-length", help="Length of the eye in mm, which corrects the scale of its photographs (Bennett 1994)."),
    ] = None
    patients: Annotated[
        str,
        typer.Option("--patients", help="What is a patient where no tag says it: the folder, or each file, by its name without the eye."),
    ] = "folder"
    img_geometry: ImgGeometry = None

    def stated(self) -> Stated:
        """Raises ConfigError: a value that is none of what its option takes."""
        from pipeline.scans.stated import stated

        return stated(**vars(self))
