"""A detection bundle over a folder: boxes, masks and scores as they reach the disk, and what other programs read of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.inference.folder import predict_folder
from pipeline.inference.object_files import MOST, FoundObject, FoundObjects, compact, gather_coco, write_objects
from pipeline.inference.predict import Predictor
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import read_image, write_png
from pipeline.types import CaseKey, Geometry, Prediction, Scan
from tests.inference.spots import KINDS, Spot, canvas, classes, spot_bundle

KEY = Pseudonyms(b"a site key for tests")
SPOTS: list[Spot] = [(5, 8, 6, 10, 0.8, 1), (20, 30, 5, 7, 0.6, 2), (28, 4, 4, 4, 0.2, 1), (30, 44, 3, 9, 1.0, 2)]
Use = Callable[..., Bundle]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    def chosen(**options: Any) -> Bundle:
        made = spot_bundle(tmp_path / "bundle", **options)
        monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
        return made

    return chosen


def put(root: Path, name: str, spots: list[Spot], count: int = 2) -> None:
    path = root / name / "V1" / "scan_OD.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, canvas(spots, count))


def run(tmp_path: Path, **options: Any) -> dict[str, int]:
    return predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / "out", device="cpu", pseudonyms=KEY, **options)


def only_case(tmp_path: Path) -> Path:
    (case,) = (tmp_path / "out" / "cases").iterdir()
    return case


def box_of(spot: Spot) -> list[int]:
    top, left, rows, columns, _, _ = spot
    return [left, top, left + columns, top + rows]


def test_every_file_of_a_case(tmp_path: Path, use: Use) -> None:
    use(thresholds={"kind1": 0.5, "kind2": 0.7})
    put(tmp_path / "scans", "P1", SPOTS)
    assert run(tmp_path)["done"] == 1
    case = only_case(tmp_path)
    assert sorted(p.name for p in case.iterdir()) == [
        "case.json",
        "coco.json",
        "image_000.png",
        "instances_000_1.png",
        "instances_000_2.png",
        "mask.nii.gz",
        "mask_000.png",
        "objects.json",
    ]
    listed = json.loads((case / "objects.json").read_text())
    assert (listed["has_masks"], listed["thresholds"]) == (True, {"kind1": 0.5, "kind2": 0.7})
    expected = [SPOTS[3], SPOTS[0], SPOTS[1], SPOTS[2]]
    assert listed["objects"] == [
        {
            "id": number,
            "plane": 0,
            "class": f"kind{spot[5]}",
            "score": pytest.approx(spot[4], abs=0.003),
            "box": box_of(spot),
            "area_px": spot[2] * spot[3],
            "size_mm": None,
        }
        for number, spot in enumerate(expected, 1)
    ]
    record = json.loads((case / "case.json").read_text())
    assert record["classes"] == {"kind1": {"pixels": 60, "slices": 1, "objects": 1}, "kind2": {"pixels": 27, "slices": 1, "objects": 1}}
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["task"] == "detection"


def test_instance_images_hold_the_ids_of_what_counts(tmp_path: Path, use: Use) -> None:
    use(thresholds={"kind1": 0.1, "kind2": 0.7})
    put(tmp_path / "scans", "P1", SPOTS)
    run(tmp_path)
    case = only_case(tmp_path)
    listed = {row["id"]: row for row in json.loads((case / "objects.json").read_text())["objects"]}
    union = np.zeros((40, 57), dtype=np.uint8)
    for index, wanted in ((1, {0, 2, 4}), (2, {0, 1})):
        ids = read_image(case / f"instances_000_{index}.png")
        assert ids.dtype == np.uint16
        assert set(np.unique(ids).tolist()) == wanted
        for number in wanted - {0}:
            rows, columns = np.nonzero(ids == number)
            assert listed[number]["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert listed[number]["area_px"] == len(rows)
        union |= np.where(ids > 0, np.uint8(index), np.uint8(0))  # class k is bit k - 1, and 1 and 2 are those bits
    assert (read_image(case / "mask_000.png") == union).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_coco_json_means_the_same_to_pycocotools(tmp_path: Path, use: Use) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    use()
    put(tmp_path / "scans", "P1", SPOTS)
    put(tmp_path / "scans", "P2", [])
    put(tmp_path / "scans", "P3", SPOTS[:2])
    run(tmp_path)
    whole = coco.COCO(str(tmp_path / "out" / "coco.json"))
    assert {c["id"]: c["name"] for c in whole.loadCats(whole.getCatIds())} == {1: "kind1", 2: "kind2"}
    assert len(whole.imgs) == 3
    assert sorted(len(whole.getAnnIds(imgIds=[image])) for image in whole.imgs) == [0, 2, 4]
    for image in whole.imgs.values():
        case = (tmp_path / "out" / image["file_name"]).parent
        assert (image["height"], image["width"]) == read_image(case / "image_000.png").shape[:2]
        own = coco.COCO(str(case / "coco.json"))
        objects = json.loads((case / "objects.json").read_text())["objects"]
        found = whole.loadAnns(whole.getAnnIds(imgIds=[image["id"]]))
        assert len(found) == len(own.anns) == len(objects)
        for annotation, row in zip(found, objects, strict=True):
            x1, y1, x2, y2 = row["box"]
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert (annotation["score"], annotation["area"]) == (row["score"], row["area_px"])
            expected = np.zeros((40, 57), dtype=np.uint8)
            expected[int(y1) : int(y2), int(x1) : int(x2)] = 1
            assert (whole.annToMask(annotation) == expected).all()
            assert (own.annToMask(own.anns[row["id"]]) == expected).all()
    assert len({a["id"] for a in whole.anns.values()}) == 6


def test_boxes_alone(tmp_path: Path, use: Use) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    use(masks=False)
    put(tmp_path / "scans", "P1", SPOTS)
    run(tmp_path)
    case = only_case(tmp_path)
    assert not list(case.glob("instances_*"))
    assert not read_image(case / "mask_000.png").any()
    listed = json.loads((case / "objects.json").read_text())
    assert listed["has_masks"] is False
    assert [row["area_px"] for row in listed["objects"]] == [None] * 4
    assert json.loads((case / "case.json").read_text())["classes"]["kind2"] == {"pixels": 0, "slices": 0, "objects": 2}
    whole = coco.COCO(str(tmp_path / "out" / "coco.json"))
    assert [a["area"] for a in whole.anns.values()] == [27, 60, 35, 16]


def test_where_nothing_is_found_every_file_is_there(tmp_path: Path, use: Use) -> None:
    use()
    put(tmp_path / "scans", "P1", [])
    run(tmp_path)
    case = only_case(tmp_path)
    assert json.loads((case / "objects.json").read_text())["objects"] == []
    for index in (1, 2):
        assert not read_image(case / f"instances_000_{index}.png").any()
    whole = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert (len(whole["images"]), whole["annotations"]) == (1, [])


def test_twenty_classes(tmp_path: Path, use: Use) -> None:
    use(label_map=classes(20))
    spots: list[Spot] = [(5, 8, 6, 10, 0.8, 17), (20, 30, 5, 7, 0.9, 20)]
    put(tmp_path / "scans", "P1", spots, 20)
    assert run(tmp_path)["done"] == 1
    case = only_case(tmp_path)
    assert len(list(case.glob("instances_*"))) == 20
    assert set(np.unique(read_image(case / "mask_000.png")).tolist()) == {0, 17, 20}
    assert read_image(case / "instances_000_17.png")[7, 9] == 2
    use(label_map=classes(20, overlapping=True))
    with pytest.raises(ConfigError, match="20 overlapping classes"):
        predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / "other", device="cpu", pseudonyms=KEY)


def test_a_volume_slice_by_slice_with_sizes_in_millimetres(tmp_path: Path, use: Use) -> None:
    use(modality="oct", input_channels=1)
    pixels = np.zeros((3, 18, 29), dtype=np.uint8)
    pixels[0, 4:8, 3:9] = 255
    pixels[2, 6:9, 10:14] = 255
    pixels[2, 12:16, 20:26] = 150
    pixels[:, 0, 0] = 255
    path = tmp_path / "scans" / "P1" / "V1" / "cube.nii.gz"
    path.parent.mkdir(parents=True)
    write_nifti(path, pixels, Geometry((3, 18, 29), (0.24, 0.004, 0.012), "tag"))
    assert run(tmp_path)["done"] == 1
    case = only_case(tmp_path)
    rows = json.loads((case / "objects.json").read_text())["objects"]
    assert [(row["id"], row["plane"], row["box"]) for row in rows] == [
        (1, 0, [3, 4, 9, 8]),
        (2, 2, [10, 6, 14, 9]),
        (3, 2, [20, 12, 26, 16]),
    ]
    assert rows[0]["size_mm"] == pytest.approx([6 * 0.012, 4 * 0.004], abs=1e-4)
    assert [set(np.unique(read_image(case / f"instances_{plane:03d}_1.png")).tolist()) for plane in range(3)] == [{0, 1}, {0}, {0, 2, 3}]
    assert json.loads((case / "case.json").read_text())["classes"]["kind1"] == {"pixels": 24 + 12 + 24, "slices": 2, "objects": 3}
    whole = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["id"] for image in whole["images"]] == [1, 2, 3]
    assert [found["image_id"] for found in whole["annotations"]] == [1, 3, 3]


def test_outside_the_field_of_view_is_nothing(tmp_path: Path) -> None:
    predictor = Predictor(spot_bundle(tmp_path, field_of_view="card"))
    pixels = np.moveaxis(canvas(SPOTS), -1, 0)
    view = np.zeros((40, 57), dtype=bool)
    view[:24, :14] = True  # the first spot's centre, not all of its columns
    view[0, 0] = True
    scan = Scan(pixels, Geometry((40, 57)), "fundus", CaseKey("p", "R", "v", "i"), "a" * 64)
    # Normalised inside the view alone, the first spot is the brightest there is but for the first pixel.
    prediction = predictor.predict(scan, valid=view)
    assert prediction.boxes is not None
    assert prediction.instance_masks is not None
    assert prediction.boxes.tolist() == [[8, 5, 14, 11]]
    assert prediction.instance_masks.sum() == 6 * 6


def test_a_mask_is_cut_by_the_field_of_view_and_its_box_is_not() -> None:
    from pipeline.tasks.fov import restrict_to_fov

    masks = np.zeros((3, 20, 31), dtype=bool)
    masks[0, 2:8, 3:11] = masks[1, 10:14, 20:30] = masks[2, 0:4, 25:31] = True
    boxes = np.array([[3, 2, 11, 8], [20, 10, 30, 14], [25, 0, 31, 4]], dtype=np.float32)
    prediction = Prediction(
        boxes=boxes, labels=np.array([1, 2, 1]), scores=np.array([0.9, 0.8, 0.7], dtype=np.float32), instance_masks=masks
    )
    valid = np.zeros((20, 31), dtype=bool)
    valid[:, :8] = True
    valid[2:, 24:] = True
    kept = restrict_to_fov(prediction, valid)
    assert kept.boxes is not None
    assert kept.labels is not None
    assert kept.instance_masks is not None
    assert kept.boxes.tolist() == boxes.tolist()
    assert [int(mask.sum()) for mask in kept.instance_masks] == [6 * 5, 4 * 6, 2 * 6]
    valid[:, 24:] = False
    kept = restrict_to_fov(prediction, valid)
    assert kept.labels is not None
    assert kept.labels.tolist() == [1]


def test_where_two_overlap_the_likelier_has_the_pixel(tmp_path: Path) -> None:
    masks = np.zeros((3, 20, 31), dtype=bool)
    masks[0, 2:8, 3:11] = masks[1, 4:12, 6:20] = masks[2, 3:5, 4:8] = True
    prediction = Prediction(
        boxes=np.array([[3, 2, 11, 8], [6, 4, 20, 12], [4, 3, 8, 5]], dtype=np.float32),
        labels=np.array([1, 1, 2]),
        scores=np.array([0.6, 0.9, 0.5], dtype=np.float32),
        instance_masks=masks,
    )
    found = FoundObjects.of([compact(prediction, 0)], True, KINDS, {"kind1": 0.6, "kind2": 0.55})
    write_objects(tmp_path, found, KINDS, Geometry((20, 31)), "b" * 12, ["image_000.png"])
    expected = np.zeros((20, 31), dtype=np.uint16)
    expected[masks[0]] = 2
    expected[masks[1]] = 1
    assert (read_image(tmp_path / "instances_000_1.png") == expected).all()
    assert not read_image(tmp_path / "instances_000_2.png").any()
    # 0.6 as float32 is a little less than 0.6; it counts all the same, as it does in the mask.
    assert json.loads((tmp_path / "objects.json").read_text())["objects"][1]["score"] == 0.6


def test_ids_fit_into_sixteen_bits() -> None:
    many = [FoundObject(0, 1, (n % 999) / 1000, (0.0, 0.0, 1.0, 1.0), None) for n in range(MOST + 5)]
    found = FoundObjects.of([many], False, KINDS, {})
    assert len(found.objects) == MOST == 65535
    assert found.objects[0].score == 0.998
    assert found.thresholds == {"kind1": 0.5, "kind2": 0.5}


def test_probabilities_are_refused(tmp_path: Path, use: Use) -> None:
    use()
    put(tmp_path / "scans", "P1", SPOTS)
    with pytest.raises(ConfigError, match="none of pixels; leave the option out"):
        run(tmp_path, probabilities=True)


def test_started_again_the_whole_file_knows_old_and_new(tmp_path: Path, use: Use) -> None:
    use()
    put(tmp_path / "scans", "P1", SPOTS)
    run(tmp_path)
    first = only_case(tmp_path)
    stamp = (first / "objects.json").stat().st_mtime_ns
    put(tmp_path / "scans", "P2", SPOTS[:1])
    (tmp_path / "out" / "coco.json").unlink()  # killed before it was written
    assert run(tmp_path)["done"] == 2
    assert (first / "objects.json").stat().st_mtime_ns == stamp
    whole = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert (len(whole["images"]), len(whole["annotations"])) == (2, 5)
    again = (tmp_path / "out" / "coco.json").read_bytes()
    run(tmp_path)
    assert (tmp_path / "out" / "coco.json").read_bytes() == again


def test_a_spoilt_case_is_left_out_of_the_whole_and_said(tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture) -> None:
    use()
    put(tmp_path / "scans", "P1", SPOTS)
    put(tmp_path / "scans", "P2", SPOTS[:1])
    run(tmp_path)
    spoilt = min((tmp_path / "out" / "cases").iterdir())
    left = len(json.loads((max((tmp_path / "out" / "cases").iterdir()) / "coco.json").read_text())["annotations"])
    (spoilt / "coco.json").write_text("[]")
    gather_coco(tmp_path / "out")
    whole = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert (len(whole["images"]), len(whole["annotations"])) == (1, left)
    assert caplog.text.count(spoilt.name) == 1
    assert str(tmp_path) not in caplog.text
