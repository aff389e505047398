"""A scan with what the user states of it where its file does not; where the file says otherwise, the file counts and a warning says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.scans.identity import Identity, Pseudonyms, of_file
from pipeline.scans.spacing import Said
from pipeline.types import Scan
from pipeline.types.stated import Stated

_MUST = {
    "modality": "one of fundus, oct, octa, slo",
    "pixel_mm": "millimetres, such as 0.0072 or HEIGHTxWIDTH or DISTANCExHEIGHTxWIDTH, each above 0 and at most 10",
    "field_angle": "5 to 60 degrees: wider fields are not linear",
    "axial_length": "14 to 40 mm",
    "patients": "folder or file",
}


def stated(modality: str | None = None, pixel_mm: str | Sequence[float | None] | None = None, **more: Any) -> Stated:
    """What a user says, checked; the modality "unknown" is as good as nothing. ``more`` are the other fields of :class:`Stated`.

    Raises
    ------
    ConfigError: what cannot be, and what it must be.
    """
    sizes = pixel_mm.split("x") if isinstance(pixel_mm, str) else pixel_mm
    given = {"modality": None if modality == "unknown" else modality, "pixel_mm": sizes, **more}
    try:
        return Stated.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        value = pixel_mm if name == "pixel_mm" else given[name]
        raise ConfigError(f"{name.replace('_', '-')} {value!r}: must be {_MUST[name]}") from None


def fill(said: Stated, names: Pseudonyms, scan: Scan, path: Path | None) -> Scan:
    """The scan as its file (``path``, None of an array) and the user together describe it, but for its scale (:func:`scale_of`)."""
    scan = _of_kind(scan, said)
    if said.patients == "file" and path is not None:
        whose = of_file(Identity(scan.case, scan.patient_source, scan.day, "", ""), path, names)
        scan = replace(scan, case=whose.case, patient_source=whose.source, day=whose.day)
    return scan


def scale_of(said: Stated) -> Said:
    """What the user says of sizes, which hangs on the kind of a scan, so that it counts once that is known."""
    return Said(said.pixel_mm, said.field_angle, said.axial_length)


def _of_kind(scan: Scan, said: Stated) -> Scan:
    if said.modality is None or scan.modality == said.modality:
        return scan
    if scan.modality == "unknown":
        return replace(scan, modality=said.modality, modality_source="user")
    conflict = f"the file says that it is {scan.modality}, the user {said.modality}: the file's word counts"
    return replace(scan, warnings=(*scan.warnings, conflict))
