"""Surfaces and boxes that a reviewer moved: what fits the case is stored whole, what does not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reports.results import ReportCase, read_case, read_run
from pipeline.review.case_facts import classes, drawn
from pipeline.review.corrections import Correction, CorrectionRecord, model_sha256, read_correction, write_correction
from pipeline.review.submitted import SentEdit, Unfit, correction_of
from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import LESIONS, Out

LAYERS = LabelMap(
    (LabelClass(1, "RNFL", (240, 228, 66)), LabelClass(2, "GCL", (86, 180, 233)), LabelClass(3, "fluid", (230, 159, 0))),
    layered=("RNFL", "GCL"),
    surfaces=("ILM", "RNFL-GCL", "GCL-IPL"),
)
OCT, PHOTOGRAPH = "pa_R_v1_i1", "pb_L_v1_i1"
RECORD = CorrectionRecord(case=OCT, base="ab" * 32)


@pytest.fixture
def oct_case(tmp_path: Path) -> ReportCase:
    """Two slices of 30 x 20 px with flat layers at 5, 10 and 15 px."""
    out = Out(tmp_path / "oct", LAYERS)
    mask = np.zeros((2, 30, 20), np.uint8)
    mask[:, 5:10], mask[:, 10:15] = 1, 2
    folder = out.add(OCT, mask, modality="oct")
    lines = [f"{at},{column},5.00,10.00,{'' if column == 3 else '15.00'}" for at in range(2) for column in range(20)]
    (folder / "surfaces.csv").write_text("\n".join(["slice,column,ILM,RNFL-GCL,GCL-IPL", *lines, ""]))
    return read_case(folder)


@pytest.fixture
def lesions(tmp_path: Path) -> ReportCase:
    out = Out(tmp_path / "lesions", LESIONS).detection()
    objects = [{"class": "exudate", "score": 0.9, "box": [1, 2, 9, 8]}, {"class": "exudate", "score": 0.2, "box": [20, 2, 29, 8]}]
    return read_case(out.add_objects(PHOTOGRAPH, (40, 60), objects))


def corrected(case: ReportCase, before: Correction | None = None, **sent: Any) -> Correction:
    return correction_of(SentEdit.model_validate({"version": 0} | sent), case, read_run(case.folder.parents[1]), RECORD, before)


def surface(name: str, depth: float | None, plane: int = 0, columns: int = 20) -> dict[str, Any]:
    return {"name": name, "plane": plane, "rows": [depth] * columns}


def test_moved_surfaces_replace_those_of_their_slice_and_the_others_stay(oct_case: ReportCase, tmp_path: Path) -> None:
    run = read_run(oct_case.folder.parents[1])
    assert [one["kind"] for one in classes(oct_case, run)] == ["surface", "surface", "mask"]
    told = drawn(oct_case, run, "", "", None)["surfaces"]
    assert [(one["name"], one["plane"]) for one in told[:3]] == [("ILM", 0), ("ILM", 1), ("RNFL-GCL", 0)]
    assert told[-1]["rows"][:5] == [15, 15, 15, None, 15]
    made = corrected(oct_case, surfaces=[surface("ILM", 4.5, 1), surface("GCL-IPL", None, 1)])
    found = read_correction(tmp_path, write_correction(tmp_path, made))
    assert found.surfaces["ILM"][:, 0].tolist() == [5, 4.5]
    assert np.isnan(found.surfaces["GCL-IPL"][1]).all()
    assert found.surfaces["GCL-IPL"][0, 0] == 15
    assert [mask.shape for mask in found.masks] == [(30, 20), (30, 20)]
    further = corrected(oct_case, found, surfaces=[surface("ILM", 3.0)])
    assert further.surfaces["ILM"][:, 0].tolist() == [3, 4.5]
    again = drawn(oct_case, run, "", "ab" * 32, found)
    assert again["planes"][1]["mask"] == f"/api/cases/{OCT}/corrections/{'ab' * 32}/mask_001.png"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([surface("ILM", 11.0)], "surface 'RNFL-GCL' lies above the one before it in slice 0"),
        ([surface("RNFL-GCL", None), surface("GCL-IPL", 4.0, 0)], "surface 'GCL-IPL' lies above the one before it"),
        ([surface("ILM", -1.0)], "surface 'ILM' leaves the picture in slice 0"),
        ([surface("GCL-IPL", 30.5)], "surface 'GCL-IPL' leaves the picture"),
        ([surface("ILM", 5.0, columns=19)], "surface 'ILM' has 19 columns in slice 0 where the case has 20 columns and 2 slices"),
        ([surface("ILM", 5.0, 2)], "surface 'ILM' has 20 columns in slice 2"),
        ([surface("RPE", 5.0)], "surface 'RPE' is none of this case: ILM, RNFL-GCL, GCL-IPL"),
    ],
)
def test_surfaces_stay_in_order_and_in_the_picture(oct_case: ReportCase, sent: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(Unfit) as refused:
        corrected(oct_case, surfaces=sent)
    assert str(refused.value).startswith(message)


def test_boxes_are_the_whole_list_and_new_ones_get_an_id(lesions: ReportCase) -> None:
    run = read_run(lesions.folder.parents[1])
    (found,) = drawn(lesions, run, "", "", None)["objects"]
    assert (found["id"], found["class"], found["score"], found["box"]) == (1, 2, 0.9, (1, 2, 9, 8))
    before = model_sha256(lesions.folder)
    made = corrected(lesions, objects=[found, {"class": 3, "score": None, "box": [10, 10, 60, 40]}])
    assert made.objects is not None
    assert [(one.id, one.name, one.score) for one in made.objects] == [(1, "exudate", 0.9), (2, "haemorrhage", None)]
    assert corrected(lesions, made).objects == made.objects
    assert corrected(lesions, made, objects=[]).objects == ()
    assert model_sha256(lesions.folder) == before


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{"class": 4, "box": [0, 0, 5, 5]}], "class 4 is none that this case has objects of: disc, exudate, haemorrhage"),
        ([{"class": 2, "box": [0, 0, 61, 5]}], "a box of class exudate is empty or leaves the picture"),
        ([{"class": 2, "box": [5, 5, 5, 9]}], "a box of class exudate is empty"),
        ([{"class": 2, "plane": 1, "box": [0, 0, 5, 5]}], "a box of class exudate is empty or leaves"),
        ([{"id": 1, "class": 2, "box": [0, 0, 5, 5]}] * 2, "two objects have the same id"),
    ],
)
def test_boxes_lie_in_the_picture_and_are_of_a_known_class(lesions: ReportCase, objects: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(Unfit) as refused:
        corrected(lesions, objects=objects)
    assert str(refused.value).startswith(message)
