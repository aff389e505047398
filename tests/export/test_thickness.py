"""Thickness maps: what the surfaces say, in um, and the sectors as they were measured."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.export.case import Settings
from pipeline.export.run import Exported, Predictions, export_folder
from pipeline.scans.raster import read_image
from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import Out

LAYERS = LabelMap(
    (LabelClass(1, "RNFL", (213, 94, 0)), LabelClass(2, "rest", (230, 159, 0))),
    layered=("RNFL", "rest"),
    surfaces=("ILM", "RNFL-GCL", "BM"),
)
CASE, OTHER = "a_R_v_i", "b_L_v_i"


def exported(folder: Path, spacing: list[float | None] | None, **record: Any) -> Exported:
    """Of a volume of 2 B-scans with 4 columns whose nerve fibres are 2 and 3 rows thick; the last column has no BM."""
    out = Out(folder / "out", LAYERS)
    geometry = {"spacing_mm": spacing, "spacing_source": "tag" if spacing else "unknown"}
    case = out.add(CASE, np.ones((2, 20, 4), np.int64), geometry=geometry, modality="oct", **record)
    lines = [f"{at},{column},4.00,{6 + at}.00,{'' if column == 3 else '14.00'}" for at in range(2) for column in range(4)]
    (case / "surfaces.csv").write_text("\n".join(["slice,column,ILM,RNFL-GCL,BM", *lines, ""]), encoding="utf-8")
    return Predictions(out.path, Settings(("thickness",))).export(CASE, folder / "maps" / CASE)


def test_maps_are_in_micrometres_and_sectors_as_measured(tmp_path: Path) -> None:
    measure = {"title": "central subfield thickness", "value": 40.5, "unit": "um", "definition": "mean"}
    none = {"title": "RNFL: ETDRS centre", "value": None, "unit": "um", "definition": "mean", "undefined": "small"}
    done = exported(tmp_path, [0.25, 0.004, 0.01], measures=[{"key": "retina_centre"} | measure, {"key": "etdrs_centre_rnfl"} | none])
    names = ["thickness.npz", "thickness_00.png", "thickness_01.png", "thickness_02.png", "etdrs.csv"]
    assert [path.name for path in done.files] == names
    folder = done.files[0].parent
    with np.load(folder / "thickness.npz") as maps:
        assert (str(maps["unit"]), list(maps["layers"])) == ("um", ["RNFL", "rest", "retina"])
        np.testing.assert_allclose(maps["map_RNFL"], [[8] * 4, [12] * 4], rtol=1e-6)
        np.testing.assert_allclose(maps["map_retina"], [[40, 40, 40, np.nan]] * 2, rtol=1e-6)
    assert read_image(folder / "thickness_02.png").tolist() == [[20, 20, 20, 0]] * 2  # 40 of 500 um
    with (folder / "etdrs.csv").open(newline="") as file:
        rows = {row["key"]: (row["value"], row["unit"], row["reason"]) for row in csv.DictReader(file)}
    assert rows == {"retina_centre": ("40.5", "um", ""), "etdrs_centre_rnfl": ("", "um", "small")}


def test_without_a_scale_maps_are_in_pixels_and_what_is_withheld_has_none(tmp_path: Path) -> None:
    flag = {"code": "layer_order", "severity": "error", "text": "out of order", "classes": ["rest"], "withholds": True}
    done = exported(tmp_path, None, flags=[flag])
    with np.load(done.files[0]) as maps:
        assert (str(maps["unit"]), list(maps["layers"])) == ("px", ["RNFL"])
        assert maps["map_RNFL"].tolist() == [[2] * 4, [3] * 4]


def test_a_batch_has_one_table(tmp_path: Path) -> None:
    measure = {"key": "retina_centre", "title": "CST", "value": 40.5, "unit": "um", "definition": "mean"}
    exported(tmp_path, None, measures=[measure])
    out = tmp_path / "maps"
    shutil.copytree(tmp_path / "out" / "cases" / CASE, tmp_path / "out" / "cases" / OTHER)
    record = tmp_path / "out" / "cases" / OTHER / "case.json"
    record.write_text(record.read_text().replace(CASE, OTHER))
    ledger = tmp_path / "out" / "ledger.csv"
    ledger.write_text(ledger.read_text() + ledger.read_text().splitlines()[1].replace(CASE, OTHER).replace("token0", "token1") + "\n")
    export_folder(Predictions(tmp_path / "out", Settings(("thickness",))), out)
    with (out / "etdrs.csv").open(newline="") as file:
        assert [(row["case"], row["value"]) for row in csv.DictReader(file)] == [(CASE, "40.5"), (OTHER, "40.5")]


def test_what_has_no_layers_is_left_out_and_said(tmp_path: Path) -> None:
    out = Out(tmp_path / "out")
    out.add(CASE, np.ones((8, 9), np.int64))
    done = Predictions(out.path, Settings(("thickness",))).export(CASE, tmp_path / "maps")
    assert done.notes == ("thickness: not exported, it is no volume in which layers were looked for",)
