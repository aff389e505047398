"""The sliding window: where its windows lie, and that running over the picture is the same as cutting each out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.models import mobilenet_v2

from pipeline.models.sliding_window import WINDOW, Beginning, SlidingWindow, SlidingWindowConfig


def network(**settings: object) -> SlidingWindow:
    torch.manual_seed(0)
    return SlidingWindow(SlidingWindowConfig.model_validate({"sides": (30, 45), "hidden": 8, "chunk": 7, **settings}), 3, 2).eval()


def test_run_over_the_picture_it_gives_the_scores_of_each_window_cut_out() -> None:
    net, image = network(), torch.randn(3, 61, 83, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        over = net.logits(image)
        net.convolutional = False
        cut = net.logits(image)
    assert over.shape == (len(net.windows(61, 83)), 3)
    assert over.std() > 1e-4
    torch.testing.assert_close(over, cut, atol=1e-5, rtol=1e-4)


def test_the_networks_windows_are_those_that_it_sees() -> None:
    """What one window holds changes that window's scores; what lies outside of it does not."""
    net, size = network(ratios=(1.0,), sides=(WINDOW,)), 160
    boxes = net.windows(size, size)
    image = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))
    changed = image.clone()
    changed[:, 40:44, 40:44] += 5
    with torch.no_grad():
        moved = (net.logits(changed) != net.logits(image)).any(1)
    touching = (boxes[:, :2] < 44).all(1) & (boxes[:, 2:] > 40).all(1)
    assert 0 < moved.sum() < len(boxes)
    assert not (moved & ~touching).any()


def test_windows_of_every_size_and_shape_cover_the_picture() -> None:
    net = network(sides=(40,), ratios=(0.5, 2.0))
    boxes = net.windows(120, 200)
    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(np.unique((sides[:, 1] / sides[:, 0]).numpy().round(1)), [0.5, 2.0], atol=0.05)
    np.testing.assert_allclose(sides.prod(1).sqrt(), 40, rtol=0.02)
    assert boxes.min() == 0
    assert (boxes[:, 2:].amax(0) > torch.tensor([200.0, 120.0]) - 40 / 6 * 1.5).all()
    assert (boxes[:, 2:] <= torch.tensor([200.0, 120.0]) + 1e-3).all()


def test_sides_are_fitted_to_the_training_boxes_half_an_octave_apart() -> None:
    sizes = np.repeat(np.array([[20, 20], [80, 80]], np.float32), 10, axis=0)
    assert SlidingWindowConfig().with_fitted_anchors(sizes).sides == (20, 28.3, 40, 56.6, 80)
    assert SlidingWindowConfig(sides=(9,)).with_fitted_anchors(sizes).sides == (9,)


def test_a_window_becomes_two_by_two() -> None:
    assert Beginning(3, frozen_norm=False).last(torch.zeros(1, 3, WINDOW, WINDOW)).shape[2:] == (2, 2)


def test_weights_of_all_of_mobilenet_fill_its_beginning(tmp_path: Path) -> None:
    whole = mobilenet_v2(weights=None)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    net = network(weights=str(tmp_path / "whole.pth"))
    loaded = net.load_encoder(str(tmp_path / "whole.pth"))
    assert "features.18.0.weight" in loaded.skipped
    assert loaded.left == ()
    torch.testing.assert_close(net.encoder.features[7].conv[0][0].weight, whole.features[7].conv[0][0].weight)  # type: ignore[union-attr, index]
