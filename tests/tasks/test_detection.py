"""The detection family: what it trains on, where its findings stand in the source, and what its scores say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.metrics.overlap import dice
from pipeline.models.detector import Detections
from pipeline.tasks import detection
from pipeline.tasks.detection import DetectionConfig, DetectionTask
from pipeline.tasks.pixels import presence_sentences
from pipeline.types import Batch, CaseKey, Geometry, LabelClass, LabelMap, Placement, Prediction, Target
from tests.tasks.blobs import LESIONS, BlobFinder, drawn

SHAPE = (40, 64)
CUP = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)


def task(label_map: LabelMap = LESIONS, **settings: object) -> DetectionTask:
    return DetectionTask(DetectionConfig.model_validate(settings), BlobFinder(), label_map)


def batch(images: list[Tensor], placements: list[Placement] | None = None, targets: list[Target] | None = None) -> Batch:
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    return Batch(
        images,
        [torch.ones(size, dtype=torch.bool) for size in sizes],
        placements or [Placement.identity(*size) for size in sizes],
        [CaseKey(f"p{i}", "L", "1", "i") for i in range(len(images))],
        targets,
    )


def objects(*rows: tuple[int, int, int, int, int], shape: tuple[int, int] = SHAPE, masks: bool = True) -> Target:
    """Rectangles (left, top, right, bottom, class)."""
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
    layers = torch.zeros(len(rows), *shape, dtype=torch.bool)
    for layer, (left, top, right, bottom, _) in zip(layers, rows, strict=True):
        layer[top:bottom, left:right] = True
    return Target(boxes=table[:, :4].float(), labels=table[:, 4], instance_masks=layers if masks else None)


def found(*rows: tuple[float, ...], shape: tuple[int, int] = SHAPE, masks: bool = True) -> Prediction:
    """Rectangles (left, top, right, bottom, class, score)."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    truth = objects(*[tuple(int(value) for value in row[:5]) for row in rows], shape=shape)  # type: ignore[misc]
    assert truth.instance_masks is not None
    layers = truth.instance_masks.numpy() if masks else None
    return Prediction(boxes=table[:, :4], labels=table[:, 4].astype(np.int64), scores=table[:, 5], instance_masks=layers)


def values(measures: object) -> dict[str, float | None]:
    return {name: measure.value for name, measure in measures.items()}  # type: ignore[attr-defined]


def test_losses_keep_their_names_and_take_their_weights() -> None:
    seen = batch([drawn(*SHAPE)], targets=[objects((1, 2, 9, 8, 1), (20, 5, 30, 9, 2))])
    assert {name: loss.item() for name, loss in task()(seen).items()} == {"class": 2.0, "box": 4.0}
    assert {name: loss.item() for name, loss in task(losses={"box": 0.25})(seen).items()} == {"class": 2.0, "box": 1.0}
    assert list(task(losses={"box": 0})(seen)) == ["class"]
    with pytest.raises(ConfigError, match=r"task\.losses: loss: unknown 'boxes'; did you mean 'box'"):
        task(losses={"boxes": 1.0})(seen)
    with pytest.raises(ValidationError, match="at least 0"):
        task(losses={"box": -1.0})
    with pytest.raises(ValueError, match="needs targets with boxes"):
        task()(batch([drawn(*SHAPE)], targets=[Target(mask=torch.zeros(SHAPE, dtype=torch.int64))]))


def test_validation_losses_are_measured_as_the_network_asks_and_leave_the_mode_as_it_was() -> None:
    trained = task().train()
    entered = []

    class Measuring:
        def __enter__(self) -> None:
            entered.append("in" if not trained.network.training else "in, but still training")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    trained.network.measuring = Measuring  # type: ignore[method-assign, assignment]
    losses = trained.validation_losses(batch([drawn(*SHAPE)], targets=[objects((1, 2, 9, 8, 1))]))
    assert {name: loss.item() for name, loss in losses.items()} == {"class": 1.0, "box": 2.0}
    assert not losses["class"].requires_grad
    assert entered == ["in", "out"]
    assert trained.training


def test_objects_stand_where_their_pixels_came_from() -> None:
    """Crop (6, 4) of 20 x 30 source pixels, enlarged twice, padded by (4, 2): a net pixel is half a source pixel."""
    placement = Placement(source=(50, 60), crop=(6, 4, 20, 30), resized=(40, 60), pad=(4, 2, 0, 0))
    image = drawn(*placement.net, (2 + 10, 4 + 8, 2 + 30, 4 + 20, 2))
    (prediction,) = task().predict(batch([image], [placement]))
    assert prediction.boxes is not None
    assert prediction.boxes.dtype == np.float32
    assert prediction.boxes.tolist() == [[9, 10, 19, 16]]
    assert prediction.labels is not None
    assert prediction.labels.tolist() == [2]
    assert prediction.instance_masks is not None
    assert prediction.instance_masks.shape == (1, 50, 60)
    wanted = np.zeros((50, 60), dtype=bool)
    wanted[10:16, 9:19] = True
    np.testing.assert_array_equal(prediction.instance_masks[0], wanted)
    assert prediction.probabilities is None


