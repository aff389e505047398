"""What a card says of its labels becomes masks and objects, in the source frame and in every crop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cards import targets as card_targets
from pipeline.cards.card import CardCase, DataCard, load_card
from pipeline.cards.check import card_statistics, check_card
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_target_mask, read_truth
from pipeline.datasets.augment import AugmentConfig, Plan
from pipeline.datasets.loader import CaseStore, TrainingLoader
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.resident import DeviceStore, Layout
from pipeline.datasets.transform import to_batch
from pipeline.errors import CardError
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import Geometry, Target
from tests.cards.conftest import SmallSet, make_card, picture
from tests.conftest import shared_data
from tests.datasets.samples import sample
from tests.datasets.test_loader import Sampling
from tests.scans.make import dicom, saved
from tests.scans.test_segmentation import bits

SHAPE = (60, 84)
TWO = {
    "classes": [{"name": "bleeding", "colour": [200, 0, 0]}, {"name": "drusen", "colour": [200, 200, 0]}],
    "images": {"file": "images/{name:[a-z]+}.png"},
}
# Object 1 is a rectangle, object 2 an L; both as xyxy below.
FIRST, SECOND = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
FIRST[10:20, 30:50] = True
SECOND[30:50, 5:9] = SECOND[46:50, 5:25] = True
BOXES = [[30, 10, 50, 20], [5, 30, 25, 50]]


def read_target(card: DataCard, case: CardCase, **options: Any) -> Target:
    """All that is true of a picture, or of a volume's first slice."""
    truth = read_truth(card, case, objects=True, **options)
    assert truth.objects is not None
    return truth.objects[0].target(truth.mask if truth.mask is None or truth.mask.ndim == 2 else truth.mask[0])


