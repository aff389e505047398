"""Scores of whole pictures: closed-form values, scikit-learn's where it has them, and what weights mean."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from pipeline.metrics.classification import (
    accuracy,
    answered,
    auroc,
    balanced_accuracy,
    calibration_error,
    confusions,
    fit_temperature,
    least_confidence,
    macro_auroc,
    quadratic_kappa,
    sensitivities,
    tempered,
)
from pipeline.metrics.interval import patient_weights

ONES = np.ones((1, 6))
TRUTH = np.array([0, 0, 0, 1, 1, 2])
ANSWER = np.array([0, 0, 1, 1, 2, 0])


def drawn(pictures: int = 40, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and truth that they know something of."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, pictures)
    chances = np.round(generator.dirichlet(np.ones(classes), pictures) + np.eye(classes)[truth] * 0.4, 1)
    return chances / chances.sum(axis=1, keepdims=True), truth


def test_a_confusion_is_counted_by_hand() -> None:
    (matrix,) = confusions(TRUTH, ANSWER, 3, ONES)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert accuracy(matrix[None]) == pytest.approx([3 / 6])
    assert sensitivities(matrix[None])[0] == pytest.approx([2 / 3, 1 / 2, 0])
    assert balanced_accuracy(matrix[None]) == pytest.approx([(2 / 3 + 1 / 2 + 0) / 3])
    # Squared distances: of the answers 0 + 1 + 0 + 0 + 1 + 4 = 6; by chance rows (3, 2, 1) times columns (3, 2, 1) over 6.
    chance = sum(r * c * (i - j) ** 2 for i, r in enumerate((3, 2, 1)) for j, c in enumerate((3, 2, 1))) / 6
    assert quadratic_kappa(matrix[None]) == pytest.approx([1 - 6 / chance])


def test_a_class_without_pictures_is_left_out_of_the_mean_and_nothing_is_nan_by_accident() -> None:
    matrix = confusions(np.array([0, 0, 1]), np.array([0, 2, 1]), 3, np.ones((1, 3)))
    assert np.isnan(sensitivities(matrix)[0, 2])
    assert balanced_accuracy(matrix) == pytest.approx([0.75])
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True]), np.ones((1, 2)))[0])


def test_scores_are_those_of_scikit_learn() -> None:
    chances, truth = drawn()
    answer = chances.argmax(axis=1)
    matrix = confusions(truth, answer, 3, np.ones((1, 40)))
    assert accuracy(matrix)[0] == pytest.approx(sk.accuracy_score(truth, answer))
    assert balanced_accuracy(matrix)[0] == pytest.approx(sk.balanced_accuracy_score(truth, answer))
    assert quadratic_kappa(matrix)[0] == pytest.approx(sk.cohen_kappa_score(truth, answer, weights="quadratic"))
    expected = sk.roc_auc_score(truth, chances, multi_class="ovr", average="macro")
    assert macro_auroc(chances, truth, np.ones((1, 40)))[0] == pytest.approx(expected)


def test_a_weight_of_two_is_a_picture_that_is_there_twice() -> None:
    chances, truth = drawn()
    weights = np.random.default_rng(1).integers(0, 3, (4, 40)).astype(float)
    for row in weights:
        times = np.repeat(np.arange(40), row.astype(int))
        ones = np.ones((1, len(times)))
        assert macro_auroc(chances, truth, row[None]) == pytest.approx(macro_auroc(chances[times], truth[times], ones))
        confidence, right = chances.max(axis=1), chances.argmax(axis=1) == truth
        expected = calibration_error(confidence[times], right[times], ones)
        assert calibration_error(confidence, right, row[None]) == pytest.approx(expected)


def test_calibration_is_the_distance_of_confidence_and_truth_by_bins() -> None:
    confidence = np.array([0.95, 0.95, 0.65, 0.65])
    right = np.array([True, False, True, True])
    # Two bins of two: |0.95 - 0.5| and |0.65 - 1|.
    assert calibration_error(confidence, right, np.ones((1, 4))) == pytest.approx([(0.45 + 0.35) / 2])
    perfect = np.array([True, True, True, True])
    assert calibration_error(np.ones(4), perfect, np.ones((1, 4))) == pytest.approx([0])


def test_a_temperature_gives_back_what_was_multiplied_into_logits() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([generator.choice(3, p=own) for own in honest])
    boastful = tempered(honest, 1 / 3)
    assert tempered(boastful, 3) == pytest.approx(honest)
    assert fit_temperature(boastful, truth) == pytest.approx(3, rel=0.1)
    assert (tempered(honest, 7).argmax(axis=1) == honest.argmax(axis=1)).all()


def test_pictures_that_are_all_answered_right_make_no_answer_certain() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    chances = np.where(np.arange(3) == truth[:, None], 0.8, 0.1)
    fitted = tempered(chances, fit_temperature(chances, truth))
    assert fitted.max(axis=1) == pytest.approx(np.full(8, 9 / 10), abs=1e-3)  # eight of eight: nine tenths of the next
    more = np.tile(chances, (10, 1)), np.tile(truth, 10)
    assert tempered(more[0], fit_temperature(*more)).max() == pytest.approx(81 / 82, abs=1e-3)


def test_the_least_confidence_answers_as_many_as_reach_the_target() -> None:
    confidence = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    right = np.array([False, True, True, True, True])
    assert least_confidence(confidence, right, 0.8, 0.5) == 0.5  # all may be answered
    assert least_confidence(confidence, right, 0.9, 0.5) == pytest.approx(0.55)
    assert least_confidence(confidence, right, 0.9, 0.1) == 0.5  # not one may be left out of five
    least = np.full(5, 0.55)
    accurate, abstained = answered(confidence, right, least, np.ones((1, 5)))
    assert (accurate[0], abstained[0]) == pytest.approx((1, 0.2))


def test_pictures_of_one_confidence_are_answered_together() -> None:
    confidence, right = np.array([0.6, 0.6, 0.9, 0.9]), np.array([False, True, True, True])
    least = least_confidence(confidence, right, 1.0, 0.5)
    assert least == pytest.approx(0.75)
    assert answered(confidence, right, np.full(4, least), np.ones((1, 4)))[1] == pytest.approx([0.5])


def test_draws_take_both_eyes_of_a_patient_or_none() -> None:
    weights = patient_weights(["b", "a", "b", "c"], n=50, seed=3)
    assert weights is not None
    assert weights.shape == (50, 4)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert patient_weights(["a", "b"], n=5) is None
