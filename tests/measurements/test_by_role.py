"""What is measured of a class follows from what it is, whatever it is called."""

from __future__ import annotations

import pytest

from pipeline.measurements.by_role import FLUID, OF_MASKS, SURFACES
from pipeline.types import LabelClass, LabelMap, Role

(VCDR,) = OF_MASKS
DISC, VESSEL = "SCT:81016008", "SCT:59820001"
Class = tuple[str, str | None, Role | None]


def label_map(*classes: Class, layered: tuple[str, ...] = ()) -> LabelMap:
    found = tuple(LabelClass(i, name, (i, 0, 0), code, None, role) for i, (name, code, role) in enumerate(classes, 1))
    return LabelMap(found, not layered, layered)


@pytest.mark.parametrize(
    ("classes", "places"),
    [
        ([("Papille", DISC, None), ("Exkavation", None, "optic_cup")], (0, 1)),
        ([("c", None, "optic_cup"), ("v", VESSEL, None), ("d", None, "optic_disc")], (2, 0)),
        ([("disc", None, None), ("cup", None, None)], ()),
        ([("disc", DISC, None), ("cup", None, None)], ()),
        ([("disc", VESSEL, "optic_disc"), ("cup", None, "optic_cup")], (0, 1)),  # a role says more than a code
    ],
)
def test_disc_and_cup_are_known_by_code_or_role(classes: list[Class], places: tuple[int, ...]) -> None:
    assert VCDR.places(label_map(*classes)) == places


def test_layers_are_measured_and_the_fluid_between_them() -> None:
    retina = label_map(("RNFL", None, None), ("cyst", None, None), ("RPE", None, None), ("v", VESSEL, None), layered=("RNFL", "RPE"))
    assert retina.roles == ("layer", "fluid", "layer", "vessel")
    assert SURFACES.groups(retina) == [(0,), (2,)]
    assert FLUID.groups(retina) == [(1,)]
    assert LabelMap.from_json(retina.to_json()) == retina


def test_a_role_outlives_json_and_renaming() -> None:
    cup = label_map(("cup", None, "optic_cup"))
    assert LabelMap.from_json(cup.to_json()) == cup
    assert cup.renamed({"cup": "Exkavation"}).roles == cup.only(["cup"]).roles == ("optic_cup",)
