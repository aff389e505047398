"""What cannot be true of a retina is flagged, by the role of its class, and its numbers are withheld."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measurements.surfaces import Surfaces
from pipeline.quality.findings import photograph_flags
from pipeline.quality.judge import judge
from pipeline.quality.layers import layer_flags
from pipeline.types import Geometry, LabelClass, LabelMap
from pipeline.types.case_record import CaseRecord, GeometryRecord
from tests.quality.drawn import DISC_CUP_VESSEL, FIELD, SIDE, circle, fundus, scan_of, vessels

Mask = npt.NDArray[np.bool_]
DISC, CUP = circle(SIDE / 2, SIDE * 0.3, 0.06 * SIDE), circle(SIDE / 2, SIDE * 0.3, 0.03 * SIDE)
NOTHING = np.zeros_like(FIELD)


def codes(disc: Mask = DISC, cup: Mask = CUP, vessel: Mask | None = None, field: Mask = FIELD) -> dict[str, tuple[str, ...]]:
    layers = np.stack([disc, cup, vessels() if vessel is None else vessel])
    return {flag.code: flag.classes for flag in photograph_flags(DISC_CUP_VESSEL, layers, field)}


def test_a_usual_finding_has_no_flag() -> None:
    assert codes() == {}
    assert codes(cup=NOTHING) == {}  # a cup may be too small to be seen


@pytest.mark.parametrize(
    ("disc", "code"),
    [
        (NOTHING, "disc_missing"),
        (DISC | circle(SIDE / 2, SIDE * 0.8, 0.04 * SIDE), "disc_in_pieces"),
        (circle(SIDE / 2, SIDE / 2, 0.3 * SIDE), "disc_size"),
        (circle(SIDE / 2, SIDE / 2, 0.015 * SIDE), "disc_size"),
        (circle(SIDE / 2, SIDE * 0.3, 0.09 * SIDE) & ~circle(SIDE / 2, SIDE * 0.34, 0.075 * SIDE), "disc_shape"),
        (circle(SIDE / 2, SIDE / 2, 0.1 * SIDE) & circle(SIDE / 2, SIDE / 2 + 0.14 * SIDE, 0.1 * SIDE), "disc_shape"),
        (circle(SIDE / 2, SIDE * 0.02, 0.06 * SIDE), "disc_outside_field"),
    ],
    ids=["none", "two", "too large", "too small", "a sickle", "a spindle", "on the field's edge"],
)
def test_a_disc_that_no_eye_has_withholds_disc_and_cup(disc: Mask, code: str) -> None:
    assert codes(disc=disc, cup=NOTHING)[code] == ("one", "two")


def test_a_speck_beside_the_disc_is_no_second_one() -> None:
    assert codes(disc=DISC | circle(SIDE / 2, SIDE * 0.8, 0.01 * SIDE)) == {}


@pytest.mark.parametrize(
    ("cup", "code"),
    [(circle(SIDE / 2, SIDE * 0.36, 0.03 * SIDE), "cup_outside_disc"), (DISC, "cup_fills_disc")],
    ids=["beside", "all of it"],
)
def test_a_cup_lies_in_a_disc_and_leaves_a_rim(cup: Mask, code: str) -> None:
    assert codes(cup=cup) == {code: ("two",)}


def test_vessels_of_an_impossible_amount_or_on_the_edge_of_the_field() -> None:
    assert codes(vessel=NOTHING) == {"vessels_missing": ("three",)}
    assert codes(vessel=FIELD) == {"vessels_fill_field": ("three",)}
    ring = FIELD & ~circle(SIDE / 2, SIDE / 2, 0.472 * SIDE)
    assert codes(vessel=vessels() | ring) == {"vessels_on_rim": ("three",)}


def test_arteries_and_veins_are_vessels_together_and_a_name_says_nothing() -> None:
    parts = LabelMap((LabelClass(1, "disc", (1, 2, 3), role="artery"), LabelClass(2, "cup", (3, 2, 1), role="vein")), overlapping=True)
    half = vessels().copy()
    half[:, : SIDE // 2] = False
    assert photograph_flags(parts, np.stack([half, vessels() & ~half]), FIELD) == []
    (flag,) = photograph_flags(parts, np.stack([NOTHING, NOTHING]), FIELD)
    assert (flag.code, set(flag.classes)) == ("vessels_missing", {"disc", "cup"})


def test_exclusive_classes_share_the_disc_with_its_cup() -> None:
    exclusive = LabelMap((LabelClass(1, "d", (1, 2, 3), "SCT:81016008"), LabelClass(2, "c", (3, 2, 1), role="optic_cup")))
    assert photograph_flags(exclusive, np.stack([DISC & ~CUP, CUP]), FIELD) == []


def test_no_finding_fills_the_field() -> None:
    other = LabelMap((LabelClass(1, "spots", (1, 2, 3)),))
    assert photograph_flags(other, FIELD[None] & False, FIELD) == []
    (flag,) = photograph_flags(other, FIELD[None], FIELD)
    assert (flag.code, flag.classes) == ("fills_field", ("spots",))


@pytest.mark.parametrize(
    ("picture", "layers"),
    [
        (np.full((SIDE, SIDE, 3), 240, np.uint8), [circle(SIDE / 2, SIDE / 2, 0.45 * SIDE), NOTHING, NOTHING]),
        ((fundus() * 0.03).astype(np.uint8), [circle(SIDE / 2, SIDE / 2, 0.3 * SIDE), NOTHING, NOTHING]),
        (fundus(), [circle(4, 4, 1.1), NOTHING, vessels()]),
        (np.zeros((SIDE, SIDE, 3), np.uint8), [NOTHING, NOTHING, ~NOTHING]),
    ],
    ids=["a blank page that is all disc", "a nearly black one", "a speck outside the field", "a black one that is all vessel"],
)
def test_what_once_was_called_done_is_not(picture: npt.NDArray[np.uint8], layers: list[Mask]) -> None:
    mask = DISC_CUP_VESSEL.mask(np.stack(layers)).astype(np.uint8)
    quality, flags = judge(scan_of(picture), DISC_CUP_VESSEL, mask, None)
    geometry = GeometryRecord(shape=(SIDE, SIDE))
    record = CaseRecord.model_validate(
        {
            "case": "a",
            "geometry": geometry,
            "sha256": "0" * 64,
            "planes": [{"index": 0, "image": "a.png"}],
            "quality": quality,
            "flags": flags,
        }
    )
    assert record.needs_eyes
    assert record.withheld("one")


LAYERS = LabelMap(
    tuple(LabelClass(k, name, (k, k, k)) for k, name in enumerate("abc", 1)), layered=("a", "b", "c"), surfaces=("t", "u", "v", "BM")
)
MICROMETRES = {"spacing_mm": (0.004, 0.01), "spacing_source": "tag"}


def depths(*rows: float, columns: int = 100) -> npt.NDArray[np.float32]:
    return np.broadcast_to(np.array(rows, np.float32)[:, None, None], (len(rows), 1, columns)).copy()


def flagged(depth: npt.NDArray[np.float32], **spacing: object) -> dict[str, tuple[str, ...]]:
    geometry = Geometry((300, depth.shape[2]), **spacing)  # type: ignore[arg-type]
    return {flag.code: flag.classes for flag in layer_flags(Surfaces(LAYERS.surfaces, depth), LAYERS, geometry)}


def test_a_retina_of_usual_thickness_has_no_flag_with_and_without_a_scale() -> None:
    assert flagged(depths(100, 120, 150, 175), **MICROMETRES) == flagged(depths(100, 120, 150, 175)) == {}


def test_layers_that_cannot_be_are_flagged() -> None:
    everything = ("a", "b", "c")
    assert flagged(depths(100, 120, 150, 175) * np.nan) == {"layers_missing": everything}
    assert flagged(depths(100, 105, 110, 115), **MICROMETRES) == {"retina_thickness": everything}  # 60 um
    assert flagged(depths(20, 100, 200, 290), **MICROMETRES) == {"retina_thickness": everything}  # 1080 um
    assert flagged(depths(100, 101.6, 150, 175), **MICROMETRES) == {"layer_too_thin": ("a",)}  # 6.4 um
    assert flagged(depths(100, 100.5, 150, 175)) == {"layer_too_thin": ("a",)}
    assert flagged(depths(100, 102, 104, 106)) == {"retina_thickness": everything}  # 2 % of the picture
    torn = depths(100, 120, 150, 175)
    torn[..., 30:] = np.nan
    assert flagged(torn) == {"layers_incomplete": everything}
    ragged = depths(100, 120, 150, 175)
    ragged[:, :, ::5] -= 40
    assert flagged(ragged) == {"layers_ragged": everything}


def test_without_bruchs_membrane_a_choroid_may_be_counted_in() -> None:
    named = LabelMap(LAYERS.classes, layered=LAYERS.layered)
    geometry = Geometry((300, 100), **MICROMETRES)  # type: ignore[arg-type]
    assert layer_flags(Surfaces(named.surface_names, depths(20, 100, 200, 290)), named, geometry) == []
