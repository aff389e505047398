"""Whether what was found can be true at all: the disc, the cup and the vessels of a photograph, known by their roles.

Each limit is far outside what eyes are like, so that a flag means a wrong picture or a wrong mask and hardly ever a rare eye.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.quality.fovea import fovea_in_view
from pipeline.scans.field_of_view import field_diameter
from pipeline.types import LabelMap, Role
from pipeline.types.assessment import FlagRecord
from pipeline.types.label import VESSELS
from pipeline.types.scan import Laterality

DISC_DIAMETER = (0.05, 0.42)
"""Of the field's diameter. Discs are 1.88 x 1.77 mm on average (doi:10.1001/archopht.1990.01070030057028) and have up to 5.1 mm2
(doi:10.4103/0301-4738.73716), which is 2.5 mm across; a field of 60 degrees is about 17.8 mm wide and one of 22 degrees 6.5 mm (0.3 mm
a degree in an emmetropic eye). Half an average disc in the widest field, and the largest disc in the narrowest, are the limits."""
DISC_ROUND = 0.55
"""Shorter by longer axis of the ellipse with the disc's moments; tilted discs go down to about 0.6."""
DISC_FULL = 0.85
"""Of that ellipse's area that the disc fills: what is torn or has an arm fills less."""
SECOND_PIECE = 0.1
"""Of the largest piece: a second one of at least this size is another disc."""
OUTSIDE = 0.1
"""Of a disc's, cup's or the vessels' pixels that may lie outside the field, or of the cup's outside the disc."""
VESSEL_DENSITY = (0.01, 0.30)
"""Of the field. Readers mark 5 to 15 % of the fields of DRIVE, CHASE_DB1 and HRF (docs/results/quality.md)."""
RIM_WIDTH, ON_RIM = 0.012, 0.2
"""Of the field's diameter, along its edge; of the vessels' pixels in that rim."""
FILLED = 0.5
"""Of the field that no single finding fills."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Shape:
    """``share`` of the second largest piece by the largest · ``centre`` (row, column) of the largest one, and ``diameter`` px of a circle
    of its area · ``roundness`` and ``fullness`` of the ellipse with its moments."""

    share: float
    centre: tuple[float, float]
    diameter: float
    roundness: float
    fullness: float


def photograph_flags(label_map: LabelMap, layers: Mask, field: Mask) -> list[FlagRecord]:
    """What is wrong with the masks bool (K, H, W) of a photograph whose field of view is ``field`` (H, W)."""
    vessels = [place for role in VESSELS for place in _places(label_map, role)]
    flags = [*_disc_flags(label_map, layers, field), *_vessel_flags(label_map, vessels, layers, field)]
    known = {name for flag in flags for name in flag.classes}
    size = max(int(field.sum()), 1)
    for place, name in enumerate(label_map.names):
        if name not in known and (share := float(layers[place].sum()) / size) > FILLED:
            flags.append(_flag("fills_field", f"{name} fills {share:.0%} of the field of view, which no finding does.", name))
    return flags


def _places(label_map: LabelMap, role: Role) -> list[int]:
    return [place for place, own in enumerate(label_map.roles) if own == role]


def fovea_chance(label_map: LabelMap, layers: Mask, field: Mask, eye: Laterality) -> float | None:
    """Chance that the fovea is in the field of a photograph of this eye, by its disc; None where none was found."""
    disc = _disc_of(label_map, layers)
    if disc is None or not disc.any():
        return None
    shape = _shape(disc)
    return fovea_in_view(shape.centre, shape.diameter, eye, field)


def _disc_of(label_map: LabelMap, layers: Mask) -> Mask | None:
    """The whole disc bool (H, W), its cup included; None where no disc is sought."""
    discs, cups = _places(label_map, "optic_disc"), _places(label_map, "optic_cup")
    if not discs:
        return None
    disc: Mask = layers[discs[0]]
    return disc if label_map.overlapping or not cups else disc | layers[cups[0]]


def _disc_flags(label_map: LabelMap, layers: Mask, field: Mask) -> Iterator[FlagRecord]:
    disc, cups = _disc_of(label_map, layers), _places(label_map, "optic_cup")
    if disc is None:
        return
    disc_name = label_map.names[_places(label_map, "optic_disc")[0]]
    both = (disc_name, *(label_map.names[cup] for cup in cups))
    cup = layers[cups[0]] if cups else None
    pixels = int(disc.sum())
    if not pixels:
        yield _flag("disc_missing", "No optic disc was found, which every photograph centred on the disc or the macula shows.", *both)
        return
    shape, across = _shape(disc), field_diameter(field)
    if shape.share > SECOND_PIECE:
        yield _flag("disc_in_pieces", "More than one optic disc was found, and an eye has one.", *both)
    low, high = DISC_DIAMETER
    if not low <= shape.diameter / across <= high:
        what = "small" if shape.diameter / across < low else "large"
        part = f"{shape.diameter / across:.1%}" if what == "small" else f"{shape.diameter / across:.0%}"
        yield _flag("disc_size", f"The optic disc is {part} as wide as the field of view, too {what} for any eye.", *both)
    elif shape.roundness < DISC_ROUND or shape.fullness < DISC_FULL:
        yield _flag("disc_shape", "The optic disc's outline is neither round nor oval.", *both)
    if np.count_nonzero(disc & ~field) > OUTSIDE * pixels:
        yield _flag("disc_outside_field", "The optic disc lies partly outside the field of view.", *both)
    if cup is not None and cup.any():
        yield from _cup_flags(label_map.names[cups[0]], cup, disc, pixels)


def _cup_flags(name: str, cup: Mask, disc: Mask, disc_pixels: int) -> Iterator[FlagRecord]:
    size = int(cup.sum())
    if np.count_nonzero(cup & ~disc) > OUTSIDE * size:
        yield _flag("cup_outside_disc", "The cup lies partly outside the optic disc.", name)
    elif size > 0.97 * disc_pixels:
        yield _flag("cup_fills_disc", "The cup fills the whole optic disc and leaves no rim.", name)


def _vessel_flags(label_map: LabelMap, places: list[int], layers: Mask, field: Mask) -> Iterator[FlagRecord]:
    if not places:
        return
    names = [label_map.names[place] for place in places]
    vessels = layers[places].any(axis=0)
    pixels = int(vessels.sum())
    density = pixels / max(int(field.sum()), 1)
    low, high = VESSEL_DENSITY
    if density > high:
        yield _flag("vessels_fill_field", f"Vessels fill {density:.0%} of the field of view; 5 to 15 % is usual.", *names)
    elif density < low:
        yield _flag("vessels_missing", f"Hardly any vessels were found ({density:.1%} of the field of view; 5 to 15 % is usual).", *names)
    elif not field.all() and (share := np.count_nonzero(vessels & ~_core(field)) / pixels) > ON_RIM:
        yield _flag("vessels_on_rim", f"{share:.0%} of the vessels' pixels lie on the edge of the field of view.", *names)


def _core(field: Mask) -> Mask:
    """The field without a rim along its edge, (H, W)."""
    from scipy import ndimage

    side = 2 * max(round(RIM_WIDTH * field_diameter(field)), 1) + 1
    core = field.view(np.uint8)
    for axis in (0, 1):
        core = ndimage.minimum_filter1d(core, side, axis=axis, mode="nearest")
    return core.view(np.bool_)


def _shape(mask: Mask) -> _Shape:
    from scipy import ndimage

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    pieces, _ = ndimage.label(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.ones((3, 3), int))
    sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
    largest = pieces == int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    y, x = np.nonzero(largest)
    # A pixel is a square of side 1, whose own second moment is 1/12: else a line of pixels would have no width at all.
    moments = np.cov(np.stack([y, x]), bias=True) + np.eye(2) / 12
    longer, shorter = 2 * np.sqrt(np.linalg.eigvalsh(moments)[::-1])
    second = float(sizes[1]) if len(sizes) > 1 else 0.0
    area = float(sizes[0])
    centre = float(rows[0] + y.mean()), float(columns[0] + x.mean())
    return _Shape(second / area, centre, 2 * float(np.sqrt(area / np.pi)), float(shorter / longer), area / float(np.pi * longer * shorter))


def _flag(code: str, text: str, *classes: str) -> FlagRecord:
    return FlagRecord(code=code, text=text, withholds=True, classes=classes)
