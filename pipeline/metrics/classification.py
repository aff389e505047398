"""Scores of what whole pictures are said to be, each for many weightings of the pictures at once.

Weights (D, N) count how often each of N pictures stands in each of D data sets: ones for the pictures as they are, draws of patients for a
bootstrap (metrics/interval.py). A score is (D,), NaN where it is undefined. With ones, accuracy, balanced accuracy, AUROC and kappa are
those of scikit-learn (accuracy_score, balanced_accuracy_score, roc_auc_score, cohen_kappa_score with quadratic weights).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 10
"""Of confidence, for the reliability picture and the expected calibration error (Guo et al., arXiv:1706.04599, section 2)."""
_COLDEST, _HOTTEST = 0.05, 20.0


def confusions(truth: Ints, answer: Ints, classes: int, weights: Floats) -> Floats:
    """(D, G, G): how many pictures of each true class (rows) got each answer (columns)."""
    pairs = np.eye(classes * classes)[truth * classes + answer]
    return np.asarray((weights @ pairs).reshape(-1, classes, classes))


def accuracy(matrix: Floats) -> Floats:
    """Fraction of the pictures whose answer is right."""
    return _ratio(np.trace(matrix, axis1=1, axis2=2), matrix.sum(axis=(1, 2)))


def sensitivities(matrix: Floats) -> Floats:
    """(D, G): of the pictures of each class the fraction that is answered right; NaN for a class without pictures."""
    return _ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2))


def balanced_accuracy(matrix: Floats) -> Floats:
    """Mean sensitivity of the classes that have pictures."""
    return _mean_of_defined(sensitivities(matrix))


def kappa(matrix: Floats) -> Floats:
    """Cohen's kappa of unordered classes: 1 less the fraction of disagreements over that of answers drawn at random.

    Cohen, Educational and Psychological Measurement 20(1), 1960, doi:10.1177/001316446002000104.
    """
    return _kappa(matrix, 1 - np.eye(matrix.shape[1]))


def quadratic_kappa(matrix: Floats) -> Floats:
    """Cohen's kappa of ordered grades: 1 less the mean squared distance of the answers over that of answers drawn at random.

    Cohen, Psychological Bulletin 70(4), 1968, doi:10.1037/h0026256.
    """
    classes = matrix.shape[1]
    return _kappa(matrix, (np.arange(classes)[:, None] - np.arange(classes)) ** 2)


def _kappa(matrix: Floats, distance: Floats | Ints) -> Floats:
    total = matrix.sum(axis=(1, 2))
    chance = matrix.sum(axis=2)[:, :, None] * matrix.sum(axis=1)[:, None, :] / np.maximum(total, 1)[:, None, None]
    return 1 - _ratio((matrix * distance).sum(axis=(1, 2)), (chance * distance).sum(axis=(1, 2)))


def auroc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Probability that a positive picture has a higher score than a negative one, ties counted half; NaN without one of either."""
    order = np.argsort(scores, kind="stable")
    ups, downs = weights[:, order] * positive[order], weights[:, order] * ~positive[order]
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ups, downs = (np.add.reduceat(side, starts, axis=1) for side in (ups, downs))  # pictures of one score together
    below = np.cumsum(downs, axis=1) - downs
    return _ratio((ups * (below + downs / 2)).sum(axis=1), ups.sum(axis=1) * downs.sum(axis=1))


def auroc_of_each(probabilities: Floats, truth: Ints, weights: Floats) -> Floats:
    """(D, G): each class against the rest, by its probability (N, G)."""
    of = [auroc(column, truth == grade, weights) for grade, column in enumerate(probabilities.T)]
    return np.stack(of, axis=1)


def macro_auroc(probabilities: Floats, truth: Ints, weights: Floats) -> Floats:
    """Mean of :func:`auroc_of_each` over the classes for which it is defined."""
    return _mean_of_defined(auroc_of_each(probabilities, truth, weights))


def reliability(confidence: Floats, right: npt.NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each of BINS equal ranges of confidence: pictures, their summed confidence, and how many are right; each (D, BINS)."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    inside = np.eye(BINS)[bins]
    return weights @ inside, weights @ (inside * confidence[:, None]), weights @ (inside * right[:, None])


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Expected calibration error: mean distance between confidence and the fraction that is right, over the bins by their pictures."""
    number, claimed, true = reliability(confidence, right, weights)
    return _ratio(np.abs(claimed - true).sum(axis=1), number.sum(axis=1))


def answered(confidence: Floats, right: npt.NDArray[np.bool_], least: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(accuracy of the pictures whose confidence is at least ``least`` (N), fraction of pictures that are not answered)."""
    kept = confidence >= least
    number = weights @ kept
    return _ratio(weights @ (kept & right), number), 1 - _ratio(number, weights.sum(axis=1))


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (N, G) as a softmax of logits divided by ``temperature`` gives them."""
    logs = np.log(np.maximum(probabilities, 1e-30)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: Floats, truth: Ints, weights: Floats | None = None) -> float:
    """The temperature of the highest likelihood of what is true, 0.05 to 20 (Guo et al., arXiv:1706.04599, section 4.2); ``weights`` (N):
    how often each stands there.

    Where all N pictures are answered right, that would be the lowest, at which every answer is certain. The probability of the truth is
    then fitted to (N + 1) / (N + 2), what N successes of N say of the next one (Laplace's rule of succession).
    """
    from scipy.optimize import minimize_scalar

    classes = probabilities.shape[1]
    pictures = float(len(probabilities) if weights is None else weights.sum())
    doubt = 1 / (pictures + 2) if (probabilities.argmax(axis=1) == truth).all() else 0.0
    wanted = np.where(np.arange(classes) == truth[:, None], 1 - doubt, doubt / (classes - 1))

    def loss(log: float) -> float:
        own = tempered(probabilities, float(np.exp(log)))
        return -float(np.average((wanted * np.log(np.maximum(own, 1e-30))).sum(axis=1), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded").x))


def least_confidence(confidence: Floats, right: npt.NDArray[np.bool_], target: float, most_abstained: float) -> float:
    """The lowest confidence from which on at least ``target`` of the answers are right, midway between two pictures'.

    No more than ``most_abstained`` of the pictures stay without an answer; where that does not suffice, as many as may. Where all may be
    answered it is the lowest of all: nothing speaks for the answer to a picture that is less sure than any of these.
    """
    order = np.argsort(confidence, kind="stable")
    ranked, correct = confidence[order], right[order].astype(np.float64)
    most = int(most_abstained * len(ranked) + 1e-9)
    places = [place for place in range(most + 1) if place == 0 or (place < len(ranked) and ranked[place] > ranked[place - 1])]
    # Pictures of one confidence are answered together or not at all.
    reached = next((place for place in places if correct[place:].mean() >= target), places[-1])
    return float(ranked[0]) if reached == 0 else float(ranked[reached - 1] + ranked[reached]) / 2


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.asarray(np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 0))


def _mean_of_defined(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))
