"""Drafts of cards for the layouts that data sets come in: right by the pixels, checked, and a question where two readings are possible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cards.card import DataCard, parse_card
from pipeline.cards.check import check_draft
from pipeline.cards.draft import draft_card
from pipeline.cards.draft_roles import OpenQuestionError
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.errors import CardError
from pipeline.scans.raster import write_png
from pipeline.types.palette import class_colour
from tests.cards.conftest import picture
from tests.conftest import shared_data, shared_faults

SIZE = (60, 84)


def marks(seed: int, numbers: Sequence[int] = (255,) * 6, side: int = 4, dtype: type = np.uint8) -> np.ndarray:
    """Squares that do not touch, one a number."""
    out = np.zeros(SIZE, dtype)
    places = np.random.default_rng(seed).permutation(60)[: len(numbers)]
    for place, number in zip(places.tolist(), numbers, strict=True):
        top, left = 8 + place // 10 * 8, 3 + place % 10 * 8
        out[top : top + side, left : left + side] = number
    return out


def view() -> np.ndarray:
    y, x = np.mgrid[:60, :84]
    return ((y - 30) ** 2 + (x - 42) ** 2 < (0.46 * 60) ** 2).astype(np.uint8) * 255


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        write_png(path, array)
    else:
        Image.fromarray(array).save(path)


def drafted(root: Path, answers: Sequence[str] = (), **said: Any) -> DataCard:
    """The card of a draft that passes its own check; each question is given the first answer in which the next of ``answers`` stands."""
    left, takes, text = list(answers), dict(said.pop("takes", {})), None
    while text is None:
        try:
            text = draft_card(root, takes=takes, **said)
        except OpenQuestionError as error:
            wanted = left.pop(0)
            takes |= next(meant for words, meant in error.question.answers if wanted in words)
    assert not left
    cases, problems = check_draft(text, root)
    assert [p.message for p in problems if p.severity == "problem"] == []
    assert cases > 0
    return parse_card(text)


def labels_of(card: DataCard) -> list[tuple[str, str]]:
    return [(source.kind, source.file) for source in card.labels]


@pytest.mark.parametrize(
    ("first", "second"),
    [("observer1", "observer2"), ("masks_1stHO", "masks_2ndHO"), ("manual", "manual2"), ("Expert_A", "Expert_B"), ("masks", "masks_2nd")],
)
def test_two_readers_beside_the_images(tmp_path: Path, first: str, second: str) -> None:
    for n in range(4):
        for folder, array in (("photos", picture(n)), (first, marks(n)), (second, marks(n, side=5)), ("aux", view())):
            put(tmp_path / folder.replace("aux", "fov_computed") / f"{n:02}.png", array)
    card = drafted(tmp_path)
    assert labels_of(card) == [("values", f"{first}/{{name}}.png")]
    assert [source.file for source in card.second_reader] == [f"{second}/{{name}}.png"]
    assert card.field_of_view is not None
    assert card.field_of_view.file == "fov_computed/{name}.png"


def test_readers_who_are_named_are_asked_for(tmp_path: Path) -> None:
    for n in range(4):
        for folder, end, array in (("stare-images", "", picture(n)), ("by-ah", ".ah", marks(n)), ("by-vk", ".vk", marks(n, side=5))):
            put(tmp_path / folder / f"im{n:03}{end}.ppm", array)
    with pytest.raises(CardError, match="no word in the folder names by-ah, by-vk, stare-images"):
        draft_card(tmp_path)
    card = drafted(tmp_path, takes={"stare-images": "images", "by-ah": "labels", "by-vk": "second_reader"})
    assert labels_of(card) == [("values", "by-ah/{name}.ah.ppm")]
    assert [source.file for source in card.second_reader] == ["by-vk/{name}.vk.ppm"]
    (tmp_path / "stare-images").rename(tmp_path / "images")
    for folder in ("by-ah", "by-vk"):
        for file in (tmp_path / folder).iterdir():
            file.rename(file.with_name(file.name.replace(f".{folder[3:]}.", ".")))
    with pytest.raises(CardError, match=r"by-ah, and by-vk is a second reader's: --take 'by-ah=labels' --take 'by-vk=second_reader'"):
        draft_card(tmp_path)
    card = drafted(tmp_path, answers=["in by-vk, and by-ah"])
    assert labels_of(card) == [("values", "by-vk/{name}.ppm")]
    with pytest.raises(CardError, match="mark the same pixels"):
        draft_card(tmp_path, public=True)
    assert drafted(tmp_path, public=True, answers=["by-ah/*.ppm alone"]).identifiers == "public"


def test_named_labels_leave_the_other_masks_out(tmp_path: Path) -> None:
    for n in range(5):
        other = marks(n + 50, (255,), 8)
        for folder, array in (
            ("images", picture(n)),
            ("masks", marks(n)),
            ("disc_masks", other),
            ("cup_masks", other // 2),
            ("fov", view()),
        ):
            put(tmp_path / folder / f"{n}.png", array)
    card = drafted(tmp_path, labels=tmp_path / "masks")
    assert card.images.file == "images/{name}.png"
    assert labels_of(card) == [("values", "masks/{name}.png")]
    assert "left out: not among the labels that you named" in card.body
    assert card.field_of_view is not None
    both = drafted(tmp_path, labels=[Path("masks"), Path("disc_masks")])
    assert [c.name for c in both.classes] == ["disc", "class_1"]
    assert both.overlapping


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("table", ["each", "all", None])
def test_numbered_objects_are_no_threshold(tmp_path: Path, dtype: type, table: str | None) -> None:
    listed: dict[str, Any] = {}
    for n in range(6):
        numbers = range(1, 20 + n)
        put(tmp_path / "images" / f"p{n}.jpg", picture(n))
        put(tmp_path / "labels" / f"p{n}.png", marks(n, numbers, dtype=dtype))
        listed[f"p{n}"] = [{"id": k, "category": "MA" if k % 3 else "EX", "bbox": [0, 0, 1, 1]} for k in numbers]
        if table == "each":
            (tmp_path / "labels" / f"p{n}.json").write_text(json.dumps({"objects": listed[f"p{n}"]}), encoding="utf-8")
    if table == "all":
        (tmp_path / "annotations.json").write_text(json.dumps({"marks": listed}), encoding="utf-8")
    card = drafted(tmp_path)
    assert card.images.file == "images/{name}.jpg"
    assert labels_of(card) == [("instances", "labels/{name}.png")]
    assert [c.name for c in card.classes] == (["class_1"] if table is None else ["EX", "MA"])
    found = [len((read_truth(card, case, objects=True).objects or ((),))[0]) for case in find_cases(card, tmp_path)]
    assert sorted(found) == [19 + n for n in range(6)]


def test_a_few_numbers_may_be_classes_or_objects(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path / "images" / f"p{n}.png", picture(n))
        put(tmp_path / "labels" / f"p{n}.png", marks(n, range(1, 4 + n)))
    with pytest.raises(CardError, match=r"values 1, 2, 3, 4, 5, 6, \.\.\.: what do they stand for\? .*--take 'labels/\*\.png=objects'"):
        draft_card(tmp_path)
    assert drafted(tmp_path, takes={"labels": "objects"}).labels[0].kind == "instances"
    assert len(drafted(tmp_path, answers=["each a class"]).classes) == 7
    for n in range(5):  # the same classes in every image, some in two pieces: no numbers of objects
        put(tmp_path / "labels" / f"p{n}.png", marks(n, (1, 2, 2, 3, 4, 4)))
    assert drafted(tmp_path).labels[0].kind == "values"


@pytest.mark.parametrize("way", ["rgb", "palette"])
def test_colour_labels_are_no_scans(tmp_path: Path, way: str) -> None:
    colours = np.random.default_rng(3).integers(30, 255, (11, 3)).astype(np.uint8)
    colours[0] = 0
    for n in range(4):
        put(tmp_path / "images" / f"p{n}.png", picture(n))
        label = marks(n, range(1, 11))
        for folder in ("labels", "labels_colour"):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture_of = Image.fromarray(colours[label]) if way == "rgb" else Image.fromarray(label)
            if way == "palette":
                picture_of.putpalette(colours.flatten().tolist())
            picture_of.save(tmp_path / folder / f"p{n}.png")
    card = drafted(tmp_path, answers=["labels/*.png alone"])
    assert labels_of(card) == [("colours", "labels/{name}.png")]
    assert len({c.colour for c in card.classes}) == 10


def test_labels_with_loss_and_how_many_readers_agree(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path / "images" / f"p{n}.png", picture(n))
        put(tmp_path / "masks" / f"p{n}.jpg", marks(n, side=7))
        put(tmp_path / "softmap_disc" / f"p{n}.png", marks(n + 9, (64, 128, 191, 255), 3))
    card = drafted(tmp_path)
    assert {(s.kind, getattr(s, "at_least", None)) for s in card.labels} == {("threshold", 128)}
    assert sum("set at_least as it is meant" in fault for fault in card.known_faults) == 2
    (tmp_path / "softmap_disc").rename(tmp_path / "disc")
    with pytest.raises(CardError, match="how many readers agree: --take 'disc/"):
        draft_card(tmp_path, labels=tmp_path / "disc")


def test_images_without_a_label_are_asked_about(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path / "images" / f"p{n}.png", picture(n))
        if n < 3:
            put(tmp_path / "masks" / f"p{n}.png", marks(n))
    with pytest.raises(CardError, match=r"2 of 5 images have no file in masks.*--missing empty; not labelled: --missing skip"):
        draft_card(tmp_path)
    assert len(find_cases(drafted(tmp_path, takes={"--missing": "empty"}), tmp_path)) == 5
    assert len(find_cases(drafted(tmp_path, answers=["not labelled"]), tmp_path)) == 3


def test_official_layouts(tmp_path: Path) -> None:
    for part, offset in (("training", 20), ("test", 0)):
        for n in range(offset, offset + 3):
            top = tmp_path / "drive" / part
            put(top / "images" / f"{n:02}_{part}.tif", picture(n))
            put(top / "1st_manual" / f"{n:02}_manual1.gif", marks(n))
            put(top / "mask" / f"{n:02}_{part}_mask.gif", view())
            if part == "test":
                put(top / "2nd_manual" / f"{n:02}_manual2.gif", marks(n, side=5))
            folder = {"training": "a. Training Set", "test": "b. Testing Set"}[part]
            put(tmp_path / "idrid" / "1. Original Images" / folder / f"IDRiD_{n:02}.jpg", picture(n))
            for seed, (kind, short) in enumerate((("1. Microaneurysms", "MA"), ("5. Optic Disc", "OD"))):
                name = f"IDRiD_{n:02}_{short}.tif"
                put(tmp_path / "idrid" / "2. All Segmentation Groundtruths" / folder / kind / name, marks(n + 99 * seed, (76,) * 3))
    card = drafted(tmp_path / "drive")
    assert card.images.file == "{part}/images/{name}_{part}.tif"
    assert labels_of(card) == [("values", "{part}/1st_manual/{name}_manual1.gif")]
    assert [s.file for s in card.second_reader] == ["{part}/2nd_manual/{name}_manual2.gif"]
    assert card.field_of_view is not None
    card = drafted(tmp_path / "idrid")
    assert card.parts is not None
    assert card.parts.field == {"a. Training Set": "train", "b. Testing Set": "test"}
    assert [c.name for c in card.classes] == ["microaneurysms_ma", "optic_disc_od"]


def test_eyes_in_names_and_one_folder_for_all(tmp_path: Path) -> None:
    for n in range(1, 4):
        for eye in "LR":
            put(tmp_path / f"Image_{n:02}{eye}.jpg", picture(n))
            put(tmp_path / f"Image_{n:02}{eye}_1stHO.png", marks(n))
            put(tmp_path / f"Image_{n:02}{eye}_2ndHO.png", marks(n, side=5))
    card = drafted(tmp_path)
    assert card.images.file == "Image_{patient}{eye}.jpg"
    assert {(case.key.eye, bool(case.second_reader)) for case in find_cases(card, tmp_path)} == {("L", True), ("R", True)}
    assert card.known_faults == []


def test_boxes_and_coco(tmp_path: Path) -> None:
    images, objects = [], []
    for n in range(4):
        put(tmp_path / "images" / f"{n}.png", picture(n))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{n}.txt").write_text("1 0.5 0.5 0.1 0.2\n0 .2 .2 .1 .1\n")
        images.append({"id": n, "file_name": f"{n}.png", "width": 84, "height": 60})
        objects.append({"id": n, "image_id": n, "category_id": 5, "bbox": [5, 5, 9, 9]})
    (tmp_path / "classes.txt").write_text("disc\nhard exudate\n")
    card = drafted(tmp_path)
    assert labels_of(card) == [("yolo_boxes", "labels/{name}.txt")]
    assert [c.name for c in card.classes] == ["disc", "hard exudate"]
    for file in (tmp_path / "labels").iterdir():
        file.unlink()
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 5, "name": "drusen"}]}))
    (source,) = drafted(tmp_path).labels
    assert source.model_dump(include={"kind", "file", "categories"}) == {
        "kind": "coco",
        "file": "coco.json",
        "categories": {"drusen": "drusen"},
    }


def test_what_the_user_says_must_be_there(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", picture(1))
    with pytest.raises(CardError, match="no files fit 'mask'"):
        draft_card(tmp_path, takes={"mask": "labels"})
    with pytest.raises(CardError, match="unknown 'label'; known: images, labels"):
        draft_card(tmp_path, takes={"images": "label"})
    put(tmp_path / "images" / "a.png", marks(1))
    with pytest.raises(CardError, match="every picture in the folder looks like a label"):
        draft_card(tmp_path)


@pytest.mark.parametrize(
    ("name", "labels", "pattern", "kinds"),
    [
        ("chase_db1", None, "images/Image_{patient}{eye}.jpg", ["values"]),
        ("drive", "masks", "images/{name}_{part}.png", ["values"]),
        ("dr_both_eyes", None, "images/{patient}_{eye}.jpg", []),
    ],
)
def test_drafts_of_real_sets(name: str, labels: str | None, pattern: str, kinds: list[str]) -> None:
    root = shared_data(name)
    card = parse_card(draft_card(root, labels=None if labels is None else Path(labels)))
    assert card.images.file == pattern
    assert [source.kind for source in card.labels] == kinds
    assert (card.field_of_view is not None) == bool(kinds)


def test_colours_are_seen_on_a_fundus_and_differ() -> None:
    from skimage.color import deltaE_ciede2000, rgb2lab

    colours = [class_colour(index) for index in range(1, 101)]
    assert len(set(colours)) == 100
    lab = rgb2lab(np.array(colours, float)[None] / 255)[0]
    fundus = rgb2lab(np.array([[180, 80, 30], [150, 60, 25], [215, 125, 60], [110, 40, 20]], float)[None] / 255)[0]
    apart = np.array([[float(deltaE_ciede2000(a, b)) for b in fundus] for a in lab[:20]])
    assert apart[:12].min() > 17
    assert apart.min() > 13
    between = [float(deltaE_ciede2000(lab[i], lab[j])) for i in range(12) for j in range(i)]
    assert min(between) > 12


def test_labels_that_hold_nothing_or_lie_another_way(tmp_path: Path) -> None:
    import nibabel

    for n in range(3):
        put(tmp_path / "images" / f"p{n}.png", picture(n))
        put(tmp_path / "labels" / f"p{n}.png", np.zeros(SIZE, np.uint8))
    card = drafted(tmp_path)
    assert card.labels == []
    assert any("hold no labelled pixel" in fault for fault in card.known_faults)
    for n in range(3):
        put(tmp_path / "labels" / f"p{n}.png", marks(n)[:-1])
    card = drafted(tmp_path)
    assert any("of another size than the images" in fault for fault in card.known_faults)
    for n in range(3):
        (tmp_path / "labels" / f"p{n}.png").unlink()
        nibabel.save(nibabel.Nifti1Image(marks(n, (1,)).T[..., None], np.diag([-1, -1, 1, 1])), tmp_path / "labels" / f"p{n}.nii.gz")
    assert labels_of(drafted(tmp_path)) == [("values", "labels/{name}.nii.gz")]


@pytest.mark.parametrize("name", ["segs/seg_with_frames", "cards/appledouble", "boxes/coco_plain", "boxes/yolo_bom"])
def test_drafts_of_inputs_that_met_a_fault(name: str) -> None:
    assert len(drafted(shared_faults(name)).labels) == 1
