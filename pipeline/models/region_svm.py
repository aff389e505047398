"""What R-CNN learns from features that no longer change: a support vector machine and a box regression for each class.

Paper: Girshick et al., CVPR 2014, arXiv:1311.2524, sections 2.3 and 3.5 and appendix C. Support vector machines:
scikit-learn, BSD-3-Clause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

FEATURE_LENGTH = 20.0
"""Features are scaled to this mean length, for which the paper's authors chose C and penalty."""
_NEGATIVE, _NEAR = 0.3, 0.6
"""Boxes that overlap every object of a class by less are its negatives; those that overlap one by more teach the regression."""
_ROUNDS = 3
_FIRST = 5000
_HARD, _EASY = -1.0, -1.2
"""A negative above the first margin is hard and joins those that are learnt from, one below the second leaves them."""


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """Of one image: ``features`` float32 (P, D) of ``boxes`` (P, 4), and its objects, ``true_boxes`` (T, 4) and ``true_labels`` (T)."""

    features: Tensor
    boxes: Tensor
    true_boxes: Tensor
    true_labels: Tensor


class LinearHeads(nn.Module):
    """Linear functions of features (P, D) for each of K classes, all buffers. ``fitted`` is 0 before :meth:`fit`."""

    fitted: Tensor
    scale: Tensor
    svm: Tensor
    svm_bias: Tensor
    shift: Tensor
    shift_bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        shapes = {"fitted": (), "scale": (), "svm": (classes, width), "svm_bias": (classes,)}
        for name, shape in {**shapes, "shift": (classes, 4, width), "shift_bias": (classes, 4)}.items():
            self.register_buffer(name, torch.zeros(shape))

    def margins(self, features: Tensor) -> Tensor:
        """(P, K): above 0 where the support vector machine of a class takes a box for one of it."""
        return features * self.scale @ self.svm.T + self.svm_bias

    def corrected(self, boxes: Tensor, features: Tensor) -> Tensor:
        """Boxes (P, 4) -> (P, K, 4), as each class would have them."""
        moved = torch.einsum("pd,kcd->pkc", features * self.scale, self.shift) + self.shift_bias
        return torch.as_tensor(_coder().decode_single(moved.flatten(1), boxes)).view(moved.shape)

    def fit(self, images: Sequence[RegionFeatures], svm_c: float, ridge: float) -> None:
        """Learn both from all images; a class without an object is never found."""
        from torchvision.ops import box_iou

        features = torch.cat([image.features for image in images]).double()
        scale = FEATURE_LENGTH / features.norm(dim=1).mean().clamp(min=1e-12)
        features = features * scale
        self.scale.fill_(scale)
        for place in range(len(self.svm_bias)):
            overlaps, targets = [], []
            for image in images:
                true = image.true_boxes[image.true_labels == place + 1]
                overlap, which = box_iou(image.boxes, true).max(1) if len(true) else (torch.zeros(len(image.boxes)), None)
                overlaps.append(overlap)
                targets.append(image.boxes if which is None else true[which])
            overlap = torch.cat(overlaps)
            found = support_vector_machine(features.numpy(), (overlap > 1 - 1e-4).numpy(), (overlap < _NEGATIVE).numpy(), svm_c)
            self.svm[place], self.svm_bias[place] = (torch.as_tensor(part).to(self.svm) for part in found)
            near = overlap > _NEAR
            wanted = _coder().encode_single(torch.cat(targets)[near], torch.cat([image.boxes for image in images])[near])
            shift = ridge_regression(features[near], wanted.double(), ridge)
            self.shift[place], self.shift_bias[place] = (part.to(self.shift) for part in shift)
        self.fitted.fill_(1)


def support_vector_machine(
    features: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_], svm_c: float
) -> tuple[npt.NDArray[np.float64], float]:
    """Weights (D) and offset, learnt from all positives and from the hard ones among the negatives of ``features`` (N, D).

    Without a positive every margin is -20, without a negative 20.
    """
    from sklearn.svm import LinearSVC

    if not positive.any() or not negative.any():
        return np.zeros(features.shape[1]), FEATURE_LENGTH if positive.any() else -FEATURE_LENGTH
    places = np.flatnonzero(negative)
    learnt = np.random.default_rng(0).choice(places, min(_FIRST, len(places)), replace=False)
    machine: Any = None
    for _ in range(_ROUNDS):
        rows = np.concatenate([np.flatnonzero(positive), np.sort(learnt)])
        machine = LinearSVC(C=svm_c, class_weight={1: 2.0}, intercept_scaling=10, dual=False, max_iter=10_000, random_state=0)
        machine.fit(features[rows], positive[rows].astype(int))
        margins = machine.decision_function(features[places])
        hard = np.setdiff1d(places[margins > _HARD], learnt)
        if not len(hard):
            break
        easy = places[margins < _EASY]
        learnt = np.union1d(np.setdiff1d(learnt, easy), hard)
    return machine.coef_[0], float(machine.intercept_[0])


def ridge_regression(features: Tensor, wanted: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (M, D) and offsets (M) that give ``wanted`` (N, M) from ``features`` (N, D) with least squares and a penalty on the weights;
    zeros where N is 0."""
    width = features.shape[1]
    if not len(features):
        return wanted.new_zeros(wanted.shape[1], width), wanted.new_zeros(wanted.shape[1])
    middle, mean = features.mean(0), wanted.mean(0)
    centred = features - middle
    weights = torch.linalg.solve(centred.T @ centred + penalty * torch.eye(width, dtype=features.dtype), centred.T @ (wanted - mean)).T
    return weights, mean - weights @ middle


def _coder() -> Any:
    """Of boxes as shifts (dx, dy) in sides and logarithms of scales (dw, dh) from other boxes."""
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder((1.0, 1.0, 1.0, 1.0))
