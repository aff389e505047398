"""Objects from files of every kind."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cards.coco import from_coco
from pipeline.cards.object_files import from_components, from_instance_ids, from_masks, from_yolo
from pipeline.cards.plain_text import read_plain_text
from pipeline.errors import CardError, LabelFileError

PLANE = (20, 30)


def test_components_touch_by_corners_or_are_one() -> None:
    layer = np.zeros(PLANE, dtype=bool)
    layer[2:5, 3:8] = layer[5, 8] = True  # a corner is enough
    layer[15, 20] = True
    parts = from_components(layer, 2)
    assert parts.boxes.tolist() == [[3, 2, 9, 6], [20, 15, 21, 16]]
    assert parts.labels.tolist() == [2, 2]
    assert parts.masks is not None
    assert [int(mask.sum()) for mask in parts.masks] == [16, 1]
    whole = from_components(layer, 2, "one")
    assert whole.boxes.tolist() == [[3, 2, 21, 16]]
    assert whole.masks is not None
    assert int(whole.masks[0].sum()) == 17
    for way in ("components", "one"):
        nothing = from_components(layer & False, 1, way)  # type: ignore[arg-type]
        assert (len(nothing), nothing.masks) == (0, [])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_instance_numbers_may_be_apart_and_far(dtype: type) -> None:
    numbers = np.zeros(PLANE, dtype=dtype)
    numbers[1:3, 2:6] = 3
    numbers[10, 25] = 3  # the same object on the other side of a vessel
    numbers[1:3, 6:8] = np.iinfo(dtype).max  # touches the first and is another
    objects = from_instance_ids(numbers, 1)
    assert objects.boxes.tolist() == [[2, 1, 26, 11], [6, 1, 8, 3]]
    assert objects.masks is not None
    assert [int(mask.sum()) for mask in objects.masks] == [9, 4]
    assert len(from_instance_ids(np.zeros(PLANE, dtype), 1)) == 0
    assert len(from_instance_ids(numbers.astype(np.float64), 1)) == 2
    assert from_instance_ids(np.full(PLANE, 7, dtype), 1).boxes.tolist() == [[0, 0, 30, 20]]


@pytest.mark.parametrize(
    "stored",
    [np.full(PLANE, 0.5, np.float32), np.full(PLANE, -1, np.int16), np.zeros((*PLANE, 3), np.uint8) + np.arange(3, dtype=np.uint8)],
)
def test_images_that_number_nothing(stored: np.ndarray) -> None:
    with pytest.raises(CardError, match="the card says instances"):
        from_instance_ids(stored, 1)


def test_one_mask_a_file() -> None:
    first, second, empty = (np.zeros(PLANE, np.uint8) for _ in range(3))
    first[3:9, 4:6] = 255
    second[5:7, 0:9] = 200
    objects = from_masks([first, second, empty], PLANE, 3, 201)
    assert objects.boxes.tolist() == [[4, 3, 6, 9]]
    assert len(from_masks([first, second, empty], PLANE, 3, 1)) == 2
    with pytest.raises(CardError, match="a mask is 30 x 20, but the image is 20 x 30"):
        from_masks([first.T], PLANE, 3, 1)


def test_yolo_lines_are_fractions_of_the_image() -> None:
    objects = from_yolo("0 0.5 0.5 0.2 0.1\n\n  4 0.1 0.25 0.2 0.5  \n7 0.5 0.5 1 1\n", PLANE, {0: 1, 4: 3, 7: 0})
    assert np.allclose(objects.boxes, [[12, 9, 18, 11], [0, 0, 6, 10]], atol=1e-5)
    assert objects.labels.tolist() == [1, 3]
    assert objects.masks is None
    assert len(from_yolo("", PLANE, {0: 1})) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2", "line 2 is not: class centre_x centre_y width height"),
        ("0 0.5 0.5 0.2 0.1 0.9", "line 2 has a sixth number"),
        ("0 0.5 0.5 0.2 0.1 0.2 0.3 0.4", "line 2 is not"),
        ("0,0.5,0.5,0.2,0.1", "line 2 is not"),
        ("disc 0.5 0.5 0.2 0.1", "line 2 is not"),
        ("1.5 0.5 0.5 0.2 0.1", "line 2 is not"),
        ("1 0.5 0.5 0.2 0.1", "line 2 has class 1"),
        ("0 0.5 0.5 0 0.1", "line 2 is an empty box"),
        ("0 1.5 0.5 0.2 0.1", "line 2 .* reaches outside"),
        ("0 2.5 0.5 0.2 0.1", "line 2 is a box outside"),
        ("0 0.5 nan 0.2 0.1", "line 2 is a box outside"),
        ("0 0.5 0.5 inf 0.1", "line 2 is a box outside"),
        ("0 15 10 6 2", "fractions"),
        ("0 0.99 0.5 0.2 0.1", "line 2 .* reaches outside"),
    ],
)
def test_lines_that_are_no_boxes(line: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        from_yolo(f"0 0.5 0.5 0.2 0.1\n{line}\n", PLANE, {0: 1})


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("4.0 0.5 0.5 0.2 0.1", [12, 9, 18, 11]),
        ("4 0,5 0,5 0,2 0,1", [12, 9, 18, 11]),
        ("4 0.5 0.5 1.0000003 0.1", [0, 9, 30, 11]),
        ("4 0.9 0.5 0.2000008 0.1", [24, 9, 30, 11]),
        ("4 0.4 0.45 0.6 0.45 0.6 0.55 0.4 0.55", [12, 9, 18, 11]),
        ("4 0.5 0.45 0.6 0.5 0.4 0.55", [12, 9, 18, 11]),
    ],
)
def test_yolo_lines_whose_meaning_is_clear(line: str, box: list[float]) -> None:
    assert np.allclose(from_yolo(f"{line}\r\n\r\n", PLANE, {4: 1}).boxes, [box], atol=1e-4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_by_its_mark_and_else_named_by_its_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("M\u00fcller\r\n0".encode(encoding))
    assert read_plain_text(path).splitlines() == ["M\u00fcller", "0"]
    for wrong in ("one\nM\u00fcller".encode("latin-1"), b"one\n" + "two".encode("utf-16-le"), "one\n".encode("utf-16") + b"\x00\xd8x"):
        path.write_bytes(wrong)
        with pytest.raises(CardError, match=r"line 2 is not UTF-\d+ text; save the file as UTF-8"):
            read_plain_text(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CardError, match="not a regular file"):
        read_plain_text(tmp_path / "pipe")


def coco(path: Path, *annotations: dict[str, Any], images: list[dict[str, Any]] | None = None) -> Path:
    entries = images or [
        {"id": 7, "file_name": "photos/a.png", "height": 20, "width": 30},
        {"id": 8, "file_name": "b.png", "height": 20, "width": 30},
    ]
    listed = [{"id": number, "image_id": 7, "category_id": 5} | a for number, a in enumerate(annotations, 1)]
    categories = [{"id": 5, "name": "haemorrhage"}, {"id": 6, "name": "drusen"}]
    path.write_text(json.dumps({"images": entries, "annotations": listed, "categories": categories}), encoding="utf-8")
    return path


RECTANGLE = [[4, 3, 10, 3, 10, 8, 4, 8]]
CLASSES = {"haemorrhage": 2, "drusen": 0}


def read(path: Path, image: str = "a.png", plane: tuple[int, int] = PLANE, *, empty: bool = False) -> Any:
    return from_coco(path, Path("set") / image, plane, CLASSES, unlisted_is_empty=empty)


def test_polygons_and_both_kinds_of_run_lengths_draw_the_same(tmp_path: Path) -> None:
    from pycocotools import mask as reference

    wanted = np.zeros(PLANE, dtype=np.uint8)
    wanted[3:8, 4:10] = 1
    flat = wanted.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    packed = reference.encode(np.asfortranarray(wanted))["counts"].decode()
    shapes = [RECTANGLE, {"size": [20, 30], "counts": counts}, {"size": [20, 30], "counts": packed}]
    objects = read(coco(tmp_path / "c.json", *({"segmentation": s, "bbox": [4, 3, 6, 5]} for s in shapes)))
    assert objects.boxes.tolist() == [[4, 3, 10, 8]] * 3
    assert objects.labels.tolist() == [2, 2, 2]
    assert all(mask.all() and mask.shape == (5, 6) for mask in objects.masks)
    two = [[4, 3, 10, 3, 10, 8, 4, 8], [20, 10, 24, 10, 24, 14, 20, 14]]
    (mask,) = read(coco(tmp_path / "d.json", {"segmentation": two})).masks
    assert (mask.shape, int(mask.sum())) == ((11, 20), 30 + 16)


def test_boxes_alone_and_an_image_without_objects(tmp_path: Path) -> None:
    path = coco(
        tmp_path / "c.json",
        {"bbox": [4.5, 3, 6, 5]},
        {"bbox": [1, 1, 2, 2], "segmentation": RECTANGLE},
        {"bbox": [0, 0, 9, 9], "category_id": 6},
    )
    objects = read(path)
    assert objects.masks is None, "one object without a mask, and the file is one of boxes"
    assert objects.boxes.tolist() == [[4.5, 3, 10.5, 8], [1, 1, 3, 3]], "drusen are left out, as the card says"
    assert (len(read(path, "b.png")), read(path, "b.png").masks) == (0, None)
    with pytest.raises(CardError, match="does not list this image"):
        read(path, "c.png")
    assert len(read(path, "c.png", empty=True)) == 0


def test_crowds_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crowd = {"iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [0, 600]}}
    with caplog.at_level(logging.WARNING):
        assert len(read(coco(tmp_path / "c.json", crowd, {"segmentation": RECTANGLE}))) == 1
    assert "marks 1 objects as crowds" in caplog.text


def test_what_a_file_says_and_nobody_gets_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = {"bbox": [4, 3, 6, 5]}
    with caplog.at_level(logging.WARNING):
        assert len(read(coco(tmp_path / "a.json", boxes, boxes))) == 2
        assert not caplog.text
        assert len(read(coco(tmp_path / "b.json", boxes, boxes | {"image_id": 99}))) == 1
        assert read(coco(tmp_path / "c.json", boxes, *[boxes | {"segmentation": RECTANGLE}] * 2)).masks is None
    orphans, bare = caplog.messages
    assert orphans == "a COCO file has 1 objects of images that it does not list; they are left out"
    assert (
        bare
        == "a COCO file has 1 objects without a mask among others with one (the first: object 1); only the boxes of all objects are used"
    )


@pytest.mark.parametrize(
    ("images", "annotation"),
    [
        ([{"id": "7", "file_name": "a.png", "height": 20, "width": 30}], {}),
        ([{"id": 7.0, "file_name": "a.png", "height": "20", "width": 30.0}], {"image_id": "7", "category_id": "5"}),
        ([{"id": 7, "file_name": "a.png"}], {}),
        ([{"id": 7, "file_name": "a.png", "height": None, "width": None}], {"iscrowd": "0"}),
        ([{"id": 7, "file_name": "..\\..\\media\\upload\\4\\a.png"}], {}),
        ([{"id": 7, "file_name": "data/local-files/?d=photos%5Ca.png"}, {"id": 8, "file_name": "data/local-files/?d=photos%5Cb.png"}], {}),
        ([{"id": 7, "file_name": "https://host/x%20y/a.png?sig=b.png#c"}], {}),
        ([{"id": 7, "file_name": "photos/3f9a1c2e-a.png"}, {"id": 8, "file_name": "photos/00000000-b.png"}], {}),
    ],
)
def test_entries_of_other_tools_are_the_same_image(tmp_path: Path, images: list[dict[str, Any]], annotation: dict[str, Any]) -> None:
    path = coco(tmp_path / "c.json", {"segmentation": RECTANGLE, "bbox": [4, 3, 6, 5]} | annotation, images=images)
    assert read(path).boxes.tolist() == [[4, 3, 10, 8]]
    assert read(path).labels.tolist() == [2]


def test_a_name_is_one_whichever_way_its_letters_are_composed(tmp_path: Path) -> None:
    composed, apart = "M\u00fcller.png", "Mu\u0308ller.png"
    for listed, lies in ((composed, apart), (apart, composed)):
        path = coco(tmp_path / f"{len(listed)}.json", {"bbox": [1, 1, 2, 2]}, images=[{"id": 7, "file_name": listed}])
        assert len(read(path, lies)) == 1


def test_a_prefix_is_no_upload_s_where_one_name_has_none(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "3f9a1c2e-a.png"}, {"id": 8, "file_name": "b.png"}]
    with pytest.raises(CardError, match="does not list this image"):
        read(coco(tmp_path / "c.json", {"bbox": [1, 1, 2, 2]}, images=images))


def test_outlines_past_the_edge_are_cut_where_the_file_states_the_picture_s_size(tmp_path: Path) -> None:
    past = {"segmentation": [[20, 3, 40, 3, 40, 8, 20, 8]]}
    assert read(coco(tmp_path / "a.json", past)).boxes.tolist() == [[20, 3, 30, 8]]
    with pytest.raises(CardError, match="outline of COCO object 1 reaches outside its image"):
        read(coco(tmp_path / "b.json", past, images=[{"id": 7, "file_name": "a.png"}]))


def test_leftover_points_beside_an_outline_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = read(coco(tmp_path / "c.json", {"segmentation": [*RECTANGLE, [20, 10, 22, 12], [5, 5]]}))
    assert objects.boxes.tolist() == [[4, 3, 10, 8]]
    assert "has 2 outlines of one or two points beside whole ones" in caplog.text


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert len(read(coco(path, {"bbox": [1, 1, 2, 2]}))) == 1
    assert len(read(coco(path, {"bbox": [1, 1, 2, 2]}, {"bbox": [1, 1, 2, 2]}))) == 2


def test_images_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{folder}/a.png", "height": 20, "width": 30} for n, folder in ((7, "left"), (8, "right"))]
    path = coco(tmp_path / "c.json", {"bbox": [1, 1, 2, 2]}, images=images)
    assert [len(read(path, f"{folder}/a.png")) for folder in ("left", "right")] == [1, 0]
    with pytest.raises(CardError, match="several images of this name"):
        read(path, "up/a.png")


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"bbox": [1, 2, 0, 4]}, "has no area"),
        ({"bbox": [1, 2, 3]}, r"COCO object 1 is not \[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "not finite"),
        ({"bbox": [25, 2, 30, 4]}, "reaches outside"),
        ({"bbox": [1, 2, 1e300, 4]}, "not finite"),
        ({}, "bbox of COCO object 1"),
        ({"bbox": [1, 1, 2, 2], "category_id": 99}, "has category_id 99, which the file's categories do not list"),
        ({"segmentation": [[1, 1, 2]]}, "COCO object 1 cannot be drawn"),
        ({"segmentation": [[1, 1, 2, 2, 1e9, 4]]}, "reaches outside"),
        ({"segmentation": [[1, 1, 2, 2, float("nan"), 4]]}, "cannot be drawn"),
        ({"segmentation": [[1, 1, 9, 9]]}, "has 2 points, which enclose nothing"),
        ({"segmentation": [[31, 1, 36, 1, 36, 9]]}, "holds no pixel of its image .it reaches from 31, 1 to 36, 9"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "COCO object 1 holds no pixel"),
        ({"segmentation": {"size": [30, 20], "counts": [0, 600]}}, "but the image is"),
        ({"segmentation": {"size": [20, 30], "counts": [0, 6]}}, "cannot be drawn"),
        ({"segmentation": {"size": [20, 30], "counts": "zz"}}, "cannot be drawn"),
        ({"segmentation": {"size": [20, 30], "counts": [0, -6, 606]}}, "cannot be drawn"),
        ({"segmentation": {"size": [20, 30]}}, "cannot be drawn"),
    ],
)
def test_coco_objects_that_are_none(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    with pytest.raises(CardError, match=said):
        read(coco(tmp_path / "c.json", annotation))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["images"][1].pop("file_name"), "images[1] has no 'file_name'"),
        (lambda data: data["images"][1].update(id="7"), "images: 1 ids occur more than once, the first is '7'"),
        (lambda data: data["images"][0].update(height="tall"), "images[0]: height and width are 'tall' and 30"),
        (lambda data: data["categories"].append({"id": 5.0, "name": "x"}), "categories[2]: an earlier category has the same id"),
        (lambda data: data["annotations"][0].pop("image_id"), "annotations[0] has no 'image_id'"),
        (lambda data: data["annotations"][0].update(image_id="x7"), "annotations: none belongs to an image"),
        (lambda data: data.update(annotations={}), "'annotations' is not a list"),
        (lambda data: data.pop("annotations"), "the key 'annotations' is missing"),
        (lambda data: data["annotations"].insert(0, 3), "annotations[0] holds no keys"),
    ],
)
def test_a_fault_of_the_file_names_its_key_and_the_file(tmp_path: Path, change: Any, said: str) -> None:
    path = coco(tmp_path / "c.json", {"bbox": [1, 1, 2, 2]})
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(LabelFileError) as caught:
        read(path)
    assert said in caught.value.fault
    assert caught.value.path == path


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3, "annotations": [], "categories": []}', "[" * 100_000])
def test_files_that_are_no_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CardError, match="not COCO JSON"):
        read(tmp_path / "c.json")


def test_another_size_than_the_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="says 30 x 20 pixels, but the image has 60 x 40"):
        read(coco(tmp_path / "c.json", {"bbox": [1, 1, 2, 2]}), plane=(40, 60))
