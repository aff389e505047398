"""What R-CNN learns from features, by hand."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.models.region_svm import LinearHeads, RegionFeatures, ridge_regression, support_vector_machine


def test_a_ridge_without_penalty_finds_a_linear_map_and_with_a_large_one_the_mean() -> None:
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, offset = torch.tensor([[1.0, -2, 0.5], [0, 3, 1]], dtype=torch.float64), torch.tensor([4.0, -1], dtype=torch.float64)
    wanted = features @ weights.T + offset
    found = ridge_regression(features, wanted, 1e-9)
    torch.testing.assert_close(found, (weights, offset), atol=1e-6, rtol=0)
    shrunk, mean = ridge_regression(features, wanted, 1e12)
    assert shrunk.abs().max() < 1e-8
    torch.testing.assert_close(mean, wanted.mean(0), atol=1e-6, rtol=0)
    assert not ridge_regression(features[:0], wanted[:0], 1.0)[0].any()


def test_hard_negatives_are_learnt_from_though_the_first_draw_misses_them() -> None:
    random = np.random.default_rng(1)
    positives, easy = random.normal((9, 9), 0.3, (40, 2)), random.normal((-9, 0), 0.3, (40_000, 2))
    hard = random.normal((9, 4), 0.3, (20, 2))
    features = np.concatenate([positives, easy, hard])
    positive = np.arange(len(features)) < len(positives)
    weights, offset = support_vector_machine(features, positive, ~positive, 1.0)
    assert ((features @ weights + offset > 0) == positive).all()


def test_without_an_object_nothing_is_one_and_without_background_everything() -> None:
    features, some = np.ones((4, 2)), np.array([True, False, False, False])
    weights, offset = support_vector_machine(features, some & False, ~some, 1.0)
    assert (weights.any(), offset) == (False, -20)
    assert support_vector_machine(features, some, some & False, 1.0)[1] == 20


def test_boxes_are_corrected_as_the_features_say() -> None:
    """Each box lies right of its object by as many tenths of its width as its first feature says."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(4):
        true = torch.tensor([[100.0, 50, 140, 90]])
        aside = torch.from_numpy(random.uniform(-0.15, 0.15, 60)).float()
        boxes = torch.cat([true, true + torch.stack([aside, 0 * aside, aside, 0 * aside], 1) * 40, torch.tensor([[300.0, 10, 340, 50]])])
        features = torch.stack(
            [torch.cat([torch.zeros(1), aside, torch.zeros(1)]) * 10, torch.ones(len(boxes)), torch.zeros(len(boxes))], 1
        )
        features[-1] = torch.tensor([0.0, 1.0, 9.0])
        images.append(RegionFeatures(features, boxes, true, torch.tensor([1])))
    heads = LinearHeads(3, 2)
    heads.fit(images, svm_c=1.0, ridge=1e-6)
    moved = heads.corrected(images[0].boxes[1:-1], images[0].features[1:-1])
    assert moved.shape == (60, 2, 4)
    torch.testing.assert_close(moved[:, 0], images[0].true_boxes.expand(60, -1), atol=0.05, rtol=0)
    margins = heads.margins(images[0].features)
    assert margins[0, 0] > 0 > margins[-1, 0]
    assert (margins[:, 1] == -20).all(), "no object of the second class, and none to learn its boxes from"
    unmoved = heads.corrected(images[0].boxes, images[0].features)[:, 1]
    torch.testing.assert_close(unmoved, images[0].boxes, atol=1e-3, rtol=0)