def test_a_mask_that_reaches_past_the_source_is_cut_and_not_squeezed() -> None:
    """The crop begins 10 pixels left of the source; of an object of which the mask is the right half, that half stays in place."""
    placement = Placement(source=(40, 50), crop=(0, -10, 40, 60), resized=(40, 60))
    image = drawn(40, 60, (0, 10, 40, 30, 1))
    detector = task()
    (whole,) = detector.network.detect([image])
    half = whole.masks.clone()  # type: ignore[union-attr]
    half[:, :, :14] = 0
    detector.network.detect = lambda images, proposals=None: [replace(whole, masks=half)]  # type: ignore[method-assign, assignment]
    (prediction,) = detector.predict(batch([image], [placement]))
    assert prediction.boxes is not None
    assert prediction.boxes.tolist() == [[0, 10, 30, 30]]
    assert prediction.instance_masks is not None
    assert np.flatnonzero(prediction.instance_masks[0, 20]).tolist() == list(range(10, 30))


def test_only_the_highest_scoring_are_kept_and_what_lies_in_the_padding_is_nothing() -> None:
    image = drawn(*SHAPE, *[(left, 3, left + 4, 9, 1) for left in range(2, 60, 8)])
    (prediction,) = task(detections=3).predict(batch([image]))
    assert prediction.scores is not None
    assert prediction.scores.tolist() == pytest.approx([0.9, 0.89, 0.88])
    (prediction,) = task(score_threshold=0.875).predict(batch([image]))
    assert prediction.boxes is not None
    assert len(prediction.boxes) == 3
    (prediction,) = task().predict(batch([drawn(40, 64, (2, 3, 9, 9, 1))], [Placement((40, 54), (0, 0, 40, 54), (40, 54), (0, 10, 0, 0))]))
    assert prediction.boxes is not None
    assert prediction.boxes.shape == (0, 4)
    assert prediction.instance_masks is not None
    assert prediction.instance_masks.shape == (0, 40, 54)


def test_predicting_leaves_the_training_mode_as_it_was() -> None:
    trained = task().train()
    trained.predict(batch([drawn(*SHAPE)]))
    assert trained.training
    assert trained.network.training


def test_the_union_of_a_class_is_compared_with_the_semantic_mask() -> None:
    """A cup in a disc: each class's Dice is that of its own layer, as for a semantic task."""
    prediction = found((10, 10, 40, 30, 1, 0.9), (15, 12, 25, 20, 2, 0.8), (30, 5, 60, 12, 1, 0.3))
    disc, cup = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    disc[12:32, 10:40], cup[12:20, 15:30] = True, True
    mask = torch.from_numpy(CUP.mask(np.stack([disc, cup])))
    mask[0, :] = -1
    valid = torch.ones(SHAPE, dtype=torch.bool)
    valid[:, 38:] = False
    scored = task(CUP).score(prediction, replace(objects((10, 12, 40, 32, 1), (15, 12, 30, 20, 2)), mask=mask), Geometry(SHAPE), valid)
    guess = np.zeros(SHAPE, dtype=bool)
    guess[10:30, 10:40] = True
    inside = valid.numpy() & (mask != -1).numpy()
    assert scored["dice/disc"].value == pytest.approx(dice(guess, disc, inside)) == pytest.approx(0.9)
    assert scored["dice/cup"].value == pytest.approx(2 * 80 / (80 + 120))
    assert scored["count/disc"].value == 1
    tuned = task(CUP)
    tuned.thresholds = {"disc": 0.2}
    assert tuned.score(prediction, objects((10, 12, 40, 32, 1)), Geometry(SHAPE))["count/disc"].value == 2
    layers = tuned.layers(prediction)
    assert layers is not None
    assert layers[0, 6, 50]
    assert task(CUP).layers(replace(prediction, instance_masks=None)) is None


