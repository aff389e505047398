"""How large a pixel is: every source that says so, with its error band; which one counts, and where they disagree.

=============  =====  =========================================================================================================
source         ±      what it is
=============  =====  =========================================================================================================
axial_length   3 %    the header's scale, which is that of a usual eye, times the eye's own mm per degree over a usual eye's
tag            9 %    the header's scale: on the retina it is nominal, and axial lengths of 22 to 26 mm change it by 9 %
user           -      what somebody gave, on the command line or in a data card
estimated      13 %   a field's angle over its diameter in pixels: the angle is nominal (10 %), and so is the eye (9 %, or 3 % where its
                      axial length is known)
=============  =====  =========================================================================================================

The first of them that is there counts, axis by axis. A telecentric fundus camera shows q = 0.01306 (L - 1.82) mm of the retina a degree,
where L is the eye's axial length in mm (Bennett, Rudnicka and Edgar 1994, doi:10.1007/BF00175988): 0.290 at 24 mm. Such methods are 0.5
to 2.6 % off (Garway-Heath 1998). The relation holds near the axis, so no field above 60 degrees is estimated from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.scans.field_of_view import field_diameter, field_of_view
from pipeline.scans.nifti_header import stated_mm
from pipeline.types import Geometry, Scan, Spacing, SpacingSource, known_spacing

LARGEST_MM = 60.0
"""No picture of an eye shows more: the retina measures some 45 mm from edge to edge along its curve."""
USUAL_EYE_MM = 24.0
WIDEST_DEGREES = 60.0
_NOMINAL, _AXIAL, _ANGLE = 0.09, 0.03, 0.10
_SAME = 0.01  # pixdim and affine agree within this fraction; float32 and rounded decimals lie far closer
_WORDS = {"axial_length": "the axial length", "tag": "the file's header", "user": "the user", "estimated": "the angle of the field"}


@dataclass(frozen=True)
class Claim:
    """One source's answer, ``error`` as a fraction of it (0 where nothing is known of it), ``note`` how it was got."""

    spacing: Spacing
    source: SpacingSource
    error: float
    note: str = ""


@dataclass(frozen=True)
class Said:
    """What is known of a scan's scale beside its header's: ``pixel_mm`` ([slices,] rows, columns), the whole field's angle in degrees, and
    the eye's axial length in mm."""

    pixel_mm: Spacing | None = None
    field_angle: float | None = None
    axial_length_mm: float | None = None


def mm_per_degree(axial_length_mm: float = USUAL_EYE_MM) -> float:
    """Of the retina, for each degree outside the eye."""
    return 0.01306 * (axial_length_mm - 1.82)


def with_spacing(scan: Scan, said: Said) -> Scan:
    """The scan with the spacing that counts, and a doubt where two sources differ by more than their bands."""
    geometry, doubts = resolve(scan.geometry, [*_claims(scan, said)])
    if geometry is scan.geometry and not doubts:
        return scan
    geometry, warnings = _believed(geometry)
    found = tuple(("spacing_conflict", doubt) for doubt in doubts)
    return replace(scan, geometry=geometry, warnings=(*scan.warnings, *warnings), doubts=(*scan.doubts, *found))


def resolve(geometry: Geometry, claims: Sequence[Claim]) -> tuple[Geometry, list[str]]:
    """The geometry by claims in the order in which they count, and each disagreement in a sentence."""
    if not claims:
        return geometry, []
    first, *others = claims
    spacing, source = first.spacing, first.source
    for other in others:
        filled = tuple(o if s is None else s for s, o in zip(spacing, other.spacing, strict=True))
        if other.source != "estimated" and filled != spacing:
            spacing, source = filled, other.source
    doubts = [doubt for other in others if {first.source, other.source} != {"tag", "axial_length"} for doubt in _differ(first, other)]
    error = first.error or None
    return replace(geometry, spacing_mm=spacing, spacing_source=source, spacing_error=error, spacing_note=first.note), doubts


def _differ(one: Claim, other: Claim) -> Iterable[str]:
    pairs = [(a, b) for a, b in zip(one.spacing[-2:], other.spacing[-2:], strict=True) if a is not None and b is not None]
    band = math.hypot(one.error, other.error) or _SAME
    a, b = max(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1])), default=(1.0, 1.0))
    if abs(math.log(a / b)) > math.log1p(band):
        yield (
            f"a pixel is {1000 * a:.4g} um by {_WORDS[one.source]} and {1000 * b:.4g} um by {_WORDS[other.source]}, "
            f"{100 * abs(a / b - 1):.0f} % apart where {100 * band:.0f} % can be: {_WORDS[one.source]} counts; check which is true"
        )


