"""Numbered objects whose classes a table gives, in the arrangements that such tables have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cards.card import DataCard
from pipeline.cards.check import check_card
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.errors import CardError, LabelFileError
from pipeline.scans.raster import write_png
from tests.cards.conftest import make_card, picture

NUMBERS = np.zeros((40, 56), np.uint16)
NUMBERS[2:8, 3:10] = 7  # 42 px
NUMBERS[20:24, 30:40] = 300  # 40 px
NUMBERS[20:24, 44:50] = 300  # the same object, elsewhere
NUMBERS[30, 5] = 12  # 1 px
NUMBERS[:, 55] = 65535
KINDS = {7: "MA", 300: "EX", 12: "MA"}


def card(classes_from: dict[str, Any] | None, **settings: Any) -> DataCard:
    table = None if classes_from is None else {"values": {"MA": "microaneurysm", "EX": "exudate"}, **classes_from}
    label = {"kind": "instances", "file": "ids/{name}.png", "classes_from": table, **settings}
    return make_card(
        images={"file": "images/{name}.png"},
        classes=[{"name": name, "colour": [86, 180, 233]} for name in ("microaneurysm", "exudate")],
        labels=[{key: value for key, value in label.items() if value is not None}],
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for n in range(3):
        for folder, array in (("images", picture(n, (40, 56))), ("ids", NUMBERS)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_png(tmp_path / folder / f"p{n}.png", array)
    return tmp_path


def counted(card: DataCard, root: Path) -> Counter[str]:
    case = find_cases(card, root)[0]
    (objects,) = read_truth(card, case, objects=True).objects or ()
    return Counter(card.label_map.names[label - 1] for label in objects.labels.tolist())


def entries(**extra: Any) -> list[dict[str, Any]]:
    return [{"id": number, "category": kind, "bbox": [0, 0, 1, 1], **extra} for number, kind in KINDS.items()]


ARRANGEMENTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "a list an image": ("ids/p{n}.json", entries(), {"json": "ids/{name}.json"}),
    "under a key": ("ids/p{n}.json", {"a": {"marks": entries()}}, {"json": "ids/{name}.json", "path": "a.marks"}),
    "by number": ("ids/p{n}.json", {str(k): {"kind": v} for k, v in KINDS.items()}, {"json": "ids/{name}.json", "category": "kind"}),
    "number to class": ("ids/p{n}.json", {str(k): v for k, v in KINDS.items()}, {"json": "{name}.json".join(("ids/", ""))}),
    "one file by name": ("all.json", {f"p{n}": entries() for n in range(3)}, {"json": "all.json", "path": "{name}"}),
    "panoptic": (
        "all.json",
        {"annotations": [{"file_name": f"p{n}.png", "segments_info": entries()} for n in range(2, -1, -1)]},
        {"json": "all.json", "path": "annotations.segments_info", "image": "file_name"},
    ),
    "rows": ("all.csv", [f"p{n}.jpg,{k},{v}" for n in range(3) for k, v in KINDS.items()], {"csv": "all.csv", "image": "image"}),
    "codes": (
        "ids/p{n}.json",
        [{"id": k, "category": {"code": 1 if v == "MA" else 2.0}} for k, v in KINDS.items()],
        {"json": "ids/{name}.json", "category": "category.code", "values": {1: "microaneurysm", 2: "exudate"}},
    ),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_the_class_of_each_object_stands_in_a_table(root: Path, name: str) -> None:
    file, content, said = ARRANGEMENTS[name]
    for n in range(3):
        text = "\n".join(["image,id,category", *content]) if file.endswith("csv") else json.dumps(content)
        (root / file.format(n=n)).write_text(text, encoding="utf-8")
    made = card(said, leave_out=[65535])
    assert counted(made, root) == {"microaneurysm": 2, "exudate": 1}
    assert check_card(made, root) == []
    mask = read_truth(made, find_cases(made, root)[0]).mask
    assert mask is not None
    assert np.array_equal(mask == 2, NUMBERS == 300)
    assert np.array_equal(mask == 1, (NUMBERS == 7) | (NUMBERS == 12))


def test_marks_and_areas_are_left_out(root: Path) -> None:
    marked = [*entries(sure=True)[:2], {"id": 12, "category": "MA", "sure": False}]
    (root / "all.json").write_text(json.dumps(marked), encoding="utf-8")
    table = {"json": "all.json", "unlisted": "background"}
    assert counted(card(table), root) == {"microaneurysm": 2, "exudate": 1}
    assert counted(card(table | {"leave_out": {"sure": [False]}}), root) == {"microaneurysm": 1, "exudate": 1}
    assert counted(card(table, min_area_px=2), root) == {"microaneurysm": 1, "exudate": 1}
    assert counted(card(table, max_area_px=42), root) == {"microaneurysm": 2}
    assert counted(card(table | {"values": {"MA": "background", "EX": "exudate"}}), root) == {"exudate": 1}
    assert counted(card(None, means="exudate", leave_out=[65535, 12]), root) == {"exudate": 2}


@pytest.mark.parametrize(
    ("content", "said", "fault"),
    [
        ({"marks": []}, {"path": "objects"}, "key 'objects' is missing"),
        ([{"id": 7}], {}, "key 'category' is missing in an object's entry; it has: id"),
        ([{"number": 7, "category": "MA"}], {}, "key 'id' is missing"),
        ([{"id": "seven", "category": "MA"}], {}, "'seven' is not the number"),
        ([{"id": 7, "category": "HE"}], {}, "'HE' is no class that the card names"),
        (entries(), {"image": "photo"}, "key 'photo' is missing"),
        (3, {}, "no list of objects"),
    ],
)
def test_a_wrong_table_is_told_once_by_its_name(root: Path, content: Any, said: dict[str, Any], fault: str) -> None:
    (root / "all.json").write_text(json.dumps(content), encoding="utf-8")
    made = card({"json": "all.json", **said}, leave_out=[65535])
    (problem,) = check_card(made, root)
    assert problem.file == "all.json"
    assert fault in problem.message
    with pytest.raises(LabelFileError, match=r"label file 'all\.json': ") as caught:
        read_truth(made, find_cases(made, root)[0])
    assert fault in str(caught.value)


def test_a_table_that_is_not_there_and_one_that_is_none(root: Path) -> None:
    made = card({"json": "all.json"}, leave_out=[65535])
    assert [(p.file, p.message) for p in check_card(made, root)] == [
        ("all.json", "does not exist, though the card takes the objects' classes from it")
    ]
    (root / "all.json").write_text("{", encoding="utf-8")
    (problem,) = check_card(made, root)
    assert "not JSON that can be read" in problem.message
    (root / "all.json").write_text(json.dumps(entries()[:1]), encoding="utf-8")
    assert len(problems := check_card(made, root)) == 3, "each image has an object that the table lacks"
    assert "object 12 is not listed" in problems[0].message


def test_a_wrong_coco_file_is_told_once_by_its_name(root: Path) -> None:
    made = make_card(images={"file": "images/{name}.png"}, labels=[{"kind": "coco", "file": "all.json", "categories": {"x": "vessel"}}])
    for content, fault in (
        ({"images": [], "categories": []}, "'annotations'"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "'file_name'"),
    ):
        (root / "all.json").write_text(json.dumps(content), encoding="utf-8")
        (problem,) = check_card(made, root)
        assert problem.file == "all.json"
        assert fault in problem.message


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"classes_from": None}, "give either means: CLASS or classes_from"),
        ({"classes_from": {"json": "a.json"}, "means": "exudate"}, "give either means"),
        ({"classes_from": {"json": "a.json", "csv": "a.csv"}}, "json: PATTERN or csv: PATTERN"),
        ({"classes_from": {"csv": "a.csv", "path": "x"}}, "no path"),
        ({"classes_from": {"json": "{who}.json"}}, "uses {who}"),
        ({"classes_from": {"json": "a.json", "values": {"MA": "none"}}}, "class 'none'"),
        ({"classes_from": {"json": "a.json"}, "min_area_px": 5, "max_area_px": 4}, "every object would be left out"),
    ],
)
def test_what_a_card_may_say_of_them(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(CardError, match=fault):
        card(**said)
