"""Numbers of a correction: measured on what the reviewer left, and none where that does not say them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.reports.results import read_case, read_run
from pipeline.review.numbers import Numbers
from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import Out, disc_and_cup, vcdr
from tests.review import reading

RETINA = LabelMap(
    (LabelClass(1, "RNFL", (230, 159, 0)), LabelClass(2, "RPE", (0, 114, 178)), LabelClass(3, "fluid", (86, 180, 233))),
    layered=("RNFL", "RPE"),
)
NERVE = LabelMap(
    (LabelClass(1, "disc", (240, 228, 66), None, None, "optic_disc"), LabelClass(2, "cup", (86, 180, 233), None, "disc", "optic_cup")),
    overlapping=True,
)
NAME = "pa_R_v1_i1"


def test_layers_are_measured_between_the_surfaces_that_were_moved(tmp_path: Path) -> None:
    out = Out(tmp_path / "out", RETINA)
    mask = np.zeros((40, 30), np.uint8)
    mask[10:20], mask[20:26], mask[12:14, 5:9] = 1, 2, 3
    folder = out.add(NAME, mask, modality="oct", geometry={"spacing_mm": [0.004, 0.01], "spacing_source": "tag"}, measures=[vcdr(0.5)])
    lines = [f"0,{column},10.00,20.00,26.00" for column in range(30)]
    (folder / "surfaces.csv").write_text("\n".join(["slice,column," + ",".join(RETINA.surface_names), *lines]) + "\n", encoding="utf-8")
    top, middle, bottom = (np.full((1, 30), depth, np.float32) for depth in (5, 20, 26))
    surfaces = dict(zip(RETINA.surface_names, (top, middle, bottom), strict=True))
    case, run, numbers = read_case(folder), read_run(out.path), Numbers(out.path)

    moved = {one.key: one for one in numbers.of(case, run, reading.edit(out.path, NAME, [mask], surfaces=surfaces)).measures}
    assert [moved[key].value for key in ("thickness_rnfl", "thickness_rpe")] == pytest.approx([60, 24]), "15 and 6 rows of 4 µm"
    assert moved["vcdr"].value is None
    assert "measured before" in str(moved["vcdr"].undefined)
    wet = mask.copy()
    wet[22:24, 3:9] = 3
    fluid = numbers.of(case, run, reading.edit(out.path, NAME, [wet], surfaces=surfaces))
    assert {one.key: one.value for one in fluid.measures}["thickness_rnfl"] == pytest.approx(60), "fluid is painted, and moves no line"
    thick = mask.copy()
    thick[26:30] = 2
    as_found = surfaces | {RETINA.surface_names[0]: top + 5}
    painted = numbers.of(case, run, reading.edit(out.path, NAME, [thick], surfaces=as_found))
    assert all(one.value is None for one in painted.measures), "its lines are not those of the layer that was painted"
    assert painted.classes["RPE"].pixels == 10 * 30


def test_numbers_are_measured_again_where_the_case_says_another_size_or_eye(tmp_path: Path) -> None:
    out = Out(tmp_path / "out", NERVE)
    geometry = {"spacing_mm": [0.01, 0.01], "spacing_source": "tag"}
    folder = out.add(NAME, disc_and_cup(60, 80), np.full((60, 80, 3), 90, np.uint8), geometry=geometry)
    correction, run, numbers = reading.edit(out.path, NAME, [disc_and_cup(60, 80)]), read_run(out.path), Numbers(out.path)

    def area() -> float | None:
        found = numbers.of(read_case(folder), run, correction)
        return next(one.value for one in found.measures if one.key == "disc_area")

    before = area()
    record = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    record["geometry"]["spacing_mm"] = [0.02, 0.02]
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    assert before
    assert area() == pytest.approx(4 * before), "predicted again with a size that was stated: the masks are the same"
    case = read_case(folder)
    assert numbers.known(case, correction) is not None
    assert numbers.known(case.with_eye("L"), correction) is None, "nasal is on the other side"