def test_the_part_of_a_cup_that_leaves_its_disc_is_no_pixel_of_it_but_stays_its_box() -> None:
    nested = LabelMap((CUP.classes[0], replace(CUP.classes[1], inside="disc")), overlapping=True)
    prediction = found((10, 10, 40, 30, 1, 0.9), (30, 12, 50, 20, 2, 0.8))
    layers, free = task(nested).layers(prediction), task(CUP).layers(prediction)
    assert layers is not None
    assert free is not None
    assert (layers[0] == free[0]).all()
    assert (free[1].sum(), layers[1].sum()) == (160, 80)
    measures = task(nested).score(prediction, objects((10, 10, 40, 30, 1), (30, 12, 50, 20, 2)), Geometry(SHAPE))
    assert measures["f1/cup"].value == 1.0
    alone = task(nested)
    alone.thresholds = {"disc": 0.95}
    without = alone.layers(prediction)
    assert without is not None
    assert not without.any()


def test_absent_objects_follow_the_rules_of_the_house() -> None:
    """Absent is undefined, whatever is found; missed is 0; without any mask there is no Dice at all."""
    none, here = objects(), objects((5, 5, 20, 15, 1))
    absent = values(task().score(found(), none, Geometry(SHAPE)))
    assert {absent[f"{kind}/exudate"] for kind in ("dice", "iou", "f1", "f1_centre")} == {None}
    missed = values(task().score(found(), here, Geometry(SHAPE)))
    assert {missed[f"{kind}/exudate"] for kind in ("dice", "iou", "f1", "f1_centre")} == {0.0}
    assert missed["dice/haemorrhage"] is None
    boxes_only = task().score(found((5, 5, 20, 15, 1, 0.9), masks=False), objects((5, 5, 20, 15, 1), masks=False), Geometry(SHAPE))
    assert not [name for name in boxes_only if name.startswith(("dice", "iou", "tp"))]
    assert boxes_only["f1/exudate"].value == 1.0


def test_a_centre_may_hit_where_the_overlap_does_not() -> None:
    scored = task().score(found((5, 5, 20, 10, 1, 0.9)), objects((5, 5, 20, 20, 1)), Geometry(SHAPE))
    assert (scored["f1/exudate"].value, scored["f1_centre/exudate"].value) == (0.0, 1.0)