def _claims(scan: Scan, said: Said) -> Iterable[Claim]:
    geometry = scan.geometry
    spacing, en_face = geometry.spacing_mm, len(geometry.shape) == 2 and scan.modality in ("fundus", "slo")
    length = scan.axial_length_mm or said.axial_length_mm
    if spacing is not None and geometry.spacing_source == "tag":
        if length is not None and en_face:
            ratio = mm_per_degree(length) / mm_per_degree()
            note = f"the header's scale, for an eye of {USUAL_EYE_MM:g} mm, times {ratio:.3f} for one of {length:g} mm (Bennett 1994)"
            yield Claim(tuple(s and s * ratio for s in spacing), "axial_length", _AXIAL, note)
        yield Claim(spacing, "tag", _NOMINAL)
    elif spacing is not None:
        yield Claim(spacing, geometry.spacing_source, geometry.spacing_error or 0.0, geometry.spacing_note)
    if said.pixel_mm is not None and (given := _fitting(said.pixel_mm, geometry)) is not None:
        yield Claim(given, "user", 0.0)
    angle = scan.field_degrees or said.field_angle
    if en_face and angle is not None and angle <= WIDEST_DEGREES and (across := _across(scan)):
        q = mm_per_degree(length or USUAL_EYE_MM)
        eye = f"an axial length of {length:g} mm" if length else f"a usual eye of {USUAL_EYE_MM:g} mm"
        note = f"{angle:g} degrees over {across} px at {q:.3f} mm a degree ({eye}, Bennett 1994)"
        yield Claim((angle * q / across,) * 2, "estimated", math.hypot(_ANGLE, _AXIAL if length else _NOMINAL), note)


def _fitting(pixel_mm: Spacing, geometry: Geometry) -> Spacing | None:
    """As many axes as the scan has: one number is a square pixel's of a picture, two are rows and columns."""
    axes = len(geometry.shape)
    if len(pixel_mm) == 1:
        return pixel_mm * 2 if axes == 2 else None
    return known_spacing((None,) * (axes - len(pixel_mm)) + pixel_mm) if len(pixel_mm) <= axes else None


def _across(scan: Scan) -> int:
    """Pixels that the angle spans: the header's is that of the picture's width, a camera's that of the whole circle. 0 where no edge shows
    what the angle spans."""
    valid = field_of_view(scan)
    if scan.field_degrees is not None:
        return int(np.ptp(np.flatnonzero(valid.any(axis=0)))) + 1
    if valid.all():
        return valid.shape[1] if scan.modality == "slo" else 0
    return field_diameter(valid)


def check_spacing(geometry: Geometry) -> tuple[Geometry, tuple[str, ...]]:
    """``geometry`` without a stated spacing that cannot be true for an eye, and the warnings; sizes are then in pixels.

    Converters write pixels of exactly 1 mm if they do not know the size. The affine is kept, so that masks still lie over their image.
    """
    believed, reasons = _believed(geometry)
    return believed, reasons or _disagreement(believed)


def _believed(geometry: Geometry) -> tuple[Geometry, tuple[str, ...]]:
    if geometry.spacing_source == "estimated" or geometry.spacing_mm is None:
        return geometry, ()
    who = "user" if geometry.spacing_source == "user" else "file"
    stated = [(count, size) for count, size in zip(geometry.shape, geometry.spacing_mm, strict=True) if size is not None]
    reason = ""
    if who == "file" and geometry.spacing_mm[-2:] == (1.0, 1.0):
        reason = "pixels of exactly 1 mm, which is what converters write where they know no size"
    elif max(count * size for count, size in stated) > LARGEST_MM:
        reason = f"a size of {_shown(count * size for count, size in stated)} mm, which is larger than an eye"
    if reason:
        unknown = replace(geometry, spacing_mm=None, spacing_source="unknown", spacing_error=None, spacing_note="")
        return unknown, (f"the {who} states {reason}: not believed, sizes are in px",)
    return geometry, ()


def _disagreement(geometry: Geometry) -> tuple[str, ...]:
    """The warning if pixdim and affine of a NIfTI header disagree, as some programs leave them."""
    if geometry.nifti is None or geometry.affine is None:
        return ()
    pixdim = stated_mm(geometry.nifti)[: len(geometry.shape)]
    affine = np.linalg.norm(geometry.affine[:3, : len(geometry.shape)], axis=0).tolist()
    counts = geometry.shape[::-1]
    if all(n == 1 or abs(own - true) <= _SAME * true for n, own, true in zip(counts, pixdim, affine, strict=True)):
        return ()
    return (f"the NIfTI header's pixdim ({_shown(pixdim)} mm) and its affine ({_shown(affine)} mm) disagree: the affine's spacing is used",)


def _shown(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
