"""Where a DICOM picture lies, how large its pixels are, and which eye it shows. What is not stated is None."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.scans.eyes import eye_of
from pipeline.types import Geometry, Laterality, LateralitySource, known_spacing

Vector = npt.NDArray[np.float64]

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and .1 to .4 below it
_SAME_MM = 1e-3  # positions are stored as decimal strings: differences below a micrometre are rounding


def macro(dataset: Any, frame: int, keyword: str) -> Any | None:
    """The functional group macro ``keyword`` of one frame, from its own groups, else the shared ones (PS3.3 C.7.6.16)."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for group in (own[frame] if own and frame < len(own) else None, shared[0] if shared else None):
        items = group.get(keyword) if group is not None else None
        if items:
            return items[0]
    return None


def numbers(dataset: Any, keyword: str, count: int) -> Vector | None:
    """``count`` finite numbers of a tag, or None if it is absent, of another length, or not numeric."""
    if dataset is None:
        return None
    try:
        value = dataset.get(keyword)
        if value is None:
            return None
        array = np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == (count,) and np.isfinite(array).all() else None


def geometry_of(dataset: Any, shape: tuple[int, ...]) -> Geometry:
    """The Geometry of a picture of ``shape`` (rows, columns) or (frames, rows, columns)."""
    frames = shape[0] if len(shape) == 3 else 1
    laterality, laterality_source = laterality_of(dataset, frames)
    plane = _same_for_all([_plane_spacing(dataset, frame) for frame in range(frames)])
    positions = [position_of(dataset, frame) for frame in range(frames)]
    orientation = _same_for_all([orientation_of(dataset, frame) for frame in range(frames)])
    step = even_step(positions)
    within = (None, None) if plane is None else (float(plane[0]), float(plane[1]))
    spacing = known_spacing(within if len(shape) == 2 else (_slice_spacing(dataset, positions, step), *within))
    return Geometry(
        shape,
        spacing,
        "tag" if spacing is not None else "unknown",
        affine_of(plane, positions[0], orientation, step if len(shape) == 3 else None, len(shape)),
        laterality,
        laterality_source,
    )


def plane_affine(dataset: Any, frame: int) -> Vector | None:
    """The affine of one frame alone, (column, row, 0) -> patient LPS in mm; None where size, position or orientation is not stated."""
    return affine_of(_plane_spacing(dataset, frame), position_of(dataset, frame), orientation_of(dataset, frame), None, 2)


def laterality_of(dataset: Any, frames: int) -> tuple[Laterality | None, LateralitySource]:
    """Image Laterality (0020,0062), which OP and OPT must state; else Frame Laterality, where all frames agree; else nothing.

    Laterality (0020,0060) belongs to the series and is often wrong for eyes; it is not used.
    """
    said = str(dataset.get("ImageLaterality") or "").strip().upper()
    if said in ("R", "L"):
        return ("R" if said == "R" else "L"), "tag"
    if said:
        return None, "unknown"  # B(oth) or U(npaired): the header did answer, and not with an eye
    groups = [macro(dataset, frame, "FrameAnatomySequence") for frame in range(frames)]
    sides = {str(group.get("FrameLaterality") or "").strip().upper() if group is not None else "" for group in groups}
    if sides in ({"R"}, {"L"}):
        return ("R" if sides == {"R"} else "L"), "functional_group"
    return None, "unknown"


def optics_of(dataset: Any) -> tuple[float | None, float | None]:
    """Horizontal Field of View (0022,000C) in degrees, and Axial Length of the Eye (0022,0030) or Ophthalmic Axial Length (0022,1019) in
    mm; None of what is not stated, or is of no camera or eye."""
    lengths = (_between(dataset, name, 14, 40) for name in ("AxialLengthOfTheEye", "OphthalmicAxialLength"))
    return _between(dataset, "HorizontalFieldOfView", 5, 220), next((length for length in lengths if length is not None), None)


def _between(dataset: Any, keyword: str, least: float, most: float) -> float | None:
    value = numbers(dataset, keyword, 1)
    return None if value is None or not least <= value[0] <= most else float(value[0])


def contradicted_laterality(dataset: Any, told: Laterality | None) -> tuple[list[str], list[str]]:
    """What tags other than the one used (``told``) say about the eye: warnings that it is unknown, and conflicts."""
    warnings, conflicts = [], []
    image, series = (str(dataset.get(keyword) or "").strip().upper() for keyword in ("ImageLaterality", "Laterality"))
    if image not in ("", "R", "L", "B", "U"):
        shown = image if eye_of(image) else "another word"
        warnings.append(f"the tag Image Laterality holds {shown}, where DICOM allows R, L, B and U: the eye is unknown")
    if series in ("R", "L") and told is None and not image:
        warnings.append(f"only the series' tag Laterality states an eye ({series}), which is often wrong for eyes: the eye is unknown")
    elif series in ("R", "L") and told not in (None, series):
        conflicts.append(f"the series' tag Laterality states {series}, the picture's own {told}, which counts; check which is true")
    return warnings, conflicts


