"""Numbers of a vessel mask: density, length, calibre, tortuosity, fractal dimension, branching; in the field and around the disc.

All are of the pixels' own orientation (orientation.py), so that a mirrored eye, or a picture turned by 90 degrees, has the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.measurements.branching import branch_angles
from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.fractal import fractal_dimension
from pipeline.measurements.orientation import same_orientation
from pipeline.measurements.quantity import Quantity
from pipeline.measurements.tortuosity import Tortuosity, tortuosity
from pipeline.measurements.vessel_equivalents import ARTERY_FACTOR, KNUDTSON, LARGEST, VEIN_FACTOR, calibres_in, equivalent
from pipeline.measurements.vessel_lines import LINE_SIGMA, Line, find_lines
from pipeline.measurements.vessel_tree import MOST_SEGMENTS, Tree, fill_small_holes, find_tree
from pipeline.measurements.vessel_zones import LEAST_SEEN, ZONE_SOURCE, Ring, find_rings
from pipeline.types import Unit

BoolArray = npt.NDArray[np.bool_]

LEAST_LENGTH, LEAST_WIDTHS = 30.0, 5.0
"""Pixels and calibres: shorter segments have no tortuosity."""
_NOISE = f"the mask is no tree of vessels: it has more than {MOST_SEGMENTS} segments"
_HART = "Hart et al., International Journal of Medical Informatics 53:239, 1999, doi:10.1016/S1386-5056(98)00163-4"
_BULLITT = "Bullitt et al., IEEE Transactions on Medical Imaging 22:1163, 2003, doi:10.1109/TMI.2003.816964"
_LIEW = "Liew et al., Ophthalmology 115:1951, 2008, doi:10.1016/j.ophtha.2008.05.029"
_OVER = (
    f"mean over segments between branch points that are at least {LEAST_LENGTH:g} px and {LEAST_WIDTHS:g} calibres long, by their length"
)
_WALLS = "distance between the two walls across the centreline, without the surroundings of branch points"
_RINGS = {
    "b": ", between 0.5 and 1 disc diameter from the disc's margin",
    "c": ", between 0.5 and 2 disc diameters from the disc's margin",
}


def _zoned(key: str, title: str, unit: Unit, definition: str, source: str = "") -> tuple[Quantity, ...]:
    """A quantity of the whole field, of zone B and of zone C."""
    whole = Quantity(f"{{class}}_{key}", f"{{class}} {title}", unit, f"{definition}, in the field of view", source)
    zones = (
        Quantity(f"{{class}}_{key}_zone_{zone}", f"{{class}} {title}, zone {zone.upper()}", unit, definition + where, ZONE_SOURCE)
        for zone, where in _RINGS.items()
    )
    return (whole, *zones)


VESSEL_QUANTITIES = (
    *_zoned("density", "density", "%", "pixels of {class} / pixels"),
    Quantity("{class}_length", "{class} length", "mm", "length of all centrelines of {class}, without spurs within a vessel's width"),
    *_zoned("calibre", "mean calibre", "um", f"mean {_WALLS}"),
    Quantity("{class}_tortuosity", "{class} tortuosity, arc over chord", "1", f"length / distance of the ends; {_OVER}", _HART),
    Quantity(
        "{class}_squared_curvature",
        "{class} tortuosity, squared curvature",
        "1/mm2",
        f"integral of the squared curvature along the centreline / its length; {_OVER}",
        _HART,
    ),
    Quantity(
        "{class}_inflection_count",
        "{class} tortuosity, inflection-count metric",
        "1",
        f"(changes of direction by at least 10 degrees + 1) x length / distance of the ends; {_OVER}",
        _BULLITT,
    ),
    Quantity(
        "{class}_fractal_dimension",
        "{class} fractal dimension",
        "1",
        "box counting of the centrelines, slope over boxes from a quarter of their extent down to 4 px",
        _LIEW,
    ),
    Quantity("{class}_branch_points", "{class} branch points", "1", "points at which three segments of {class} meet"),
    Quantity("{class}_crossings", "{class} crossings", "1", "points at which four segments of {class} or more meet"),
    Quantity("{class}_branch_angle", "{class} branching angle", "deg", "mean of the smallest angle between branches at a branch point"),
)
_SIX = (
    f"equivalent of the {LARGEST} widest {{}} in zone B: widest and narrowest give {{}} x sqrt(widest^2 + narrowest^2), until one is left"
)
EQUIVALENT_QUANTITIES = (
    Quantity("crae", "central retinal artery equivalent", "um", _SIX.format("arteries", ARTERY_FACTOR), KNUDTSON),
    Quantity("crve", "central retinal vein equivalent", "um", _SIX.format("veins", VEIN_FACTOR), KNUDTSON),
    Quantity("avr", "artery-to-vein ratio", "1", "central retinal artery equivalent / central retinal vein equivalent", KNUDTSON),
)


@dataclass(frozen=True, eq=False)
class Network:
    """A vessel mask, traced: ``mask`` bool (H, W) without small holes, its ``tree`` and its ``lines``."""

    mask: BoolArray
    tree: Tree
    lines: list[Line]

    def centrelines(self) -> BoolArray:
        """Their pixels, bool (H, W)."""
        out = np.zeros_like(self.mask)
        for line in self.lines:
            rows, columns = np.rint(line.points).astype(np.int64).T
            out[rows.clip(0, out.shape[0] - 1), columns.clip(0, out.shape[1] - 1)] = True
        return out


def trace(mask: BoolArray) -> Network | None:
    """The network of a vessel mask bool (H, W), which may be empty; None of noise."""
    filled = fill_small_holes(mask)
    tree = find_tree(filled)
    return None if tree is None else Network(filled, tree, find_lines(filled, tree))


def measure_vessels(case: MeasuredCase, places: Places) -> Mapping[str, Value]:
    """Of one class of vessels."""
    disc, (mask, field) = _turned(case, case.mask_of(places[0]))
    mask = mask & field
    if not mask.any():
        return {quantity.key: Value.none(f"no {case.names(places)[0]} was found in the field of view") for quantity in VESSEL_QUANTITIES}
    network, units = trace(mask), _Units.of(case)
    if network is None:
        return {quantity.key: Value.none(_NOISE) for quantity in VESSEL_QUANTITIES}
    rings = {} if disc is None else find_rings(disc, field)
    values = {"density": _percent(mask, field), "length": units.length(sum(line.length for line in network.lines))}
    values["calibre"] = _calibre(network.lines, None, units)
    for zone in _RINGS:
        ring = rings.get(zone)
        why = _unseen(ring)
        values[f"density_zone_{zone}"] = Value.none(why) if ring is None or why else _percent(mask & ring.area, ring.area)
        values[f"calibre_zone_{zone}"] = Value.none(why) if ring is None or why else _calibre(network.lines, ring, units)
    values |= _tortuosities(network.lines, units)
    values["fractal_dimension"] = _fractal(network)
    degrees, angles = network.tree.degrees, branch_angles(network.tree, network.lines)
    values["branch_points"], values["crossings"] = Value(float((degrees == 3).sum())), Value(float((degrees > 3).sum()))
    values["branch_angle"] = Value(float(np.mean(angles))) if angles else Value.none("no branch point whose branches are long enough")
    return {f"{{class}}_{key}": value for key, value in values.items()}


def measure_equivalents(case: MeasuredCase, places: Places) -> Mapping[str, Value]:
    """Of arteries and veins, in this order."""
    disc, (arteries, veins, field) = _turned(case, *map(case.mask_of, places))
    ring = None if disc is None else find_rings(disc, field)["b"]
    why = _unseen(ring)
    if ring is None or why:
        return {quantity.key: Value.none(why) for quantity in EQUIVALENT_QUANTITIES}
    units, found = _Units.of(case), {}
    for key, mask, factor, name in (("crae", arteries, ARTERY_FACTOR, "arteries"), ("crve", veins, VEIN_FACTOR, "veins")):
        network = trace(mask & field)
        widths = [] if network is None else calibres_in(network.lines, ring)
        lacking = f"{len(widths)} {name} run far enough through zone B, and the formula is of {LARGEST}"
        found[key] = units.width(equivalent(widths[:LARGEST], factor)) if len(widths) >= LARGEST else Value.none(lacking)
    artery, vein = found["crae"].value, found["crve"].value
    lacking = found["crae"].undefined or found["crve"].undefined or ""
    found["avr"] = Value(artery / vein) if artery is not None and vein is not None else Value.none(lacking)
    return found


@dataclass(frozen=True)
class _Units:
    """What a length in pixels is; in pixels where their size is unknown, or not the same along rows and columns."""

    mm: float | None

    @classmethod
    def of(cls, case: MeasuredCase) -> _Units:
        size = case.geometry.pixel_mm
        return cls(math.sqrt(size[0] * size[1]) if size is not None and abs(size[0] / size[1] - 1) < 0.01 else None)

    def length(self, px: float) -> Value:
        return Value(px, "px") if self.mm is None else Value(px * self.mm, "mm")

    def width(self, px: float) -> Value:
        return Value(px, "px") if self.mm is None else Value(px * self.mm * 1000, "um")

    def squared_curvature(self, per_px2: float) -> Value:
        return Value(per_px2, "1/px2") if self.mm is None else Value(per_px2 / self.mm**2, "1/mm2")


def _turned(case: MeasuredCase, *masks: BoolArray) -> tuple[BoolArray | None, tuple[BoolArray, ...]]:
    """The disc, or None where there is none, then masks and field of view, in the orientation in which they are measured."""
    disc = case.of_role("optic_disc")
    if disc is None:
        return None, same_orientation(*masks, case.field)
    *turned, own_disc = same_orientation(*masks, case.field, disc)
    return own_disc, tuple(turned)


def _unseen(ring: Ring | None) -> str:
    """Why a zone cannot be measured, or "" where it can."""
    if ring is None:
        return "no optic disc was found, around which the zone lies"
    return "" if ring.seen >= LEAST_SEEN else f"only {ring.seen:.0%} of the zone lies in the field of view"


def _percent(mask: BoolArray, area: BoolArray) -> Value:
    return Value(100 * float(mask.sum()) / float(area.sum()))


def _calibre(lines: list[Line], ring: Ring | None, units: _Units) -> Value:
    """Mean over all points of the centrelines, or those in a ring."""
    widths = [line.widths if ring is None else line.widths[ring.holds(line.points)] for line in lines]
    seen = np.concatenate([own[np.isfinite(own)] for own in (*widths, np.zeros(0))])
    return units.width(float(seen.mean())) if seen.size else Value.none("no vessel there whose two walls are seen")


def _tortuosities(lines: list[Line], units: _Units) -> dict[str, Value]:
    found: list[tuple[float, Tortuosity]] = []
    for line in lines:
        widths = line.widths[np.isfinite(line.widths)]
        if (
            widths.size
            and line.length >= max(LEAST_LENGTH, LEAST_WIDTHS * widths.mean())
            and (own := tortuosity(line.points, int(LINE_SIGMA)))
        ):
            found.append((line.length, own))
    if not found:
        why = Value.none("no segment between branch points is long enough")
        return {"tortuosity": why, "squared_curvature": why, "inflection_count": why}
    weights = [length for length, _ in found]

    def mean(of: Callable[[Tortuosity], float]) -> float:
        return float(np.average([of(own) for _, own in found], weights=weights))

    return {
        "tortuosity": Value(mean(lambda own: own.arc_chord)),
        "squared_curvature": units.squared_curvature(mean(lambda own: own.curvature)),
        "inflection_count": Value(mean(lambda own: own.inflection_count)),
    }


def _fractal(network: Network) -> Value:
    found = fractal_dimension(network.centrelines())
    if found is None:
        return Value.none("the vessels' extent is too small for boxes of four sizes")
    return Value(found.value, low=found.low, high=found.high, interval="95 % of the slope, from its standard error")
