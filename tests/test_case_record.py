"""One schema of a case's records: what is written is read back, and what does not fit is said by its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.types import Geometry
from pipeline.types.case_record import (
    CaseRecord,
    ClassRecord,
    DamagedObject,
    FluidRecord,
    GeometryRecord,
    ObjectRecord,
    ObjectsRecord,
    PlaneRecord,
    first_fault,
)

EYE = Geometry((2, 30, 40), (None, 0.004, 0.011), "tag", laterality="L", laterality_source="filename")


def record() -> CaseRecord:
    plane = PlaneRecord(index=0, image="image_000.png", mask="mask_000.png")
    return CaseRecord(
        case="pa_L_v1_i1",
        geometry=GeometryRecord.of(EYE),
        sha256="ab" * 32,
        classes={"fluid": ClassRecord(pixels=7, slices=1)},
        planes=(plane, plane),
        fluid_components={"fluid": FluidRecord(number=1, volume=7, unit="voxels")},
    )


def test_a_case_is_read_as_it_was_written_and_only_with_what_it_has(tmp_path: Path) -> None:
    written = record().to_json()
    assert written["classes"] == {"fluid": {"pixels": 7, "slices": 1}}, "no count of objects without a detector"
    assert "layers" not in written
    assert written["geometry"]["spacing_mm"] == (None, 0.004, 0.011)
    (tmp_path / "case.json").write_text(json.dumps(written | {"of_a_newer_version": 1}))
    assert CaseRecord.read(tmp_path) == record()
    assert CaseRecord.read(tmp_path).geometry.geometry() == EYE


def test_the_earlier_name_of_fluid_components_is_read(tmp_path: Path) -> None:
    written = record().to_json()
    written["pockets"] = written.pop("fluid_components")
    (tmp_path / "case.json").write_text(json.dumps(written))
    assert CaseRecord.read(tmp_path).fluid_components["fluid"].number == 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"sha256": "ab"}, "sha256"),
        ({"planes": []}, "planes"),
        ({"planes": [{"index": 0, "image": "../../image.png", "mask": "mask_000.png"}]}, "planes.0.image"),
        ({"seconds": float("nan")}, "seconds"),
        ({"modality": "x-ray"}, "modality"),
        ({"classes": {"fluid": {"pixels": -1}}}, "classes.fluid.pixels"),
        ({"geometry": {"shape": [2, 30, 40], "laterality": "both"}}, "geometry.laterality"),
    ],
)
def test_what_does_not_fit_is_said_by_its_key(tmp_path: Path, change: dict[str, object], key: str) -> None:
    (tmp_path / "case.json").write_text(json.dumps(record().to_json() | change))
    with pytest.raises(ValidationError) as error:
        CaseRecord.read(tmp_path)
    assert first_fault(error.value).startswith(f"{key}: ")


def test_a_damaged_object_or_threshold_leaves_the_others(tmp_path: Path) -> None:
    good = ObjectRecord.model_validate({"id": 1, "class": "exudate", "score": 0.9, "box": (1, 2, 3, 4), "area_px": None})
    ObjectsRecord(has_masks=False, thresholds={"exudate": 0.5}, objects=(good,)).write(tmp_path)
    written = json.loads((tmp_path / "objects.json").read_text())
    assert written["objects"] == [{"id": 1, "class": "exudate", "score": 0.9, "box": [1, 2, 3, 4], "area_px": None}]
    assert ObjectsRecord.read(tmp_path).objects == (good,)
    written["objects"] += [7, written["objects"][0] | {"score": 2}]
    written["thresholds"] |= {"haemorrhage": "high", "drusen": 1.5, "disc": True}
    (tmp_path / "objects.json").write_text(json.dumps(written))
    found = ObjectsRecord.read(tmp_path)
    assert [type(one) for one in found.objects] == [ObjectRecord, DamagedObject, DamagedObject]
    assert found.thresholds == {"exudate": 0.5, "haemorrhage": None, "drusen": None, "disc": None}