def test_a_summary_has_means_pooled_objects_and_average_precision() -> None:
    trained = task()
    pairs = [
        (found((5, 5, 20, 15, 1, 0.9), (30, 5, 40, 15, 1, 0.8)), objects((5, 5, 20, 15, 1))),
        (found((5, 5, 20, 15, 1, 0.7)), objects((5, 5, 20, 15, 1), (40, 20, 60, 35, 1))),
        (found(), objects()),
    ]
    scores = [trained.score(prediction, target, Geometry(SHAPE)) for prediction, target in pairs]
    summary = trained.summarise(scores, [trained.evidence(*pair) for pair in pairs])
    # Ranked: hit, miss, hit of three truths. COCO reads the precision at 101 recalls: 1 up to 1/3, 2/3 up to 2/3, then 0.
    expected = (34 * 1 + 33 * 2 / 3) / 101
    assert summary["ap50"] == summary["ap50/exudate"] == summary["mask_ap50"] == pytest.approx(expected)
    assert summary["ap"] == pytest.approx(expected)  # every hit is exact
    assert "ap50/haemorrhage" not in summary  # no true haemorrhage: undefined
    assert summary["f1/exudate"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert summary["f1_pooled/exudate"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert summary["dice_pooled/exudate"] == pytest.approx(2 * 300 / (2 * 300 + 100 + 300))
    assert "dice/haemorrhage" not in summary
    assert summary["dice"] == summary["dice/exudate"], "over the classes that an image holds"
    presence = [summary[f"{kind}/exudate"] for kind in ("held", "missed", "empty_right", "empty_wrong")]
    assert presence == [2, 0, 1, 0]
    assert not [name for name in summary if name.startswith(("tp/", "count/"))]
    assert trained.headline in summary
    figures = trained.figures([trained.evidence(*pair) for pair in pairs])
    assert sorted(figures) == ["precision_recall", "precision_recall_masks"]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in figures.values())
    assert trained.figures([]) == {}


def test_nothing_true_anywhere_leaves_average_precision_undefined() -> None:
    trained = task()
    summary = trained.summarise([trained.score(found(), objects(), Geometry(SHAPE))], [trained.evidence(found(), objects())])
    assert "ap50" not in summary
    assert "f1_pooled/exudate" not in summary


def test_a_detector_that_finds_nothing_is_said_to_find_nothing() -> None:
    """It left every image without a lesion empty, and that is no score."""
    trained = task()
    for masks in (True, False):
        here, nothing = objects((5, 5, 20, 15, 1), masks=masks), objects(masks=masks)
        pairs = [(found(masks=masks), target) for target in (here, here, nothing, nothing, nothing)]
        scores = [trained.score(prediction, target, Geometry(SHAPE)) for prediction, target in pairs]
        summary = trained.summarise(scores, [trained.evidence(*pair) for pair in pairs])
        assert summary.get("dice/exudate", 0.0) == summary["ap50"] == 0.0
        assert (summary["empty_right/exudate"], summary["empty_wrong/exudate"]) == (3, 0)
        assert "found no exudate in any of the 2 images that hold it" in presence_sentences(summary)
        assert any("no image holds haemorrhage" in sentence for sentence in presence_sentences(summary))


def test_thresholds_are_those_of_the_best_dice_with_masks_and_of_the_best_f1_without() -> None:
    prediction = found((5, 5, 20, 15, 1, 0.9), (5, 20, 20, 30, 1, 0.62), (40, 20, 60, 35, 1, 0.3))
    target = objects((5, 5, 20, 15, 1), (5, 20, 20, 30, 1))
    trained = task()
    trained.thresholds = trained.tune(lambda: iter([(prediction, target, None)]))
    assert set(trained.thresholds) == {"exudate", "haemorrhage"}
    assert 0.3 < trained.thresholds["exudate"] <= 0.62
    assert trained.score(prediction, target, Geometry(SHAPE))["dice/exudate"].value == 1.0
    plain, boxes = replace(prediction, instance_masks=None), replace(target, instance_masks=None)
    trained.thresholds = trained.tune(lambda: iter([(plain, boxes, None)]))
    assert list(trained.thresholds) == ["exudate"]
    assert 0.3 < trained.thresholds["exudate"] <= 0.6200001
    assert trained.score(plain, boxes, Geometry(SHAPE))["f1/exudate"].value == 1.0


def test_objects_count_where_their_centre_is_seen_and_not_ignored_on_both_sides() -> None:
    """Left half seen; a corner of it ignored. Of three objects found and three true ones, one of each has its centre elsewhere."""
    boxes = ((4, 4, 14, 12, 1), (2, 26, 12, 34, 1), (40, 10, 50, 20, 1))
    prediction, target = found(*[(*box, 0.9) for box in boxes[:2]], (42, 12, 52, 22, 1, 0.8)), objects(*boxes)
    mask = torch.zeros(SHAPE, dtype=torch.int64)
    mask[22:, :14] = -1
    valid = torch.zeros(SHAPE, dtype=torch.bool)
    valid[:, :32] = True
    trained = task()
    everything = trained.score(prediction, target, Geometry(SHAPE))
    assert everything["count/exudate"].value == 3
    target = replace(target, mask=mask)
    seen = trained.evidence(prediction, target, valid)
    assert seen.boxes.tolist() == seen.true_boxes.tolist() == [list(boxes[0][:4])]
    scored = trained.score(prediction, target, Geometry(SHAPE), valid)
    assert (scored["count/exudate"].value, scored["f1/exudate"].value) == (1, 1.0)
    shifted = found((6, 4, 16, 12, 1, 0.9), (2, 26, 12, 34, 1, 0.6), masks=False)
    assert trained.tune(lambda: iter([(shifted, replace(target, mask=mask, instance_masks=None), valid)]))["exudate"] == pytest.approx(0.45)


def test_dice_chooses_only_where_there_are_masks() -> None:
    class Boxes(BlobFinder):
        has_masks = False

    assert task(headline="dice").headline == "dice"
    with pytest.raises(ConfigError, match=r"task\.headline: dice needs a network with masks"):
        DetectionTask(DetectionConfig(headline="dice"), Boxes(), LESIONS)


@pytest.mark.parametrize("room", [1, 2, 8])
def test_neighbours_of_one_size_are_looked_at_together_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    images = [drawn(*SHAPE, (left, 3, left + 4, 9, 1)) for left in (2, 9, 16)]
    images = [*images, drawn(24, 30, (2, 2, 9, 9, 2)), drawn(*SHAPE, (30, 3, 36, 9, 2))]
    alone = [task().predict(batch([image]))[0] for image in images]
    monkeypatch.setattr(detection, "images_at_once", lambda network, run, x, most: min(most, room))
    together, seen = task(), list[int]()
    detect = together.network.detect

    def counted(images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[Detections]:
        seen.append(len(images))
        return detect(images, proposals)

    together.network.detect = counted  # type: ignore[method-assign]
    for one, other in zip(together.predict(batch(images)), alone, strict=True):
        assert one.boxes is not None
        assert other.boxes is not None
        assert one.boxes.tolist() == other.boxes.tolist()
    assert seen == {1: [1, 1, 1, 1, 1], 2: [2, 1, 1, 1], 8: [3, 1, 1]}[room]
