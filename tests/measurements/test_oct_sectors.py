"""Sectors of layers whose thickness is drawn: a step at a known angle or radius, and both eyes alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measurements.by_role import measure_case
from pipeline.measurements.case import MeasuredCase
from pipeline.measurements.oct_sectors import FIELDS
from pipeline.measurements.surfaces import Surfaces
from pipeline.types import Geometry, LabelClass, LabelMap, Laterality
from pipeline.types.assessment import MeasureRecord

LAYER = LabelMap((LabelClass(1, "RNFL", (0, 0, 0)),), layered=("RNFL",))
SLICES, COLUMNS, GAP, STEP = 61, 121, 0.1, 0.05
UP, RIGHT = np.meshgrid((30 - np.arange(SLICES)) * GAP, (np.arange(COLUMNS) - 60) * STEP, indexing="ij")
"""Of each A-scan of a raster that runs down, in mm from its middle."""


def raster(thick: npt.NDArray[Any], eye: Laterality | None = "R", **settings: Any) -> dict[str, MeasureRecord]:
    """Measures of one layer of this thickness (D, W) in px of 4 um."""
    slices, columns = thick.shape
    surfaces = Surfaces(("top", "bottom"), np.stack([np.full(thick.shape, 5), 5 + thick]).astype(np.float32))
    shape = (slices, 64, columns)
    geometry = Geometry(shape, (GAP, 0.004, STEP), "tag", None, eye, "unknown" if eye is None else "tag")
    case = MeasuredCase(geometry, LAYER, lambda place: np.zeros(shape, dtype=bool), surfaces=surfaces, slices_run="down")
    return {record.key: record for record in measure_case(replace(case, **settings))}


def etdrs(records: dict[str, MeasureRecord]) -> dict[str, float | None]:
    return {field: records[f"etdrs_{field}_rnfl"].value for field in FIELDS}


def test_each_field_holds_its_own_ascans() -> None:
    radius, angle = np.hypot(UP, RIGHT), np.degrees(np.arctan2(UP, RIGHT)) % 360
    thick = np.full(UP.shape, 10.0)
    thick[radius <= 0.5] = 20
    thick[(radius > 1.5) & (np.abs(angle - 90) < 45)] = 30  # superior
    thick[(radius > 0.5) & (radius <= 1.5) & ((angle < 45) | (angle > 315))] = 40  # right: nasal in a right eye
    found = etdrs(raster(thick))
    assert found == pytest.approx(dict.fromkeys(FIELDS, 40) | {"centre": 80, "outer_superior": 120, "inner_nasal": 160}, rel=0.02)
    assert etdrs(raster(thick[:, ::-1], "L")) == pytest.approx(found), "a mirrored left eye is a right one"
    assert etdrs(raster(thick[::-1], slices_run="up")) == pytest.approx(found), "slices from below are the same eye"
    other = etdrs(raster(thick, "L"))
    assert other["inner_temporal"] == pytest.approx(160, rel=0.02)


def test_a_plane_gives_the_value_at_the_middle_of_the_centre() -> None:
    assert etdrs(raster(20 + UP + 2 * RIGHT))["centre"] == pytest.approx(80, abs=0.5)


def test_what_a_raster_does_not_say_is_undefined_with_its_reason() -> None:
    thick = np.full(UP.shape, 10.0)
    no_eye, no_order = raster(thick, None), raster(thick, slices_run="unknown")
    assert "which eye" in (no_eye["etdrs_inner_nasal_rnfl"].undefined or "")
    assert no_eye["etdrs_inner_superior_rnfl"].value == pytest.approx(40)
    assert "which slices lie higher" in (no_order["etdrs_inner_superior_rnfl"].undefined or "")
    assert no_order["etdrs_inner_nasal_rnfl"].value == pytest.approx(40)
    small = raster(thick[15:-15])
    assert small["etdrs_centre_rnfl"].value == pytest.approx(40)
    assert "covers" in (small["etdrs_outer_superior_rnfl"].undefined or "")
    torn = thick.copy()
    torn[np.hypot(UP, RIGHT) < 0.4] = np.nan
    assert "known in" in (raster(torn)["etdrs_centre_rnfl"].undefined or "")
    radial = raster(thick, pattern="radial")
    assert set(radial) == {"thickness_rnfl"}


def test_the_retina_reaches_from_its_inner_surface_to_bruchs_membrane() -> None:
    names = ("RNFL", "rest", "choroid")
    layers = LabelMap(tuple(LabelClass(k, name, (0, 0, 0)) for k, name in enumerate(names, 1)), layered=names)
    depth = np.stack([np.full(UP.shape, own, np.float32) for own in (5, 15, 75, 95)])
    surfaces = Surfaces(("ILM", "RNFL-GCL", "BM", "choroid-sclera"), depth)
    found = raster(np.full(UP.shape, 10.0), label_map=layers, surfaces=surfaces)
    assert (found["retina_centre"].value, found["retina_centre"].title) == (pytest.approx(280), "central subfield thickness")
    assert found["etdrs_centre_rest"].value == pytest.approx(240)
    held = raster(np.full(UP.shape, 10.0), label_map=layers, surfaces=surfaces, withheld={"rest": "out of order"})
    assert (held["retina_centre"].undefined, held["etdrs_centre_rest"].undefined) == ("out of order", "out of order")
    assert held["etdrs_centre_rnfl"].value == pytest.approx(40)


def test_quadrants_of_a_circle_run_from_temporal_over_superior() -> None:
    angle = (np.arange(400) + 0.5) * 0.9
    thick = np.select([np.abs(angle - 90) < 45, np.abs(angle - 180) < 45, np.abs(angle - 270) < 45], [20.0, 30.0, 40.0], 10.0)
    surfaces = Surfaces(("top", "bottom"), np.stack([np.full((1, 400), 5), 5 + thick[None]]).astype(np.float32))
    case = MeasuredCase(Geometry((64, 400)), LAYER, lambda place: np.zeros((64, 400), dtype=bool), surfaces=surfaces, pattern="circle")
    found = {record.key.removesuffix("_rnfl"): (record.value, record.unit) for record in measure_case(case)}
    assert found == {
        "thickness": (pytest.approx(25), "px"),
        "circle_temporal": (pytest.approx(10), "px"),
        "circle_superior": (pytest.approx(20), "px"),
        "circle_nasal": (pytest.approx(30), "px"),
        "circle_inferior": (pytest.approx(40), "px"),
    }
