"""Facts as a clinician reads them: eye, spacing, sizes. Unknown stays unknown, and every number has its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.drawing.overlay import FILL, FILLED_ROLES, line_style
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.types import Geometry, LabelMap
from pipeline.types.assessment import QualityGrade
from pipeline.types.case_record import AnswerRecord
from pipeline.types.scan import SpacingSource

LINE_WIDTH = 1.25
"""CSS pixels; dashes are multiples of it, as in the drawn overlays."""
WITHHELD = "–"
"""In place of a number that is not shown."""
GRADES: dict[QualityGrade, str] = {"good": "good", "usable": "usable", "poor": "poor", "not_measurable": "not measurable"}
_MODALITIES = {
    "fundus": "Fundus photograph",
    "oct": "OCT",
    "octa": "OCT angiography",
    "slo": "Scanning laser ophthalmoscopy",
    "unknown": "Unknown modality",
}
_EN_FACE = ("fundus", "slo", "octa")
IN_COLOUR = ("fundus", "slo")
"""Kinds of pictures whose green channel alone is worth a look."""
_STATED = {
    "tag": "file header",
    "functional_group": "file header (functional group)",
    "filename": "file name",
    "card": "data card",
    "picture": "found in the picture",
    "axial_length": "computed from the axial length",
    "user": "given by the user",
    "reviewer": "set by a reviewer",
    "estimated": "estimated from a field angle and the diameter of the field",
    "unknown": "not stated",
}


@dataclass(frozen=True)
class ClassStyle:
    """How one class looks everywhere in a report: ``colour`` of its lines, ``ink`` of small words on a scan; ``key`` is the digit
    that toggles it, or ""; ``fill`` in % of its areas, before the reader chooses another one."""

    index: int
    name: str
    colour: str
    ink: str
    dashes: str
    line: str
    key: str
    fill: int = 0


@dataclass(frozen=True)
class Eye:
    """``short``: OD, OS or "?" · ``source``: where that is known from · ``marks``: what lies at left, right, top, bottom, or None; left
    and right are "" where the eye is unknown."""

    short: str
    words: str
    source: str
    marks: tuple[str, str, str, str] | None


def class_styles(label_map: LabelMap) -> list[ClassStyle]:
    """One style a class: its own colour (lightened where it would vanish on black), and a line style that no neighbour has."""
    return [
        ClassStyle(
            cls.index,
            cls.name,
            _on_black(cls.colour),
            _ink(cls.colour),
            " ".join(f"{length * LINE_WIDTH:g}" for length in line_style(cls.index).dashes),
            line_style(cls.index).name,
            str(cls.index) if cls.index < 10 else "",
            round(100 * FILL) if role in FILLED_ROLES else 0,
        )
        for cls, role in zip(label_map.classes, label_map.roles, strict=True)
    ]


def _on_black(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 40:  # about the luma of pure blue, which is hard to see on black
        red, green, blue = ((value + 2 * 255) // 3 if value == max(colour) else (value + 120) // 2 for value in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _ink(colour: tuple[int, int, int]) -> str:
    """The colour with as little white as gives small words seven times the luminance of black (WCAG 2.2, 1.4.6)."""
    for white in range(101):
        red, green, blue = (round(value + (255 - value) * white / 100) for value in colour)
        linear = [(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (red / 255, green / 255, blue / 255)]
        if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] >= 7 * 0.05 - 0.05:
            break
    return f"#{red:02x}{green:02x}{blue:02x}"


def eye(case: ReportCase) -> Eye:
    """Laterality in words. On an upright en-face image nasal is right in a right eye, left in a left one; a B-scan's direction
    is not known from laterality, so it gets no marks.
    """
    side = case.geometry.laterality
    source = _STATED[case.geometry.laterality_source]
    flat = not case.volume and case.modality in _EN_FACE
    if side is None:
        return Eye("?", "eye unknown", source, ("", "", "Superior", "Inferior") if flat else None)
    if side == "R":
        return Eye("OD", "right eye", source, ("Temporal", "Nasal", "Superior", "Inferior") if flat else None)
    return Eye("OS", "left eye", source, ("Nasal", "Temporal", "Superior", "Inferior") if flat else None)


def modality(case: ReportCase) -> str:
    return _MODALITIES[case.modality] + (" volume" if case.volume else "")


def modality_source(case: ReportCase) -> str:
    """Who says so, where it is not the file: in brackets."""
    record = case.record
    found = any(answer.answer == record.modality for answer in record.answers)
    in_picture = " (found in the picture)" if found else " (taken for one because it is in colour)"
    return {"user": " (stated by the user)", "picture": in_picture}.get(record.modality_source, "")


def patient_source(case: ReportCase) -> str:
    """What counted for a patient; "" where that is not known."""
    words = {"tag": "the file's header", "folder": "the folder's name", "file": "the file's name"}
    source = case.record.patient_source
    return f"from {words[source]}" if source in words else ""


def size(geometry: Geometry) -> str:
    """Width x height [x slices], as photographs and scanners state it."""
    rows, columns = geometry.plane
    return f"{columns} × {rows}" + (f" × {geometry.slices}" if len(geometry.shape) == 3 else "")


def spacing(case: ReportCase) -> str:
    """Pixel spacing with its source, or that there is none."""
    known = case.geometry.spacing_mm
    if known is None:
        return "unknown, so sizes are in px"
    height, width = ("unknown" if axis is None else f"{1000 * axis:.4g}" for axis in known[-2:])
    text = f"{width} × {height} µm a pixel (width × height)"
    if len(known) == 3:
        text += ", distance of slices unknown" if known[0] is None else f", slices {1000 * known[0]:.4g} µm apart"
    geometry = case.geometry
    source = geometry.spacing_note or _STATED[geometry.spacing_source]
    if case.modality == "fundus" and geometry.spacing_source == "tag":
        source += ", nominal at the retina"
    if geometry.spacing_error is not None:
        source += f", ± {100 * geometry.spacing_error:.0f} %"
    if geometry.spacing_source == "estimated":
        return f"estimated at {text}, from {source}; pixels are counted, and what is given in mm says that it is estimated"
    return f"{text}; {source}"


def stated(source: SpacingSource) -> str:
    """Where a size is known from."""
    return _STATED[source]


def unscaled(case: ReportCase) -> str:
    """Why there is no area (volume) in mm; "" where there is."""
    known = case.geometry.spacing_mm
    if known is None:
        return "the spacing is unknown"
    if case.geometry.spacing_source == "estimated":
        return "the spacing is only estimated"
    names = ("distance of slices", "height of a pixel", "width of a pixel")[-len(known) :]
    lacking = [name for name, axis in zip(names, known, strict=True) if axis is None]
    return f"the {' and the '.join(lacking)} {'are' if len(lacking) > 1 else 'is'} unknown" if lacking else ""


def moment(stamp: str) -> str:
    """An ISO 8601 time to the minute, in UTC; what is no such time is shown as it stands."""
    try:
        read = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp or "time unknown"
    return read.strftime("%Y-%m-%d %H:%M") if read.tzinfo is None else read.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def count(number: int) -> str:
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def mm_number(case: ReportCase, pixels: int) -> str | None:
    """Area in mm2 (volume in mm3) of that many pixels (voxels), to three digits; None where the spacing is unknown."""
    if case.pixel_size is None:
        return None
    return _three_digits(pixels * case.pixel_size)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 or not value else f"{value:.1e}"


def amount(case: ReportCase, pixels: int) -> str:
    """Area (or volume) in mm with its unit where the spacing is known, else the number of pixels (voxels)."""
    number = mm_number(case, pixels)
    if number is None:
        return f"{count(pixels)} {'voxels' if case.volume else 'px'}"
    return f"{number} {'mm³' if case.volume else 'mm²'}"


def amount_of(case: ReportCase, name: str, pixels: int) -> str:
    """:func:`amount` of one class, or "–" where its numbers are withheld."""
    return WITHHELD if case.record.withheld(name) else amount(case, pixels)


def answer(record: AnswerRecord) -> str:
    """What a bundle says that the scan as a whole is: "eye_side: right (0.99)", or that it is not sure."""
    name, chance = record.most_probable
    if record.answer is None:
        return f"{record.name}: not answered (most probable: {name}, {chance:.2f}; an answer needs {record.threshold:.2f})"
    return f"{record.name}: {name} ({chance:.2f})"


def drawn(run: RunFacts, objects: bool) -> str:
    """What an overlay shows."""
    if not run.label_map.classes:
        return "answer of the network"
    return "boxes of" if objects else "contours of"


def layer_unit(unit: str) -> str:
    return {"um": "µm"}.get(unit, unit)


def fluid_volume(volume: float, unit: str) -> str:
    """Volume of fluid with its unit, mm3 or voxels."""
    return f"{_three_digits(volume)} mm³" if unit == "mm3" else f"{count(round(volume))} voxels"


def area(case: ReportCase, pixels: int) -> str:
    """Area of that many pixels of one slice: in mm2 where the spacing is known, else their number."""
    sides = case.geometry.trusted().pixel_mm
    if sides is None:
        return f"{count(pixels)} px"
    return f"{_three_digits(pixels * math.prod(sides))} mm²"


def box_size(box: tuple[float, float, float, float], size_mm: tuple[float, float] | None) -> str:
    """Width x height of a box (x1, y1, x2, y2 in pixels), in mm where it is known, else in px."""
    if size_mm is None:
        return f"{box[2] - box[0]:.0f} × {box[3] - box[1]:.0f} px"
    return " × ".join(f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" for value in size_mm) + " mm"
