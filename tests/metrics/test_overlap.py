"""Overlap metrics against values worked out by hand, and properties that hold for every mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.metrics.overlap import (
    Confusion,
    Presence,
    aupr,
    auroc,
    cldice,
    dice,
    iou,
    measure,
    overlap_measures,
    pixel_accuracy,
    sensitivity,
    specificity,
)

SHAPE = (7, 11)
masks = hnp.arrays(bool, SHAPE)


def test_counts_of_a_drawn_example():
    true = np.zeros((4, 6), dtype=bool)
    pred = np.zeros((4, 6), dtype=bool)
    true[1, 1:5] = True  # 4 pixels
    pred[1, 3:6] = True  # 3 pixels, 2 of them right
    counts = Confusion.of(pred, true)
    assert counts == Confusion(tp=2, fp=1, fn=2, tn=19)
    assert dice(pred, true) == pytest.approx(4 / 7)
    assert iou(pred, true) == pytest.approx(2 / 5)
    assert pixel_accuracy(pred, true) == pytest.approx(21 / 24)
    assert sensitivity(pred, true) == pytest.approx(2 / 4)
    assert specificity(pred, true) == pytest.approx(19 / 20)


def test_outside_the_field_of_view_nothing_counts():
    true = np.zeros((3, 5), dtype=bool)
    pred = np.ones((3, 5), dtype=bool)
    valid = np.zeros((3, 5), dtype=bool)
    true[0, :2] = valid[0, :2] = True
    assert Confusion.of(pred, true, valid) == Confusion(tp=2)
    assert dice(pred, true, valid) == 1.0
    assert specificity(pred, true, valid) is None


@pytest.mark.parametrize("score", [dice, iou, cldice])
def test_empty_rules(score):
    empty = np.zeros((5, 8), dtype=bool)
    something = empty.copy()
    something[2, 3] = True
    assert score(empty, empty) is None, "nothing to find: no score of 1 for a network that finds nothing"
    assert score(empty, something) == 0.0
    assert score(something, empty) is None
    assert score(something, something) == 1.0


def test_undefined_scores_say_why():
    empty = np.zeros((5, 8), dtype=bool)
    scores = overlap_measures(Confusion.of(empty, empty))
    assert scores["sensitivity"].value is None
    assert scores["sensitivity"].undefined == "the reference is empty"
    assert scores["specificity"].value == 1.0
    for name in ("dice", "iou", "sensitivity"):
        assert (scores[name].value, scores[name].undefined) == (None, "the reference is empty")
    full = overlap_measures(Confusion.of(~empty, ~empty))
    assert full["specificity"].undefined == "the reference fills every valid pixel"
    assert overlap_measures(Confusion())["pixel_accuracy"].undefined == "no valid pixel"
    assert measure("auroc", None).undefined is not None


@given(masks, masks, masks)
def test_dice_and_iou_say_the_same(pred, true, valid):
    d, j = dice(pred, true, valid), iou(pred, true, valid)
    assert (d is None) == (j is None) == (not (true & valid).any())
    if d is not None and j is not None:
        assert d == pytest.approx(2 * j / (1 + j))
        assert 0 <= j <= d <= 1
        assert dice(true, pred, valid) in (d, None), "symmetric, where both hold something"


@given(masks, masks, masks)
def test_counts_add_up_to_the_valid_pixels_and_pool(pred, true, valid):
    inside, outside = Confusion.of(pred, true, valid), Confusion.of(pred, true, ~valid)
    assert inside.total == np.count_nonzero(valid)
    assert min(inside.tp, inside.fp, inside.fn, inside.tn) >= 0
    assert inside + outside == Confusion.of(pred, true)
    assert inside == Confusion.of(pred[valid], true[valid])


def test_wrong_input_is_refused():
    mask = np.zeros((3, 4), dtype=bool)
    with pytest.raises(ValueError, match="differ in shape"):
        dice(mask, mask.T)
    with pytest.raises(ValueError, match="valid"):
        dice(mask, mask, mask.T)
    with pytest.raises(ValueError, match="must be boolean"):
        dice(mask.astype(np.uint8), mask)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=9))
def test_every_image_holds_the_structure_or_is_empty(numbers):
    images = [Confusion(*image) for image in numbers]
    seen = Presence.of(images)
    assert seen.held == sum(image.dice is not None for image in images)
    assert seen.missed == sum(image.dice == 0 for image in images)
    assert seen.held + seen.empty_right + seen.empty_wrong == len(images)
    assert seen.empty_right == numbers.count((0, 0, 0))


def test_finding_nothing_is_said():
    missed, empty, invented, hit = Confusion(fn=3, fp=1), Confusion(tn=4), Confusion(fp=2), Confusion(tp=1)
    assert Presence.of([missed, missed, empty]).sentence("exudate") == "found no exudate in any of the 2 images that hold it"
    assert Presence.of([missed, invented]).sentence("exudate") == "found no exudate in the one image that holds it"
    assert "no image holds exudate" in (Presence.of([empty, invented]).sentence("exudate") or "")
    assert Presence.of([missed, hit]).sentence("exudate") is None


def test_cldice_forgives_width_and_punishes_a_gap():
    true = np.zeros((15, 41), dtype=bool)
    true[6:9, 2:39] = True
    wide = np.zeros_like(true)
    wide[5:10, 2:39] = True
    gap = true.copy()
    gap[:, 18:24] = False
    assert cldice(wide, true) > 0.97
    assert dice(wide, true) == pytest.approx(2 * 3 / (3 + 5))
    assert cldice(gap, true) < 0.95 < cldice(wide, true)


def test_cldice_of_crossing_lines_by_hand():
    true = np.zeros((9, 13), dtype=bool)
    pred = np.zeros_like(true)
    true[4, 2:12] = True  # one pixel wide: its own skeleton, 10 pixels
    pred[4, 2:7] = True  # 5 of them
    pred[7, 2:7] = True  # and 5 elsewhere
    assert cldice(pred, true) == pytest.approx(0.5)  # precision 5 / 10, sensitivity 5 / 10


def test_cldice_of_a_blob_that_thins_to_nothing():
    blob = np.zeros((6, 9), dtype=bool)
    blob[2:4, 3:5] = True
    assert cldice(blob, blob) == 1.0


def test_cldice_only_inside_the_field_of_view():
    true = np.zeros((9, 13), dtype=bool)
    true[4, 1:12] = True
    pred = true.copy()
    pred[:, 0:2] = True
    valid = np.zeros_like(true)
    valid[:, 3:] = True
    assert cldice(pred, true) < 1.0
    assert cldice(pred, true, valid) == 1.0


def test_auroc_of_perfect_reversed_and_constant_scores():
    true = np.array([[True, False, False], [True, False, False]])
    assert auroc(true.astype(float), true) == 1.0
    assert auroc(1.0 - true, true) == 0.0
    assert auroc(np.full(true.shape, 0.3), true) == 0.5
    assert auroc(true.astype(float), np.zeros_like(true)) is None
    assert auroc(true.astype(float), np.ones_like(true)) is None


def test_average_precision_by_hand():
    # Falling scores: hit, miss, hit. Precision 1 at recall 1/2, then 2/3 at recall 1.
    scores = np.array([0.9, 0.8, 0.1, 0.05])
    true = np.array([True, False, True, False])
    assert aupr(scores, true) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert aupr(scores, np.zeros(4, dtype=bool)) is None
    # A constant score is worth the prevalence.
    assert aupr(np.zeros(4), true) == pytest.approx(0.5)


@settings(max_examples=60)
@given(hnp.arrays(np.int8, SHAPE, elements=st.integers(0, 5)), masks, masks)
def test_auroc_is_the_mann_whitney_statistic(levels, true, valid):
    scores = levels / 5
    positive, negative = scores[true & valid], scores[~true & valid]
    found = auroc(scores, true, valid)
    if positive.size == 0 or negative.size == 0:
        assert found is None
    else:
        wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
        assert found == pytest.approx(wins / (positive.size * negative.size))


@settings(max_examples=40)
@given(hnp.arrays(np.int8, SHAPE, elements=st.integers(0, 5)), masks)
def test_ranking_scores_agree_with_scikit_learn(levels, true):
    metrics = pytest.importorskip("sklearn.metrics")
    if true.any() and not true.all():
        assert auroc(levels, true) == pytest.approx(metrics.roc_auc_score(true.ravel(), levels.ravel()))
        assert aupr(levels, true) == pytest.approx(metrics.average_precision_score(true.ravel(), levels.ravel()))


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        auroc(np.array([0.1, np.nan]), np.array([True, False]))