def _same_for_all(values: list[Vector | None]) -> Vector | None:
    first = values[0]
    if first is None or any(value is None or not np.allclose(value, first, rtol=1e-6, atol=1e-6) for value in values):
        return None
    return first


def _plane_spacing(dataset: Any, frame: int) -> Vector | None:
    """(row spacing, column spacing) in mm: Pixel Measures first, else Pixel Spacing (0028,0030); row spacing comes first in both.

    Secondary Capture is converted from anything, and converters write 1 mm a pixel when the size is unknown: there the tag counts
    only together with Pixel Spacing Calibration Type (0028,0A02), which says how the size was determined.
    """
    spacing = numbers(macro(dataset, frame, "PixelMeasuresSequence"), "PixelSpacing", 2)
    captured = f"{dataset.get('SOPClassUID')}.".startswith(f"{SECONDARY_CAPTURE}.")  # the dot: ...1.1.77 is ophthalmic
    if spacing is None and not (captured and not dataset.get("PixelSpacingCalibrationType")):
        spacing = numbers(dataset, "PixelSpacing", 2)
    return spacing if spacing is not None and (spacing > 0).all() else None


def position_of(dataset: Any, frame: int) -> Vector | None:
    position = numbers(macro(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient", 3)
    return position if position is not None else numbers(dataset, "ImagePositionPatient", 3)


def orientation_of(dataset: Any, frame: int) -> Vector | None:
    """Six direction cosines: of a row (towards growing column index), then of a column; None unless orthonormal."""
    cosines = numbers(macro(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    if cosines is None:
        cosines = numbers(dataset, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    along_row, along_column = cosines[:3], cosines[3:]
    lengths = [float(np.linalg.norm(along_row)), float(np.linalg.norm(along_column))]
    straight = abs(float(along_row @ along_column)) < 1e-2 and all(abs(length - 1) < 1e-2 for length in lengths)
    return cosines if straight else None


def even_step(positions: list[Vector | None]) -> Vector | None:
    """The vector from one slice to the next, when every slice has a position and all steps are alike (radial scans are not)."""
    known = [position for position in positions if position is not None]
    if len(known) < 2 or len(known) != len(positions):
        return None
    step: Vector = (known[-1] - known[0]) / (len(known) - 1)
    length = float(np.linalg.norm(step))
    if length < _SAME_MM / 10:
        return None
    wanted = [known[0] + step * index for index in range(len(known))]
    off = max(float(np.linalg.norm(a - b)) for a, b in zip(known, wanted, strict=True))
    return step if off <= max(_SAME_MM, 0.01 * length) else None


def _slice_spacing(dataset: Any, positions: list[Vector | None], step: Vector | None) -> float | None:
    """Millimetres from slice to slice: by the positions; where there are none, by Spacing Between Slices. Never slice thickness."""
    if step is not None:
        return float(np.linalg.norm(step))
    if len(positions) > 1 and any(position is not None for position in positions):
        placed = {tuple(np.round(position, 4)) for position in positions if position is not None}
        if len(placed) > 1:
            return None  # slices do not lie one behind the other at even steps
    for source in (macro(dataset, 0, "PixelMeasuresSequence"), dataset):
        between = numbers(source, "SpacingBetweenSlices", 1)
        if between is not None and math.isfinite(between[0]) and between[0] > 0:
            return float(between[0])
    return None


def affine_of(plane: Vector | None, position: Vector | None, orientation: Vector | None, step: Vector | None, ndim: int) -> Vector | None:
    """(column, row, slice) -> patient LPS in mm (PS3.3 equation C.7.6.2.1-1).

    A single plane has no step; its third column is the unit normal, which places the plane and says nothing about thickness.
    """
    if plane is None or position is None or orientation is None:
        return None
    along_row, along_column = orientation[:3], orientation[3:]
    if ndim == 2:
        step = np.cross(along_row, along_column)
    if step is None:
        return None
    affine = np.eye(4)
    affine[:3, 0] = along_row * plane[1]
    affine[:3, 1] = along_column * plane[0]
    affine[:3, 2] = step
    affine[:3, 3] = position
    return affine
