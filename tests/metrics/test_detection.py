"""Average precision, recall and F1 of found objects: by hand, and against pycocotools."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.metrics.detection import (
    Counts,
    ImageObjects,
    ap50_interval,
    average_precision,
    best_f1,
    centre_hits,
    iou_hits,
    voc_average_precision,
)
from pipeline.metrics.matching import FREE, REPEAT, box_overlaps, encode_mask, mask_overlaps, take_greedily
from pipeline.metrics.objects import Kind, ranked
from pipeline.types import Prediction, Target

SIZE = (210, 330)
Rows = list[tuple[int, float, float, float, float]]
"""Truths: label and box."""


def objects(truths: Rows, found: list[tuple[int, float, float, float, float, float]], size: tuple[int, int] = SIZE) -> ImageObjects:
    """Truths (label, box) and detections (label, box, score)."""
    true, guess = np.array(truths, np.float32).reshape(-1, 5), np.array(found, np.float32).reshape(-1, 6)
    return ImageObjects(size, true[:, 1:], true[:, 0].astype(np.int64), guess[:, 1:5], guess[:, 0].astype(np.int64), guess[:, 5])


def by_hand() -> list[ImageObjects]:
    """Class 1: three truths (small, medium, large); a hit of IoU 1, a miss, a hit of IoU .62, a repeat. Class 2: one false alarm."""
    small, medium, large = (5, 5, 25, 35), (100, 50, 200, 100), (50, 100, 250, 200)
    first = objects([(1, *small), (1, *medium)], [(1, *small, 0.9), (1, 100, 50, 200, 81, 0.7), (1, 6, 5, 25, 35, 0.6)])
    second = objects([(1, *large)], [(1, 0, 0, 9, 9, 0.8), (2, 0, 0, 9, 9, 0.95)], size=(230, 310))
    return [first, second, objects([], [])]


def test_average_precision_by_hand() -> None:
    # Recall 1/3, 1/3, 2/3, 2/3 and precision 1, 1/2, 2/3, 1/2: of COCO's 101 recalls 34 lie up to 1/3 and 33 more up to 2/3.
    scores = average_precision(by_hand(), 3)
    assert scores.ap50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert scores.ap75 == pytest.approx(34 / 101), "at IoU .75 the second hit is none"
    assert scores.ap == pytest.approx((3 * 56 + 7 * 34) / 1010), ".62 is enough at .50, .55 and .60"
    assert scores.by_class[1]["objects"] == 3
    assert scores.by_class[1]["ap50"] == scores.ap50, "a class without a true object does not enter the mean"
    recall, precision = scores.curves[1]
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 1 / 2])
    assert scores.voc_ap50[1] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)


def test_average_recall_by_hand() -> None:
    scores = average_precision(by_hand(), 3)
    assert scores.ar[1] == pytest.approx(1 / 3), "one detection an image: the small one alone"
    assert scores.ar[10] == scores.ar[100] == pytest.approx((3 * 2 + 7 * 1) / 30)


def test_sizes_are_those_of_the_boxes() -> None:
    scores = average_precision(by_hand(), 3)
    assert scores.ap_by_size["small"] == pytest.approx(1.0)
    assert scores.ar_by_size == pytest.approx({"small": 1.0, "medium": 0.3, "large": 0.0})
    assert scores.by_class[1]["ar_medium"] == pytest.approx(0.3)


def test_sizes_of_masks_are_those_of_the_masks() -> None:
    frame = np.zeros((61, 90), dtype=bool)
    frame[10:50, 20:60] = True
    frame[12:48, 22:58] = False
    image = masked([frame], [1], [frame], [1], [0.5])
    boxes, masks = average_precision([image], 1, "box"), average_precision([image], 1, "mask")
    assert boxes.ap_by_size == {"small": None, "medium": pytest.approx(1.0), "large": None}
    assert masks.ap_by_size == {"small": pytest.approx(1.0), "medium": None, "large": None}


def test_masks_are_compared_as_masks() -> None:
    upper, lower = np.zeros((2, 40, 64), dtype=bool)
    upper[4:20, 8:40] = True
    lower[12:28, 8:40] = True
    image = masked([upper], [1], [lower], [1], [0.5])
    assert ranked([image], 1, kind="mask", iou=1 / 3).taken.tolist() == [0], "8 rows of 24 are common"
    assert ranked([image], 1, kind="mask", iou=0.34).taken.tolist() == [FREE]
    assert average_precision([image], 1, "mask").ap50 == 0.0


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_what_has_no_meaning_is_none(kind: Kind) -> None:
    nothing = masked([], [], [], [], [])
    alarm = masked([], [], [np.ones((40, 64), dtype=bool)], [1], [0.5])
    for images in ([], [nothing], [nothing, alarm]):
        scores = average_precision(images, 2, kind)
        assert (scores.ap, scores.ap50, scores.ap75) == (None, None, None)
        assert set(scores.ar.values()) | set(scores.ap_by_size.values()) == {None}
        assert scores.by_class[2]["ap"] is None
        assert scores.voc_ap50 == {1: None, 2: None}
        assert not scores.curves


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_objects_that_nobody_found_score_nought(kind: Kind) -> None:
    missed = masked([np.ones((40, 64), dtype=bool)], [2], [], [], [])
    scores = average_precision([missed], 3, kind)
    assert (scores.ap, scores.ap50, scores.ar[100], scores.voc_ap50[2]) == (0.0, 0.0, 0.0, 0.0)
    assert scores.by_class[1]["ap"] is scores.by_class[3]["ap"] is None


def test_masks_are_asked_for_where_they_are_missing() -> None:
    with pytest.raises(ValueError, match="every image has both true masks and masks found"):
        average_precision(by_hand(), 1, "mask")


def test_scoring_prints_and_logs_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    average_precision(by_hand(), 3)
    average_precision([masked([np.ones((9, 7), dtype=bool)], [1], [np.ones((9, 7), dtype=bool)], [1], [0.5])], 1, "mask")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_scores_become_json_by_class_name() -> None:
    out = average_precision(by_hand(), 3).to_json(["disc", "cup", "drusen"])
    assert out["by_class"]["disc"]["objects"] == 3
    assert out["by_class"]["cup"]["ap50"] is None
    assert out["ar_100"] == pytest.approx(13 / 30)
    assert out["ap_small"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools(kind: Kind, seed: int) -> None:
    classes, images = 4, scene(seed)
    ours, reference = average_precision(images, classes, kind), pycoco(images, classes, kind)
    stats = [ours.ap, ours.ap50, ours.ap75, *ours.ap_by_size.values(), *ours.ar.values(), *ours.ar_by_size.values()]
    assert [-1 if value is None else value for value in stats] == pytest.approx(reference.stats, abs=1e-6)
    assert 0.1 < reference.stats[0] < 0.9, "a case where everything or nothing is found would not tell"
    for k in range(classes):
        precision = reference.eval["precision"][0, :, k, 0, 2]
        value = ours.by_class[k + 1]["ap50"]
        assert (-1 if value is None else value) == pytest.approx(precision.mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_our_matching_gives_cocos_ap50(kind: Kind) -> None:
    for seed in range(4):
        images = scene(seed)
        coco, ours = average_precision(images, 4, kind), ap50_interval(images, ["a"] * len(images), 4, draws=1, kind=kind)
        assert ours.ap50 == pytest.approx(coco.ap50, abs=1e-12)
        assert {k: value for k, (value, _) in ours.by_class.items()} == {
            k: None if values["ap50"] is None else pytest.approx(values["ap50"], abs=1e-12) for k, values in coco.by_class.items()
        }


def test_a_draw_of_patients_is_coco_on_their_images_again() -> None:
    images = scene(3, ties=False) + scene(4, ties=False)
    patients = [f"p{number // 3}" for number in range(len(images))]
    names = sorted(set(patients))
    for seed in range(3):
        times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=1)[0]
        again = [image for image, patient in zip(images, patients, strict=True) for _ in range(times[names.index(patient)])]
        found = ap50_interval(images, patients, 4, draws=1, seed=seed)
        assert found.interval is not None
        assert found.interval[0] == found.interval[1] == pytest.approx(average_precision(again, 4).ap50, abs=1e-12)


def test_intervals_hold_the_value_and_repeat() -> None:
    images = [image for seed in range(6) for image in scene(seed)]
    patients = [f"p{number // 2}" for number in range(len(images))]
    found = ap50_interval(images, patients, 4, draws=500, seed=1)
    assert found == ap50_interval(images, patients, 4, draws=500, seed=1)
    assert found.ap50 is not None
    assert found.interval is not None
    assert found.interval[0] < found.ap50 < found.interval[1]
    assert found.by_class[4] == (None, None), "no truth, no interval"
    assert found.interval != ap50_interval(images, patients, 4, draws=500, seed=2).interval


def test_one_patient_says_nothing_of_others() -> None:
    found = ap50_interval(by_hand(), ["a"] * 3, 2)
    assert (found.ap50, found.interval) == (pytest.approx(56 / 101), None)
    assert ap50_interval([], [], 2).ap50 is None


def test_a_wrong_call_of_the_interval_is_told() -> None:
    with pytest.raises(ValueError, match="3 images, but patients of 1"):
        ap50_interval(by_hand(), ["a"], 2)
    with pytest.raises(ValueError, match="level"):
        ap50_interval(by_hand(), list("abc"), 2, level=95)


def test_area_under_the_curve_by_hand() -> None:
    # Precision falls to what is still reached later: 1 up to recall 1/4, then 3/4 up to 3/4.
    assert voc_average_precision([1 / 4, 1 / 4, 2 / 4, 3 / 4], [1, 1 / 2, 2 / 3, 3 / 4]) == pytest.approx(1 / 4 + 2 / 4 * 3 / 4)
    assert voc_average_precision([], []) == 0.0


def test_f1_by_overlap_and_by_centre() -> None:
    box = (10, 10, 30, 20)
    # Half as wide and half as high about the same centre: IoU 1/4, but the centre is right. The last one's centre lies outside.
    image = objects([(1, *box), (1, 200, 100, 220, 110)], [(1, 15, 12.5, 25, 17.5, 0.9), (1, *box, 0.8), (1, 180, 90, 200, 120, 0.7)])
    assert iou_hits([image], 1, 0.5) == Counts(tp=1, fp=2, fn=1)
    assert centre_hits([image], 1, 0.5) == Counts(tp=1, fp=2, fn=1), "the second one in a box that is taken is a false positive"
    assert centre_hits([image], 1, 0.85) == Counts(tp=1, fp=0, fn=1)
    assert iou_hits([image], 1, 0.85) == Counts(tp=0, fp=1, fn=2)
    assert iou_hits([image], 1, 0.85, iou=0.25) == Counts(tp=1, fp=0, fn=1)
    assert centre_hits([image], 2, 0.5) == Counts()
    assert Counts(1, 2, 1).f1 == 2 / 5
    assert Counts(0, 2, 0).f1 is None
    assert Counts(1, 2, 3) + Counts(4, 5, 6) == Counts(5, 7, 9)


def test_a_score_at_the_threshold_counts() -> None:
    image = objects([(1, 0, 0, 9, 9)], [(1, 0, 0, 9, 9, 0.5)])
    assert iou_hits([image], 1, 0.5).tp == 1


def test_a_centre_takes_the_nearest_free_truth() -> None:
    wide, inner = (0, 0, 100, 60), (40, 20, 60, 40)
    image = objects([(1, *wide), (1, *inner)], [(1, 49, 29, 53, 31, 0.9), (1, 47, 29, 53, 31, 0.8)])
    assert ranked([image], 1, "centre").taken.tolist() == [1, 0], (
        "the second one's nearest is taken, but its centre lies in the wide one too"
    )


def test_best_threshold_by_hand() -> None:
    box = (10, 10, 30, 20)
    # F1 after each distinct score: .9: 2/3 · .8 (both at once): 2/4 · .4: 4/5... of two truths.
    image = objects(
        [(1, *box), (1, 100, 100, 130, 120)],
        [(1, *box, 0.9), (1, 50, 50, 60, 60, 0.8), (1, 60, 60, 70, 70, 0.8), (1, 100, 100, 130, 120, 0.4)],
    )
    assert best_f1([image], 1) == (pytest.approx((0.9 + 0.8) / 2), pytest.approx(2 / 3))
    assert best_f1([image], 2) is None
    assert best_f1([objects([(1, *box)], [])], 1) is None


def test_greedy_matching_takes_each_truth_once() -> None:
    overlaps = np.array([[0.9, 0.6], [0.8, 0.7], [0.7, 0.1], [0.2, 0.2]])
    assert take_greedily(overlaps, 0.5).tolist() == [0, 1, REPEAT, FREE]
    assert take_greedily(np.zeros((0, 3)), 0.5).tolist() == []
    assert take_greedily(np.zeros((2, 0)), 0.5).tolist() == [FREE, FREE]


def test_overlaps_by_hand() -> None:
    np.testing.assert_allclose(
        box_overlaps([[0, 0, 4, 2], [5, 5, 5, 9]], [[2, 0, 6, 2], [0, 0, 4, 2], [7, 7, 9, 9]]), [[1 / 3, 1, 0], [0, 0, 0]]
    )
    assert box_overlaps(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert mask_overlaps([], [encode_mask(np.ones((2, 3), dtype=bool))]).shape == (0, 1)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 13))))
def test_run_lengths_are_cocos(mask: npt.NDArray[np.bool_]) -> None:
    from pycocotools import mask as coco

    encoded = encode_mask(mask)
    assert encoded["size"] == list(mask.shape)
    assert encoded["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 13))), st.data())
def test_run_lengths_of_a_box_are_those_of_the_whole(mask: npt.NDArray[np.bool_], data: st.DataObject) -> None:
    rows, columns = mask.shape
    left, top = data.draw(st.integers(-2, columns)), data.draw(st.integers(-2, rows))
    right, bottom = data.draw(st.integers(left + 1, columns + 2)), data.draw(st.integers(top + 1, rows + 2))
    inside = np.zeros_like(mask)
    place = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    inside[place] = mask[place]
    # Of the pixels outside the box nothing is read, whatever they hold.
    assert encode_mask(mask, (left + 0.25, top + 0.25, right - 0.25, bottom - 0.25)) == encode_mask(inside)


def test_objects_of_a_prediction_and_a_target() -> None:
    masks = np.zeros((2, 40, 64), dtype=bool)
    masks[0, 3:9, 5:20] = masks[1, 30:38, 40:60] = True
    prediction = Prediction(
        boxes=np.array([[5, 3, 20, 9]], np.float32),
        labels=np.array([2]),
        scores=np.array([0.75], np.float32),
        instance_masks=masks[:1],
    )
    target = Target(
        boxes=torch.tensor([[5.0, 3, 20, 9], [40, 30, 60, 38]]), labels=torch.tensor([2, 1]), instance_masks=torch.from_numpy(masks)
    )
    image = pickle.loads(pickle.dumps(ImageObjects.of(prediction, target)))
    assert image.size == (40, 64)
    assert image.true_masks is not None
    assert mask_overlaps(image.masks, image.true_masks).tolist() == [[1.0, 0.0]]
    assert average_precision([image], 2, "mask").by_class[2]["ap"] == pytest.approx(1.0)
    assert average_precision([image], 2, "mask").by_class[1]["ap"] == 0.0
    bare = ImageObjects.of(
        Prediction(boxes=prediction.boxes, labels=prediction.labels, scores=prediction.scores),
        Target(boxes=target.boxes, labels=target.labels),
    )
    assert (bare.size, bare.masks, bare.true_masks) == ((38, 60), None, None)
    with pytest.raises(ValueError, match="boxes, labels and scores"):
        ImageObjects.of(Prediction(), target)
    with pytest.raises(ValueError, match="against boxes and labels"):
        ImageObjects.of(prediction, Target())


def masked(truths: list[Any], true_labels: list[int], found: list[Any], labels: list[int], scores: list[float]) -> ImageObjects:
    """An image from boolean masks; boxes are those around them."""

    def around(masks: list[Any]) -> npt.NDArray[np.float32]:
        rows = []
        for mask in masks:
            y, x = np.nonzero(mask)
            rows.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        return np.array(rows, np.float32).reshape(-1, 4)

    size = tuple((truths + found)[0].shape) if truths or found else (40, 64)
    return ImageObjects(
        size,
        around(truths),
        np.array(true_labels, np.int64),
        around(found),
        np.array(labels, np.int64),
        np.array(scores, np.float32),
        [encode_mask(mask) for mask in truths],
        [encode_mask(mask) for mask in found],
    )


def scene(seed: int, ties: bool = True) -> list[ImageObjects]:
    """Ellipses of classes 1..3 in six images, found with shifts, misses, wrong classes, alarms and (``ties``) equal scores."""
    generator = np.random.default_rng(seed)
    images = []
    for number in range(6):
        rows, columns = int(generator.integers(90, 160)), int(generator.integers(170, 260))
        grid = np.mgrid[:rows, :columns]
        truths, true_labels, found, labels, scores = [], [], [], [], []
        for _ in range(0 if number == 2 else int(generator.integers(1, 9))):
            centre, radii = (
                generator.uniform([10, 10], [rows - 10, columns - 10]),
                generator.choice([5, 14, 30, 70]) * generator.uniform(0.8, 1.3, 2),
            )
            label = int(generator.integers(1, 4))
            truths.append((((grid - centre[:, None, None]) / radii[:, None, None]) ** 2).sum(axis=0) <= 1)
            true_labels.append(label)
            for _ in range(0 if number == 4 else int(generator.choice([0, 1, 1, 1, 2]))):
                moved = centre + generator.normal(0, 0.12, 2) * radii
                found.append((((grid - moved[:, None, None]) / radii[:, None, None]) ** 2).sum(axis=0) <= 1)
                labels.append(label if generator.random() < 0.85 else int(generator.integers(1, 4)))
                scores.append(round(float(generator.uniform(0.2, 1)), 1 if ties else 9))
        kept = [place for place, mask in enumerate(found) if mask.any()]
        images.append(masked(truths, true_labels, [found[k] for k in kept], [labels[k] for k in kept], [scores[k] for k in kept]))
    return images


def pycoco(images: list[ImageObjects], classes: int, kind: Kind) -> Any:
    """The reference implementation's evaluation, from the same boxes and masks."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    from pycocotools.mask import area

    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for out, boxes, labels, masks in (
            (truths, image.true_boxes, image.true_labels, image.true_masks),
            (found, image.boxes, image.labels, image.masks),
        ):
            for place, (left, top, right, bottom) in enumerate(boxes.tolist()):
                entry: dict[str, Any] = {"image_id": number, "category_id": int(labels[place]), "id": len(out) + 1, "iscrowd": 0}
                if kind == "box":
                    entry |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
                else:
                    assert masks is not None
                    entry |= {"segmentation": masks[place], "area": float(area(masks[place]))}
                out.append(entry | ({"score": float(image.scores[place])} if out is found else {}))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": n, "height": image.size[0], "width": image.size[1]} for n, image in enumerate(images, 1)],
            "categories": [{"id": k} for k in range(1, classes + 1)],
            "annotations": truths,
        }
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(found), {"box": "bbox", "mask": "segm"}[kind])
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def test_the_best_threshold_lies_between_the_last_hit_and_the_first_miss() -> None:
    """Neighbours in float32 too, of which one may be written as a decimal that is a little more or less."""
    for hit, miss in ((0.9, 0.3), (0.7, float(np.nextafter(np.float32(0.7), np.float32(0))))):
        image = objects([(1, 0, 0, 10, 10)], [(1, 0, 0, 10, 10, hit), (1, 40, 40, 50, 50, miss)])
        best = best_f1([image], 1)
        assert best is not None
        assert best == (pytest.approx((hit + miss) / 2), 1.0)
        assert float(str(image.scores[1])) < best[0] <= float(str(image.scores[0]))
        assert iou_hits([image], 1, best[0]) == Counts(1, 0, 0)


def test_a_detector_that_only_hits_keeps_room_below_its_lowest_score() -> None:
    image = objects([(1, 0, 0, 10, 10)], [(1, 0, 0, 10, 10, 0.98)])
    assert best_f1([image], 1) == (pytest.approx(0.49), 1.0)