def written(root: Path, folder: str, name: str, array: np.ndarray) -> None:
    (root / folder).mkdir(exist_ok=True)
    write_png(root / folder / f"{name}.png", array)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images a (two objects of two classes) and b (none), with every kind of label beside them."""
    for number, name in enumerate("ab"):
        written(tmp_path, "images", name, picture(number))
        there = name == "a"
        written(tmp_path, "values", name, (FIRST * 1 + SECOND * 2).astype(np.uint8) * there)
        written(tmp_path, "numbers", name, (FIRST * 700 + SECOND * 9).astype(np.uint16) * there)
        if there:
            written(tmp_path, "each", "a_1", FIRST.astype(np.uint8) * 255)
            written(tmp_path, "each", "a_2", SECOND.astype(np.uint8) * 255)
        (tmp_path / "boxes").mkdir(exist_ok=True)
        lines = [f"{n} {(x1 + x2) / 168} {(y1 + y2) / 120} {(x2 - x1) / 84} {(y2 - y1) / 60}" for n, (x1, y1, x2, y2) in enumerate(BOXES)]
        (tmp_path / "boxes" / f"{name}.txt").write_text("\n".join(lines) if there else "")
    polygons = [[30, 10, 50, 10, 50, 20, 30, 20]], [[5, 30, 9, 30, 9, 46, 25, 46, 25, 50, 5, 50]]
    coco = {
        "images": [{"id": n, "file_name": f"{name}.png", "height": 60, "width": 84} for n, name in enumerate("ab")],
        "categories": [{"id": 10, "name": "he"}, {"id": 20, "name": "dr"}],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": 10 * n, "segmentation": p, "bbox": [0, 0, 1, 1]} for n, p in enumerate(polygons, 1)
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    return tmp_path


KINDS: dict[str, tuple[list[dict[str, Any]], list[int]]] = {
    "values": ([{"kind": "values", "file": "values/{name}.png", "values": {1: "bleeding", 2: "drusen"}}], [1, 2]),
    "instances": ([{"kind": "instances", "file": "numbers/{name}.png", "means": "drusen"}], [2, 2]),
    "masks": ([{"kind": "masks", "file": "each/{name}_{object}.png", "means": "bleeding", "missing": "empty"}], [1, 1]),
    "coco": ([{"kind": "coco", "file": "coco.json", "categories": {"he": "bleeding", "dr": "drusen"}}], [1, 2]),
    "yolo_boxes": ([{"kind": "yolo_boxes", "file": "boxes/{name}.txt", "values": {0: "bleeding", 1: "drusen"}}], [1, 2]),
}


def objects_by_box(target: Any) -> dict[tuple[float, ...], int]:
    return {tuple(box): label for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_label_gives_the_same_objects(root: Path, kind: str) -> None:
    labels, classes = KINDS[kind]
    card = make_card(**TWO, labels=labels)
    said = [problem.message for problem in check_card(card, root)]
    assert len(said) == 2 - len(set(classes))
    assert all("no pixel or object of class" in message for message in said)
    full, empty = find_cases(card, root)
    target, nothing = (read_target(card, case) for case in (full, empty))
    boxes = {tuple(np.round(box, 4)): label for box, label in objects_by_box(target).items()}
    assert boxes == {tuple(map(float, box)): label for box, label in zip(BOXES, classes, strict=True)}
    assert (nothing.boxes.shape, nothing.labels.shape) == ((0, 4), (0,))  # type: ignore[union-attr]
    statistics = card_statistics(card, root)
    assert sum(statistics["objects"].values()) == 2
    if kind == "yolo_boxes":
        assert target.mask is nothing.mask is target.instance_masks is nothing.instance_masks is None
        assert statistics["fraction_of_pixels"] == {"bleeding": None, "drusen": None}
        with pytest.raises(CardError, match=r"case a_U_0_a: its labels are boxes.*; score it against a card with masks"):
            read_target_mask(card, full)
        return
    expected = np.where(FIRST, classes[0], 0) + np.where(SECOND, classes[1], 0)
    assert target.mask is not None
    assert np.array_equal(target.mask, expected)  # type: ignore[arg-type]
    assert np.array_equal(read_target_mask(card, full), expected)
    assert not nothing.mask.any()  # type: ignore[union-attr]
    masks = {int(mask.sum()): mask for mask in target.instance_masks}  # type: ignore[union-attr]
    assert np.array_equal(masks[200], FIRST)
    assert np.array_equal(masks[144], SECOND)
    assert nothing.instance_masks.shape == (0, *SHAPE)  # type: ignore[union-attr]
    assert read_truth(card, full).objects is None


@pytest.mark.parametrize("kind", ["values", "coco", "yolo_boxes"])
def test_a_subset_of_the_classes_is_read_and_numbered_anew(root: Path, kind: str) -> None:
    card = make_card(**TWO, labels=KINDS[kind][0])
    chosen = card.choosing(["drusen"])
    assert chosen.label_map.names == ("drusen",)
    assert chosen.label_map.classes[0].index == 1
    assert card.label_map.names == ("bleeding", "drusen")
    full, empty = find_cases(chosen, root)
    target = read_target(chosen, full, weak_masks="ellipse")
    assert {tuple(np.round(box, 4)) for box in objects_by_box(target)} == {tuple(BOXES[1])}
    assert target.labels.tolist() == [1]  # type: ignore[union-attr]
    whole = read_target(card, full, weak_masks="ellipse")
    assert torch.equal(target.mask, (whole.mask == 2).long())  # type: ignore[arg-type, union-attr]
    assert torch.equal(target.instance_masks[0], whole.instance_masks[1])  # type: ignore[index]
    assert not read_target(chosen, empty, weak_masks="ellipse").mask.any()  # type: ignore[union-attr]
    store = CaseStore(chosen, [full], NormaliseConfig(), need="objects", weak_masks="ellipse")
    assert store.label_map.names == ("drusen",)
    assert store.source_target(0).labels.tolist() == [1]  # type: ignore[union-attr]
    with pytest.raises(CardError, match=r"data.classes: card .* has no class 'drus'; it has bleeding, drusen"):
        card.choosing(["drus"])


def test_of_overlapping_and_ignored_pixels_the_chosen_class_stays(root: Path) -> None:
    written(root, "values", "a", (FIRST * 1 + SECOND * 2 + 3 * (~FIRST & ~SECOND)).astype(np.uint8))
    labels = [{"kind": "values", "file": "values/{name}.png", "values": {1: ["bleeding", "drusen"], 2: "drusen", 3: "ignore"}}]
    card = make_card(**TWO, labels=labels, overlapping=True)
    mask = read_target_mask(card.choosing(["drusen"]), find_cases(card, root)[0])
    assert np.array_equal(mask, np.where(FIRST | SECOND, 1, -1))
    # Boxes of a class that is not asked for do not make the pixels of another unknown.
    both = [{"kind": "values", "file": "values/{name}.png", "values": {1: "bleeding"}}, *KINDS["yolo_boxes"][0]]
    written(root, "values", "a", FIRST.astype(np.uint8))
    card = make_card(**TWO, labels=both)
    with pytest.raises(CardError, match="its labels are boxes"):
        read_target_mask(card, find_cases(card, root)[0])
    assert np.array_equal(read_target_mask(card.choosing(["bleeding"]), find_cases(card, root)[0]), FIRST)


def test_all_pixels_of_a_class_may_be_one_object(root: Path) -> None:
    stored = (FIRST | SECOND).astype(np.uint8)
    stored[59, 83] = 1  # a speck
    written(root, "values", "a", stored)
    found = []
    for way in ("components", "one"):
        labels = [{"kind": "values", "file": "values/{name}.png", "values": {1: "drusen"}, "objects": way}]
        card = make_card(**TWO, labels=labels)
        found.append(objects_by_box(read_target(card, find_cases(card, root)[0])))
    assert list(found[0]) == [(30, 10, 50, 20), (5, 30, 25, 50), (83, 59, 84, 60)]
    assert found[1] == {(5, 10, 84, 60): 2}
    both = [{"kind": "values", "file": "values/{name}.png", "values": {1: "drusen"}, "objects": way} for way in ("one", "components")]
    with pytest.raises(CardError, match="both components and one for the objects of class 'drusen'"):
        make_card(**TWO, labels=both)


def test_boxes_beside_masks_are_the_objects_and_masks_the_pixels(root: Path) -> None:
    values = {"kind": "values", "file": "values/{name}.png", "values": {1: "bleeding", 2: "drusen"}}
    card = make_card(**TWO, labels=[values, {"kind": "yolo_boxes", "file": "boxes/{name}.txt", "values": {0: "bleeding", 1: "background"}}])
    target = read_target(card, find_cases(card, root)[0], weak_masks="ellipse")
    assert [tuple(np.round(box, 4)) for box in objects_by_box(target)] == [(30, 10, 50, 20), (5, 30, 25, 50)]
    assert target.labels.tolist() == [1, 2]  # type: ignore[union-attr]
    assert np.array_equal(target.mask, FIRST * 1 + SECOND * 2), "no ellipse where pixels are known"  # type: ignore[arg-type]


def test_a_dicom_segmentation_labels_its_image(tmp_path: Path) -> None:
    image = dicom(picture(1), PatientID="P1")
    saved(image, tmp_path / "a.dcm")
    frames = np.stack([FIRST, FIRST | SECOND])
    made = bits(frames, [(1, image.SOPInstanceUID, None), (2, image.SOPInstanceUID, None)], ("blood", "other"))
    (tmp_path / "seg").mkdir()
    saved(made, tmp_path / "seg" / "a.dcm")
    source = {"kind": "dicom_seg", "file": "seg/{name}.dcm", "segments": {1: "bleeding", "other": "drusen"}, "objects": "components"}
    front = TWO | {"images": {"file": "{name:[a-z]+}.dcm"}, "overlapping": True}
    card = make_card(**front, labels=[source])
    assert check_card(card, tmp_path) == []
    (case,) = find_cases(card, tmp_path)
    target = read_target(card, case)
    assert target.labels.tolist() == [1, 2, 2]  # type: ignore[union-attr]
    assert np.array_equal(target.mask, FIRST * 3 + SECOND * 2)  # type: ignore[arg-type]
    card = make_card(**front, labels=[source | {"objects": "one"}])
    assert objects_by_box(read_target(card, find_cases(card, tmp_path)[0])) == {(30, 10, 50, 20): 1, (5, 10, 50, 50): 2}
    card = make_card(**front, labels=[source | {"segments": {1: "bleeding"}}])
    (problem,) = check_card(card, tmp_path)
    assert problem.message == "the segmentation has segment 2, which the card does not name"


@pytest.mark.parametrize("kind", ["yolo_boxes", "coco"])
def test_an_object_that_stands_twice_counts_once_and_is_told_once(root: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    card_targets._tell_twins.cache_clear()
    card = make_card(**TWO, labels=KINDS[kind][0])
    case = find_cases(card, root)[0]
    once = read_truth(card, case, objects=True)
    if kind == "coco":
        data = json.loads((root / "coco.json").read_text())
        data["annotations"] += [entry | {"id": 99} for entry in data["annotations"]]
        (root / "coco.json").write_text(json.dumps(data))
    else:
        for path in (root / "boxes").glob("*.txt"):
            path.write_text(path.read_text() + "\n" + path.read_text())
    for _ in range(2):
        twice = read_truth(card, case, objects=True)
    assert twice.objects is not None
    assert once.objects is not None
    assert np.array_equal(twice.objects[0].boxes, once.objects[0].boxes)
    assert len(once.objects[0]) > 0
    assert caplog.text.count(f"case {case.key}: {len(once.objects[0])} of its objects occur twice in its labels") == 1


@pytest.mark.parametrize(
    ("kind", "spoil", "said", "file"),
    [
        ("yolo_boxes", lambda root: (root / "boxes" / "a.txt").write_text("0 0.5 0.5 0 0.1"), "line 1 is an empty box", "boxes/a.txt"),
        ("yolo_boxes", lambda root: (root / "boxes" / "a.txt").write_bytes(b"0 \xff\xfe"), "line 1 is not UTF-8 text", "boxes/a.txt"),
        ("instances", lambda root: written(root, "numbers", "a", np.zeros((50, 84), np.uint8)), "but the image", "numbers/a.png"),
        ("masks", lambda root: written(root, "each", "a_2", np.zeros((60, 80), np.uint8)), "a mask is 60 x 80", "each/a_2.png"),
        (
            "coco",
            lambda root: (root / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}'),
            "list this",
            "images/a.png",
        ),
    ],
)
def test_a_bad_label_is_said_with_its_case_and_its_file(root: Path, kind: str, spoil: Any, said: str, file: str) -> None:
    card = make_card(**TWO, labels=KINDS[kind][0])
    spoil(root)
    with pytest.raises(CardError, match=f"case a_U_0_a: .*{said}") as caught:
        CaseStore(card, find_cases(card, root), NormaliseConfig(), need="objects")
    assert str(root) not in str(caught.value)
    problem = check_card(card, root)[0]
    assert problem.file == file
    assert said in problem.message


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize("normalise", [NormaliseConfig(), NormaliseConfig(working_size=(64, 48))], ids=["native", "letterbox"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_store_gives_objects_in_both_frames(root: Path, tmp_path: Path, kind: str, cache: Any, normalise: NormaliseConfig) -> None:
    card = make_card(**TWO, labels=KINDS[kind][0])
    options = {"cache": cache, "cache_dir": tmp_path / "cache", "need": "objects"}
    store = CaseStore(card, find_cases(card, root), normalise, **options)
    for index, case in enumerate(find_cases(card, root)):
        expected, truth = read_target(card, case), store.source_target(index)
        one = sample(store, index)
        assert torch.equal(truth.boxes, expected.boxes)  # type: ignore[arg-type]
        assert torch.equal(truth.labels, expected.labels)  # type: ignore[arg-type]
        assert one.target.labels is not None
        assert one.target.boxes is not None
        assert torch.allclose(one.target.boxes, one.placement.boxes_to_net(expected.boxes), atol=1.0)  # type: ignore[arg-type]
        working_mask = store.working_mask(index)
        for mask, of_truth in ((one.target.instance_masks, truth.instance_masks), (working_mask, truth.mask)):
            assert (mask is None) == (of_truth is None) == (kind == "yolo_boxes")
        assert one.target.mask is None, "of a sample with objects no detector learns from a mask"
        if working_mask is not None and one.target.instance_masks is not None:
            assert one.target.instance_masks.shape[1:] == working_mask.shape == one.image.shape[-2:]
            union = one.target.instance_masks.any(dim=0) if len(one.target.labels) else torch.zeros_like(one.valid)
            assert torch.equal(union, torch.from_numpy(working_mask > 0))
    sizes = store.box_sizes(store.keys())
    boxes = sample(store, 0).target.boxes
    assert np.array_equal(sizes, boxes[:, 2:] - boxes[:, :2])  # type: ignore[index, arg-type]
    assert store.box_sizes([store.case_of(1)]).shape == (0, 2)
    again = CaseStore(card, find_cases(card, root), normalise, **options)
    assert torch.equal(sample(again, 0).target.boxes, boxes)  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", [0, 1])
def test_boxes_beside_drawn_objects_are_learnt_as_boxes(root: Path, drawn: int) -> None:
    """Of COCO files one may have masks and another boxes alone; no mask may then be made up of memory that nobody wrote."""
    whole = json.loads((root / "coco.json").read_text())
    for number, name in enumerate("ab"):
        entries = [entry | {"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1]} for entry, (x1, y1, x2, y2) in zip(
            whole["annotations"], BOXES, strict=True)]  # fmt: skip
        if number != drawn:
            entries = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in entries]
        (root / f"{name}.json").write_text(json.dumps(whole | {"annotations": entries}))
    card = make_card(**TWO, labels=[KINDS["coco"][0][0] | {"file": "{name}.json"}])
    store = CaseStore(card, find_cases(card, root), NormaliseConfig(), need="objects")
    assert [store.working_mask(index) is not None for index in range(2)] == [number == drawn for number in range(2)]
    wanted = [(index, Plan.unchanged(*SHAPE)) for index in range(2)]
    resident = DeviceStore(store, Layout.of(store, [0, 1]), torch.device("cpu"))
    for source in (store, resident):
        batch = to_batch(source.cut(wanted))
        assert batch.masks is None
        assert batch.targets is not None
        for target in batch.targets:
            assert target.mask is target.instance_masks is None
            assert objects_by_box(target) == {tuple(map(float, box)): label for label, box in enumerate(BOXES, 1)}


def test_ellipses_let_boxes_train_a_semantic_task_and_keep_the_boxes(root: Path) -> None:
    card = make_card(**TWO, labels=KINDS["yolo_boxes"][0])
    cases = find_cases(card, root)
    with pytest.raises(CardError, match=r"case a_U_0_a: its labels are boxes"):
        CaseStore(card, cases, NormaliseConfig())
    semantic = CaseStore(card, cases, NormaliseConfig(), weak_masks="ellipse")
    mask = sample(semantic, 0).target.mask
    assert mask is not None
    assert abs(int((mask == 1).sum()) - np.pi / 4 * 200) < 8
    assert abs(int((mask == 2).sum()) - np.pi / 4 * 400) < 8
    assert not sample(semantic, 1).target.mask.any()  # type: ignore[union-attr]
    assert sample(semantic, 0).target.boxes is None, "a semantic task pays for no objects"
    store = CaseStore(card, cases, NormaliseConfig(), need="objects", weak_masks="ellipse")
    truth = store.source_target(0)
    assert torch.equal(truth.boxes, read_target(card, cases[0]).boxes)  # type: ignore[arg-type]
    assert torch.equal(truth.mask, mask)  # type: ignore[arg-type]
    assert store.source_target(1).instance_masks.shape == (0, *SHAPE)  # type: ignore[union-attr]


def test_cases_without_labels_are_refused_by_a_detection_task_too(small_set: SmallSet) -> None:
    card = make_card(labels=None)
    with pytest.raises(CardError, match="has no label"):
        CaseStore(card, find_cases(card, small_set.root), NormaliseConfig(), need="objects")


def test_a_volume_has_objects_slice_by_slice(tmp_path: Path) -> None:
    label = np.zeros((3, 24, 36), np.uint8)
    label[0, 5:9, 10:20], label[2, 1:4, 1:5], label[2, 10:12, 30:36] = 1, 1, 1
    geometry = Geometry(label.shape, (0.1, 0.004, 0.01), "tag")
    write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 255, label.shape, dtype=np.uint8), geometry)
    write_nifti(tmp_path / "a_label.nii.gz", label, geometry)
    front = TWO | {"modality": "oct", "images": {"file": "{name:[a-z]}.nii.gz"}}
    for source in ({"kind": "values", "values": {1: "drusen"}}, {"kind": "instances", "means": "drusen"}):
        card = make_card(**front, labels=[source | {"file": "{name}_label.nii.gz"}])
        store = CaseStore(card, find_cases(card, tmp_path), NormaliseConfig(method="percentile"), need="objects")
        assert store.source_target(0).boxes.tolist() == [[10, 5, 20, 9]]  # type: ignore[union-attr]
        assert store.source_target(1).boxes.shape == (0, 4)  # type: ignore[union-attr]
        assert int(sample(store, 2).target.instance_masks.sum()) == 24  # type: ignore[union-attr]
        assert read_target(card, find_cases(card, tmp_path)[0]).labels.tolist() == [2]  # type: ignore[union-attr]


def test_a_mask_of_one_slice_is_no_mask_of_a_volume(tmp_path: Path) -> None:
    geometry = Geometry((3, 24, 36), (0.1, 0.004, 0.01), "tag")
    write_nifti(tmp_path / "a.nii.gz", np.arange(3 * 24 * 36, dtype=np.uint16).reshape(3, 24, 36), geometry)
    write_png(tmp_path / "a_1.png", np.ones((24, 36), np.uint8))
    front = TWO | {"modality": "oct", "images": {"file": "{name:[a-z]}.nii.gz"}}
    card = make_card(**front, labels=[{"kind": "masks", "file": "{name}_{object}.png", "means": "drusen"}])
    with pytest.raises(CardError, match=r"case a_U_0_a: .*another number of slices than the image, which has 3"):
        read_target(card, find_cases(card, tmp_path)[0])


def one_lesion(tmp_path: Path, top: int, left: int) -> tuple[DataCard, list[CardCase]]:
    """A photograph of 1,500 x 2,000 pixels with one round lesion, 12 pixels across."""
    y, x = np.mgrid[:12, :12] + 0.5
    label = np.zeros((1500, 2000), np.uint8)
    label[top : top + 12, left : left + 12] = (y - 6) ** 2 + (x - 6) ** 2 <= 36
    written(tmp_path, "images", "a", 90 + label)
    written(tmp_path, "labels", "a", label)
    card = make_card(**TWO, labels=[{"kind": "values", "file": "labels/{name}.png", "values": {1: "bleeding"}}])
    return card, find_cases(card, tmp_path)


def test_a_tiny_lesion_survives_in_crops_at_native_scale_and_its_loss_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    card, cases = one_lesion(tmp_path, 777, 1333)
    store = CaseStore(card, cases, NormaliseConfig(field_of_view="whole"), need="objects")
    still = AugmentConfig(horizontal_flip=0, vertical_flip=0, quarter_turns=False, gain=0, bias=0)
    data = Sampling(crop=(192, 256), crops_per_image=24, foreground_crops=1.0, augment=still)
    places = set()
    for batch in TrainingLoader(store, store.keys(), data, 4, 0, 0):
        for target in batch.targets or ():
            assert target.boxes is not None
            assert target.instance_masks is not None
            ((x1, y1, x2, y2),) = target.boxes.tolist()
            assert (x2 - x1, y2 - y1) == (12, 12), "its exact box, whichever crop holds it"
            assert int(target.instance_masks.sum()) == int(store.source_target(0).mask.sum())  # type: ignore[union-attr]
            places.add((x1, y1))
    assert len(places) > 12, "not always in the middle"
    assert not caplog.records
    CaseStore(card, cases, NormaliseConfig(field_of_view="whole", working_size=(188, 250)), need="objects")
    assert not caplog.records, "at an eighth there is a pixel of it yet"
    small = CaseStore(card, cases, NormaliseConfig(field_of_view="whole", working_size=(36, 48)), need="objects")
    assert sample(small, 0).target.boxes.shape == (0, 4)  # type: ignore[union-attr]
    assert small.source_target(0).boxes.tolist() == [[1333, 777, 1345, 789]]  # type: ignore[union-attr]
    assert "1 of 1 objects are smaller than a pixel at the working scale" in caplog.text


def test_crops_are_drawn_anywhere_where_an_image_has_no_object(root: Path) -> None:
    card = make_card(**TWO, labels=KINDS["yolo_boxes"][0])
    store = CaseStore(card, find_cases(card, root)[1:], NormaliseConfig(), need="objects")
    batches = list(TrainingLoader(store, store.keys(), Sampling(foreground_crops=1.0, crops_per_image=8), 4, 0, 0))
    assert all(t.boxes is not None and t.boxes.shape == (0, 4) for batch in batches for t in batch.targets or ())


def test_the_real_boxes_of_idrid() -> None:
    root = shared_data("idrid_codras_boxes")
    card = load_card("idrid_codras")
    cases = find_cases(card, root)
    parts = {part: [case for case in cases if case.part == part] for part in ("train", "validation", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 359, "validation": 75, "test": 66}
    from pipeline.cards.card import read_scan

    scan = read_scan(card, cases[0])
    begun = time.perf_counter()
    labels = torch.cat([read_target(card, case, scan=scan).labels for case in cases])  # type: ignore[misc]
    assert time.perf_counter() - begun < 20, "reading boxes opens no photograph"
    assert torch.bincount(labels, minlength=4).tolist() == [0, 500, 1847, 1297]
    few = CaseStore(card, cases[:3], NormaliseConfig(working_diameter_px=400), need="objects", weak_masks="ellipse")
    one = sample(few, 0)
    assert one.target.instance_masks is not None
    assert len(one.target.instance_masks) == len(few.source_target(0).boxes)  # type: ignore[arg-type]


def test_the_real_disc_and_cup_are_one_object_each() -> None:
    root = shared_data("drishti_gs_half_train")
    card = load_card("drishti_gs")
    target = read_target(card, find_cases(card, root)[0])
    assert target.labels is not None
    assert target.instance_masks is not None
    assert target.labels.tolist() == [1, 2]
    assert np.array_equal(card.label_map.layers(target.mask.numpy()), target.instance_masks)  # type: ignore[union-attr, arg-type]


def test_the_lesion_card_fits_what_the_phantom_writes(tmp_path: Path) -> None:
    from pipeline.phantoms.hospital import write_hospital

    write_hospital(tmp_path, 3, 5, fundus_shape=(300, 330), oct_shape=(2, 64, 80))
    card = load_card("phantom_lesions")
    assert check_card(card, tmp_path / "card") == []
    objects = card_statistics(card, tmp_path / "card")["objects"]
    assert all(number > 5 for number in objects.values()), objects
